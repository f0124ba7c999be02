package files

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

const keep = ^uintptr(0)

// credentials are whose rights the kernel checks while work is done.
//
// Linux has setfsuid for that, gVisor does not; both check file access with the effective ids of the calling thread, so
// those are changed, by system calls that concern one thread (package syscall's own would change all).
// The real and saved ids stay 0: box may not signal or trace the agent meanwhile, and it gets its rights back.
type credentials struct {
	drop     bool
	uid, gid int
	groups   []uint32
}

func agentCredentials() credentials { return credentials{} }

func userCredentials(uid, gid int) credentials {
	if os.Geteuid() != 0 || uid == 0 {
		return credentials{}
	}
	own, err := syscall.Getgroups()
	if err != nil {
		own = nil
	}
	c := credentials{drop: true, uid: uid, gid: gid}
	for _, group := range own {
		c.groups = append(c.groups, uint32(group))
	}
	return c
}

// do runs work with these credentials. Work must be brief: it holds an OS thread.
func (c credentials) do(work func() error) (err error) {
	if !c.drop {
		return work()
	}
	runtime.LockOSThread()
	defer func() {
		if left := c.leave(); left != nil {
			// The thread stays locked, and ends with its goroutine: it must never run anything else.
			err = errors.Join(err, fmt.Errorf("take the agent's rights back: %w", left))
			return
		}
		runtime.UnlockOSThread()
	}()
	if err := c.enter(); err != nil {
		return fmt.Errorf("take the rights of uid %d: %w", c.uid, err)
	}
	return work()
}

func (c credentials) enter() error {
	if err := setGroups([]uint32{uint32(c.gid)}); err != nil {
		return err
	}
	if err := setThread(syscall.SYS_SETRESGID, uintptr(c.gid)); err != nil {
		return err
	}
	return setThread(syscall.SYS_SETRESUID, uintptr(c.uid))
}

func (c credentials) leave() error {
	if err := setThread(syscall.SYS_SETRESUID, 0); err != nil {
		return err
	}
	if err := setThread(syscall.SYS_SETRESGID, uintptr(os.Getgid())); err != nil {
		return err
	}
	return setGroups(c.groups)
}

func setThread(call, effective uintptr) error {
	if _, _, code := syscall.RawSyscall(call, keep, effective, keep); code != 0 {
		return code
	}
	return nil
}

func setGroups(groups []uint32) error {
	_, _, code := syscall.RawSyscall(
		syscall.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0,
	)
	if code != 0 {
		return code
	}
	return nil
}
