package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"callbox.dev/guest/opener"
	"callbox.dev/guest/wire"
)

const (
	patience = 20 * time.Second
	asAgent  = "CALLBOX_TEST_AGENT"
)

// The test binary is also the agent: these tests run it as a process of its own, as gVisor does.
func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		os.Unsetenv(asAgent)
		main()
		return
	}
	os.Exit(m.Run())
}

type agent struct {
	*opener.Opener
	t       *testing.T
	command *exec.Cmd
	state   string
	work    string
	input   io.Closer
	execs   int
}

func startAgent(t *testing.T, repaired bool) *agent {
	t.Helper()
	work, err := os.MkdirTemp("", "callbox-work-") // not t.TempDir(): its parents are closed to the user box
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(work, 0o777); err != nil {
		t.Fatal(err)
	}
	a := &agent{t: t, state: filepath.Join(t.TempDir(), "exec"), work: work}
	a.command = exec.Command("/proc/self/exe", "stdio", "--work", work, "--state", a.state)
	a.command.Env = []string{asAgent + "=1", "FROM_IMAGE=yes", "PATH=" + os.Getenv("PATH")}
	a.command.Stderr = os.Stderr
	to, err := a.command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	from, err := a.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.command.Start(); err != nil {
		t.Fatal(err)
	}
	a.input = to
	a.Opener = opener.New(from, to)
	t.Cleanup(func() {
		_ = to.Close()
		done := make(chan error, 1)
		go func() { done <- a.command.Wait() }()
		select {
		case err := <-done:
			if err != nil && !t.Failed() {
				t.Errorf("the agent ended with %v", err)
			}
		case <-time.After(patience):
			_ = a.command.Process.Kill()
			t.Error("the agent did not end at EOF")
		}
		_ = os.RemoveAll(work)
	})
	if _, err := a.Hello("first"); err != nil {
		t.Fatal(err)
	}
	if repaired {
		a.must("repair", map[string]any{
			"entropy": base64.StdEncoding.EncodeToString(make([]byte, 64)), "realtime_ns": time.Now().UnixNano(),
			"hostname": "box", "machine_id": strings.Repeat("0f", 16), "generation": 1,
		})
	}
	return a
}

func (a *agent) call(op string, fields map[string]any) opener.Result {
	a.t.Helper()
	result, err := a.Call(op, fields)
	if err != nil {
		a.t.Fatal(op, err)
	}
	return result
}

func (a *agent) must(op string, fields map[string]any) opener.Result {
	a.t.Helper()
	result := a.call(op, fields)
	if result.Code != "" {
		a.t.Fatal(op, fields, result.Code)
	}
	return result
}

func (a *agent) refuses(code, op string, fields map[string]any) {
	a.t.Helper()
	if got := a.call(op, fields).Code; got != code {
		a.t.Errorf("%s %v: %q instead of %q", op, fields, got, code)
	}
}

func (a *agent) id() string { a.execs++; return "e" + strconv.Itoa(a.execs) }

// sh runs a shell text and returns what it said, and how it ended.
func (a *agent) sh(text string, more map[string]any) opener.Result {
	a.t.Helper()
	fields := map[string]any{"id": a.id(), "shell": text}
	for key, value := range more {
		fields[key] = value
	}
	return a.must("exec.run", fields)
}

func out(r opener.Result) string { return string(r.Data[1]) }

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// running counts processes whose command line contains the token; zombies have none.
func running(token string) int {
	count := 0
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, each := range lines {
		if raw, err := os.ReadFile(each); err == nil && bytes.Contains(raw, []byte(token)) {
			count++
		}
	}
	return count
}

// token is an argument of sleep that no other process has.
func token() string { return fmt.Sprintf("%d.%09d", 600+os.Getpid()%300, time.Now().Nanosecond()) }

func zombiesOf(pid int) int {
	count := 0
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, each := range stats {
		if raw, err := os.ReadFile(each); err == nil {
			rest := raw[bytes.LastIndexByte(raw, ')')+2:]
			if bytes.HasPrefix(rest, []byte("Z "+strconv.Itoa(pid)+" ")) {
				count++
			}
		}
	}
	return count
}

func (a *agent) rss() int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", a.command.Process.Pid))
	if err != nil {
		a.t.Fatal(err)
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(raw))[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

func TestNothingIsServedBeforeTheRepair(t *testing.T) {
	a := startAgent(t, false)
	a.must("ping", nil)
	a.must("info", nil)
	for _, op := range []string{"exec.run", "exec.list", "fs.read", "port.list", "configure", "quiesce", "shutdown"} {
		a.refuses("not_repaired", op, map[string]any{"id": "x", "shell": "true", "path": "x"})
	}
}

func TestAMachineIsAskedConfiguredAndSwitchedOff(t *testing.T) {
	a := startAgent(t, true)
	info := a.must("info", nil).Ok
	for _, key := range []string{
		"uptime_s", "memory_total_bytes", "memory_available_bytes", "processes", "disk_total_bytes", "disk_free_bytes",
	} {
		if value, ok := info[key].(float64); !ok || value <= 0 {
			t.Errorf("%s: %v", key, info[key])
		}
	}
	before, _ := os.Hostname()
	a.must("configure", map[string]any{"hostname": "elsewhere", "env": map[string]string{"SET": "configure", "FROM_IMAGE": "no"}})
	if after, _ := os.Hostname(); after != before {
		t.Fatal("the host was renamed")
	}
	if got := out(a.sh("echo $SET $FROM_IMAGE $MORE", map[string]any{"env": map[string]string{"MORE": "m"}})); got != "configure no m\n" {
		t.Error(got)
	}
	a.must("quiesce", nil)
	name := token()
	a.must("exec.start", map[string]any{"id": "left", "argv": []string{"sleep", name}})
	a.must("shutdown", nil)
	until(t, "everything to be gone", func() bool { return running(name) == 0 })
}

func TestAConnectionMayBreakAtAnyByte(t *testing.T) {
	a := startAgent(t, true)
	a.must("exec.start", map[string]any{"id": "speaks", "shell": "while :; do echo line; sleep 0.01; done"})
	whole := wire.Append(nil, wire.Frame{Type: wire.Open, Stream: 99, Payload: []byte(`{"op":"exec.list"}`)})
	for cut := 0; cut < len(whole); cut += 3 {
		if _, err := a.Open("exec.attach", map[string]any{"id": "speaks"}); err != nil {
			t.Fatal(err)
		}
		_ = a.Raw(whole[:cut])
		_ = a.Raw(make([]byte, wire.ZerosSent))
		if _, err := a.Hello(fmt.Sprint("cut", cut)); err != nil {
			t.Fatal(err)
		}
		a.must("ping", nil)
	}
	a.must("exec.signal", map[string]any{"id": "speaks", "signal": int(syscall.SIGKILL)})
}
