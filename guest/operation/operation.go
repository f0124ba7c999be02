// Package operation is what the protocol's dispatcher and the operations agree on.
// See docs/guest-protocol.md for the operations themselves.
package operation

import (
	"context"
	"encoding/json"
)

// Channel tells the kinds of DATA on one stream apart.
type Channel uint8

// The channels of the protocol.
const (
	Body   Channel = 0
	Stdout Channel = 1
	Stderr Channel = 2
)

// Stream is one operation's two-way connection with the host.
// All methods return an error once the stream was cancelled or its epoch ended.
type Stream interface {
	// Context ends with CANCEL, with a new HELLO, and when the operation has returned.
	Context() context.Context
	// Read takes DATA of the body channel from the host; io.EOF after the host's EOF. Credit is granted as bytes are taken.
	Read(p []byte) (int, error)
	// Send writes DATA; it waits for credit, and splits what is larger than a frame.
	Send(channel Channel, p []byte) error
	// End says that no more DATA of ours follows (EOF).
	End() error
	// Event sends one JSON object.
	Event(value any) error
}

// Handler runs one operation. What it returns becomes CLOSE: {"ok": reply} or {"error": {...}}.
// An error that is not a *Failure is answered as "internal".
type Handler func(stream Stream, request json.RawMessage) (reply any, err error)

// Table maps the names of operations ("fs.read") to what runs them.
type Table map[string]Handler

// Failure is an error that the host is told.
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (f *Failure) Error() string { return f.Code + ": " + f.Message }

// Fail makes a Failure.
func Fail(code, message string) *Failure { return &Failure{Code: code, Message: message} }
