// Package repair gives a machine that was restored its own identity before it serves anything.
//
// Two machines restored from one instant are twins: same random pool, same clock, same names. Whoever guesses what one
// of them draws next knows the other's secrets. So nothing is served between a restore and the end of a repair, and the
// processes that ran at the save stay frozen until then.
package repair

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"callbox.dev/guest/operation"
)

const entropyBytes = 64

var hostnamePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// State knows whether the machine may serve. Its states: unrepaired at first; ready after a repair of which every step
// succeeded; unrepaired again with expect_repair, and from the moment on that another repair begins.
type State struct {
	bootID string
	system system
	run    sync.Mutex // one repair or expect_repair at a time

	mutex      sync.Mutex
	ready      bool
	generation int64
}

// New makes the state of a machine that has just booted: not ready.
func New(bootID string) *State { return &State{bootID: bootID, system: thisSystem()} }

// Table returns repair and expect_repair.
func (s *State) Table() operation.Table {
	return operation.Table{"repair": s.repair, "expect_repair": s.expectRepair}
}

// Ready says whether a full repair succeeded since boot and since the last expect_repair.
func (s *State) Ready() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.ready
}

// Generation is that of the last successful repair, 0 before.
func (s *State) Generation() int64 {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.generation
}

func (s *State) set(ready bool, generation int64) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.ready, s.generation = ready, generation
}

// order is what the host sends.
type order struct {
	Entropy    string `json:"entropy"`
	RealtimeNs int64  `json:"realtime_ns"`
	Hostname   string `json:"hostname"`
	MachineID  string `json:"machine_id"`
	Generation int64  `json:"generation"`

	seed    []byte
	arrived time.Time
}

func (o *order) check(last int64) error {
	seed, err := base64.StdEncoding.DecodeString(o.Entropy)
	switch {
	case err != nil || len(seed) != entropyBytes:
		return fmt.Errorf("entropy is not %d bytes in base64", entropyBytes)
	case o.RealtimeNs <= 0:
		return errors.New("realtime_ns is not positive")
	case !hostnamePattern.MatchString(o.Hostname):
		return fmt.Errorf("%q cannot be a hostname", o.Hostname)
	case o.Generation <= last:
		// A host that replays an old repair has lost track of this machine: it may be serving it twice.
		return fmt.Errorf("generation %d does not follow %d", o.Generation, last)
	}
	raw, err := hex.DecodeString(o.MachineID)
	if err != nil || len(raw) != 16 {
		return errors.New("machine_id is not 32 hex digits")
	}
	o.seed = seed
	return nil
}

type repaired struct {
	Name         string `json:"name"`
	How          string `json:"how"`
	Microseconds int64  `json:"us"`
}

// repair does all steps in order. Whatever fails leaves the machine unready, until a later repair succeeds.
func (s *State) repair(_ operation.Stream, request json.RawMessage) (any, error) {
	wanted := order{arrived: time.Now()}
	if err := json.Unmarshal(request, &wanted); err != nil {
		return nil, operation.Fail("bad_request", err.Error())
	}
	s.run.Lock()
	defer s.run.Unlock()
	last := s.Generation()
	s.set(false, last)
	if err := wanted.check(last); err != nil {
		return nil, operation.Fail("repair_failed", err.Error())
	}
	var done []repaired
	for _, step := range []struct {
		name string
		run  func(*order) (string, error)
	}{
		{"entropy", s.system.entropy},
		{"clock", s.system.clock},
		{"network", func(*order) (string, error) { return "none", nil }},
		{"machine_id", s.system.machineID},
		{"generation", s.system.generation},
	} {
		began := time.Now()
		how, err := step.run(&wanted)
		if err != nil {
			return nil, operation.Fail("repair_failed", step.name+": "+err.Error())
		}
		done = append(done, repaired{step.name, how, time.Since(began).Microseconds()})
	}
	if err := s.system.thaw(); err != nil {
		return nil, operation.Fail("repair_failed", "let the processes go on: "+err.Error())
	}
	s.set(true, wanted.Generation)
	return struct {
		Repairs []repaired `json:"repairs"`
	}{done}, nil
}

// expectRepair is the last thing before a save: whoever wakes from it must be repaired first.
func (s *State) expectRepair(operation.Stream, json.RawMessage) (any, error) {
	s.run.Lock()
	defer s.run.Unlock()
	ready, last := s.Ready(), s.Generation()
	s.set(false, last)
	if err := s.system.freeze(); err != nil {
		// Not frozen means not saved: the machine goes on as before.
		s.set(ready, last)
		return nil, operation.Fail("busy", "hold the processes: "+err.Error())
	}
	return struct{}{}, nil
}
