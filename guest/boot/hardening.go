package boot

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// setting is one kernel parameter. A kernel that lacks it has nothing to harden there; one that refuses it is not
// trusted.
type setting struct{ path, value string }

var settings = []setting{
	{"kernel/sysrq", "0"},
	// A pattern that names no regular file makes no dump; "|program" would be run by the kernel as root.
	{"kernel/core_pattern", "/dev/null"},
	{"kernel/dmesg_restrict", "1"},
	{"kernel/kptr_restrict", "2"},
	{"kernel/unprivileged_bpf_disabled", "1"},
	{"net/core/bpf_jit_harden", "2"},
	{"kernel/perf_event_paranoid", "3"},
	{"kernel/kexec_load_disabled", "1"},
	{"kernel/yama/ptrace_scope", "1"},
	// Debian's switch: without user namespaces box cannot reach the kernel's privileged paths.
	{"kernel/unprivileged_userns_clone", "0"},
	{"kernel/io_uring_disabled", "2"},
	{"vm/unprivileged_userfaultfd", "0"},
	{"fs/protected_hardlinks", "1"},
	{"fs/protected_symlinks", "1"},
	{"fs/protected_fifos", "2"},
	{"fs/protected_regular", "2"},
	{"fs/suid_dumpable", "0"},
	// A kernel that went wrong ends the machine; the host notices that, but not a machine that lingers.
	{"kernel/panic_on_oops", "1"},
	// The last one: from here on nobody, root included, adds code to the kernel.
	{"kernel/modules_disabled", "1"},
}

func harden() error {
	for _, each := range settings {
		err := os.WriteFile("/proc/sys/"+each.path, []byte(each.value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s: %w", each.path, err)
		}
	}
	for _, device := range []string{"/dev/mem", "/dev/kmem", "/dev/port", "/dev/kvm"} {
		if err := os.Remove(device); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// protectAgent keeps the agent alive when memory is gone. What it starts must set its own score back to 0.
func protectAgent() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return err
	}
	return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}
