package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"callbox.dev/guest/wire"
)

func TestAProcessGetsWhatItsRequestSays(t *testing.T) {
	a := startAgent(t, true)
	if got := a.sh("echo out; echo err >&2; exit 7", nil); out(got) != "out\n" || string(got.Data[2]) != "err\n" || got.Ok["exit_code"] != 7.0 {
		t.Error(got)
	}
	if got := a.sh("pwd; echo $HOME $CALLBOX_EXEC", nil); out(got) != a.work+"\n"+a.work+" e2\n" {
		t.Error(out(got))
	}
	if got := a.sh("kill -TERM $$", nil); got.Ok["signal"] != 15.0 || got.Ok["exit_code"] != nil {
		t.Error(got.Ok)
	}
	if got := a.must("exec.run", map[string]any{"id": "v", "argv": []string{"printf", "%s|", "a b", "$HOME", ""}, "cwd": "/tmp"}); out(got) != "a b|$HOME||" {
		t.Error(out(got))
	}
	// 32 and 33 are libc's own, and inherited from whoever runs the test; no program can be told to take them back.
	ignored, err := strconv.ParseUint(strings.TrimSpace(out(a.sh("grep SigIgn /proc/self/status | cut -f2", nil))), 16, 64)
	if ignored &^= 3 << 31; err != nil || ignored != 0 {
		t.Errorf("signals are ignored: %x %v", ignored, err)
	}
	if os.Geteuid() == 0 {
		got := out(a.sh("id -u; id -G; grep -hE '^(Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status | cut -f2 | tr '\\n' ' '", nil))
		if got != "1000\n1000\n0000000000000000 0000000000000000 0000000000000000 0000000000000000 1 " {
			t.Error(got)
		}
		if got := out(a.sh("id -u", map[string]any{"user": "root"})); got != "0\n" {
			t.Error(got)
		}
	}
}

func TestWrongRequestsAreRefused(t *testing.T) {
	a := startAgent(t, true)
	for _, fields := range []map[string]any{
		{"id": "UP", "shell": "true"}, {"id": "a"}, {"id": "a", "shell": "x", "argv": []string{"y"}}, {"shell": "true"},
		{"id": "a", "argv": []string{"a\x00b"}}, {"id": "a", "shell": "x", "timeout_s": 0}, {"id": "a", "shell": "x", "user": "you"},
		{"id": "a", "shell": "x", "ring_bytes": 1}, {"id": "a", "shell": "x", "env": map[string]string{"A=B": ""}},
		{"id": "a", "shell": "x", "stdout_offset": -1}, {"id": "a", "shell": "x", "pty": map[string]int{"rows": 0}},
	} {
		a.refuses("bad_request", "exec.run", fields)
	}
	a.refuses("spawn_failed", "exec.run", map[string]any{"id": "a", "argv": []string{"no-such-program"}})
	a.refuses("spawn_failed", "exec.run", map[string]any{"id": "a", "argv": []string{"/etc/passwd"}})
	a.refuses("spawn_failed", "exec.run", map[string]any{"id": "a", "shell": "true", "cwd": "/nowhere"})
	if os.Geteuid() == 0 {
		closed := filepath.Join(a.work, "closed")
		if err := os.MkdirAll(filepath.Join(closed, "in"), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, cwd := range []string{closed, filepath.Join(closed, "in")} {
			got := a.call("exec.run", map[string]any{"id": "a", "shell": "true", "cwd": cwd})
			if want := "the working directory " + cwd; got.Code != "spawn_failed" || !strings.Contains(got.Message, want) {
				t.Error(got.Code, got.Message)
			}
		}
	}
	for _, op := range []string{"exec.attach", "exec.wait", "exec.signal", "exec.forget", "exec.stdin"} {
		a.refuses("not_found", op, map[string]any{"id": "missing", "signal": 9})
	}
	a.sh("true", nil)
	a.refuses("gone", "exec.signal", map[string]any{"id": "e1", "signal": 9})
	a.refuses("gone", "exec.stdin", map[string]any{"id": "e1"})
}

func TestTheSameStartTwiceIsOneProcess(t *testing.T) {
	a := startAgent(t, true)
	request := map[string]any{"id": "once", "shell": "echo ran >> ran; sleep 0.1; echo over"}
	first, second := a.must("exec.start", request), a.must("exec.start", request)
	if first.Ok["pid"] != second.Ok["pid"] {
		t.Error(first.Ok, second.Ok)
	}
	if got := a.must("exec.run", request); out(got) != "over\n" {
		t.Error(out(got))
	}
	if ran, _ := os.ReadFile(filepath.Join(a.work, "ran")); string(ran) != "ran\n" {
		t.Errorf("%q", ran)
	}
	a.refuses("exists", "exec.start", map[string]any{"id": "once", "shell": "something else"})
	a.must("exec.forget", map[string]any{"id": "once"})
	a.refuses("not_found", "exec.wait", map[string]any{"id": "once"})
}

func TestStdinIsWrittenOnceWhateverIsRepeated(t *testing.T) {
	a := startAgent(t, true)
	a.must("exec.start", map[string]any{"id": "cat", "argv": []string{"cat"}, "stdin": "pipe"})
	write := func(offset int, text string, end bool) any {
		s, err := a.Open("exec.stdin", map[string]any{"id": "cat", "offset": offset})
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Write(wire.Data, []byte(text))
		if !end {
			until(t, "the text to come back", func() bool {
				return strings.Contains(out(a.must("exec.attach", map[string]any{"id": "cat", "follow": false})), "def")
			})
			_ = s.Write(wire.Cancel, nil)
		} else {
			_ = s.Write(wire.Eof, nil)
		}
		result, err := s.Result(nil)
		if err != nil {
			t.Fatal(err)
		}
		if result.Code != "" {
			return result.Code
		}
		return result.Ok["written"]
	}
	if got := write(0, "abcdef", false); got != "cancelled" {
		t.Error(got)
	}
	if got := write(99, "x", true); got != "bad_request" {
		t.Error(got)
	}
	if got := write(3, "defghi", true); got != 9.0 {
		t.Error(got)
	}
	if got := a.must("exec.attach", map[string]any{"id": "cat"}); out(got) != "abcdefghi" {
		t.Error(out(got))
	}
}

func TestATimeoutReachesTheWholeTree(t *testing.T) {
	a := startAgent(t, true)
	name := token()
	text := fmt.Sprintf("sleep %[1]s & (setsid sleep %[1]s &); (env -i /usr/bin/setsid /bin/sh -c '/bin/sleep %[1]s & wait' &); trap '' TERM; sleep %[1]s", name)
	got := a.sh(text, map[string]any{"timeout_s": 0.4})
	if got.Ok["timed_out"] != true || got.Ok["signal"] != 9.0 {
		t.Error(got.Ok)
	}
	if left := running(name); left != 0 {
		t.Errorf("%d processes are left", left)
	}
	if zombies := zombiesOf(a.command.Process.Pid); zombies != 0 {
		t.Errorf("%d zombies", zombies)
	}
}

func TestWhatAProcessLeavesBehindIsKilledUnlessKept(t *testing.T) {
	a := startAgent(t, true)
	name := token()
	other := token()
	a.must("exec.start", map[string]any{"id": "neighbour", "argv": []string{"sleep", other}})
	a.sh(fmt.Sprintf("(setsid sleep %s &); sleep %s & echo", name, name), nil)
	if left := running(name); left != 0 {
		t.Errorf("%d processes are left", left)
	}
	if running(other) != 1 {
		t.Fatal("the neighbour was killed too")
	}
	got := a.sh(fmt.Sprintf("(setsid sleep %s &); echo kept", name), map[string]any{"keep_alive": true})
	if out(got) != "kept\n" || running(name) != 1 {
		t.Fatal(out(got), running(name))
	}
	kept := fmt.Sprintf("e%d", a.execs)
	a.sh("true", map[string]any{"keep_alive": true})
	holding := a.must("exec.list", map[string]any{"keep_alive": true}).Ok["execs"].([]any)
	if len(holding) != 1 || holding[0].(map[string]any)["id"] != kept {
		t.Error(holding)
	}
	a.refuses("busy", "exec.forget", map[string]any{"id": kept})
	a.must("exec.signal", map[string]any{"id": kept, "signal": int(syscall.SIGKILL)})
	until(t, "the kept one to be gone", func() bool { return running(name) == 0 })
	until(t, "it to be over", func() bool { return a.call("exec.forget", map[string]any{"id": kept}).Code == "" })
}

func TestSignalsReachOneProcessOrAll(t *testing.T) {
	a := startAgent(t, true)
	a.must("exec.start", map[string]any{"id": "traps", "shell": "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.02; done"})
	until(t, "the trap", func() bool {
		return out(a.must("exec.attach", map[string]any{"id": "traps", "follow": false})) == "ready\n"
	})
	a.refuses("timeout", "exec.wait", map[string]any{"id": "traps", "timeout_s": 0.01})
	a.must("exec.signal", map[string]any{"id": "traps", "signal": int(syscall.SIGUSR1), "tree": false})
	if got := a.must("exec.wait", map[string]any{"id": "traps", "timeout_s": 10}); got.Ok["exit_code"] != 5.0 {
		t.Error(got.Ok)
	}
}

func TestATerminalHasASizeAndControlsItsProcess(t *testing.T) {
	a := startAgent(t, true)
	name := token()
	request := map[string]any{
		"id": "tty", "pty": map[string]int{"rows": 30, "columns": 100}, "stdin": "pipe",
		"shell": "stty size; read line; echo got $line; stty size; sleep " + name,
	}
	a.must("exec.start", request)
	shows := func(text string) {
		until(t, text, func() bool {
			return strings.Contains(out(a.must("exec.attach", map[string]any{"id": "tty", "follow": false})), text)
		})
	}
	shows("30 100")
	a.must("exec.resize", map[string]any{"id": "tty", "rows": 40, "columns": 120})
	s, _ := a.Open("exec.stdin", map[string]any{"id": "tty"})
	_ = s.Write(wire.Data, []byte("hello\n"))
	shows("got hello\r\n40 120")
	// Not before: a shell goes on when its child ended without being interrupted.
	until(t, "the sleep", func() bool { return running("sleep\x00"+name) == 1 })
	_ = s.Write(wire.Data, []byte{3}) // Ctrl-C
	if got := a.must("exec.wait", map[string]any{"id": "tty", "timeout_s": 10}); got.Ok["signal"] != 2.0 && got.Ok["exit_code"] != 130.0 {
		t.Error(got.Ok)
	}
	if got := a.must("exec.run", map[string]any{"id": "size", "pty": map[string]int{"rows": 5, "columns": 6}, "shell": "stty size"}); out(got) != "5 6\r\n" {
		t.Errorf("%q", out(got))
	}
}

func TestOutputFarBeyondTheRingCostsNoMemory(t *testing.T) {
	a := startAgent(t, true)
	const total, ring = 1 << 30, 1 << 20
	a.must("exec.start", map[string]any{"id": "big", "shell": fmt.Sprintf("head -c %d /dev/zero", total), "ring_bytes": ring})
	slow, err := a.Open("exec.attach", map[string]any{"id": "big"})
	if err != nil {
		t.Fatal(err)
	}
	most := int64(0)
	got, err := slow.Result(func(uint8, []byte) {
		most = max(most, a.rss())
		time.Sleep(200 * time.Microsecond) // the slow reader; the process does not wait for it
	})
	if err != nil {
		t.Fatal(err)
	}
	lost := int64(0)
	for _, each := range got.Events {
		lost += int64(each["to"].(float64) - each["from"].(float64))
	}
	if got.Bytes[1]+lost != total || lost == 0 || got.Ok["stdout_end"] != float64(total) {
		t.Error(got.Bytes[1], lost, got.Ok)
	}
	if most > 100<<20 {
		t.Errorf("the agent used %d bytes", most)
	}
	info, err := os.Stat(filepath.Join(a.state, "big.1"))
	if err != nil || info.Size() > ring {
		t.Error(info, err)
	}
	t.Logf("at most %d MiB resident, %d MiB of 1024 delivered", most>>20, got.Bytes[1]>>20)
	a.must("exec.forget", map[string]any{"id": "big"})
	if left, _ := os.ReadDir(a.state); len(left) != 0 {
		t.Error(left)
	}
}

func TestABlockedProcessLosesNothingToAReaderThatComesAndGoes(t *testing.T) {
	a := startAgent(t, true)
	const lines = 400_000
	a.must("exec.start", map[string]any{"id": "counts", "shell": fmt.Sprintf("seq 1 %d", lines), "ring_bytes": 1 << 18, "on_full": "block"})
	var all bytes.Buffer
	for epoch := 0; ; epoch++ {
		s, err := a.Open("exec.attach", map[string]any{"id": "counts", "stdout_offset": all.Len()})
		if err != nil {
			t.Fatal(err)
		}
		closed := false
		for taken := 0; taken < 500_000 && !closed; {
			frame, ok := s.Next()
			if !ok {
				t.Fatal("ended")
			}
			switch frame.Type {
			case wire.Data:
				all.Write(frame.Payload)
				taken += len(frame.Payload)
				_ = s.Grant(len(frame.Payload))
			case wire.Event:
				t.Fatalf("a gap: %s", frame.Payload)
			case wire.Close:
				closed = true
			}
		}
		if closed {
			break
		}
		// The reader goes away without a word; what was on its way to it is lost with it, and asked for again.
		if _, err := a.Hello(fmt.Sprint("epoch", epoch)); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(all.String(), "\n"); got != lines || !strings.HasSuffix(all.String(), "\n"+strconv.Itoa(lines)+"\n") {
		t.Error(got)
	}
}

func TestAFullDiskIsSaidAndTheProcessGoesOn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	a := startAgent(t, true)
	if err := syscall.Mount("tmpfs", a.state, "tmpfs", 0, "size=256k,mode=700"); err != nil {
		t.Skip("cannot mount a tmpfs: ", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(a.state, syscall.MNT_DETACH) })
	got := a.sh("head -c 3000000 /dev/zero; echo over >&2", nil)
	reasons := map[any]int64{}
	for _, each := range got.Events {
		reasons[each["reason"]] += int64(each["to"].(float64) - each["from"].(float64))
	}
	if got.Ok["exit_code"] != 0.0 || got.Ok["stdout_end"] != 3e6 || reasons["no_space"] == 0 || string(got.Data[2]) != "over\n" {
		t.Error(got.Ok, reasons, string(got.Data[2]))
	}
	if got.Bytes[1]+reasons["no_space"] != 3_000_000 {
		t.Error(got.Bytes, reasons)
	}
}

func TestTheGuardKillsWhoExceedsTheLimits(t *testing.T) {
	a := startAgent(t, true)
	a.must("configure", map[string]any{"processes_max": 40, "memory_bytes": 200 << 20, "open_files_max": 64})
	name := token()
	a.must("exec.start", map[string]any{"id": "neighbour", "argv": []string{"sleep", name}})
	bomb := a.sh("while :; do sleep 600 & done", map[string]any{"timeout_s": 15})
	if bomb.Ok["killed_for"] != "processes" {
		t.Error(bomb.Ok)
	}
	// Each holds 50 MB of an endless text, less than what one process may use.
	many := `for i in 1 2 3 4 5 6 7 8; do yes | tail -c 50000000 & done; wait`
	if got := a.sh(many, map[string]any{"timeout_s": 15}); got.Ok["killed_for"] != "memory" {
		t.Error(got.Ok)
	}
	if got := out(a.sh("ulimit -n", nil)); got != "64\n" && mayLimit() {
		t.Error(got)
	}
	if running(name) != 1 {
		t.Error("the neighbour was killed")
	}
}

// mayLimit: root of a container without CAP_SYS_RESOURCE may not limit processes of other users.
func mayLimit() bool {
	status, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(status), "CapEff:\t")
	effective, _ := strconv.ParseUint(strings.SplitN(after, "\n", 2)[0], 16, 64)
	return os.Geteuid() != 0 || effective>>24&1 == 1
}

func TestManyShortProcessesLeaveNothing(t *testing.T) {
	a := startAgent(t, true)
	for range 5 {
		a.sh("for i in 1 2 3 4 5 6 7 8; do (sleep 0.001 &) ; done; exit 3", nil)
	}
	for i := range 300 {
		if got := a.must("exec.run", map[string]any{"id": fmt.Sprint("s", i), "argv": []string{"true"}}); got.Ok["exit_code"] != 0.0 {
			t.Fatal(got.Ok)
		}
	}
	if zombies := zombiesOf(a.command.Process.Pid); zombies != 0 {
		t.Errorf("%d zombies", zombies)
	}
	if got := len(a.must("exec.list", nil).Ok["execs"].([]any)); got > 256 {
		t.Errorf("%d execs are remembered", got)
	}
	descriptors, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", a.command.Process.Pid))
	if len(descriptors) > 20 {
		t.Errorf("%d descriptors are open", len(descriptors))
	}
}
