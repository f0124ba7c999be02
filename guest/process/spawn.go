package process

import (
	"fmt"
	"runtime"
	"syscall"
)

// prctl numbers that package syscall does not have.
const (
	prSetNoNewPrivs  = 38
	prSetSubreaper   = 36
	prCapBSetDrop    = 24
	capabilitiesMost = 64 // higher than the highest of any kernel; dropping one that does not exist fails harmlessly
)

func prctl(option, argument uintptr) error {
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, option, argument, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

type spawn struct {
	path  string
	argv  []string
	attr  *syscall.ProcAttr
	limit func(pid int) error // sets what must hold before the first instruction; nil: nothing
	reply chan spawned
}

// spawned is a process that runs. `early` is how it ended, if it was killed before it could begin.
type spawned struct {
	pid   int
	early *syscall.WaitStatus
	err   error
}

// spawner starts processes from one OS thread. no_new_privs and the bounding set belong to threads and are inherited
// by children, and package syscall cannot set them between fork and exec; so that thread has them.
type spawner struct {
	requests chan *spawn
}

// newSpawner starts the thread. `confined`: its children can never gain privileges, whatever they execute.
func newSpawner(confined bool) (*spawner, error) {
	s := &spawner{requests: make(chan *spawn)}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not fit for anything else
		ready <- confine(confined)
		for each := range s.requests {
			each.reply <- each.run()
		}
	}()
	return s, <-ready
}

func confine(confined bool) error {
	if !confined {
		return nil
	}
	if syscall.Geteuid() == 0 {
		for capability := range uintptr(capabilitiesMost) {
			_ = prctl(prCapBSetDrop, capability)
		}
	}
	return prctl(prSetNoNewPrivs, 1)
}

func (s *spawner) start(what spawn) spawned {
	what.reply = make(chan spawned, 1)
	s.requests <- &what
	return <-what.reply
}

// run starts the process. Between fork and exec nothing of ours can run, and limits set afterwards would come too late
// for a fast one. So it is traced up to its exec, where it stops; it gets its limits and is let go.
func (w *spawn) run() spawned {
	w.attr.Sys.Ptrace = w.limit != nil
	pid, err := syscall.ForkExec(w.path, w.argv, w.attr)
	if err != nil || w.limit == nil {
		return spawned{pid: pid, err: err}
	}
	for {
		var status syscall.WaitStatus
		switch _, err := syscall.Wait4(pid, &status, 0, nil); {
		case err == syscall.EINTR:
			continue
		case err == nil && (status.Exited() || status.Signaled()):
			return spawned{pid: pid, early: &status}
		}
		err := w.limit(pid)
		if err == nil {
			err = syscall.PtraceDetach(pid)
		}
		if err != nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it would stay stopped for ever
			_, _ = syscall.Wait4(pid, nil, 0, nil)
			return spawned{err: fmt.Errorf("limit it: %w", err)}
		}
		return spawned{pid: pid}
	}
}
