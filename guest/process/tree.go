package process

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const marker = "CALLBOX_EXEC="

// The patience of a tree kill. A fork bomb is stopped first, round by round, and killed when no new process appears.
const (
	stopRounds  = 200
	killWaitMax = 5 * time.Second
	killPause   = 2 * time.Millisecond
)

// seen is one process as /proc shows it.
type seen struct {
	pid, parent, session int
	began                uint64
	rss                  int64
	zombie               bool
}

// owner remembers whose process one is; `began` tells it from a later process with the same number.
type owner struct {
	began uint64
	of    *exec
}

// forest knows which process belongs to which exec: by its control group, where there are some. Else descent and
// session are looked at first. A process that was
// orphaned tells by its environment; one that also wiped that was mostly seen by the guard while its parents lived.
type forest struct {
	self   int
	page   int64
	groups groups

	mu    sync.Mutex
	known map[int]owner
}

func newForest(within groups) *forest {
	return &forest{self: os.Getpid(), page: int64(os.Getpagesize()), groups: within, known: map[int]owner{}}
}

// look reads /proc and returns the living processes of each exec among `candidates`, and those of ours that nobody claims.
func (f *forest) look(candidates []*exec) (map[*exec][]seen, []seen) {
	all := f.scan()
	mains := map[int]*exec{}
	marks := map[string]*exec{}
	grouped := map[int]*exec{}
	for _, each := range candidates {
		for _, pid := range f.groups.members(each.request.ID) {
			grouped[pid] = each
		}
		mains[each.pid] = each
		marks[each.request.ID] = each
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	known := map[int]owner{}
	var resolve func(pid, depth int) *exec
	resolve = func(pid, depth int) *exec {
		process, here := all[pid]
		if !here || pid == f.self || depth > len(all) {
			return nil
		}
		if already, ok := known[pid]; ok {
			return already.of
		}
		of := grouped[pid]
		if of == nil {
			of = f.claim(process, mains, marks)
		}
		if of == nil {
			of = resolve(process.parent, depth+1)
		}
		if of != nil {
			known[pid] = owner{process.began, of}
		}
		return of
	}
	trees := map[*exec][]seen{}
	var strays []seen
	for pid, process := range all {
		of := resolve(pid, 0)
		switch {
		case process.zombie || pid == f.self:
		case of != nil:
			trees[of] = append(trees[of], process)
		case process.parent == f.self:
			strays = append(strays, process)
		}
	}
	f.known = known
	return trees, strays
}

func (f *forest) claim(process seen, mains map[int]*exec, marks map[string]*exec) *exec {
	if before, ok := f.known[process.pid]; ok && before.began == process.began {
		return before.of
	}
	if of := mains[process.pid]; of != nil && process.parent == f.self && process.session == process.pid {
		return of
	}
	if of := mains[process.session]; of != nil {
		return of
	}
	if process.parent == f.self && !process.zombie {
		return marks[mark(process.pid)]
	}
	return nil
}

// mark reads whose process one says that it is. It can lie: then it is counted, and killed, with the exec it names.
func mark(pid int) string {
	environment, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return ""
	}
	for each := range bytes.SplitSeq(environment, []byte{0}) {
		if bytes.HasPrefix(each, []byte(marker)) {
			return string(each[len(marker):])
		}
	}
	return ""
}

func (f *forest) scan() map[int]seen {
	all := map[int]seen{}
	folder, err := os.Open("/proc")
	if err != nil {
		return all
	}
	names, _ := folder.Readdirnames(-1)
	_ = folder.Close()
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if process, ok := f.stat(pid); ok {
			all[pid] = process
		}
	}
	return all
}

// stat reads /proc/<pid>/stat. The name in it is in parentheses and may contain anything, so we look for the last one.
func (f *forest) stat(pid int) (seen, bool) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return seen{}, false
	}
	after := bytes.LastIndexByte(raw, ')')
	fields := strings.Fields(string(raw[after+1:]))
	if after < 0 || len(fields) < 22 {
		return seen{}, false
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(fields[i], 10, 64); return n }
	return seen{
		pid: pid, parent: int(number(1)), session: int(number(3)), began: uint64(number(19)),
		rss: number(21) * f.page, zombie: fields[0] == "Z" || fields[0] == "X",
	}, true
}

// kill ends every process that `members` returns, also while they multiply, and waits until they are gone.
func (f *forest) kill(members func() []seen) {
	stopped := map[int]uint64{}
	for range stopRounds {
		fresh := 0
		for _, each := range members() {
			if began, ok := stopped[each.pid]; ok && began == each.began {
				continue
			}
			stopped[each.pid] = each.began
			_ = syscall.Kill(each.pid, syscall.SIGSTOP)
			fresh++
		}
		if fresh == 0 {
			break
		}
	}
	deadline := time.Now().Add(killWaitMax)
	for {
		alive := members()
		for _, each := range alive {
			_ = syscall.Kill(each.pid, syscall.SIGKILL)
		}
		if len(alive) == 0 || time.Now().After(deadline) {
			return
		}
		time.Sleep(killPause)
	}
}
