package repair

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// freezeTimeout is generous: software emulation on a busy host needs a second for a few processes.
	freezeTimeout = 10 * time.Second
	freezePoll    = 500 * time.Microsecond
	// HeldGroup is the cgroup of what a save freezes. Processes that are started in it need not be moved to it.
	HeldGroup = "/sys/fs/cgroup/callbox.held"
)

// freezer holds every process but the agent while the machine is saved and until it is repaired, so that none of them
// draws random bytes that its twin draws too. A cgroup does that without their noticing; stop signals would wake their
// parents and continue what its user had stopped.
type freezer struct {
	group   string
	skipped map[string]bool // kernel threads seen since freeze began
}

// freeze moves all processes into one frozen group. A parent that is moved is frozen and forks no more, so the rounds
// end.
func (f *freezer) freeze() error {
	if err := os.Mkdir(f.group, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := f.set("1"); err != nil {
		return err
	}
	f.skipped = map[string]bool{}
	err := f.gather(time.Now().Add(freezeTimeout))
	if err != nil {
		return errors.Join(err, f.set("0"))
	}
	return nil
}

func (f *freezer) gather(deadline time.Time) error {
	for {
		moved, err := f.round()
		if err != nil {
			return err
		}
		frozen, err := f.isFrozen()
		if err != nil {
			return err
		}
		if moved == 0 && frozen {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes did not stop within %s", freezeTimeout)
		}
		if moved == 0 {
			time.Sleep(freezePoll)
		}
	}
}

// round moves what is not in the group yet, and returns how many that were.
func (f *freezer) round() (int, error) {
	groups, err := f.groups()
	if err != nil {
		return 0, err
	}
	moved := 0
	for _, group := range groups {
		content, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		for pid := range strings.FieldsSeq(string(content)) {
			if pid == "1" || pid == "0" || f.skipped[pid] {
				continue
			}
			if isKernelThread(pid) {
				f.skipped[pid] = true
				continue
			}
			err := os.WriteFile(filepath.Join(f.group, "cgroup.procs"), []byte(pid), 0)
			if errors.Is(err, syscall.ESRCH) {
				continue
			}
			if err != nil {
				return 0, fmt.Errorf("hold process %s: %w", pid, err)
			}
			moved++
		}
	}
	return moved, nil
}

// groups are all but ours: a workload with root's rights may have made some.
func (f *freezer) groups() ([]string, error) {
	var all []string
	err := filepath.WalkDir(filepath.Dir(f.group), func(path string, entry os.DirEntry, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		case path == f.group:
			return filepath.SkipDir
		}
		all = append(all, path)
		return nil
	})
	return all, err
}

// isKernelThread: kernel threads have no memory of their own, cannot be moved, and draw nothing for users.
// A zombie looks the same and is as harmless; so is what died since.
func isKernelThread(pid string) bool {
	content, err := os.ReadFile("/proc/" + pid + "/statm")
	return err != nil || strings.HasPrefix(string(content), "0 ")
}

func (f *freezer) isFrozen() (bool, error) {
	content, err := os.ReadFile(filepath.Join(f.group, "cgroup.events"))
	return strings.Contains(string(content), "frozen 1"), err
}

func (f *freezer) set(value string) error {
	return os.WriteFile(filepath.Join(f.group, "cgroup.freeze"), []byte(value), 0)
}

// thaw lets them go on. They stay in the group: their children are then born in it.
func (f *freezer) thaw() error {
	if err := f.set("0"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// isGvisor asks the kernel's log, which only gVisor begins so; its version file claims to be an old Linux.
func isGvisor() bool {
	const readAll = 3
	buffer := make([]byte, 4096)
	count, err := syscall.Klogctl(readAll, buffer)
	if err == nil && strings.Contains(string(buffer[:max(count, 0)]), "Starting gVisor") {
		return true
	}
	return false
}
