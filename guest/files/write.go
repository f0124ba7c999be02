package files

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"os"
	"strings"
	"syscall"

	"callbox.dev/guest/operation"
)

const (
	temporaryPrefix = ".callbox-"
	holeBytes       = 4096
)

type writeRequest struct {
	located
	Mode        *uint32
	SHA256      string `json:"sha256"`
	Append      bool
	MakeParents *bool `json:"make_parents"`
	Exclusive   bool
}

func write(stream operation.Stream, request json.RawMessage) (any, error) {
	wanted := writeRequest{}
	if err := decode(request, &wanted); err != nil {
		return nil, err
	}
	if wanted.Mode != nil && *wanted.Mode > 0o7777 {
		return nil, operation.Fail("bad_request", "mode has at most 12 bits")
	}
	at, err := current().open(wanted.Path, wanted.As)
	if err != nil {
		return nil, err
	}
	defer at.close()
	w := &writer{at: at, wanted: wanted, digest: sha256.New()}
	defer w.discard()
	reply, err := w.run(stream)
	if err != nil {
		return nil, failure(wanted.Path, err)
	}
	return reply, nil
}

// writer makes one file. What arrives goes to a temporary file beside the target, which takes its place at the end;
// on every other way out the temporary file is removed.
type writer struct {
	at     *place
	wanted writeRequest
	digest hash.Hash

	folder    *folder // where the target is: renamed or swapped folders change nothing from here on
	base      string
	temporary string // name in folder; "" once it is gone
	file      *os.File
	size      int64
}

func (w *writer) run(stream operation.Stream) (moved, error) {
	if strings.HasSuffix(w.wanted.Path, "/") {
		return moved{}, syscall.EISDIR
	}
	parents := w.wanted.MakeParents == nil || *w.wanted.MakeParents
	if err := w.at.find(how{last: true, make: parents}, w.begin); err != nil {
		return moved{}, err
	}
	if err := w.receive(stream); err != nil {
		return moved{}, err
	}
	digest := hex.EncodeToString(w.digest.Sum(nil))
	if w.wanted.SHA256 != "" && w.wanted.SHA256 != digest {
		return moved{}, operation.Fail("checksum_mismatch", "what arrived has the sha256 "+digest)
	}
	size := w.size
	// A host that gave up before this point finds nothing changed.
	err := stream.Context().Err()
	if err == nil && w.wanted.Append {
		size, err = w.append(stream.Context())
	} else if err == nil {
		err = w.replace()
	}
	if err != nil {
		return moved{}, err
	}
	return moved{size, digest}, nil
}

// begin makes the temporary file where the target is, or will be.
func (w *writer) begin(in *folder, name string) error {
	if name == "." {
		return syscall.EISDIR
	}
	folder, err := in.again()
	if err != nil {
		return err
	}
	w.folder, w.base = folder, name
	if err := w.admit(); err != nil {
		return err
	}
	temporary := temporaryPrefix + rand.Text() + ".tmp"
	w.file, err = folder.open(temporary, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w.temporary = temporary
	return nil
}

// admit refuses early what the end would refuse: the host would send everything in vain.
func (w *writer) admit() error {
	found, err := w.folder.status(w.base)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case w.wanted.Exclusive:
		return syscall.EEXIST
	}
	return found.refuse()
}

// receive takes the body. What is only zeros is not written: sparse files stay sparse.
func (w *writer) receive(stream operation.Stream) error {
	buffer := make([]byte, chunkBytes)
	zeros := make([]byte, chunkBytes)
	for {
		count, err := stream.Read(buffer)
		part := buffer[:count]
		w.digest.Write(part)
		if count >= holeBytes && bytes.Equal(part, zeros[:count]) {
			if _, err := w.file.Seek(int64(count), io.SeekCurrent); err != nil {
				return err
			}
		} else if _, err := w.file.Write(part); err != nil {
			return err
		}
		w.size += int64(count)
		if errors.Is(err, io.EOF) {
			return w.file.Truncate(w.size)
		}
		if err != nil {
			return err
		}
	}
}

// replace puts the temporary file in the target's place, durably.
func (w *writer) replace() error {
	mode := uint32(0o644)
	if w.wanted.Mode != nil {
		mode = *w.wanted.Mode
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	return w.at.as.do(func() error {
		if err := syscall.Fchmod(int(w.file.Fd()), mode); err != nil {
			return err
		}
		if w.wanted.Exclusive {
			// A link is only made where nothing is: that is what makes it exclusive.
			if err := w.folder.link(w.temporary, w.base); err != nil {
				return err
			}
			w.remove()
		} else {
			if err := w.folder.rename(w.temporary, w.folder, w.base, 0); err != nil {
				return err
			}
			w.temporary = ""
		}
		return syncFolder(w.folder)
	})
}

// append adds the temporary file to the target. It was complete and checked before the target is touched;
// where the disk is then full, the target gets its old length back.
func (w *writer) append(ctx context.Context) (int64, error) {
	flags := os.O_WRONLY | os.O_APPEND | os.O_CREATE | syscall.O_NONBLOCK | syscall.O_NOCTTY
	if w.wanted.Exclusive {
		flags |= os.O_EXCL
	}
	mode := uint32(0o644)
	if w.wanted.Mode != nil {
		mode = *w.wanted.Mode & 0o777
	}
	var target *os.File
	err := w.at.as.do(func() error {
		opened, err := w.folder.open(w.base, flags, mode)
		target = opened
		return err
	})
	if err != nil {
		return 0, err
	}
	defer target.Close()
	info, err := target.Stat()
	if err == nil {
		err = refuseFile(target)
	}
	if err == nil {
		_, err = w.file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(target, contextReader{ctx, w.file})
	if err == nil {
		err = target.Sync()
	}
	if err != nil {
		return 0, errors.Join(err, target.Truncate(info.Size()))
	}
	return info.Size() + w.size, nil
}

// remove deletes the temporary file; errors leave it to discard.
func (w *writer) remove() {
	if w.temporary != "" && w.folder.unlink(w.temporary) == nil {
		w.temporary = ""
	}
}

// discard runs on every way out.
func (w *writer) discard() {
	if w.file != nil {
		w.file.Close()
	}
	if w.folder == nil {
		return
	}
	_ = w.at.as.do(func() error {
		w.remove()
		return nil
	})
	w.folder.close()
}

// contextReader stops a copy when the host has given up.
type contextReader struct {
	ctx    context.Context
	source io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.source.Read(p)
}

// syncFolder makes names durable. File systems that cannot (EINVAL) keep none across a crash anyway.
func syncFolder(folder *folder) error {
	opened, err := folder.listing()
	if err != nil {
		// A folder may be written to and not read.
		return nil
	}
	defer opened.Close()
	if err := opened.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
