package main

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

// orphan is shell text that leaves a process with no environment, no session and no parent of its exec.
func orphan(name string) string { return "env -i /usr/bin/setsid -f /bin/sleep " + name + "; " }

func TestWhoWipedEveryTraceIsReachedWhileOthersRun(t *testing.T) {
	a := startAgent(t, true)
	other, name := token(), token()
	a.must("exec.start", map[string]any{"id": "neighbour", "argv": []string{"sleep", other}})
	a.sh(orphan(name), map[string]any{"timeout_s": 15})
	if left := running(name); left != 0 {
		t.Errorf("%d are left after the end", left)
	}
	got := a.sh(orphan(name)+"sleep "+name, map[string]any{"timeout_s": 0.4})
	if left := running(name); left != 0 || got.Ok["timed_out"] != true {
		t.Errorf("%d are left after the timeout, %v", left, got.Ok)
	}
	a.sh(orphan(name), map[string]any{"keep_alive": true})
	until(t, "the kept one", func() bool { return running(name) == 1 })
	a.refuses("busy", "exec.forget", map[string]any{"id": fmt.Sprintf("e%d", a.execs)})
	a.must("exec.signal", map[string]any{"id": fmt.Sprintf("e%d", a.execs), "signal": int(syscall.SIGKILL)})
	if left := running(name); left != 0 {
		t.Errorf("%d are left after the kill", left)
	}
	if running(other) != 1 {
		t.Error("the neighbour was killed")
	}
}

func TestLimitsTellWhoseAnOrphanIs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root marks limits")
	}
	a := startAgent(t, true)
	a.must("configure", map[string]any{"processes_max": 100, "open_files_max": 64})
	kept, name := token(), token()
	// Root's own processes may be marked whatever capabilities the tests have.
	as := map[string]any{"user": "root"}
	a.must("exec.start", map[string]any{"id": "neighbour", "shell": orphan(kept) + "sleep " + kept, "user": "root"})
	until(t, "the neighbour's orphan", func() bool { return running("/bin/sleep\x00"+kept) == 1 })
	a.sh(orphan(name), as)
	a.sh("setsid -f env CALLBOX_EXEC=neighbour sleep "+name, as)
	a.sh("ulimit -t 1000; ulimit -f 1000; CALLBOX_EXEC=neighbour setsid -f sleep "+name, as)
	if left := running(name); left != 0 {
		t.Errorf("%d are left", left)
	}
	if running("/bin/sleep\x00"+kept) != 1 {
		t.Error("the neighbour's orphan was killed for others' ends")
	}
	a.must("exec.signal", map[string]any{"id": "neighbour", "signal": int(syscall.SIGKILL)})
	if running(kept) != 0 {
		t.Error("the neighbour's orphan outlived it")
	}
}

func TestTheGuardBlamesNobodyForWhatOthersName(t *testing.T) {
	a := startAgent(t, true)
	a.must("configure", map[string]any{"processes_max": 40})
	name := token()
	a.must("exec.start", map[string]any{"id": "victim", "argv": []string{"sleep", name}})
	bombs := map[string]string{
		"liar":  "for i in $(seq 100); do CALLBOX_EXEC=victim setsid -f sleep 600; done",
		"stray": "for i in $(seq 100); do env -i /usr/bin/setsid -f /bin/sleep 600; done",
	}
	for who, text := range bombs {
		a.must("exec.run", map[string]any{"id": who, "shell": text, "timeout_s": 15})
		got := a.must("exec.attach", map[string]any{"id": "victim", "follow": false})
		if got.Ok["running"] != true || got.Ok["killed_for"] != nil || running(name) != 1 {
			t.Fatal(who, got.Ok)
		}
	}
}
