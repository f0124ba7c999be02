package process

import (
	"bytes"
	"maps"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// How often the guard looks, only while something runs: rarely, and often once a quarter of a limit is used.
const (
	guardPause   = 250 * time.Millisecond
	guardHurry   = 20 * time.Millisecond
	addressLeast = 64 << 30 // of address space: runtimes reserve much more than they use
)

// guard kills the biggest exec when all of them together exceed what the sandbox may use. The kernel's own limits are
// per process (memory) or not there at all (processes in gVisor), so this is what keeps the agent alive.
type guard struct {
	manager *Manager
	awake   chan struct{}
}

func newGuard(m *Manager) *guard {
	g := &guard{manager: m, awake: make(chan struct{}, 1)}
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
			select {
			case <-time.After(pause):
			case <-g.awake:
				continue
			}
			pause = g.look()
		}
	}
}

// look checks both limits once and says how long to wait for the next look.
func (g *guard) look() time.Duration {
	processesMax, memoryMax := g.manager.limits()
	candidates := g.manager.candidates()
	trees, strays := g.manager.forest.look(candidates)
	for _, each := range candidates {
		if !each.running() && len(trees[each]) == 0 {
			each.survivors.Store(false)
		}
	}
	count, memory := len(strays), int64(0)
	var many, big *exec
	var manyCount int
	var bigBytes int64
	for of, tree := range trees {
		bytesUsed := int64(0)
		for _, each := range tree {
			bytesUsed += each.rss
		}
		count, memory = count+len(tree), memory+bytesUsed
		if len(tree) > manyCount {
			many, manyCount = of, len(tree)
		}
		if bytesUsed > bigBytes {
			big, bigBytes = of, bytesUsed
		}
	}
	if many != nil && processesMax > 0 && count > processesMax {
		g.kill(many, "processes")
		return guardHurry
	}
	if big != nil && memoryMax > 0 && memory > memoryMax && memory-bigBytes+shared(trees[big], bigBytes) > memoryMax {
		g.kill(big, "memory")
		return guardHurry
	}
	if (processesMax > 0 && count > processesMax/4) || (memoryMax > 0 && memory > memoryMax/4) {
		return guardHurry
	}
	return guardPause
}

func (g *guard) kill(e *exec, why string) {
	e.killedFor.CompareAndSwap(nil, &why)
	g.manager.killTree(e)
}

// shared counts the memory of a tree once: after a fork, parent and child show the same pages. Where the kernel does
// not tell (gVisor), the sum stands.
func shared(tree []seen, sum int64) int64 {
	total := int64(0)
	for _, each := range tree {
		raw, err := os.ReadFile("/proc/" + strconv.Itoa(each.pid) + "/smaps_rollup")
		if err != nil {
			return sum
		}
		_, after, found := bytes.Cut(raw, []byte("\nPss:"))
		fields := bytes.Fields(after)
		if !found || len(fields) == 0 {
			return sum
		}
		kilobytes, _ := strconv.ParseInt(string(fields[0]), 10, 64)
		total += kilobytes << 10
	}
	return total
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

// limiter sets what the kernel enforces by itself on a new process; nil: nothing was configured. The guard watches the rest.
func (m *Manager) limiter() func(pid int) error {
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
			// When memory is gone the kernel must take what we started, not spare it as it spares us.
			err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(expendable), 0)
			if err != nil {
				return err
			}
		}
		for resource, value := range limits {
			limit := rlimit{uint64(value), uint64(value)}
			_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), uintptr(resource),
				uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
			// In a machine of our own we may do that. As root of somebody's container we may not (CAP_SYS_RESOURCE).
			if errno != 0 && os.Getpid() == 1 {
				return errno
			}
		}
		return nil
	}
}
