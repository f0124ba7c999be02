package process

import (
	"runtime"
	"syscall"
)

// prctl numbers that package syscall does not have.
const (
	prSetNoNewPrivs    = 38
	prSetSubreaper     = 36
	prCapBSetDrop      = 24
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
	reply chan spawned
}

type spawned struct {
	pid int
	err error
}

// spawner starts processes from one OS thread. no_new_privs and the bounding set belong to threads and are inherited
// by children, and package syscall cannot set them between fork and exec; so that thread has them.
type spawner struct {
	requests chan spawn
}

// newSpawner starts the thread. `confined`: its children can never gain privileges, whatever they execute.
func newSpawner(confined bool) (*spawner, error) {
	s := &spawner{requests: make(chan spawn)}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not fit for anything else
		ready <- confine(confined)
		for each := range s.requests {
			pid, err := syscall.ForkExec(each.path, each.argv, each.attr)
			each.reply <- spawned{pid, err}
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

func (s *spawner) start(path string, argv []string, attr *syscall.ProcAttr) (int, error) {
	reply := make(chan spawned, 1)
	s.requests <- spawn{path, argv, attr, reply}
	result := <-reply
	return result.pid, result.err
}
