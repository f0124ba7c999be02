package mux

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"callbox.dev/guest/opener"
	"callbox.dev/guest/operation"
	"callbox.dev/guest/wire"
)

const patience = 10 * time.Second

// duplex is two pipes, as between a host and its guest.
type duplex struct {
	io.Reader
	io.Writer
}

var active atomic.Int64 // handlers of `forever` that run

func testTable() operation.Table {
	return operation.Table{
		"ping": func(operation.Stream, json.RawMessage) (any, error) { return map[string]int{"now_ns": 1}, nil },
		"echo": func(s operation.Stream, _ json.RawMessage) (any, error) {
			buffer := make([]byte, 1000)
			total := 0
			for {
				n, err := s.Read(buffer)
				total += n
				if problem := s.Send(operation.Stdout, buffer[:n]); problem != nil {
					return nil, problem
				}
				if err == io.EOF {
					return map[string]int{"total": total}, nil
				}
				if err != nil {
					return nil, err
				}
			}
		},
		"forever": func(s operation.Stream, _ json.RawMessage) (any, error) {
			active.Add(1)
			defer active.Add(-1)
			<-s.Context().Done()
			return nil, s.Context().Err()
		},
		"flood": func(s operation.Stream, _ json.RawMessage) (any, error) {
			for {
				if err := s.Send(operation.Stdout, make([]byte, 1<<20)); err != nil {
					return nil, err
				}
			}
		},
		"panic": func(operation.Stream, json.RawMessage) (any, error) { panic("on purpose") },
		"huge":  func(operation.Stream, json.RawMessage) (any, error) { return strings.Repeat("x", 70000), nil },
		"event": func(s operation.Stream, _ json.RawMessage) (any, error) {
			return nil, s.Event(map[string]string{"event": "watching"})
		},
		"failure": func(operation.Stream, json.RawMessage) (any, error) { return nil, operation.Fail("no_space", "full") },
	}
}

func connect(t testing.TB) *opener.Opener { return connectTo(t, testTable()) }

func connectTo(t testing.TB, table operation.Table) *opener.Opener {
	t.Helper()
	ours, theirs, toAgent := pipes(t)
	session := &Session{Table: table, Welcome: func() map[string]any { return map[string]any{"agent": "test"} }}
	done := make(chan error, 1)
	go func() { done <- session.Serve(duplex{theirs[0], theirs[1]}) }()
	t.Cleanup(func() {
		_ = toAgent.Close()
		_ = ours.Close()
		if err := within(t, done); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return opener.New(ours, toAgent)
}

func pipes(t testing.TB) (fromAgent *os.File, agent [2]*os.File, toAgent *os.File) {
	t.Helper()
	agentIn, toAgent, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromAgent, agentOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return fromAgent, [2]*os.File{agentIn, agentOut}, toAgent
}

func within[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		t.Fatal("nothing came in time")
		panic("unreachable")
	}
}

func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
		time.Sleep(time.Millisecond)
	}
}

func greet(t testing.TB, o *opener.Opener, epoch string) {
	t.Helper()
	said, err := o.Hello(epoch)
	if err != nil || said["agent"] != "test" || said["version"] != 1.0 {
		t.Fatal(said, err)
	}
}

func call(t testing.TB, o *opener.Opener, op string) opener.Result {
	t.Helper()
	result, err := o.Call(op, nil)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestEveryErrorHasItsCode(t *testing.T) {
	o := connect(t)
	greet(t, o, "a")
	for op, code := range map[string]string{
		"nothing": "unknown_operation", "panic": "internal", "huge": "too_large", "failure": "no_space", "ping": "",
	} {
		if got := call(t, o, op); got.Code != code {
			t.Errorf("%s: %q", op, got.Code)
		}
	}
	deep, err := o.Call("ping", map[string]any{"x": json.RawMessage(strings.Repeat("[", 40) + strings.Repeat("]", 40))})
	if err != nil || deep.Code != "bad_request" {
		t.Error(deep, err)
	}
}

func TestBytesComeBackInOrderThroughBothWindows(t *testing.T) {
	o := connect(t)
	greet(t, o, "a")
	sent := make([]byte, 3_000_000)
	for i := range sent {
		sent[i] = byte(i / 7)
	}
	s, err := o.Open("echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	// The opener keeps its own window: the first 256 KiB, and then what it is granted.
	granted := make(chan int, 4096)
	go func() {
		credit := windowBytes
		for rest := sent; len(rest) > 0; {
			for credit == 0 {
				credit += <-granted
			}
			n := min(len(rest), credit, 50_000)
			_ = s.Write(wire.Data, rest[:n])
			rest, credit = rest[n:], credit-n
		}
		_ = s.Write(wire.Eof, nil)
	}()
	var got []byte
	for {
		frame, ok := s.Next()
		if !ok {
			t.Fatal("ended")
		}
		switch frame.Type {
		case wire.Data:
			got = append(got, frame.Payload...)
			_ = s.Grant(len(frame.Payload))
		case wire.Window:
			granted <- int(frame.Payload[1])<<16 | int(frame.Payload[2])<<8 | int(frame.Payload[3])
		case wire.Close:
			if !bytes.Equal(got, sent) || string(frame.Payload) != `{"ok":{"total":3000000}}` {
				t.Fatalf("%d bytes, %s", len(got), frame.Payload)
			}
			return
		}
	}
}

func TestASenderWithoutCreditWaitsAndOthersGoOn(t *testing.T) {
	o := connect(t)
	greet(t, o, "a")
	flood, err := o.Open("flood", nil)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for total < windowBytes {
		frame := within(t, flood.Frames())
		total += len(frame.Payload)
	}
	if call(t, o, "ping").Code != "" || total != windowBytes {
		t.Fatal("the window was not kept", total)
	}
	select {
	case frame := <-flood.Frames():
		t.Fatal("sent without credit", frame.Type)
	default:
	}
	_ = flood.Write(wire.Cancel, nil)
	if end := within(t, flood.Frames()); end.Type != wire.Close || !bytes.Contains(end.Payload, []byte("cancelled")) {
		t.Fatal(end)
	}
}

func TestFloodsTakeTurns(t *testing.T) {
	o := connect(t)
	greet(t, o, "a")
	counts := [3]atomic.Int64{}
	for i := range counts {
		s, err := o.Open("flood", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Grant(1 << 30)
		go func() {
			for frame := range s.Frames() {
				counts[i].Add(int64(len(frame.Payload)))
			}
		}()
	}
	until(t, "64 MB from each", func() bool {
		return min(counts[0].Load(), counts[1].Load(), counts[2].Load()) > 64<<20
	})
	least := min(counts[0].Load(), counts[1].Load(), counts[2].Load())
	most := max(counts[0].Load(), counts[1].Load(), counts[2].Load())
	if most > 2*least {
		t.Errorf("one stream got %d bytes, another %d", most, least)
	}
	if _, err := o.Hello("b"); err != nil {
		t.Fatal(err)
	}
}

func TestOverdrawingIsCutOff(t *testing.T) {
	o := connect(t)
	greet(t, o, "a")
	s, err := o.Open("forever", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		_ = s.Write(wire.Data, make([]byte, wire.PayloadMax))
	}
	if end, err := s.Result(nil); err != nil || end.Code != "flow_control" {
		t.Fatal(end, err)
	}
	s, _ = o.Open("forever", nil)
	_ = s.Grant(windowMax)
	if end, err := s.Result(nil); err != nil || end.Code != "flow_control" {
		t.Fatal(end, err)
	}
	if call(t, o, "ping").Code != "" {
		t.Fatal("the connection did not survive")
	}
}

func TestHelloInTheMiddleOfATornFrameBeginsAnew(t *testing.T) {
	o := connect(t)
	_ = o.Write(wire.Frame{Type: wire.Open, Stream: 1, Payload: []byte(`{"op":"forever"}`)}) // before HELLO: dropped
	greet(t, o, "a")
	for range 3 {
		if _, err := o.Open("forever", nil); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "three handlers", func() bool { return active.Load() == 3 })
	whole := wire.Append(nil, wire.Frame{Type: wire.Data, Stream: 1, Payload: make([]byte, 60000)})
	for _, cut := range []int{1, 4, 13, 20, 21, 30000, len(whole) - 1} {
		_ = o.Raw(whole[:cut])
		_ = o.Raw(make([]byte, wire.ZerosSent))
		greet(t, o, "after "+string(rune('a'+cut%26)))
		if call(t, o, "ping").Code != "" {
			t.Fatal("not served after a cut at", cut)
		}
	}
	until(t, "the old epoch's handlers to end", func() bool { return active.Load() == 0 })
}

func TestTooManyStreamsAreRefusedAndNumbersAreNotReused(t *testing.T) {
	o := connect(t)
	greet(t, o, "a")
	for range streamsMax {
		if _, err := o.Open("forever", nil); err != nil {
			t.Fatal(err)
		}
	}
	if end := call(t, o, "ping"); end.Code != "too_many_streams" {
		t.Fatal(end)
	}
	greet(t, o, "b")
	if end := call(t, o, "ping"); end.Code != "" {
		t.Fatal(end)
	}
	until(t, "all handlers to end", func() bool { return active.Load() == 0 })
	s, _ := o.Open("ping", nil)
	if _, err := s.Result(nil); err != nil {
		t.Fatal(err)
	}
	_ = s.Write(wire.Open, []byte(`{"op":"ping"}`))
	if end, err := s.Result(nil); err != nil || end.Code != "bad_request" {
		t.Fatal(end, err)
	}
}

func TestAnotherVersionIsToldAndMayTryAgain(t *testing.T) {
	ours, theirs, toAgent := pipes(t)
	session := &Session{Table: testTable(), Welcome: func() map[string]any { return map[string]any{"agent": "test"} }}
	go func() { _ = session.Serve(duplex{theirs[0], theirs[1]}) }()
	defer toAgent.Close()
	_, _ = toAgent.Write(wire.Append(nil, wire.Frame{Type: wire.Hello, Payload: []byte(`{"version":2,"epoch":"x"}`)}))
	frame, err := wire.NewDecoder(ours).Next()
	if err != nil || frame.Type != wire.Welcome || !bytes.Contains(frame.Payload, []byte(`"code":"version_mismatch"`)) {
		t.Fatal(frame, err)
	}
	greet(t, opener.New(ours, toAgent), "y")
}

func TestPingsAreEchoed(t *testing.T) {
	o := connect(t)
	greet(t, o, "a")
	for _, payload := range []string{"", "12345678", strings.Repeat("p", pingBytesMax)} {
		if got, err := o.Ping(payload); err != nil || got != payload {
			t.Fatal(got, err)
		}
	}
}

func TestNobodyReadingStallsNothingThatANewHostNeeds(t *testing.T) {
	ours, theirs, toAgent := pipes(t)
	session := &Session{Table: testTable(), Welcome: func() map[string]any { return map[string]any{"agent": "test"} }}
	go func() { _ = session.Serve(duplex{theirs[0], theirs[1]}) }()
	defer toAgent.Close()
	send := func(frame wire.Frame) { _, _ = toAgent.Write(wire.Append(nil, frame)) }
	send(wire.Frame{Type: wire.Hello, Payload: []byte(`{"version":1,"epoch":"dead"}`)})
	// The first host floods and reads nothing: its pipe is full of frames when it dies.
	send(wire.Frame{Type: wire.Open, Stream: 1, Payload: []byte(`{"op":"flood"}`)})
	send(wire.Frame{Type: wire.Window, Stream: 1, Payload: []byte{0x40, 0, 0, 0}})
	greeted := make(chan error, 1)
	go func() {
		successor := opener.New(ours, toAgent)
		_ = successor.Raw(make([]byte, wire.ZerosSent))
		_, err := successor.Hello("alive")
		greeted <- err
	}()
	if err := within(t, greeted); err != nil {
		t.Fatal(err)
	}
}

func FuzzSession(f *testing.F) {
	hello := wire.Append(nil, wire.Frame{Type: wire.Hello, Payload: []byte(`{"version":1,"epoch":"e"}`)})
	f.Add(hello, []byte{})
	f.Add(wire.Append(hello, wire.Frame{Type: wire.Open, Stream: 1, Payload: []byte(`{"op":"echo"}`)}), []byte{4, 1, 6, 1, 8, 1, 9, 1})
	f.Fuzz(func(t *testing.T, raw, kinds []byte) {
		var input bytes.Buffer
		input.Write(raw)
		input.Write(hello)
		for i := 0; i+1 < len(kinds); i += 2 {
			payload := []byte(`{"op":"echo"}`)
			frame := wire.Frame{Type: wire.Type(kinds[i] % 16), Stream: uint32(kinds[i+1] % 8), Payload: payload}
			if frame.Type == wire.Window {
				frame.Payload = []byte{0, 0, kinds[i+1], 1}
			}
			input.Write(wire.Append(nil, frame))
		}
		table := testTable()
		delete(table, "flood")
		session := &Session{Table: table, Welcome: func() map[string]any { return map[string]any{} }}
		var output bytes.Buffer
		if err := session.Serve(duplex{&input, &output}); err != nil {
			t.Fatal(err)
		}
		// What the agent says is always whole frames.
		decoder := wire.NewDecoder(&output)
		for {
			if _, err := decoder.Next(); err != nil {
				break
			}
		}
		if decoder.Skipped != 0 || decoder.Pending() != 0 {
			t.Fatal("torn frames were sent")
		}
	})
}

func TestDepthIsCountedOutsideOfStrings(t *testing.T) {
	for text, want := range map[string]int{`{}`: 1, `{"a":[{}]}`: 3, `{"[[[[":"\"[["}`: 1, ``: 0} {
		if got := Depth([]byte(text)); got != want {
			t.Errorf("%s: %d", text, got)
		}
	}
}
