package process

import (
	"context"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	drainFor    = 250 * time.Millisecond // after the end of the main process, for pipes that an orphan holds open
	drainLeast  = 16 << 10
	drainMost   = 256 << 10
	setPipeSize = 1031 // F_SETPIPE_SZ, which package syscall does not name

	// gVisor's terminals never say that their other side was closed. What was written to them is there at once.
	drainTerminal = 20 * time.Millisecond
)

// exec is one process tree: what was asked, what runs, what it said, how it ended.
type exec struct {
	request *start
	number  int64       // counts execs; their processes carry it: see stamp
	stamped atomic.Bool // they do
	pid     int
	began   time.Time
	out     *ring
	err     *ring
	input   *input
	master  *os.File // of the PTY

	launched  chan struct{} // closed once it runs or could not be started
	failed    error         // why it could not be started
	killedFor atomic.Pointer[string]
	timedOut  atomic.Bool
	survivors atomic.Bool // keep_alive left something running after the end

	done  chan struct{} // closed when the main process has ended and its output is here
	mu    sync.Mutex
	how   result
	ended time.Time
}

// result is how an exec ended, or that it runs.
type result struct {
	ExitCode   *int    `json:"exit_code"`
	Signal     *int    `json:"signal"`
	TimedOut   bool    `json:"timed_out"`
	KilledFor  *string `json:"killed_for"`
	DurationMs float64 `json:"duration_ms"`
	StdoutEnd  int64   `json:"stdout_end"`
	StderrEnd  int64   `json:"stderr_end"`
	Running    bool    `json:"running"`
}

func (e *exec) running() bool {
	select {
	case <-e.done:
		return false
	default:
		return true
	}
}

func (e *exec) result() result {
	e.mu.Lock()
	defer e.mu.Unlock()
	how := e.how
	how.Running = e.running()
	if how.Running {
		how.DurationMs = milliseconds(time.Since(e.began))
	}
	how.TimedOut, how.KilledFor = e.timedOut.Load(), e.killedFor.Load()
	how.StdoutEnd, how.StderrEnd = e.out.length(), e.err.length()
	return how
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// follow waits for the end, under the timeout, and leaves everything as it should be afterwards.
func (m *Manager) follow(e *exec, end <-chan ended, pipes []pipe) {
	writing, stop := context.WithCancel(context.Background())
	var drains sync.WaitGroup
	for _, each := range pipes {
		drains.Go(func() { drain(writing, each) })
	}
	var alarm <-chan time.Time
	if e.request.TimeoutS != nil {
		timer := time.NewTimer(time.Duration(*e.request.TimeoutS * float64(time.Second)))
		defer timer.Stop()
		alarm = timer.C
	}
	var last ended
	select {
	case last = <-end:
	case <-alarm:
		e.timedOut.Store(true)
		m.killTree(e)
		last = <-end
	}
	duration := time.Since(e.began)
	if !last.childless {
		m.endTree(e)
	}
	stop() // a writer that waits for a reader would wait for ever
	if e.survivors.Load() {
		waitFor(&drains, drainFor)
	} else {
		most := drainFor
		if e.master != nil {
			most = drainTerminal
		}
		for _, each := range pipes {
			_ = each.from.SetReadDeadline(time.Now().Add(most))
		}
		drains.Wait()
		if e.master != nil {
			_ = e.master.Close()
		}
	}
	e.input.close()
	e.finish(last.status, duration)
	m.finished(e)
}

func (e *exec) finish(status syscall.WaitStatus, duration time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if status.Signaled() {
		number := int(status.Signal())
		e.how.Signal = &number
	} else {
		code := status.ExitStatus()
		e.how.ExitCode = &code
	}
	e.how.DurationMs = milliseconds(duration)
	e.ended = time.Now()
	close(e.done)
}

// endTree ends what the main process left behind, unless it is to be kept.
func (m *Manager) endTree(e *exec) {
	if e.request.KeepAlive && e.killedFor.Load() == nil && !e.timedOut.Load() {
		e.survivors.Store(len(m.tree(e)) > 0)
		return
	}
	m.killTree(e)
}

// tree is what is left of an exec, and what may be.
func (m *Manager) tree(e *exec) []seen {
	trees, strays := m.forest.look()
	return append(trees[e], slices.DeleteFunc(strays, func(s seen) bool { return !s.suspects[e] })...)
}

// killTree kills all of an exec. A stray that may be from it goes too.
func (m *Manager) killTree(e *exec) {
	m.groups.kill(e.request.ID)
	m.forest.kill(func() []seen { return m.tree(e) })
}

// pipe is one channel of output on its way to its ring.
type pipe struct {
	from *os.File
	to   *ring
}

// drain moves output from a pipe to its ring. Who says much gets more room: in gVisor each call costs as much as copying 64 KiB.
func drain(ctx context.Context, p pipe) {
	buffer := make([]byte, drainLeast)
	for {
		n, err := p.from.Read(buffer)
		p.to.write(ctx, buffer[:n])
		if err != nil {
			break // EOF; EIO of a PTY that nobody holds open any more; the deadline
		}
		if n == len(buffer) && n < drainMost {
			buffer = make([]byte, 4*n)
			enlarge(p.from, len(buffer))
		}
	}
	_ = p.from.Close()
	p.to.finish()
}

// enlarge asks for a bigger pipe. It may be refused; then it stays as it is.
func enlarge(pipe *os.File, size int) {
	if connection, err := pipe.SyscallConn(); err == nil {
		_ = connection.Control(func(fd uintptr) {
			_, _, _ = syscall.RawSyscall(syscall.SYS_FCNTL, fd, setPipeSize, uintptr(size))
		})
	}
}

func waitFor(group *sync.WaitGroup, most time.Duration) {
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(most):
	}
}
