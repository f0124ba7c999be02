package mux

import (
	"context"
	"io"

	"callbox.dev/guest/wire"
)

// writer puts whole frames on the connection, one sender at a time. Senders wait in line: the runtime wakes those who
// wait on a channel in the order in which they came, so a stream with much to say gets one frame per turn.
type writer struct {
	to      io.Writer
	turn    chan struct{}
	scratch []byte
	failed  error
}

func newWriter(to io.Writer) *writer {
	return &writer{to: to, turn: make(chan struct{}, 1), scratch: make([]byte, 0, wire.FrameMax)}
}

// write sends one frame. `still` is asked when it is our turn: what has become pointless meanwhile is not sent.
func (w *writer) write(ctx context.Context, still func() error, frame wire.Frame) error {
	select {
	case w.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-w.turn }()
	if err := still(); err != nil {
		return err
	}
	if w.failed != nil {
		return w.failed
	}
	w.scratch = wire.Append(w.scratch[:0], frame)
	// A short write leaves a torn frame behind: nothing may follow it on this connection.
	_, w.failed = w.to.Write(w.scratch)
	return w.failed
}
