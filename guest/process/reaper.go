package process

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// reaper collects every child, those that we started and those that were left to us, so that nothing stays a zombie.
// It is the only place that waits: nothing else in the agent may use os/exec, whose wait would compete with it.
type reaper struct {
	mu        sync.Mutex // held while a child is started, so that its end cannot be collected before it is known
	waiting   map[int]chan<- ended
	childless bool // at the last look there was no child at all
}

type ended struct {
	status    syscall.WaitStatus
	childless bool
}

func newReaper() *reaper {
	r := &reaper{waiting: map[int]chan<- ended{}}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGCHLD)
	go func() {
		for range signals {
			r.collect()
		}
	}()
	return r
}

// start runs `fork` and promises its child's end on the channel.
func (r *reaper) start(fork func() spawned) (int, <-chan ended, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	born := fork()
	if born.err != nil {
		return 0, nil, born.err
	}
	end := make(chan ended, 1)
	if born.early != nil {
		end <- ended{status: *born.early}
	} else {
		r.waiting[born.pid] = end
	}
	return born.pid, end, nil
}

func (r *reaper) collect() {
	type dead struct {
		to     chan<- ended
		status syscall.WaitStatus
	}
	var found []dead
	r.mu.Lock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			r.childless = err == syscall.ECHILD
			break
		}
		if to, ours := r.waiting[pid]; ours {
			delete(r.waiting, pid)
			found = append(found, dead{to, status})
		}
	}
	childless := r.childless
	r.mu.Unlock()
	for _, each := range found {
		each.to <- ended{each.status, childless}
	}
}

// signal reaches a child of ours only as long as its end was not collected: its number cannot be another's yet.
func (r *reaper) signal(pid int, number syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, alive := r.waiting[pid]; !alive {
		return syscall.ESRCH
	}
	return syscall.Kill(pid, number)
}

// isMain: we started it, and its end was not collected.
func (r *reaper) isMain(pid int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ours := r.waiting[pid]
	return ours
}
