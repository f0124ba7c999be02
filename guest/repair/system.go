package repair

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const (
	addEntropy    = 0x40085203 // RNDADDENTROPY, random(4)
	reseed        = 0x5207     // RNDRESEEDCRNG
	clockReal     = 0
	clockWithin   = 50 * time.Millisecond
	clockAttempts = 20
	// transit is how old the host's time may be when it is compared with a clock that cannot be set:
	// the request waits for the processors of a busy host.
	transit       = 10 * time.Second
	utsBytesMax   = 64
	hostsBytesMax = 1 << 20
)

// kind of kernel that this agent runs on.
type kind int

const (
	// linux: a kernel that we booted, PID 1 of it.
	linux kind = iota
	// gvisor: a kernel in user space. It reads the host's entropy and clock each time it is asked.
	gvisor
	// shared: the agent is not PID 1. It runs beside other programs of somebody's machine, which has its identity already:
	// setting the clock or the hostname would change theirs.
	shared
)

// system is what a repair changes. The folders are elsewhere in tests.
type system struct {
	kind   kind
	root   string // "" or a folder that stands for /
	freeze func() error
	thaw   func() error
}

func thisSystem() system {
	made := system{kind: linux, freeze: func() error { return nil }, thaw: func() error { return nil }}
	switch {
	case os.Getpid() != 1:
		made.kind = shared
	case isGvisor():
		made.kind = gvisor
	default:
		box := &freezer{group: HeldGroup}
		// Made early, for those who start processes in it. Where it cannot be made, freezing says so.
		_ = os.Mkdir(box.group, 0o755)
		made.freeze, made.thaw = box.freeze, box.thaw
	}
	return made
}

// entropy puts the host's random bytes into the kernel's pool, counts them, and has the generator take them at once.
// Mixing alone, which writing to /dev/urandom does, would be used minutes later.
func (s system) entropy(wanted *order) (string, error) {
	if s.kind != linux {
		return "kernel", nil
	}
	file, err := os.OpenFile("/dev/random", os.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	// struct rand_pool_info: bits, bytes, data.
	pool := struct {
		bits, bytes int32
		data        [entropyBytes]byte
	}{bits: entropyBytes * 8, bytes: entropyBytes}
	copy(pool.data[:], wanted.seed)
	if err := ioctl(file, addEntropy, unsafe.Pointer(&pool)); err != nil {
		return "", fmt.Errorf("RNDADDENTROPY: %w", err)
	}
	if err := ioctl(file, reseed, nil); err != nil {
		return "", fmt.Errorf("RNDRESEEDCRNG: %w", err)
	}
	return "added and reseeded", nil
}

func ioctl(file *os.File, request uintptr, argument unsafe.Pointer) error {
	if _, _, code := syscall.Syscall(syscall.SYS_IOCTL, file.Fd(), request, uintptr(argument)); code != 0 {
		return code
	}
	return nil
}

// clock sets the time to the host's, and looks whether it took.
func (s system) clock(wanted *order) (string, error) {
	if s.kind != linux {
		ahead := time.Duration(realtime() - wanted.RealtimeNs)
		if ahead < -clockWithin || ahead > transit {
			return "", fmt.Errorf("the kernel's clock is %s ahead of the host's", ahead)
		}
		return "kernel", nil
	}
	moved := -wanted.ahead()
	// A busy host may stop our processor between the reading of one clock and the setting of the other.
	for range clockAttempts {
		value := syscall.NsecToTimespec(wanted.now())
		_, _, code := syscall.Syscall(syscall.SYS_CLOCK_SETTIME, clockReal, uintptr(unsafe.Pointer(&value)), 0)
		if code != 0 {
			return "", fmt.Errorf("clock_settime: %w", code)
		}
		if wanted.ahead().Abs() <= clockWithin {
			return "set, moved " + moved.Round(time.Millisecond).String(), nil
		}
	}
	return "", fmt.Errorf("the clock is %s off after it was set", wanted.ahead())
}

// now is the host's time: what it sent, and what passed since by the clock that nobody sets.
func (o *order) now() int64 { return o.RealtimeNs + time.Since(o.arrived).Nanoseconds() }

// ahead is how far the kernel's clock is from that.
func (o *order) ahead() time.Duration { return time.Duration(realtime() - o.now()) }

func realtime() int64 { return time.Now().UnixNano() }

// machineID gives the machine its id and its name.
func (s system) machineID(wanted *order) (string, error) {
	if s.kind == shared {
		return "none", nil
	}
	id := strings.ToLower(wanted.MachineID)
	if err := replace(s.root+"/etc/machine-id", []byte(id+"\n"), 0o444); err != nil {
		return "", err
	}
	if err := replace(s.root+"/etc/hostname", []byte(wanted.Hostname+"\n"), 0o644); err != nil {
		return "", err
	}
	if err := s.writeHosts(wanted.Hostname); err != nil {
		return "", err
	}
	if err := setHostname(wanted.Hostname); err != nil {
		return "", fmt.Errorf("sethostname: %w", err)
	}
	return "written", nil
}

func setHostname(name string) error {
	if now, err := os.Hostname(); err == nil && now == name {
		return nil
	}
	return syscall.Sethostname([]byte(name[:min(len(name), utsBytesMax)]))
}

// hostsMark ends the line that is ours; all others stay as they are.
const hostsMark = "# this sandbox"

func (s system) writeHosts(name string) error {
	path := s.root + "/etc/hosts"
	info, err := os.Stat(path)
	kept := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Size() > hostsBytesMax:
		return errors.New("/etc/hosts is not a file that can be kept")
	default:
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		kept = ""
		for line := range strings.Lines(string(content)) {
			if !strings.HasSuffix(strings.TrimSpace(line), hostsMark) {
				kept += strings.TrimSuffix(line, "\n") + "\n"
			}
		}
	}
	return replace(path, []byte(kept+"127.0.1.1\t"+name+"\t"+hostsMark+"\n"), 0o644)
}

func (s system) generation(wanted *order) (string, error) {
	if s.kind == shared {
		return "kept in memory", nil
	}
	folder := s.root + "/run/callbox"
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(folder, "generation")
	if content, err := os.ReadFile(path); err == nil {
		// The agent's memory and this file tell the same story, or one of them is not of this machine.
		written, err := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
		if err == nil && written >= wanted.Generation && os.Getpid() == 1 && written > 0 {
			return "", fmt.Errorf("generation %d does not follow %d", wanted.Generation, written)
		}
	}
	return "written", replace(path, []byte(strconv.FormatInt(wanted.Generation, 10)+"\n"), 0o444)
}

// replace writes a file so that readers see the old or the new content. Not synced: a machine that crashes is repaired
// again before it serves. The folders belong to root, so nobody else can have made the temporary name a link.
func replace(path string, content []byte, mode os.FileMode) error {
	// A resume changes nothing here, and renames wait for the disk.
	if info, err := os.Lstat(path); err == nil && info.Mode() == mode && info.Size() == int64(len(content)) {
		if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, content) {
			return nil
		}
	}
	temporary := path + ".callbox"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	err = errors.Join(err, file.Chmod(mode), file.Close())
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if errors.Is(err, syscall.EBUSY) {
		// A file that is mounted (container runtimes do that with /etc/hostname) cannot be replaced, only written.
		err = os.WriteFile(path, content, mode)
	}
	if err != nil {
		os.Remove(temporary)
		return err
	}
	_ = os.Remove(temporary)
	return nil
}
