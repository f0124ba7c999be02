package files

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"callbox.dev/guest/operation"
	"callbox.dev/guest/wire"
)

// fakeStream is a host: it has a body to send, and keeps what it is sent.
type fakeStream struct {
	ctx    context.Context
	cancel context.CancelFunc
	body   io.Reader
	mutex  sync.Mutex
	data   bytes.Buffer
	events []map[string]any
	told   chan map[string]any
	strict bool // an event that no frame holds is refused
}

func newStream(t *testing.T, body io.Reader) *fakeStream {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return &fakeStream{ctx: ctx, cancel: cancel, body: body, told: make(chan map[string]any, 10_000)}
}

func (s *fakeStream) Context() context.Context { return s.ctx }

func (s *fakeStream) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.body.Read(p)
}

func (s *fakeStream) Send(_ operation.Channel, p []byte) error {
	s.data.Write(p)
	return s.ctx.Err()
}

func (s *fakeStream) End() error { return nil }

func (s *fakeStream) Event(value any) error {
	encoded, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if s.strict && len(encoded) > wire.PayloadMax {
		return errors.New("the event is too big")
	}
	decoded := map[string]any{}
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		return err
	}
	s.mutex.Lock()
	s.events = append(s.events, decoded)
	s.mutex.Unlock()
	s.told <- decoded
	return s.ctx.Err()
}

func (s *fakeStream) listed(key string) []map[string]any {
	var all []map[string]any
	for _, event := range s.events {
		items, _ := event[key].([]any)
		for _, each := range items {
			all = append(all, each.(map[string]any))
		}
	}
	return all
}

// workFolder makes a folder that belongs to box and configures the package for it.
func workFolder(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	uid := os.Getuid()
	if uid == 0 {
		uid = 1000
	}
	if err := os.Chown(folder, uid, uid); err != nil {
		t.Fatal(err)
	}
	Configure(folder, uid, uid)
	t.Cleanup(func() { Configure("/work", 1000, 1000) })
	return folder
}

type fields map[string]any

// call runs an operation and returns its reply as the host sees it.
func call(t *testing.T, stream *fakeStream, op string, request fields) (map[string]any, error) {
	t.Helper()
	encoded, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := Table()[op](stream, encoded)
	if err != nil {
		return nil, err
	}
	encoded, err = json.Marshal(reply)
	if err != nil {
		t.Fatal(err)
	}
	decoded := map[string]any{}
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded, nil
}

func do(t *testing.T, op string, request fields) (map[string]any, error) {
	t.Helper()
	return call(t, newStream(t, bytes.NewReader(nil)), op, request)
}

func must(t *testing.T, op string, request fields) map[string]any {
	t.Helper()
	reply, err := do(t, op, request)
	if err != nil {
		t.Fatalf("%s %v: %v", op, request, err)
	}
	return reply
}

func refused(t *testing.T, code string, err error) {
	t.Helper()
	var failed *operation.Failure
	if !errors.As(err, &failed) || failed.Code != code {
		t.Fatalf("answered %v, not %s", err, code)
	}
}

func put(t *testing.T, path, content string) error {
	t.Helper()
	_, err := call(t, newStream(t, bytes.NewReader([]byte(content))), "fs.write", fields{"path": path})
	return err
}

func get(t *testing.T, path string) (string, error) {
	t.Helper()
	stream := newStream(t, nil)
	_, err := call(t, stream, "fs.read", fields{"path": path})
	return stream.data.String(), err
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

func names(t *testing.T, folder string) []string {
	t.Helper()
	found, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, each := range found {
		all = append(all, filepath.Base(each.Name()))
	}
	return all
}
