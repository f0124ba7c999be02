package files

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAWriteIsReadBack(t *testing.T) {
	workFolder(t)
	content := strings.Repeat("callbox\n", 100_000)
	sum := sha256.Sum256([]byte(content))
	digest := hex.EncodeToString(sum[:])
	reply, err := call(t, newStream(t, strings.NewReader(content)), "fs.write",
		fields{"path": "a/b/c.txt", "sha256": digest, "mode": 0o640})
	if err != nil || reply["sha256"] != digest || reply["size"].(float64) != float64(len(content)) {
		t.Fatalf("%v %v", reply, err)
	}
	stream := newStream(t, nil)
	reply, err = call(t, stream, "fs.read", fields{"path": "a/b/c.txt"})
	if err != nil || stream.data.String() != content || reply["sha256"] != digest {
		t.Fatalf("%v %v", reply, err)
	}
	stream = newStream(t, nil)
	if reply, err = call(t, stream, "fs.read", fields{"path": "a/b/c.txt", "offset": 6, "length": 4}); err != nil {
		t.Fatal(err)
	}
	if stream.data.String() != "x\nca" || reply["size"].(float64) != 4 {
		t.Fatalf("%q %v", stream.data.String(), reply)
	}
	entry := must(t, "fs.stat", fields{"path": "a/b/c.txt"})["entry"].(map[string]any)
	if entry["mode"].(float64) != 0o640 || entry["type"] != "file" || entry["name"] != "c.txt" {
		t.Fatalf("%v", entry)
	}
}

type brokenReader struct{ err error }

func (b brokenReader) Read([]byte) (int, error) { return 0, b.err }

func TestAFailedWriteLeavesNothing(t *testing.T) {
	folder := workFolder(t)
	if err := put(t, "old", "old"); err != nil {
		t.Fatal(err)
	}
	for name, request := range map[string]fields{
		"wrong checksum": {"path": "old", "sha256": strings.Repeat("0", 64)},
		"appended wrong": {"path": "old", "sha256": strings.Repeat("0", 64), "append": true},
		"exclusive":      {"path": "old", "exclusive": true},
		"a new one":      {"path": "new", "sha256": strings.Repeat("0", 64)},
	} {
		if _, err := call(t, newStream(t, strings.NewReader("new")), "fs.write", request); err == nil {
			t.Fatalf("%s went through", name)
		}
	}
	lost := errors.New("lost")
	broken := io.MultiReader(strings.NewReader(strings.Repeat("x", 100_000)), brokenReader{lost})
	if _, err := call(t, newStream(t, broken), "fs.write", fields{"path": "old"}); !errors.Is(err, lost) {
		t.Fatalf("%v", err)
	}
	stream := newStream(t, strings.NewReader("new"))
	stream.cancel()
	_, err := call(t, stream, "fs.write", fields{"path": "old"})
	refused(t, "cancelled", err)
	if found := names(t, folder); !slices.Equal(found, []string{"old"}) {
		t.Fatalf("left: %v", found)
	}
	if content, _ := get(t, "old"); content != "old" {
		t.Fatalf("the old file has %q", content)
	}
	_, err = call(t, newStream(t, strings.NewReader("")), "fs.write", fields{"path": "no/x", "make_parents": false})
	refused(t, "not_found", err)
}

func TestAppendAdds(t *testing.T) {
	workFolder(t)
	for _, part := range []string{"one ", "two"} {
		request := fields{"path": "log", "append": true}
		if _, err := call(t, newStream(t, strings.NewReader(part)), "fs.write", request); err != nil {
			t.Fatal(err)
		}
	}
	if content, _ := get(t, "log"); content != "one two" {
		t.Fatalf("%q", content)
	}
}

func TestZerosTakeNoRoom(t *testing.T) {
	folder := workFolder(t)
	const size = 64 << 20
	body := io.MultiReader(strings.NewReader("begin"), io.LimitReader(zeros{}, size), strings.NewReader("end"))
	if _, err := call(t, newStream(t, body), "fs.write", fields{"path": "sparse"}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(folder + "/sparse")
	if err != nil || info.Size() != size+8 {
		t.Fatalf("%v %v", info.Size(), err)
	}
	hole, err := os.Create(folder + "/hole")
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	if err := hole.Truncate(size); err != nil {
		t.Fatal(err)
	}
	// gVisor's file system in memory counts holes as used, so what a mere hole takes is allowed.
	allowed, err := hole.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if blocks := info.Sys().(*syscall.Stat_t).Blocks; blocks > allowed.Sys().(*syscall.Stat_t).Blocks+2048 {
		t.Fatalf("%d blocks are used", blocks)
	}
	stream := newStream(t, nil)
	if _, err := call(t, stream, "fs.read", fields{"path": "sparse", "offset": size + 2}); err != nil {
		t.Fatal(err)
	}
	if got := stream.data.String(); got != "\x00\x00\x00end" {
		t.Fatalf("%q", got)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestFoldersAreMadeMovedAndRemoved(t *testing.T) {
	folder := workFolder(t)
	must(t, "fs.mkdir", fields{"path": "a/b/c", "mode": 0o2770})
	must(t, "fs.mkdir", fields{"path": "a/b/c"})
	if info, _ := os.Stat(folder + "/a/b/c"); info.Sys().(*syscall.Stat_t).Mode&0o7777 != 0o2770 {
		t.Fatalf("mode %v", info.Mode())
	}
	_, err := do(t, "fs.mkdir", fields{"path": "a/b/c", "parents": false})
	refused(t, "exists", err)
	_, err = do(t, "fs.mkdir", fields{"path": "x/y", "parents": false})
	refused(t, "not_found", err)
	must(t, "fs.move", fields{"from": "a/b", "to": "moved"})
	for _, path := range []string{"one", "two"} {
		if err := put(t, path, path); err != nil {
			t.Fatal(err)
		}
	}
	_, err = do(t, "fs.move", fields{"from": "one", "to": "two"})
	refused(t, "exists", err)
	_, err = do(t, "fs.move", fields{"from": "none", "to": "three"})
	refused(t, "not_found", err)
	must(t, "fs.move", fields{"from": "one", "to": "two", "overwrite": true})
	if content, _ := get(t, "two"); content != "one" {
		t.Fatalf("%q", content)
	}
	_, err = do(t, "fs.remove", fields{"path": "moved"})
	refused(t, "not_empty", err)
	if reply := must(t, "fs.remove", fields{"path": "moved", "recursive": true}); reply["removed"].(float64) != 2 {
		t.Fatalf("%v", reply)
	}
	_, err = do(t, "fs.remove", fields{"path": "moved"})
	refused(t, "not_found", err)
	must(t, "fs.remove", fields{"path": "moved", "missing_ok": true})
	_, err = do(t, "fs.remove", fields{"path": ".", "recursive": true})
	refused(t, "bad_request", err)
}

func paths(found []map[string]any, folder string) []string {
	var all []string
	for _, each := range found {
		all = append(all, strings.TrimPrefix(each["path"].(string), folder+"/"))
	}
	return all
}

func TestTreesAreListedWithinBounds(t *testing.T) {
	folder := workFolder(t)
	for _, path := range []string{"a.py", "b.txt", "src/c.py", "src/deep/er/d.py", ".hidden/e.py"} {
		if err := put(t, path, "import os\nprint('callbox')\n"); err != nil {
			t.Fatal(err)
		}
	}
	link(t, "src", folder+"/link")
	for _, each := range []struct {
		op        string
		request   fields
		want      string
		truncated bool
	}{
		{"fs.list", fields{"path": "."}, ".hidden a.py b.txt link src", false},
		{"fs.tree", fields{"path": "src"}, "src/c.py src/deep src/deep/er src/deep/er/d.py", false},
		{"fs.tree", fields{"path": "src", "depth_max": 1}, "src/c.py src/deep", false},
		{"fs.tree", fields{"path": ".", "entries_max": 2}, ".hidden .hidden/e.py", true},
		{"fs.glob", fields{"path": ".", "pattern": "**/*.py"}, ".hidden/e.py a.py src/c.py src/deep/er/d.py", false},
		{"fs.glob", fields{"path": ".", "pattern": "*.py"}, "a.py", false},
		{"fs.glob", fields{"path": ".", "pattern": "src/**"}, "src src/c.py src/deep src/deep/er src/deep/er/d.py", false},
		{"fs.glob", fields{"path": ".", "pattern": "s?c/**/[de]*"}, "src/deep src/deep/er src/deep/er/d.py", false},
	} {
		stream := newStream(t, nil)
		reply, err := call(t, stream, each.op, each.request)
		if err != nil {
			t.Fatal(err)
		}
		found := strings.Join(paths(stream.listed("entries"), folder), " ")
		if found != each.want && !(each.request["pattern"] == "src/**" && "src "+found == each.want) {
			t.Errorf("%s %v: %s", each.op, each.request, found)
		}
		if truncated, _ := reply["truncated"].(bool); truncated != each.truncated {
			t.Errorf("%s %v: %v", each.op, each.request, reply)
		}
	}
	_, err := do(t, "fs.glob", fields{"path": ".", "pattern": "["})
	refused(t, "bad_request", err)
	_, err = do(t, "fs.tree", fields{"path": ".", "entries_max": 1 << 40})
	refused(t, "bad_request", err)
	_, err = do(t, "fs.list", fields{"path": "a.py"})
	refused(t, "not_a_directory", err)
}

func TestSearchFindsLines(t *testing.T) {
	folder := workFolder(t)
	long := strings.Repeat("x", 600_000)
	for path, content := range map[string]string{
		"a.py":    "one\ntwo needle\n",
		"d/b.txt": "äö needle\r\nneedle",
		"binary":  "\x00needle",
		"long":    long + "needle\n" + long[:1000] + "needle" + long,
	} {
		if err := put(t, path, content); err != nil {
			t.Fatal(err)
		}
	}
	stream := newStream(t, nil)
	reply, err := call(t, stream, "fs.search", fields{"path": ".", "pattern": "need.e"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, each := range stream.listed("matches") {
		text := each["text"].(string)
		if len(text) > lineBytesDefault || !strings.Contains(text, "needle") {
			t.Fatalf("%q", text)
		}
		got = append(got, fmt.Sprint(filepath.Base(each["path"].(string)), each["line"], ":", each["column"]))
	}
	if want := "[a.py2:5 b.txt1:4 b.txt2:1 long2:1001]"; fmt.Sprint(got) != want || reply["files"].(float64) != 3 {
		t.Fatalf("%v %v", got, reply)
	}
	stream = newStream(t, nil)
	if _, err = call(t, stream, "fs.search", fields{"path": folder, "pattern": "needle", "glob": "*.py"}); err != nil {
		t.Fatal(err)
	}
	if len(stream.listed("matches")) != 1 {
		t.Fatalf("%v", stream.events)
	}
	reply = must(t, "fs.search", fields{"path": "d/b.txt", "pattern": "needle", "matches_max": 1})
	if reply["truncated"] != true || reply["count"].(float64) != 1 {
		t.Fatalf("%v", reply)
	}
	_, err = do(t, "fs.search", fields{"path": ".", "pattern": "("})
	refused(t, "bad_request", err)
}

// watching starts a watch and returns a function that waits for one change.
func watching(t *testing.T, path string) (await func(kind, path string) map[string]any, end func() error) {
	stream := newStream(t, nil)
	done := make(chan error, 1)
	go func() {
		_, err := call(t, stream, "fs.watch", fields{"path": path})
		done <- err
	}()
	var unread []map[string]any
	await = func(kind, path string) map[string]any {
		t.Helper()
		for at, made := range unread {
			if strings.Contains(kind, made["kind"].(string)) && made["path"] == path {
				unread = unread[at+1:]
				return made
			}
		}
		deadline := time.After(5 * time.Second)
		for {
			select {
			case event := <-stream.told:
				if event["event"] == kind {
					return event
				}
				changes, _ := event["changes"].([]any)
				for at, each := range changes {
					made := each.(map[string]any)
					if !strings.Contains(kind, made["kind"].(string)) || made["path"] != path {
						continue
					}
					unread = nil
					for _, later := range changes[at+1:] {
						unread = append(unread, later.(map[string]any))
					}
					return made
				}
			case err := <-done:
				t.Fatalf("the watch ended: %v", err)
			case <-deadline:
				t.Fatalf("%s %s was not told: %v", kind, path, stream.events)
			}
		}
	}
	return await, func() error {
		stream.cancel()
		return <-done
	}
}

func TestAWatchTellsWhatHappens(t *testing.T) {
	folder := workFolder(t)
	await, end := watching(t, ".")
	await("watching", "")
	if err := put(t, "a/b/c", "x"); err != nil {
		t.Fatal(err)
	}
	await("created", folder+"/a")
	// The rename at a write's end is only seen as such if the new folder was watched by then.
	await("created or moved", folder+"/a/b/c")
	if err := os.WriteFile(folder+"/a/b/c", []byte("more"), 0o666); err != nil {
		t.Fatal(err)
	}
	await("modified", folder+"/a/b/c")
	must(t, "fs.move", fields{"from": "a/b", "to": "moved"})
	if made := await("moved", folder+"/moved"); made["from"] != folder+"/a/b" {
		t.Fatalf("%v", made)
	}
	must(t, "fs.remove", fields{"path": "moved/c"})
	await("deleted", folder+"/moved/c")
	outside := t.TempDir()
	if err := os.Rename(folder+"/moved", outside+"/gone"); err != nil {
		t.Fatal(err)
	}
	await("deleted", folder+"/moved")
	refused(t, "cancelled", end())
	_, err := do(t, "fs.watch", fields{"path": "none"})
	refused(t, "not_found", err)
}

func TestEveryWriteIsWholeToReaders(t *testing.T) {
	workFolder(t)
	contents := [][]byte{bytes.Repeat([]byte("a"), 200_000), bytes.Repeat([]byte("b"), 150_000)}
	if err := put(t, "f", string(contents[0])); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for round := range 20 {
			if err := put(t, "f", string(contents[round%2])); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
		content, err := get(t, "f")
		if err != nil || content != string(contents[0]) && content != string(contents[1]) {
			t.Fatalf("%d bytes, %v", len(content), err)
		}
	}
}
