package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"testing"
	"testing/iotest"
)

type part struct {
	Hex   string `json:"hex"`
	Zeros int    `json:"zeros"`
}

type vector struct {
	Name   string `json:"name"`
	Input  []part `json:"input"`
	Frames []struct {
		Type    Type   `json:"type"`
		Channel uint8  `json:"channel"`
		Stream  uint32 `json:"stream"`
		Payload []part `json:"payload"`
	} `json:"frames"`
	Skipped uint64 `json:"skipped"`
	Pending int    `json:"pending"`
}

func join(t testing.TB, parts []part) []byte {
	t.Helper()
	var all []byte
	for _, each := range parts {
		raw, err := hex.DecodeString(each.Hex)
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, raw...), make([]byte, each.Zeros)...)
	}
	return all
}

func vectors(t testing.TB) []vector {
	t.Helper()
	raw, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vectors []vector `json:"vectors"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) < 20 {
		t.Fatalf("only %d vectors", len(file.Vectors))
	}
	return file.Vectors
}

func decodeAll(t testing.TB, from io.Reader) ([]Frame, *Decoder) {
	t.Helper()
	decoder := NewDecoder(from)
	var frames []Frame
	for {
		frame, err := decoder.Next()
		if err == io.EOF {
			return frames, decoder
		}
		if err != nil {
			t.Fatal(err)
		}
		frame.Payload = bytes.Clone(frame.Payload)
		frames = append(frames, frame)
	}
}

func TestVectorsDecodeHoweverTheyAreChunked(t *testing.T) {
	chunkings := map[string]func(io.Reader) io.Reader{
		"whole":         func(r io.Reader) io.Reader { return r },
		"byte by byte":  iotest.OneByteReader,
		"halves":        iotest.HalfReader,
		"data with EOF": iotest.DataErrReader,
	}
	for _, v := range vectors(t) {
		input := join(t, v.Input)
		for how, chunked := range chunkings {
			t.Run(v.Name+"/"+how, func(t *testing.T) {
				frames, decoder := decodeAll(t, chunked(bytes.NewReader(input)))
				if len(frames) != len(v.Frames) {
					t.Fatalf("%d frames, want %d", len(frames), len(v.Frames))
				}
				var again []byte
				for i, want := range v.Frames {
					got := frames[i]
					if got.Type != want.Type || got.Channel != want.Channel || got.Stream != want.Stream ||
						!bytes.Equal(got.Payload, join(t, want.Payload)) {
						t.Fatalf("frame %d: %v", i, got)
					}
					again = Append(again, got)
				}
				if decoder.Skipped != v.Skipped || decoder.Pending() != v.Pending {
					t.Fatalf("skipped %d, pending %d; want %d, %d", decoder.Skipped, decoder.Pending(), v.Skipped, v.Pending)
				}
				if v.Skipped == 0 && v.Pending == 0 && !bytes.Equal(again, input) {
					t.Fatal("encoding the frames does not give the input")
				}
			})
		}
	}
}

func FuzzDecoder(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(join(f, v.Input), uint8(3))
	}
	f.Fuzz(func(t *testing.T, input []byte, chunk uint8) {
		whole, all := decodeAll(t, bytes.NewReader(input))
		chunked, pieces := decodeAll(t, &chunks{input, int(chunk)%97 + 1})
		if len(whole) != len(chunked) || all.Skipped != pieces.Skipped {
			t.Fatal("chunking changes what is decoded")
		}
		used := uint64(all.Pending()) + all.Skipped
		for i, frame := range whole {
			if !bytes.Equal(frame.Payload, chunked[i].Payload) {
				t.Fatal("chunking changes a payload")
			}
			used += uint64(HeaderBytes + len(frame.Payload))
		}
		if used != uint64(len(input)) {
			t.Fatalf("%d of %d bytes accounted for", used, len(input))
		}
	})
}

func FuzzAnythingThenAHello(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(join(f, v.Input))
	}
	hello := Frame{Type: Hello, Payload: []byte(`{"version":1,"epoch":"00"}`)}
	f.Fuzz(func(t *testing.T, before []byte) {
		stream := append(bytes.Clone(before), make([]byte, FrameMax)...)
		frames, _ := decodeAll(t, bytes.NewReader(Append(stream, hello)))
		if len(frames) == 0 || frames[len(frames)-1].Type != Hello || !bytes.Equal(frames[len(frames)-1].Payload, hello.Payload) {
			t.Fatal("the successor's HELLO was lost")
		}
	})
}

// chunks gives its bytes a few at a time.
type chunks struct {
	rest []byte
	size int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest[:min(c.size, len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}

func BenchmarkDecode(b *testing.B) {
	frame := Append(nil, Frame{Type: Data, Stream: 1, Payload: make([]byte, 32768)})
	b.SetBytes(int64(len(frame)))
	decoder := NewDecoder(&endless{frame: frame})
	for b.Loop() {
		if _, err := decoder.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

// endless repeats one frame.
type endless struct {
	frame []byte
	at    int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.frame[e.at:])
	e.at = (e.at + n) % len(e.frame)
	return n, nil
}
