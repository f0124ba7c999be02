package mux

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"sync/atomic"
	"testing"

	"callbox.dev/guest/opener"
	"callbox.dev/guest/operation"
	"callbox.dev/guest/wire"
)

func helloFrame(epoch string) []byte {
	return wire.Append(nil, wire.Frame{Type: wire.Hello, Payload: fmt.Appendf(nil, `{"version":1,"epoch":"%s"}`, epoch)})
}

// hostile is content of an upload that holds frames: a HELLO, an OPEN, and at its end the beginning of a frame of which
// the rest is as many zeros as possible, with the checksum that then is right.
func hostile() []byte {
	content := append([]byte("text"), helloFrame("forged")...)
	content = wire.Append(content, wire.Frame{Type: wire.Open, Stream: 1, Payload: []byte(`{"op":"evil"}`)})
	content = append(content, make([]byte, 300)...)
	content = append(content, helloFrame("forged")...)
	swallower := wire.Append(nil, wire.Frame{Type: wire.Data, Stream: 1, Payload: make([]byte, wire.PayloadMax)})
	return append(content, swallower[:wire.HeaderBytes]...)
}

// decodeBelieved returns the types of what an acceptor obeys of `stream`, and the payload of the last one.
func decodeBelieved(stream []byte) (types []wire.Type, last string) {
	decoder := wire.NewDecoder(bytes.NewReader(stream))
	var here place
	for {
		frame, err := decoder.Next()
		if err != nil {
			return types, last
		}
		if here.believes(decoder, frame) {
			types, last = append(types, frame.Type), string(frame.Payload)
		}
	}
}

func TestAtEveryTearOnlyTheSuccessorIsBelieved(t *testing.T) {
	content := hostile()
	contents := map[string][]byte{"short": content}
	contents["as much as fits"] = append(make([]byte, wire.PayloadMax-len(content)), content...)
	contents["zeros and a hello"] = append(make([]byte, wire.PayloadMax-len(helloFrame("x"))), helloFrame("x")...)
	contents["zeros"] = make([]byte, 60000)
	successor := append(make([]byte, wire.ZerosSent), helloFrame("successor")...)
	successor = wire.Append(successor, wire.Frame{Type: wire.Open, Stream: 1, Payload: []byte("{}")})
	for name, content := range contents {
		whole := wire.Append(nil, wire.Frame{Type: wire.Data, Stream: 1, Payload: content})
		for cut := range whole {
			if far := len(whole) - cut; cut > 600 && far > 400 && cut%4099 != 0 {
				continue
			}
			stream := append(bytes.Clone(whole[:cut]), successor...)
			types, last := decodeBelieved(stream)
			// Zeros may complete a frame that ended in zeros; that is the frame its sender meant.
			if len(types) > 0 && types[0] == wire.Data {
				types = types[1:]
			}
			if len(types) != 2 || types[0] != wire.Hello || types[1] != wire.Open || last != "{}" {
				t.Fatalf("%s, torn at %d: %v %q", name, cut, types, last)
			}
		}
	}
}

func TestASuccessorThatDiesTooChangesNothing(t *testing.T) {
	whole := wire.Append(nil, wire.Frame{Type: wire.Data, Stream: 1, Payload: hostile()})
	second := append(make([]byte, wire.ZerosSent), helloFrame("second")...)
	for _, cut := range []int{0, 1, 100, wire.PayloadMax, wire.FrameMax, wire.ZerosSent, wire.ZerosSent + 7, len(second) - 1} {
		stream := append(bytes.Clone(whole[:len(whole)-1]), second[:cut]...)
		stream = append(append(stream, make([]byte, wire.ZerosSent)...), helloFrame("third")...)
		types, last := decodeBelieved(stream)
		if len(types) != 1 || types[0] != wire.Hello || last != `{"version":1,"epoch":"third"}` {
			t.Fatalf("second host torn at %d: %v %q", cut, types, last)
		}
	}
}

func FuzzAfterAnythingTheSuccessorIsBelieved(f *testing.F) {
	f.Add(hostile())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		torn := wire.Append(nil, wire.Frame{Type: wire.Data, Stream: 1, Payload: content[:min(len(content), wire.PayloadMax)]})
		torn[19] ^= 1
		stream := append(append(torn, make([]byte, wire.ZerosSent)...), helloFrame("successor")...)
		if types, last := decodeBelieved(stream); len(types) != 1 || last != `{"version":1,"epoch":"successor"}` {
			t.Fatalf("%v %q of content with checksum %x", types, last, crc32.ChecksumIEEE(content))
		}
	})
}

func TestFramesInsideATornUploadAreNotObeyed(t *testing.T) {
	var evil atomic.Int64
	table := testTable()
	table["evil"] = func(operation.Stream, json.RawMessage) (any, error) { evil.Add(1); return nil, nil }
	o := connectTo(t, table)
	greet(t, o, "victim")
	whole := wire.Append(nil, wire.Frame{Type: wire.Data, Stream: 1, Payload: append(hostile(), make([]byte, 50)...)})
	_ = o.Raw(whole[:len(whole)-60])
	_ = o.Raw(make([]byte, wire.ZerosSent))
	greet(t, o, "successor")
	if call(t, o, "ping").Code != "" || evil.Load() != 0 {
		t.Fatalf("a forged request ran %d times", evil.Load())
	}
}

func TestBytesThatAreNoFrameEndTheHostsCredit(t *testing.T) {
	o := connect(t)
	greet(t, o, "a")
	_ = o.Raw([]byte("noise"))
	_ = o.Raw(helloFrame("too early"))
	_ = o.Raw(append(make([]byte, wire.ZerosLeast-1), helloFrame("one zero short")...))
	_ = o.Raw(make([]byte, wire.ZerosSent))
	greetFirst(t, o, "b")
}

// greetFirst greets and fails if somebody else's HELLO was answered before.
func greetFirst(t *testing.T, o *opener.Opener, epoch string) {
	t.Helper()
	for _, said := range o.Welcomes(epoch) {
		if said != epoch {
			t.Errorf("the HELLO %q was answered", said)
		}
	}
}
