// Package mux is the acceptor's end of the guest protocol: epochs, streams, flow control, and the calling of operations.
package mux

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"callbox.dev/guest/operation"
	"callbox.dev/guest/wire"
)

// The limits of one session.
const (
	Version       = 1
	streamsMax    = 1024
	jsonDepthMax  = 32
	pingBytesMax  = 64
	controlsQueue = 256
	settleMax     = 2 * time.Second
)

// Session serves one connection. Its handlers outlive neither their epoch nor the connection.
type Session struct {
	// Table runs the operations.
	Table operation.Table
	// Allow may refuse an operation before it runs (nil: it may run).
	Allow func(op string) *operation.Failure
	// Welcome is what WELCOME says besides version and epoch.
	Welcome func() map[string]any

	out      *writer
	controls chan control
	current  *epoch
	running  sync.WaitGroup
}

// After is a reply with something to do once it is on its way to the host.
type After interface{ Sent() }

// control is a frame that the reader wants sent without waiting for its turn.
type control struct {
	epoch *epoch // nil: sent in any epoch
	frame wire.Frame
	sent  func()
}

type epoch struct {
	session *Session
	name    string
	ctx     context.Context
	cancel  context.CancelCauseFunc

	mu      sync.Mutex
	streams map[uint32]*stream
	last    uint32 // highest number seen: numbers are never reused
}

// Serve reads until the connection ends, and waits for the handlers to return.
func (s *Session) Serve(connection io.ReadWriter) error {
	ctx, cancel := context.WithCancel(context.Background())
	s.out = newWriter(connection)
	s.controls = make(chan control, controlsQueue)
	s.running.Go(func() { s.sendControls(ctx) })
	decoder := wire.NewDecoder(connection)
	var here place
	var err error
	for {
		var frame wire.Frame
		if frame, err = decoder.Next(); err != nil {
			break
		}
		if here.believes(decoder, frame) {
			s.take(frame)
		}
	}
	if s.current != nil {
		s.current.cancel(errEpochEnded)
	}
	cancel()
	s.settle()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// settle waits for the handlers. One may hang in a write that nobody reads: it must not keep the agent from ending.
func (s *Session) settle() {
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(settleMax):
	}
}

// sendControls is a goroutine of its own because the reader must never wait for the host to read.
func (s *Session) sendControls(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case each := <-s.controls:
			within, still := ctx, func() error { return nil }
			if each.epoch != nil {
				within, still = each.epoch.ctx, each.epoch.ctx.Err
			}
			if s.out.write(within, still, each.frame) == nil && each.sent != nil {
				each.sent()
			}
		}
	}
}

func (s *Session) take(frame wire.Frame) {
	switch {
	case frame.Type == wire.Hello && frame.Stream == 0:
		s.hello(frame.Payload)
	case s.current == nil:
		// Before HELLO everything is of a host that is gone.
	case frame.Type == wire.Ping && frame.Stream == 0:
		if len(frame.Payload) <= pingBytesMax {
			pong := wire.Frame{Type: wire.Pong, Payload: append([]byte(nil), frame.Payload...)}
			s.controls <- control{epoch: s.current, frame: pong}
		}
	case frame.Type == wire.Open:
		s.open(frame.Stream, frame.Payload)
	default:
		s.current.deliver(frame)
	}
}

func (s *Session) hello(payload []byte) {
	var asked struct {
		Version int    `json:"version"`
		Epoch   string `json:"epoch"`
	}
	if Depth(payload) > jsonDepthMax || json.Unmarshal(payload, &asked) != nil || len(asked.Epoch) > 64 {
		return
	}
	if s.current != nil {
		s.current.cancel(errEpochEnded)
		s.current = nil
	}
	welcome := map[string]any{}
	if asked.Version == Version {
		for key, value := range s.Welcome() {
			welcome[key] = value
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		s.current = &epoch{session: s, name: asked.Epoch, ctx: ctx, cancel: cancel, streams: map[uint32]*stream{}}
	} else {
		welcome["error"] = operation.Fail("version_mismatch", fmt.Sprintf("this agent speaks version %d", Version))
	}
	welcome["version"] = Version
	welcome["epoch"] = asked.Epoch
	encoded, err := json.Marshal(welcome)
	if err != nil || len(encoded) > wire.PayloadMax {
		panic(fmt.Sprintf("mux: WELCOME cannot be sent: %v", err))
	}
	s.controls <- control{epoch: s.current, frame: wire.Frame{Type: wire.Welcome, Payload: encoded}}
}

func (s *Session) open(number uint32, payload []byte) {
	e := s.current
	if number%2 == 0 {
		return
	}
	e.mu.Lock()
	_, open := e.streams[number]
	reused, many := number <= e.last, len(e.streams) >= streamsMax
	if open {
		e.mu.Unlock()
		return
	}
	if reused || many {
		e.mu.Unlock()
		failure := operation.Fail("too_many_streams", fmt.Sprintf("%d streams are open", streamsMax))
		if reused {
			failure = operation.Fail("bad_request", "stream numbers rise and are never reused")
		}
		s.controls <- control{epoch: e, frame: closing(number, nil, failure)}
		return
	}
	e.last = number
	opened := newStream(e, number)
	e.streams[number] = opened
	e.mu.Unlock()
	request := append([]byte(nil), payload...)
	s.running.Go(func() { s.run(opened, request) })
}

// run calls the operation and closes its stream, whatever happens in it.
func (s *Session) run(on *stream, request []byte) {
	reply, err := s.call(on, request)
	if err != nil {
		if cause := context.Cause(on.ctx); cause != nil && !isFailure(err) {
			err = cause
		}
	} else if errors.Is(context.Cause(on.ctx), errOverdrawn) {
		err = errOverdrawn
	}
	on.cancel(errClosed)
	forget := func() error {
		on.epoch.mu.Lock()
		defer on.epoch.mu.Unlock()
		delete(on.epoch.streams, on.number)
		return on.epoch.ctx.Err()
	}
	sent := s.out.write(on.epoch.ctx, forget, closing(on.number, reply, err))
	if after, ok := reply.(After); ok && err == nil {
		// Also when the host is gone: what was asked for was accepted.
		after.Sent()
	}
	if sent != nil {
		_ = forget()
	}
}

func (s *Session) call(on *stream, request []byte) (reply any, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			debug.PrintStack()
			reply, err = nil, operation.Fail("internal", fmt.Sprint(problem))
		}
	}()
	var asked struct {
		Op string `json:"op"`
	}
	if Depth(request) > jsonDepthMax {
		return nil, operation.Fail("bad_request", fmt.Sprintf("nested more than %d deep", jsonDepthMax))
	}
	if err := json.Unmarshal(request, &asked); err != nil {
		return nil, operation.Fail("bad_request", "the request is not a JSON object with \"op\": "+err.Error())
	}
	handler, ok := s.Table[asked.Op]
	if !ok {
		return nil, operation.Fail("unknown_operation", fmt.Sprintf("there is no operation %q", asked.Op))
	}
	if s.Allow != nil {
		if refusal := s.Allow(asked.Op); refusal != nil {
			return nil, refusal
		}
	}
	return handler(on, request)
}

// deliver gives a frame to its stream; one for no open stream is dropped.
func (e *epoch) deliver(frame wire.Frame) {
	e.mu.Lock()
	to := e.streams[frame.Stream]
	e.mu.Unlock()
	if to == nil {
		return
	}
	switch frame.Type {
	case wire.Data:
		to.receive(frame.Payload)
	case wire.Eof:
		to.finish()
	case wire.Cancel:
		to.cancel(errCancelled)
	case wire.Window:
		if len(frame.Payload) == 4 {
			to.grant(binary.BigEndian.Uint32(frame.Payload))
		}
	}
}

// closing makes the CLOSE of a stream.
func closing(number uint32, reply any, err error) wire.Frame {
	body := map[string]any{}
	if err == nil {
		if reply == nil {
			reply = struct{}{}
		}
		body["ok"] = reply
	} else {
		body["error"] = asFailure(err)
	}
	payload, problem := json.Marshal(body)
	if problem != nil || len(payload) > wire.PayloadMax {
		failure := operation.Fail("too_large", "the reply does not fit into a frame")
		if problem != nil {
			failure = operation.Fail("internal", problem.Error())
		}
		payload, _ = json.Marshal(map[string]any{"error": failure})
	}
	return wire.Frame{Type: wire.Close, Stream: number, Payload: payload}
}

const messageBytesMax = 4096

func asFailure(err error) *operation.Failure {
	var failure *operation.Failure
	if !errors.As(err, &failure) {
		code := "internal"
		if errors.Is(err, context.Canceled) {
			code = "cancelled"
		}
		failure = operation.Fail(code, err.Error())
	}
	if len(failure.Message) > messageBytesMax {
		failure = operation.Fail(failure.Code, failure.Message[:messageBytesMax])
	}
	return failure
}

func isFailure(err error) bool {
	var failure *operation.Failure
	return errors.As(err, &failure)
}

// Depth is how deep a JSON text nests, without decoding it: a decoder would recurse first and ask later.
func Depth(text []byte) int {
	depth, deepest, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}
