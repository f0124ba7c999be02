// Package boot makes a machine usable before the agent serves it: PID 1's work in a VM, and the equivalent in gVisor.
package boot

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

const (
	// deviceTimeout is generous: software emulation on a host whose processors are taken finds disks in seconds.
	deviceTimeout = 30 * time.Second
	devicePoll    = 2 * time.Millisecond
	portName      = "callbox"
	// WorkDirectory belongs to the user box.
	WorkDirectory = "/work"
	boxID         = 1000
)

// isMachine says that this is PID 1 of a kernel that we booted, and that ending means powering off.
var isMachine bool

// Machine boots the VM as PID 1 and returns the byte channel to the host.
// What fails is printed to the console, and the machine powers off: a machine that is half made must never serve.
func Machine() (io.ReadWriteCloser, error) {
	isMachine = true
	port, err := machine()
	if err != nil {
		fmt.Fprintf(os.Stderr, "callbox: boot failed: %v\n", err)
		PowerOff()
	}
	return port, err
}

func machine() (io.ReadWriteCloser, error) {
	syscall.Umask(0o022)
	steps := []struct {
		name string
		run  func() error
	}{
		{"mount the kernel's file systems", mountKernel},
		{"load modules", loadModules},
		{"mount the disks", mountDisks},
		{"switch to the root", switchRoot},
		{"mount what processes expect", mountRuntime},
		{"prepare folders and users", prepareRoot},
		{"bring up the loopback", loopbackUp},
		{"freeze the modules and harden the kernel", harden},
		{"protect the agent", protectAgent},
	}
	for _, step := range steps {
		if err := step.run(); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	port, err := openPort(deviceTimeout)
	if err != nil {
		return nil, fmt.Errorf("open the port %q: %w", portName, err)
	}
	return port, nil
}

// Container prepares the file system where the kernel (gVisor) has already mounted it. It returns what the environment of
// programs needs there.
func Container() (map[string]string, error) {
	syscall.Umask(0o022)
	if err := prepareRoot(); err != nil {
		return nil, fmt.Errorf("prepare folders and users: %w", err)
	}
	// Dumps would fill the sandbox's disk; gVisor writes none, and other kernels obey the limit.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return nil, err
	}
	return repairStatx()
}

// waitFor polls until found says so; udev is not there to tell.
func waitFor(what string, timeout time.Duration, found func() bool) error {
	deadline := time.Now().Add(timeout)
	for !found() {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s did not appear within %s", what, timeout)
		}
		time.Sleep(devicePoll)
	}
	return nil
}
