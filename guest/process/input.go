package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"callbox.dev/guest/operation"
)

const endOfTransmission = 4 // what a terminal's line discipline turns into end of file

// input is the stdin of an exec. Offsets count what was ever written, so that a host can repeat what it is unsure of.
type input struct {
	turn     sync.Mutex // one stream writes at a time
	terminal bool

	mu      sync.Mutex
	to      *os.File // nil: none, or closed
	written int64
}

func (i *input) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.to != nil && !i.terminal {
		_ = i.to.Close()
	}
	i.to = nil
}

func (i *input) file() (*os.File, int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.to, i.written
}

// take writes what the stream brings, from `from` on; what was written before is skipped. Nil: after what was written.
// At the stream's end it closes the input, or leaves it open for the next stream.
func (i *input) take(stream operation.Stream, from *int64, closing bool) (int64, error) {
	if !i.turn.TryLock() {
		return 0, operation.Fail("busy", "another stream writes to it")
	}
	defer i.turn.Unlock()
	to, written := i.file()
	if to == nil {
		return 0, operation.Fail("gone", "it has no stdin, or it is closed")
	}
	offset := written
	if from != nil {
		offset = *from
	}
	if offset < 0 || offset > written {
		return 0, operation.Fail("bad_request", fmt.Sprintf("offset %d, but %d bytes were written", offset, written))
	}
	// A process that does not read must not hold the stream for longer than the host wants.
	_ = to.SetWriteDeadline(time.Time{})
	defer context.AfterFunc(stream.Context(), func() { _ = to.SetWriteDeadline(time.Unix(1, 0)) })()
	buffer := make([]byte, 32768)
	for {
		n, err := stream.Read(buffer)
		skip := int(min(int64(n), max(written-offset, 0)))
		if problem := i.write(to, buffer[skip:n]); problem != nil {
			if stream.Context().Err() != nil {
				return 0, stream.Context().Err()
			}
			return 0, operation.Fail("gone", "the process closed its stdin: "+errnoOf(problem))
		}
		offset += int64(n)
		if err == io.EOF {
			return i.end(to, closing), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// write passes on what there is. A write of nothing asks nothing; gVisor's terminals refuse it.
func (i *input) write(to *os.File, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	n, err := to.Write(p)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.written += int64(n)
	return err
}

// errnoOf is the kernel's part of an error: the rest names a descriptor of the agent.
func errnoOf(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

func (i *input) end(to *os.File, closing bool) int64 {
	if !closing {
		_, written := i.file()
		return written
	}
	if i.terminal {
		_, _ = to.Write([]byte{endOfTransmission})
	} else {
		i.close()
	}
	_, written := i.file()
	return written
}
