package process

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// How often the guard looks, only while something runs: rarely, and often once a quarter of a limit is used.
const (
	guardPause   = 250 * time.Millisecond
	guardHurry   = 20 * time.Millisecond
	guardGlance  = 20 * time.Millisecond
	guardSharing = 100 * time.Millisecond // while only sharing keeps memory below its limit: telling costs the most
	addressLeast = 64 << 30               // of address space: runtimes reserve much more than they use
)

// guard kills the biggest exec when all of them together exceed what the sandbox may use. The kernel's own limits are
// per process (memory) or not there at all (processes in gVisor), so this is what keeps the agent alive.
type guard struct {
	manager *Manager
	awake   chan struct{}
	between time.Duration // glances
}

func newGuard(m *Manager) *guard {
	g := &guard{manager: m, awake: make(chan struct{}, 1), between: guardGlance}
	go g.run()
	return g
}

func (g *guard) wake() {
	select {
	case g.awake <- struct{}{}:
	default:
	}
}

func (g *guard) run() {
	for range g.awake {
		for pause := guardPause; g.manager.busy(); {
			g.rest(pause)
			pause = g.look()
		}
	}
}

// rest waits until the next look, or until one glance says that much has changed: reading all of /proc takes long, and in
// a quarter of a second a fork bomb is hundreds of processes. Where nothing changes, glances become rare.
func (g *guard) rest(pause time.Duration) {
	processesMax, memoryMax := g.manager.limits()
	before, counted := glance()
	last := before
	for end := time.Now().Add(pause); time.Now().Before(end); {
		select {
		case <-time.After(min(g.between, time.Until(end))):
		case <-g.awake:
			g.between = guardGlance
		}
		now, _ := glance()
		grown := load{now.count - before.count, now.bytes - before.bytes}
		if many, big := grown.exceeds(processesMax/8, memoryMax/8); counted && (many || big) {
			return
		}
		g.between = min(2*g.between, guardPause)
		if now != last {
			g.between = guardGlance
		}
		last = now
	}
}

// glance asks the kernel for the number of all tasks and, where that is only what programs use (gVisor), for memory.
func glance() (load, bool) {
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) != nil {
		return load{}, false
	}
	now := load{count: int(info.Procs)}
	if !hasRollup() {
		now.bytes = int64(info.Totalram-info.Freeram) * int64(max(info.Unit, 1))
	}
	return now, true
}

// load is what a group of processes uses.
type load struct {
	count int
	bytes int64
}

func (l *load) add(process seen) { l.count, l.bytes = l.count+1, l.bytes+process.rss }

// exceeds compares with the limits that are set. Memory is only what it seems to be: see actual.
func (l load) exceeds(processesMax int, memoryMax int64) (bool, bool) {
	return processesMax > 0 && l.count > processesMax, memoryMax > 0 && l.bytes > memoryMax
}

// look checks both limits once and says how long to wait for the next look. Strays are killed first; then those that only
// say whose they are, if they weigh more than any exec: an exec must not be blamed for what another one named after it.
func (g *guard) look() time.Duration {
	processesMax, memoryMax := g.manager.limits()
	trees, strays := g.manager.forest.look()
	g.tidy(trees, strays)
	var total, unsure load
	everything := slices.Clone(strays)
	for _, each := range strays {
		total.add(each)
	}
	sure := map[*exec]load{}
	for of, tree := range trees {
		own := load{}
		for _, each := range tree {
			total.add(each)
			if each.sure {
				own.add(each)
			} else {
				unsure.add(each)
			}
		}
		sure[of] = own
		everything = append(everything, tree...)
	}
	tooMany, tooBig := total.exceeds(processesMax, memoryMax)
	if tooBig && !tooMany && actual(everything, total.bytes) <= memoryMax {
		return guardSharing
	}
	switch {
	case tooMany:
		g.relieve("processes", strays, unsure, sure, func(l load) int64 { return int64(l.count) })
	case tooBig:
		endNow(strays) // what eats memory is not stopped first: the room that is left lasts for milliseconds
		g.relieve("memory", strays, unsure, sure, func(l load) int64 { return l.bytes })
	default:
		if many, big := total.exceeds(processesMax/4, memoryMax/4); !many && !big {
			return guardPause
		}
	}
	return guardHurry
}

// tidy notices who has nothing left, and ends what is left of nobody.
func (g *guard) tidy(trees map[*exec][]seen, strays []seen) {
	for _, each := range g.manager.candidates() {
		if each.running() || len(trees[each]) > 0 {
			continue
		}
		if !slices.ContainsFunc(strays, func(s seen) bool { return s.suspects[each] }) {
			each.survivors.Store(false)
		}
	}
	if slices.ContainsFunc(strays, seen.abandoned) {
		g.killStrays(seen.abandoned)
	}
}

// relieve kills the one that weighs most.
func (g *guard) relieve(why string, strays []seen, unsure load, sure map[*exec]load, weight func(load) int64) {
	if len(strays) > 0 {
		g.killStrays(func(seen) bool { return true })
		return
	}
	var most *exec
	for of, own := range sure {
		if most == nil || weight(own) > weight(sure[most]) {
			most = of
		}
	}
	if most == nil || weight(unsure) > weight(sure[most]) {
		g.manager.forest.kill(func() []seen {
			trees, _ := g.manager.forest.look()
			var all []seen
			for _, tree := range trees {
				all = append(all, slices.DeleteFunc(tree, func(s seen) bool { return s.sure })...)
			}
			return all
		})
		return
	}
	most.killedFor.CompareAndSwap(nil, &why)
	g.manager.killTree(most)
}

func endNow(all []seen) {
	for _, each := range all {
		_ = syscall.Kill(each.pid, syscall.SIGKILL)
	}
}

func (g *guard) killStrays(which func(seen) bool) {
	g.manager.forest.kill(func() []seen {
		_, strays := g.manager.forest.look()
		return slices.DeleteFunc(strays, func(s seen) bool { return !which(s) })
	})
}

// actual counts memory once that processes share: after a fork, parent and child show the same pages. Where the kernel
// does not tell (gVisor), all of them together use no more than the machine does.
func actual(all []seen, sum int64) int64 {
	total := int64(0)
	for _, each := range all {
		raw, err := os.ReadFile("/proc/" + strconv.Itoa(each.pid) + "/smaps_rollup")
		if errors.Is(err, fs.ErrNotExist) && !hasRollup() {
			return min(sum, machineUse(sum))
		}
		_, after, found := bytes.Cut(raw, []byte("\nPss:"))
		fields := bytes.Fields(after)
		if err != nil || !found || len(fields) == 0 {
			total += each.rss // it has ended, or we may not look
			continue
		}
		kilobytes, _ := strconv.ParseInt(string(fields[0]), 10, 64)
		total += kilobytes << 10
	}
	return total
}

var hasRollup = sync.OnceValue(func() bool {
	_, err := os.Stat("/proc/self/smaps_rollup")
	return err == nil
})

// machineUse is what the whole machine uses: in gVisor that is this sandbox. `unknown` if it does not tell.
func machineUse(unknown int64) int64 {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return unknown
	}
	value := func(key string) int64 {
		_, after, _ := bytes.Cut(raw, []byte(key))
		kilobytes, _ := strconv.ParseInt(string(append(bytes.Fields(after), nil)[0]), 10, 64)
		return kilobytes << 10
	}
	total, available := value("MemTotal:"), value("MemAvailable:")
	if total <= 0 || available <= 0 {
		return unknown
	}
	return total - available
}

// expendable is the score of what the agent starts, usual for any process.
const expendable = "0"

// isProtected says whether the kernel spares the agent; its children would inherit that.
var isProtected = sync.OnceValue(func() bool {
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	return err == nil && bytes.HasPrefix(score, []byte("-"))
})

type rlimit struct{ soft, hard uint64 }

const (
	rlimitData  = 2
	rlimitNproc = 6
	rlimitFiles = 7
	rlimitAS    = 9
)

// limiter sets what the kernel enforces by itself on a new process, and who it is; nil: nothing was configured.
// The guard watches the rest.
func (m *Manager) limiter(e *exec) func(pid int) error {
	m.mu.Lock()
	settings := m.settings
	m.mu.Unlock()
	limits := map[int]int64{rlimitFiles: settings.OpenFilesMax, rlimitData: settings.MemoryBytes}
	if settings.MemoryBytes > 0 {
		limits[rlimitAS] = settings.MemoryBytes + addressLeast
	}
	if os.Getpid() == 1 {
		// The kernel counts per user of the whole machine: on a host that we only share it would count others' processes.
		limits[rlimitNproc] = int64(settings.ProcessesMax)
	}
	maps.DeleteFunc(limits, func(_ int, value int64) bool { return value <= 0 })
	protected := isProtected()
	if len(limits) == 0 && !protected {
		return nil
	}
	return func(pid int) error {
		if protected {
			if err := setExpendable(pid); err != nil {
				return err
			}
		}
		if m.groups.parent == "" {
			e.stamp(pid)
		}
		for resource, value := range limits {
			// In a machine of our own we may do that. As root of somebody's container we may not (CAP_SYS_RESOURCE).
			if err := limitProcess(pid, resource, value); err != nil && os.Getpid() == 1 {
				return err
			}
		}
		return nil
	}
}
