package process

import (
	"bytes"
	"os"
	"slices"
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
	sure                 bool           // whose it is was proven, not only said
	suspects             map[*exec]bool // of a stray: who ran when it appeared
}

// claim says whose a process is. What the process itself said is never sure.
type claim struct {
	of   *exec
	sure bool
}

// memory is what one look leaves to the next; `began` tells a process from a later one with the same number.
type memory struct {
	claim
	began    uint64
	suspects map[*exec]bool
}

// forest knows which process belongs to which exec. Control groups prove it, descent and session do, and the tag in a
// process's limits, also of one that was orphaned before anybody looked. Where there is neither group nor tag, an orphan is
// believed what its environment says. Who says nothing is a stray: it goes with any exec that may have left it.
type forest struct {
	self       int
	page       int64
	groups     groups
	candidates func() []*exec // that processes may belong to
	isMain     func(pid int) bool

	mu     sync.Mutex // one look at a time
	known  map[int]memory
	before []*exec // candidates of the look before
}

func newForest(within groups, candidates func() []*exec, isMain func(pid int) bool) *forest {
	return &forest{
		self: os.Getpid(), page: int64(os.Getpagesize()), groups: within, candidates: candidates, isMain: isMain,
		known: map[int]memory{},
	}
}

// look reads /proc and returns the living processes of each exec, and those of ours that are nobody's.
func (f *forest) look() (map[*exec][]seen, []seen) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.begin()
	trees := map[*exec][]seen{}
	var strays []seen
	next := map[int]memory{}
	for pid, process := range c.all {
		if pid == f.self {
			continue
		}
		to := c.resolve(pid, 0)
		if to.of != nil {
			next[pid] = memory{claim: to, began: process.began}
			if process.sure = to.sure; !process.zombie {
				trees[to.of] = append(trees[to.of], process)
			}
			continue
		}
		if process.suspects = c.suspects(process); process.suspects != nil {
			next[pid] = memory{began: process.began, suspects: process.suspects}
			if !process.zombie {
				strays = append(strays, process)
			}
		}
	}
	f.known, f.before = next, c.candidates
	return trees, strays
}

// census is one look.
type census struct {
	*forest
	candidates []*exec
	all        map[int]seen
	mains      map[int]*exec
	marks      map[string]*exec
	numbers    map[int64]*exec
	grouped    map[int]*exec
	latest     int64 // number of an exec: later ones began after this look
	proving    bool  // every process can prove whose it is, so a mere word counts for nothing
	claims     map[int]claim
}

func (f *forest) begin() *census {
	c := &census{
		forest: f, candidates: f.candidates(), mains: map[int]*exec{}, marks: map[string]*exec{}, numbers: map[int64]*exec{},
		grouped: map[int]*exec{}, claims: map[int]claim{}, proving: true,
	}
	c.all = f.scan()
	for _, each := range c.candidates {
		for _, pid := range f.groups.members(each.request.ID) {
			c.grouped[pid] = each
		}
		c.mains[each.pid], c.marks[each.request.ID], c.numbers[each.number] = each, each, each
		c.latest = max(c.latest, each.number)
		c.proving = c.proving && (each.stamped.Load() || f.groups.parent != "")
	}
	return c
}

func (c *census) resolve(pid, depth int) claim {
	process, here := c.all[pid]
	if !here || pid == c.self || depth > len(c.all) {
		return claim{}
	}
	if already, ok := c.claims[pid]; ok {
		return already
	}
	found := c.claim(process, depth)
	c.claims[pid] = found
	return found
}

func (c *census) claim(process seen, depth int) claim {
	if of := c.grouped[process.pid]; of != nil {
		return claim{of, true}
	}
	before, known := c.known[process.pid]
	known = known && before.began == process.began && before.of != nil
	if known && before.sure {
		return before.claim
	}
	if of := c.mains[process.pid]; of != nil && process.parent == c.self && process.session == process.pid {
		return claim{of, true}
	}
	if of := c.mains[process.session]; of != nil {
		return claim{of, true}
	}
	if process.parent != c.self {
		if to := c.resolve(process.parent, depth+1); to.of != nil {
			return to
		}
	} else if of := c.numbers[tagOf(process.pid)]; of != nil {
		return claim{of, true}
	}
	if known {
		return before.claim
	}
	if process.parent == c.self && !process.zombie && !c.proving {
		return claim{of: c.marks[mark(process.pid)]}
	}
	return claim{}
}

// suspects says who may have left a process of ours that is nobody's. Nil: it is none of ours, or of an exec that this look
// does not know yet.
func (c *census) suspects(process seen) map[*exec]bool {
	if before, ok := c.known[process.pid]; ok && before.began == process.began && before.suspects != nil {
		return before.suspects
	}
	top := process
	for range c.all {
		if top.parent == c.self {
			break
		}
		above, here := c.all[top.parent]
		if !here || above.pid == top.pid {
			return nil
		}
		top = above
	}
	if top.parent != c.self || c.isMain(top.pid) || tagOf(top.pid) > c.latest {
		return nil
	}
	if before, ok := c.known[top.pid]; ok && before.began == top.began && before.suspects != nil {
		return before.suspects
	}
	all := map[*exec]bool{}
	for _, each := range slices.Concat(c.before, c.candidates) {
		all[each] = true
	}
	return all
}

// abandoned: everybody who may have left it is gone.
func (s seen) abandoned() bool {
	for each := range s.suspects {
		if !each.settled() {
			return false
		}
	}
	return true
}

// mark reads whose process one says that it is. It can lie: it is never sure.
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
