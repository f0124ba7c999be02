package boot

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

const (
	killTimeout = 2 * time.Second
	killPoll    = 5 * time.Millisecond
)

// PowerOff ends the machine: everything is killed and synced. It does not return.
// An agent that is not PID 1 of a machine only ends itself: the processes around it are not its own.
func PowerOff() {
	if os.Getpid() != 1 {
		syscall.Sync()
		os.Exit(0)
	}
	_ = syscall.Kill(-1, syscall.SIGKILL)
	awaitLast(time.Now().Add(killTimeout))
	syscall.Sync()
	if !isMachine {
		os.Exit(0)
	}
	// Best effort: the disk has no journal, and a file system that was made read-only is clean at the next mount.
	_ = syscall.Mount("", "/", "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
	if layerFolder != nil {
		disk := fmt.Sprintf("/proc/self/fd/%d", layerFolder.Fd())
		_ = syscall.Mount("", disk, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
	}
	syscall.Sync()
	for _, how := range []int{syscall.LINUX_REBOOT_CMD_POWER_OFF, syscall.LINUX_REBOOT_CMD_RESTART} {
		if err := syscall.Reboot(how); err != nil {
			fmt.Fprintf(os.Stderr, "callbox: reboot %#x: %v\n", how, err)
		}
	}
	// PID 1 that ends makes the kernel panic, and panic=-1 resets the machine at once.
	os.Exit(1)
}

// awaitLast reaps until no child is left. Another goroutine may reap as well: no child is all that counts.
func awaitLast(deadline time.Time) {
	for time.Now().Before(deadline) {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.ECHILD {
			return
		}
		if pid <= 0 {
			time.Sleep(killPoll)
		}
	}
}
