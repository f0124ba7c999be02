// Package opener is the host's end of the guest protocol, for the agent's own tests.
package opener

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"callbox.dev/guest/wire"
)

// Opener speaks to one agent.
type Opener struct {
	to      io.Writer
	writing sync.Mutex

	mu      sync.Mutex
	welcome chan map[string]any
	pongs   chan []byte
	streams map[uint32]*Stream
	last    uint32
	failed  error
}

// Stream is one operation.
type Stream struct {
	opener *Opener
	Number uint32
	frames chan wire.Frame
}

// Result is how an operation ended, and all that it sent.
type Result struct {
	Ok      map[string]any
	Code    string
	Message string
	Data    map[uint8][]byte
	Bytes   map[uint8]int64
	Events  []map[string]any
}

// New reads frames until the agent closes.
func New(from io.Reader, to io.Writer) *Opener {
	o := &Opener{
		to: to, welcome: make(chan map[string]any, 16), pongs: make(chan []byte, 1024), streams: map[uint32]*Stream{},
	}
	go o.read(wire.NewDecoder(from))
	return o
}

func (o *Opener) read(decoder *wire.Decoder) {
	for {
		frame, err := decoder.Next()
		if err != nil {
			o.mu.Lock()
			o.failed = err
			for _, each := range o.streams {
				close(each.frames)
			}
			o.streams = map[uint32]*Stream{}
			o.mu.Unlock()
			close(o.welcome)
			return
		}
		frame.Payload = append([]byte(nil), frame.Payload...)
		switch frame.Type {
		case wire.Welcome:
			var said map[string]any
			if json.Unmarshal(frame.Payload, &said) == nil {
				o.welcome <- said
			}
		case wire.Pong:
			o.pongs <- frame.Payload
		default:
			o.mu.Lock()
			to := o.streams[frame.Stream]
			o.mu.Unlock()
			if to != nil {
				to.frames <- frame
			}
		}
	}
}

// Write sends one frame as it is.
func (o *Opener) Write(frame wire.Frame) error { return o.Raw(wire.Append(nil, frame)) }

// Raw sends bytes that need not be frames.
func (o *Opener) Raw(p []byte) error {
	o.writing.Lock()
	defer o.writing.Unlock()
	_, err := o.to.Write(p)
	return err
}

// Hello begins an epoch and returns the WELCOME for it; those of other epochs that come before are dropped.
func (o *Opener) Hello(epoch string) (map[string]any, error) {
	all, err := o.hello(epoch)
	if err != nil {
		return nil, err
	}
	return all[len(all)-1], nil
}

// Welcomes begins an epoch and names the epochs of all WELCOMEs up to the one for it.
func (o *Opener) Welcomes(epoch string) []any {
	all, _ := o.hello(epoch)
	var names []any
	for _, each := range all {
		names = append(names, each["epoch"])
	}
	return names
}

func (o *Opener) hello(epoch string) ([]map[string]any, error) {
	o.mu.Lock()
	o.streams, o.last = map[uint32]*Stream{}, 0
	o.mu.Unlock()
	hello, _ := json.Marshal(map[string]any{"version": 1, "epoch": epoch})
	if err := o.Write(wire.Frame{Type: wire.Hello, Payload: hello}); err != nil {
		return nil, err
	}
	var all []map[string]any
	for said := range o.welcome {
		all = append(all, said)
		if said["epoch"] == epoch {
			return all, nil
		}
	}
	return nil, io.EOF
}

// Ping waits for the echo.
func (o *Opener) Ping(payload string) (string, error) {
	if err := o.Write(wire.Frame{Type: wire.Ping, Payload: []byte(payload)}); err != nil {
		return "", err
	}
	return string(<-o.pongs), nil
}

// Open begins a stream; `fields` is the request.
func (o *Opener) Open(op string, fields map[string]any) (*Stream, error) {
	request := map[string]any{"op": op}
	for key, value := range fields {
		request[key] = value
	}
	payload, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	number := o.last + 1 + o.last%2
	o.last = number
	s := &Stream{opener: o, Number: number, frames: make(chan wire.Frame, 4096)}
	o.streams[number] = s
	o.mu.Unlock()
	return s, s.Write(wire.Open, payload)
}

// Write sends one frame of this stream.
func (s *Stream) Write(kind wire.Type, payload []byte) error {
	return s.opener.Write(wire.Frame{Type: kind, Stream: s.Number, Payload: payload})
}

// Grant allows the agent to send so much more.
func (s *Stream) Grant(n int) error {
	return s.Write(wire.Window, binary.BigEndian.AppendUint32(nil, uint32(n)))
}

// Next returns the next frame; false: the connection or the epoch ended.
func (s *Stream) Next() (wire.Frame, bool) {
	frame, ok := <-s.frames
	return frame, ok
}

// Frames is what the agent sends, for tests that also wait for something else.
func (s *Stream) Frames() <-chan wire.Frame { return s.frames }

// Result reads until CLOSE and grants all that it takes. `each` sees the data; nil: it is collected.
func (s *Stream) Result(each func(channel uint8, p []byte)) (Result, error) {
	result := Result{Data: map[uint8][]byte{}, Bytes: map[uint8]int64{}}
	for {
		frame, ok := s.Next()
		if !ok {
			return result, errors.New("opener: the stream ended without CLOSE")
		}
		switch frame.Type {
		case wire.Data:
			result.Bytes[frame.Channel] += int64(len(frame.Payload))
			if each != nil {
				each(frame.Channel, frame.Payload)
			} else {
				result.Data[frame.Channel] = append(result.Data[frame.Channel], frame.Payload...)
			}
			_ = s.Grant(len(frame.Payload)) // the agent may already be gone; then CLOSE or the end comes next
		case wire.Event:
			var event map[string]any
			if err := json.Unmarshal(frame.Payload, &event); err != nil {
				return result, err
			}
			result.Events = append(result.Events, event)
			_ = s.Grant(len(frame.Payload))
		case wire.Close:
			var end struct {
				Ok    map[string]any `json:"ok"`
				Error struct {
					Code    string `json:"code"`
					Message string `json:"message"`
				} `json:"error"`
			}
			if err := json.Unmarshal(frame.Payload, &end); err != nil {
				return result, err
			}
			result.Ok, result.Code, result.Message = end.Ok, end.Error.Code, end.Error.Message
			if result.Code == "" && result.Ok == nil {
				return result, fmt.Errorf("opener: CLOSE says neither ok nor error: %s", frame.Payload)
			}
			return result, nil
		}
	}
}

// Call opens a stream and waits for its end.
func (o *Opener) Call(op string, fields map[string]any) (Result, error) {
	s, err := o.Open(op, fields)
	if err != nil {
		return Result{}, err
	}
	return s.Result(nil)
}
