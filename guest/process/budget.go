package process

import (
	"slices"
	"sync"
	"syscall"
)

// Output shares the disk with the sandbox's own files: all rings together get a part of it.
const (
	budgetPart  = 8       // one eighth of the file system
	budgetLeast = 1 << 20 // on the smallest disk
	ringPart    = 4       // of the budget, for one ring
	ringLeast   = 128 << 10
)

// budget counts what the files of all rings take. When it is used up, the oldest output of what has ended makes room.
type budget struct {
	total int64
	evict func() bool // gives some room back; false: there is nothing that may go

	mu   sync.Mutex
	used int64
}

func newBudget(folder string, evict func() bool) *budget {
	b := &budget{total: budgetLeast, evict: evict}
	var disk syscall.Statfs_t
	if syscall.Statfs(folder, &disk) == nil {
		b.total = max(b.total, int64(disk.Blocks)*disk.Bsize/budgetPart)
	}
	return b
}

// cap is what one ring may ask for.
func (b *budget) cap(asked int64) int64 { return min(asked, max(b.total/ringPart, ringLeast)) }

// claim takes room for `n` more bytes, if need be from what has ended.
func (b *budget) claim(n int64) bool {
	for {
		b.mu.Lock()
		if b.used+n <= b.total {
			b.used += n
			b.mu.Unlock()
			return true
		}
		b.mu.Unlock()
		if !b.evict() {
			return false
		}
	}
}

// overdraw takes it in any case.
func (b *budget) overdraw(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += n
}

func (b *budget) release(n int64) { b.overdraw(-n) }

// evict drops the output of the exec that ended first; what somebody reads right now goes last.
func (m *Manager) evict() bool {
	m.mu.Lock()
	var over []*exec
	for _, each := range m.execs {
		if each.pid != 0 && !each.running() {
			over = append(over, each)
		}
	}
	m.mu.Unlock()
	slices.SortFunc(over, func(a, b *exec) int { return a.endedAt().Compare(b.endedAt()) })
	for _, alsoRead := range []bool{false, true} {
		for _, each := range over {
			out, err := each.out.evict(alsoRead), each.err.evict(alsoRead)
			if out || err {
				return true
			}
		}
	}
	return false
}
