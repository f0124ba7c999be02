package process

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
)

// The limits of a ring.
const (
	headBytes = 8192    // kept in memory before there is a file: most commands say less than that
	holesMax  = 16      // ranges that the disk had no room for and that we remember one by one
	flyingMax = 1 << 19 // sent but perhaps never received (a window and pipes): `block` keeps it for a host that asks again

	// What a pipe and we may still hold when the process has ended: `block` then writes it without waiting for a reader.
	reserveBytes = 2 * drainMost
)

// hole is a range of output that was lost, and why.
type hole struct {
	from, to int64
	reason   string
}

// ring keeps the last `size` bytes of one channel of output in a file. Offsets count all bytes ever written.
type ring struct {
	path   string
	limit  int64 // at which `block` makes the writer wait
	budget *budget

	mu      sync.Mutex
	size    int64    // of the file; less than asked for if there was no room to grow
	claimed int64    // of the budget
	evicted bool     // the file made room for others
	head    []byte   // everything, as long as there is no file
	file    *os.File // nil: not yet needed, or closed since nobody writes any more
	spilled bool
	first   int64 // lowest offset that may still be read; what is being overwritten is already gone
	end     int64
	holes   []hole
	taken   int64 // highest offset that some reader was sent
	ended   bool  // nothing more will be written
	blocks  bool
	recent  window
	changed chan struct{} // closed and replaced on every change
}

func newRing(path string, limit int64, blocks bool, within *budget) *ring {
	limit = within.cap(limit)
	size := limit
	if blocks {
		size += reserveBytes + flyingMax
	}
	return &ring{path: path, limit: limit, size: size, budget: within, blocks: blocks, changed: make(chan struct{})}
}

func (r *ring) announce() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// write appends, in `block` mode once there is room. It never fails: what the disk does not take becomes a hole.
// Only one goroutine writes.
func (r *ring) write(ctx context.Context, p []byte) {
	for len(p) > 0 {
		n := int(min(int64(len(p)), r.limit/2))
		r.waitForRoom(ctx, int64(n))
		r.put(p[:n])
		p = p[n:]
	}
}

func (r *ring) waitForRoom(ctx context.Context, n int64) {
	for {
		r.mu.Lock()
		if !r.blocks || r.end+n-r.taken <= r.limit || ctx.Err() != nil {
			r.mu.Unlock()
			return
		}
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func (r *ring) put(p []byte) {
	r.mu.Lock()
	from, to := r.end, r.end+int64(len(p))
	if !r.spilled && int64(len(r.head)) == from && len(r.head)+len(p) <= headBytes {
		r.head = append(r.head, p...)
		r.end = to
		r.announce()
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	r.grow(from, to)
	r.mu.Lock()
	r.first = max(r.first, to-r.size)
	r.mu.Unlock()
	err := r.store(p, from)
	for errors.Is(err, syscall.ENOSPC) && r.budget.evict() {
		err = r.store(p, from)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end = to
	if err != nil {
		r.lose(hole{from, to, reasonOf(err)})
		r.recent.forget(to)
	} else {
		r.recent.remember(p, from)
	}
	r.announce()
}

// grow claims room for a longer file. Where there is none, the file stays as long as it is and wraps around from here.
func (r *ring) grow(from, to int64) {
	r.mu.Lock()
	more := min(to, r.size) - r.claimed
	r.mu.Unlock()
	if more <= 0 || r.budget.claim(more) {
		more = max(more, 0)
	} else if !r.blocks && r.spilled && from >= ringLeast && to-from <= from {
		r.mu.Lock()
		r.size = from // nothing moves: up to here an offset is its place in the file
		r.mu.Unlock()
		return
	} else {
		r.budget.overdraw(more)
	}
	r.mu.Lock()
	r.claimed += more
	r.mu.Unlock()
}

func (r *ring) store(p []byte, from int64) error {
	if err := r.spill(); err != nil {
		return err
	}
	return r.writeAt(p, from)
}

// evict gives the room of a finished ring to others; readers are told of a gap. False: there is nothing to give.
func (r *ring) evict(alsoRead bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended || !r.spilled || r.evicted || (r.recent.readers > 0 && !alsoRead) {
		return false
	}
	r.evicted, r.first = true, r.end
	r.giveBack()
	r.announce()
	return true
}

// giveBack removes the file. Called with the lock held.
func (r *ring) giveBack() {
	_ = os.Remove(r.path)
	r.budget.release(r.claimed)
	r.claimed = 0
}

// spill makes the file and moves what is in memory there.
func (r *ring) spill() error {
	if r.file == nil {
		file, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.file = file
		r.mu.Unlock()
	}
	if r.spilled {
		return nil
	}
	// While the disk is full the head stays in memory, and we try again with the next bytes.
	if err := r.writeAt(r.head, 0); err != nil {
		return err
	}
	r.mu.Lock()
	r.spilled, r.head = true, nil
	r.mu.Unlock()
	return nil
}

func (r *ring) writeAt(p []byte, offset int64) error {
	for len(p) > 0 {
		at := offset % r.size
		n := min(int64(len(p)), r.size-at)
		if _, err := r.file.WriteAt(p[:n], at); err != nil {
			return err
		}
		p, offset = p[n:], offset+n
	}
	return nil
}

// lose remembers a hole. When there are too many, everything up to the oldest one is given up.
func (r *ring) lose(lost hole) {
	if last := len(r.holes) - 1; last >= 0 && r.holes[last].to == lost.from && r.holes[last].reason == lost.reason {
		r.holes[last].to = lost.to
		return
	}
	r.holes = append(r.holes, lost)
	if len(r.holes) > holesMax {
		r.first = max(r.first, r.holes[0].to)
		r.holes = r.holes[1:]
	}
}

// chunk is what a reader gets: bytes, or a gap, or neither and a channel that says when to look again.
type chunk struct {
	n      int
	gap    *hole
	ended  bool
	change <-chan struct{}
}

// read copies what is at `offset`. It never waits.
func (r *ring) read(p []byte, offset int64) (chunk, error) {
	r.mu.Lock()
	seen := r.look(offset)
	if seen.gap != nil || seen.n == 0 || len(p) == 0 {
		r.mu.Unlock()
		return seen, nil
	}
	n := min(seen.n, len(p))
	if !r.spilled {
		n = copy(p, r.head[offset:min(offset+int64(n), int64(len(r.head)))])
		r.mu.Unlock()
		return chunk{n: n}, nil
	}
	if r.recent.has(offset) {
		n = r.recent.copyTo(p[:n], offset)
		r.mu.Unlock()
		return chunk{n: n}, nil
	}
	file, ours := r.file, false
	if file == nil {
		opened, err := os.Open(r.path) // under the lock: it may be evicted as soon as we let go
		if err != nil {
			r.mu.Unlock()
			return chunk{}, err
		}
		file, ours = opened, true
	}
	at := offset % r.size
	n = int(min(int64(n), r.size-at))
	r.mu.Unlock()
	_, err := file.ReadAt(p[:n], at)
	if ours {
		_ = file.Close()
	} else if errors.Is(err, os.ErrClosed) {
		return r.read(p, offset)
	}
	if err != nil {
		return chunk{}, err
	}
	// The writer may have overtaken us while we read: then this is no longer what stood there.
	r.mu.Lock()
	defer r.mu.Unlock()
	if again := r.look(offset); again.gap != nil {
		return again, nil
	}
	return chunk{n: n}, nil
}

// look says what is at `offset`: how many bytes until the end or a hole, or a gap.
func (r *ring) look(offset int64) chunk {
	if offset < r.first {
		reason := "overwritten"
		if r.evicted {
			reason = "evicted"
		}
		return chunk{gap: &hole{offset, r.first, reason}}
	}
	until := r.end
	for _, each := range r.holes {
		if offset >= each.from && offset < each.to {
			return chunk{gap: &hole{offset, each.to, each.reason}}
		}
		if each.from > offset {
			until = min(until, each.from)
			break
		}
	}
	return chunk{n: int(max(until-offset, 0)), ended: r.ended && offset >= r.end, change: r.changed}
}

// sent tells a blocked writer how far a reader has come.
func (r *ring) sent(offset int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if offset > r.taken {
		r.taken = offset
		if r.blocks {
			r.announce()
		}
	}
}

// finish says that nothing more will be written, and gives the descriptor back.
func (r *ring) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
	r.announce()
}

func (r *ring) length() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.end
}

func (r *ring) remove() {
	r.finish()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.giveBack()
}

// reasonOf names why output could not be kept.
func reasonOf(err error) string {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return "no_space"
	}
	return "disk_error"
}
