// Package repair gives a machine that was restored its own identity before it serves anything.
package repair

import "callbox.dev/guest/operation"

// State knows whether the machine may serve.
type State struct{ bootID string }

// New makes the state of a machine that has just booted: not ready.
func New(bootID string) *State { return &State{bootID: bootID} }

// Table returns repair and expect_repair.
func (s *State) Table() operation.Table { return operation.Table{} }

// Ready says whether a full repair succeeded since boot and since the last expect_repair.
func (s *State) Ready() bool { return false }

// Generation is that of the last successful repair, 0 before.
func (s *State) Generation() int64 { return 0 }
