package process

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// groups makes one control group per exec, where the kernel has them for us. Nobody leaves one without root's rights:
// also a process that wiped its environment, forked twice and has a session of its own is counted and killed.
type groups struct {
	parent string // "": there are none
}

// make returns the folder of a new exec's group, open; nil where there are no groups.
func (g groups) make(id string) *os.File {
	if g.parent == "" {
		return nil
	}
	folder := filepath.Join(g.parent, id)
	if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil
	}
	opened, err := os.OpenFile(folder, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	return opened
}

// remove gives an empty group back; one that still holds somebody stays.
func (g groups) remove(id string) {
	if g.parent != "" {
		_ = os.Remove(filepath.Join(g.parent, id))
	}
}

// kill ends everything in the group at once, also what is being forked.
func (g groups) kill(id string) {
	if g.parent != "" {
		_ = os.WriteFile(filepath.Join(g.parent, id, "cgroup.kill"), []byte("1"), 0)
	}
}

// members are the processes in the group.
func (g groups) members(id string) []int {
	if g.parent == "" {
		return nil
	}
	content, err := os.ReadFile(filepath.Join(g.parent, id, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var all []int
	for line := range strings.FieldsSeq(string(content)) {
		if pid, err := strconv.Atoi(line); err == nil {
			all = append(all, pid)
		}
	}
	return all
}
