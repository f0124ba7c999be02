package process

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
)

// pattern is output of which every byte tells where it stands.
func pattern(from, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte((from + i) * 7919 >> 3)
	}
	return p
}

func newTestRing(t *testing.T, limit int64) *ring {
	t.Helper()
	r := newRing(filepath.Join(t.TempDir(), "ring"), limit, false, newBudget(t.TempDir(), func() bool { return false }))
	t.Cleanup(r.remove)
	return r
}

func TestAReaderThatKeepsUpReadsMemoryAndGetsTheSame(t *testing.T) {
	for _, piece := range []int{1000, 4096, 262144, windowBytes + 5, 3 * windowBytes} {
		r := newTestRing(t, 16<<20)
		r.attach()
		buffer := make([]byte, 200_000)
		written, read := 0, 0
		for range 12 {
			r.write(context.Background(), pattern(written, piece))
			written += piece
			if written > headBytes && r.spilled && !r.recent.has(int64(written-1)) {
				t.Fatalf("pieces of %d: the latest byte is not in memory", piece)
			}
			for read < written {
				got, err := r.read(buffer, int64(read))
				if err != nil || got.n == 0 || got.gap != nil {
					t.Fatalf("pieces of %d at %d: %v %v", piece, read, got, err)
				}
				if !bytes.Equal(buffer[:got.n], pattern(read, got.n)) {
					t.Fatalf("pieces of %d: other bytes at %d", piece, read)
				}
				read += got.n
			}
		}
		r.detach()
		if r.recent.bytes != nil || len(windowsInUse) != 0 {
			t.Fatal("the window outlived its last reader")
		}
	}
}

func TestTheFileAndTheWindowAgree(t *testing.T) {
	r := newTestRing(t, 8<<20)
	r.attach()
	defer r.detach()
	const size = 3 << 20
	for at := 0; at < size; at += 100_000 {
		r.write(context.Background(), pattern(at, min(100_000, size-at)))
	}
	r.finish()
	buffer := make([]byte, 70_000)
	for _, at := range []int{0, 8191, 8192, size - windowBytes - 1, size - windowBytes, size - 70_000, size - 1} {
		got, err := r.read(buffer, int64(at))
		if err != nil || got.n == 0 || !bytes.Equal(buffer[:got.n], pattern(at, got.n)) {
			t.Errorf("at %d: %d bytes, %v", at, got.n, err)
		}
	}
	if err := os.Remove(r.path); err != nil {
		t.Fatal(err)
	}
	if got, err := r.read(buffer, size-windowBytes); err != nil || got.n == 0 {
		t.Error("the window needs the file", err)
	}
	if _, err := r.read(buffer, 0); err == nil {
		t.Error("what left the window is still in memory")
	}
}

func TestWhatTheDiskLostIsAGapAlsoInTheWindow(t *testing.T) {
	r := newTestRing(t, 8<<20)
	r.attach()
	defer r.detach()
	r.write(context.Background(), pattern(0, 100_000))
	_ = r.file.Close() // every write fails from here on
	r.write(context.Background(), pattern(100_000, 50_000))
	got, err := r.read(make([]byte, 10), 100_000)
	if err != nil || got.gap == nil || *got.gap != (hole{100_000, 150_000, "disk_error"}) {
		t.Errorf("%+v %v", got, err)
	}
}

func TestThereAreOnlySoManyWindows(t *testing.T) {
	var all []*ring
	for range windowsMax + 3 {
		r := newTestRing(t, 1<<20)
		r.attach()
		r.write(context.Background(), pattern(0, 20_000))
		r.write(context.Background(), pattern(20_000, 20_000))
		all = append(all, r)
		buffer := make([]byte, 20_000)
		if got, err := r.read(buffer, 20_000); err != nil || !bytes.Equal(buffer[:got.n], pattern(20_000, got.n)) {
			t.Fatal("a reader without a window reads something else", err)
		}
	}
	if len(windowsInUse) != windowsMax {
		t.Errorf("%d windows", len(windowsInUse))
	}
	for _, each := range all {
		each.detach()
	}
	if len(windowsInUse) != 0 {
		t.Errorf("%d windows are left", len(windowsInUse))
	}
}
