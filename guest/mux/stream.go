package mux

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"sync"

	"callbox.dev/guest/operation"
	"callbox.dev/guest/wire"
)

// The limits of one stream.
const (
	windowBytes = 262144
	windowMax   = 1<<31 - 1
	grantBytes  = windowBytes / 4
)

var (
	errCancelled   = operation.Fail("cancelled", "the host cancelled it")
	errEpochEnded  = errors.New("mux: a new HELLO ended this epoch")
	errOverdrawn   = operation.Fail("flow_control", "more was sent than the window allowed")
	errClosed      = errors.New("mux: the operation has returned")
	errEventTooBig = operation.Fail("internal", "an event does not fit into a frame")
)

// stream is the acceptor's end of one operation.
type stream struct {
	epoch  *epoch
	number uint32
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	inbox    []byte        // what the host sent and nobody took yet; at most windowBytes
	ended    bool          // the host sent EOF
	arrived  chan struct{} // one token: inbox or ended changed
	allowed  int64         // bytes that the host may still send
	taken    int           // bytes taken since the last grant
	credit   int64         // bytes that we may still send
	credited chan struct{} // closed and replaced when credit grew
}

var _ operation.Stream = (*stream)(nil)

func newStream(e *epoch, number uint32) *stream {
	ctx, cancel := context.WithCancelCause(e.ctx)
	return &stream{
		epoch: e, number: number, ctx: ctx, cancel: cancel,
		arrived: make(chan struct{}, 1), allowed: windowBytes, credit: windowBytes, credited: make(chan struct{}),
	}
}

// Context implements operation.Stream.
func (s *stream) Context() context.Context { return s.ctx }

// Read implements operation.Stream.
func (s *stream) Read(p []byte) (int, error) {
	for {
		if s.ctx.Err() != nil {
			return 0, context.Cause(s.ctx)
		}
		s.mu.Lock()
		n := copy(p, s.inbox)
		s.inbox = s.inbox[n:]
		if len(s.inbox) == 0 {
			s.inbox = nil // gives the memory back
		}
		s.taken += n
		grant := 0
		if s.taken >= grantBytes && !s.ended {
			grant, s.taken = s.taken, 0
			s.allowed += int64(grant)
		}
		ended := s.ended
		s.mu.Unlock()
		if grant > 0 {
			payload := binary.BigEndian.AppendUint32(nil, uint32(grant))
			if err := s.write(wire.Frame{Type: wire.Window, Payload: payload}); err != nil {
				return n, err
			}
		}
		if n > 0 || len(p) == 0 {
			return n, nil
		}
		if ended {
			return 0, io.EOF
		}
		select {
		case <-s.arrived:
		case <-s.ctx.Done():
		}
	}
}

// Send implements operation.Stream. Several goroutines may send; their frames take turns.
func (s *stream) Send(channel operation.Channel, p []byte) error {
	for len(p) > 0 {
		n, err := s.spend(1, min(len(p), wire.PayloadMax))
		if err != nil {
			return err
		}
		if err := s.write(wire.Frame{Type: wire.Data, Channel: uint8(channel), Payload: p[:n]}); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// End implements operation.Stream.
func (s *stream) End() error { return s.write(wire.Frame{Type: wire.Eof}) }

// Event implements operation.Stream.
func (s *stream) Event(value any) error {
	payload, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if len(payload) > wire.PayloadMax {
		return errEventTooBig
	}
	if _, err := s.spend(len(payload), len(payload)); err != nil {
		return err
	}
	return s.write(wire.Frame{Type: wire.Event, Payload: payload})
}

// spend waits until at least `least` bytes of credit are there, and takes up to `most`.
func (s *stream) spend(least, most int) (int, error) {
	for {
		if s.ctx.Err() != nil {
			return 0, context.Cause(s.ctx)
		}
		s.mu.Lock()
		if s.credit >= int64(least) {
			n := int(min(s.credit, int64(most)))
			s.credit -= int64(n)
			s.mu.Unlock()
			return n, nil
		}
		grew := s.credited
		s.mu.Unlock()
		select {
		case <-grew:
		case <-s.ctx.Done():
		}
	}
}

func (s *stream) write(frame wire.Frame) error {
	frame.Stream = s.number
	return s.epoch.session.out.write(s.ctx, s.alive, frame)
}

func (s *stream) alive() error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return nil
}

// receive takes DATA from the reader. It never waits: the window bounds what may be here.
func (s *stream) receive(payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.allowed -= int64(len(payload))
	if s.allowed < 0 {
		s.cancel(errOverdrawn)
		return
	}
	s.inbox = append(s.inbox, payload...)
	s.signal()
}

// finish takes EOF from the reader.
func (s *stream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.signal()
}

func (s *stream) signal() {
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// grant takes WINDOW from the reader.
func (s *stream) grant(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.credit+int64(n) > windowMax {
		s.cancel(operation.Fail("flow_control", "the window grew beyond 2^31-1"))
		return
	}
	s.credit += int64(n)
	close(s.credited)
	s.credited = make(chan struct{})
}
