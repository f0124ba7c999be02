package process

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"callbox.dev/guest/operation"
)

// bodies is a stream that brings these pieces and then the host's EOF.
type bodies struct {
	operation.Stream
	pieces []string
}

func (b *bodies) Context() context.Context { return context.Background() }

func (b *bodies) Read(p []byte) (int, error) {
	if len(b.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.pieces[0])
	b.pieces = b.pieces[1:]
	return n, nil
}

func TestWritingNothingAsksNothingOfTheInput(t *testing.T) {
	// A descriptor that refuses every write, as gVisor's terminals refuse one of nothing.
	refusing, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer refusing.Close()
	i := &input{to: refusing, terminal: true}
	if written, err := i.take(&bodies{pieces: []string{""}}, nil, false); err != nil || written != 0 {
		t.Error(written, err)
	}
	_, err = i.take(&bodies{pieces: []string{"x"}}, nil, false)
	if err == nil || !strings.HasPrefix(err.Error(), "gone: ") || !strings.Contains(err.Error(), "bad file descriptor") {
		t.Error(err)
	}
}
