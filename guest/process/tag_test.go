package process

import (
	"os"
	run "os/exec"
	"testing"
)

func TestAProcessCarriesItsExecsNumber(t *testing.T) {
	child := run.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	pid := child.Process.Pid
	if got := tagOf(pid); got != 0 {
		t.Fatal(got)
	}
	own := &exec{number: 42}
	if own.stamp(pid); !own.stamped.Load() || tagOf(pid) != 42 {
		t.Fatal(own.stamped.Load(), tagOf(pid))
	}
	// Lowering names nobody, whichever it is.
	if err := limitProcess(pid, rlimitCPU, tagSeconds+41); err != nil || tagOf(pid) != 0 {
		t.Error(err, tagOf(pid))
	}
}

func TestAMachineSaysWhatItUses(t *testing.T) {
	used := machineUse(-1)
	if used <= 0 {
		t.Error(used)
	}
	if got := actual(nil, 1<<40); got != 0 {
		t.Error(got)
	}
	page := seen{pid: os.Getpid(), rss: 1 << 40}
	if got := actual([]seen{page}, 1<<40); got <= 0 || got >= 1<<40 {
		t.Error(got)
	}
}
