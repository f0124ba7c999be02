package repair

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"callbox.dev/guest/operation"
)

type request map[string]any

func good(generation int64) request {
	return request{
		"entropy":     base64.StdEncoding.EncodeToString(make([]byte, entropyBytes)),
		"realtime_ns": time.Now().UnixNano(),
		"hostname":    "box-1",
		"machine_id":  strings.Repeat("0a", 16),
		"generation":  generation,
	}
}

// machine is a state whose system is a folder, on a kernel that repairs itself; it counts what is held.
func machine(t *testing.T) (*State, string, *int) {
	t.Helper()
	root := t.TempDir()
	if err := os.MkdirAll(root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	held := 0
	state := New("boot")
	state.system = system{
		kind:   shared,
		root:   root,
		freeze: func() error { held++; return nil },
		thaw:   func() error { held = 0; return nil },
	}
	return state, root, &held
}

func call(t *testing.T, s *State, op string, wanted request) (string, error) {
	t.Helper()
	encoded, err := json.Marshal(wanted)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := s.Table()[op](nil, encoded)
	if err != nil {
		return "", err
	}
	encoded, err = json.Marshal(reply)
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded), nil
}

func failed(t *testing.T, code string, err error) {
	t.Helper()
	var failure *operation.Failure
	if !errors.As(err, &failure) || failure.Code != code {
		t.Fatalf("answered %v, not %s", err, code)
	}
}

func TestAMachineIsReadyOnlyAfterAFullRepair(t *testing.T) {
	s, _, held := machine(t)
	if s.Ready() || s.Generation() != 0 {
		t.Fatal("ready after boot")
	}
	reply, err := call(t, s, "repair", good(3))
	if err != nil || !s.Ready() || s.Generation() != 3 {
		t.Fatalf("%v %v %d", err, s.Ready(), s.Generation())
	}
	last := -1
	for _, name := range []string{"entropy", "clock", "network", "machine_id", "generation"} {
		at := strings.Index(reply, `"name":"`+name+`"`)
		if at <= last {
			t.Fatalf("%s is out of order: %s", name, reply)
		}
		last = at
	}
	if _, err := call(t, s, "expect_repair", nil); err != nil || s.Ready() || *held != 1 {
		t.Fatalf("%v %v %d", err, s.Ready(), *held)
	}
	if _, err := call(t, s, "repair", good(4)); err != nil || !s.Ready() || *held != 0 {
		t.Fatalf("%v %v %d", err, s.Ready(), *held)
	}
}

func TestWhateverFailsLeavesItUnready(t *testing.T) {
	for name, spoiled := range map[string]request{
		"old generation":  {"generation": 5},
		"same generation": {"generation": 6},
		"no generation":   {"generation": 0},
		"short entropy":   {"entropy": "AAAA"},
		"no entropy":      {"entropy": ""},
		"bad entropy":     {"entropy": strings.Repeat("!", 88)},
		"bad hostname":    {"hostname": "a\nb"},
		"no hostname":     {"hostname": ""},
		"bad machine id":  {"machine_id": "xyz"},
		"clock ahead":     {"realtime_ns": time.Now().Add(-time.Hour).UnixNano()},
		"clock behind":    {"realtime_ns": time.Now().Add(time.Hour).UnixNano()},
		"no clock":        {"realtime_ns": 0},
	} {
		s, _, held := machine(t)
		if _, err := call(t, s, "repair", good(6)); err != nil {
			t.Fatal(err)
		}
		if _, err := call(t, s, "expect_repair", nil); err != nil {
			t.Fatal(err)
		}
		wanted := good(7)
		maps.Copy(wanted, spoiled)
		_, err := call(t, s, "repair", wanted)
		failed(t, "repair_failed", err)
		if s.Ready() || s.Generation() != 6 || *held != 1 {
			t.Fatalf("%s: ready %v, generation %d, held %d", name, s.Ready(), s.Generation(), *held)
		}
		if _, err := call(t, s, "repair", good(8)); err != nil || !s.Ready() {
			t.Fatalf("%s: a good repair after it: %v", name, err)
		}
	}
}

func TestAMachineThatCannotBeHeldGoesOn(t *testing.T) {
	s, _, _ := machine(t)
	if _, err := call(t, s, "repair", good(1)); err != nil {
		t.Fatal(err)
	}
	s.system.freeze = func() error { return errors.New("no") }
	_, err := call(t, s, "expect_repair", nil)
	failed(t, "busy", err)
	if !s.Ready() {
		t.Fatal("it was not saved, and does not serve any more")
	}
}

func TestAMachineGetsItsNames(t *testing.T) {
	s, root, _ := machine(t)
	s.system.kind = gvisor
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if !hostnamePattern.MatchString(name) {
		t.Skip("this machine's own name would have to be changed")
	}
	if err := os.WriteFile(root+"/etc/hosts", []byte("10.0.0.1 other\n127.0.1.1\told\t"+hostsMark), 0o644); err != nil {
		t.Fatal(err)
	}
	for generation := int64(1); generation <= 2; generation++ {
		wanted := good(generation)
		wanted["hostname"] = name // sethostname leaves what is right alone
		if _, err := call(t, s, "repair", wanted); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"/etc/machine-id": strings.Repeat("0a", 16) + "\n",
		"/etc/hostname":   name + "\n",
		"/etc/hosts":      "10.0.0.1 other\n127.0.1.1\t" + name + "\t" + hostsMark + "\n",
	} {
		content, err := os.ReadFile(root + path)
		if err != nil || string(content) != want {
			t.Errorf("%s has %q, %v", path, content, err)
		}
	}
	content, err := os.ReadFile(root + "/run/callbox/generation")
	if err != nil || string(content) != "2\n" {
		t.Errorf("generation %q, %v", content, err)
	}
	found, err := os.ReadDir(root + "/etc")
	if err != nil || len(found) != 3 {
		t.Errorf("left behind: %v %v", found, err)
	}
}
