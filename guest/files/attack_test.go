package files

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"callbox.dev/guest/operation"
)

func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

func TestPathsThatLeaveAreRefused(t *testing.T) {
	folder := workFolder(t)
	link(t, "/etc", filepath.Join(folder, "out"))
	link(t, "/etc/passwd", filepath.Join(folder, "file"))
	link(t, "../../../../../../../etc", filepath.Join(folder, "up"))
	link(t, "/", filepath.Join(folder, "slash"))
	link(t, "/proc/self/root", filepath.Join(folder, "magic"))
	link(t, "loop", filepath.Join(folder, "loop"))
	for _, path := range []string{
		"../etc/passwd", "/etc/passwd", folder + "/../etc/passwd", "/proc/self/root/etc/passwd", "/dev/null",
		"a/../../etc/passwd", "out/passwd", "file", "up/passwd", "slash/etc/passwd", "magic/etc/passwd", "/", "..",
		"/tmp/../etc/passwd", "/workother/a", "slash" + folder + "/../x",
	} {
		_, err := get(t, path)
		refused(t, "path_escapes", err)
		refused(t, "path_escapes", put(t, path, "x"))
		for _, op := range []string{"fs.stat", "fs.list", "fs.tree", "fs.watch"} {
			_, err = do(t, op, fields{"path": path})
			refused(t, "path_escapes", err)
		}
	}
	for _, path := range []string{"out/new", "slash/new", "magic/tmp/new"} {
		_, err := do(t, "fs.mkdir", fields{"path": path})
		refused(t, "path_escapes", err)
		_, err = do(t, "fs.remove", fields{"path": path, "missing_ok": true, "recursive": true})
		refused(t, "path_escapes", err)
		_, err = do(t, "fs.move", fields{"from": "loop", "to": path})
		refused(t, "path_escapes", err)
	}
	if _, err := get(t, "loop"); err == nil {
		t.Fatal("a link to itself was read")
	}
	refusedAny(t, put(t, "loop", "x"))
}

func refusedAny(t *testing.T, err error) {
	t.Helper()
	var failed *operation.Failure
	if !errors.As(err, &failed) || failed.Code == "internal" {
		t.Fatalf("answered %v", err)
	}
}

func TestMalformedPathsAreRefused(t *testing.T) {
	workFolder(t)
	for _, path := range []string{"", "a\x00b", "a\x00/../../etc", strings.Repeat("a/", 3000)} {
		_, err := get(t, path)
		refused(t, "bad_request", err)
	}
	_, err := do(t, "fs.read", fields{"path": "a", "offset": -1})
	refused(t, "bad_request", err)
	_, err = do(t, "fs.read", fields{"path": "a", "as": "daemon"})
	refused(t, "bad_request", err)
	_, err = do(t, "fs.read", fields{"path": strings.Repeat("n", 300)})
	refused(t, "bad_request", err)
}

func TestLinksInsideAreFollowed(t *testing.T) {
	folder := workFolder(t)
	if err := put(t, "real/file", "inside"); err != nil {
		t.Fatal(err)
	}
	link(t, folder+"/real", filepath.Join(folder, "absolute"))
	link(t, "absolute", filepath.Join(folder, "chain"))
	link(t, folder+"/real/file", filepath.Join(folder, "direct"))
	for _, path := range []string{"absolute/file", "chain/file", "direct", folder + "/chain/file", "/work/direct"} {
		if content, err := get(t, path); err != nil || content != "inside" {
			t.Fatalf("%s: %q %v", path, content, err)
		}
	}
	for _, path := range []string{"absolute/two", "chain/three", "direct"} {
		if err := put(t, path, "through"); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	if found := names(t, filepath.Join(folder, "real")); len(found) != 3 {
		t.Fatalf("found %v", found)
	}
	if content, _ := get(t, "real/file"); content != "through" {
		t.Fatalf("the link's target has %q", content)
	}
}

func TestARaceWithASwapperIsNeverWon(t *testing.T) {
	folder := workFolder(t)
	outside := t.TempDir()
	for path, content := range map[string]string{folder + "/real/file": "mine", outside + "/file": "secret"} {
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	// The folder outside is open to all: only confinement protects it here.
	for _, path := range []string{outside, folder + "/real"} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	link(t, outside, folder+"/link")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, step := range [][2]string{{"real", "t"}, {"link", "real"}, {"real", "link"}, {"t", "real"}} {
				_ = syscall.Rename(folder+"/"+step[0], folder+"/"+step[1])
			}
		}
	}()
	reads, writes := 0, 0
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		if content, err := get(t, "real/file"); err == nil {
			reads++
			if content == "secret" {
				t.Fatal("a file outside was read")
			}
		}
		if put(t, "real/new", "x") == nil {
			writes++
		}
		_, _ = do(t, "fs.mkdir", fields{"path": "real/folder"})
		_, _ = do(t, "fs.remove", fields{"path": "real/folder", "recursive": true})
		_, _ = do(t, "fs.move", fields{"from": "real/new", "to": "real/moved", "overwrite": true})
	}
	close(stop)
	<-done
	if found := names(t, outside); len(found) != 1 {
		t.Fatalf("outside there is %v", found)
	}
	if content, err := os.ReadFile(outside + "/file"); err != nil || string(content) != "secret" {
		t.Fatalf("outside: %q %v", content, err)
	}
	t.Logf("%d reads, %d writes", reads, writes)
}

func TestWhatIsNotAFileIsNotReadOrReplaced(t *testing.T) {
	folder := workFolder(t)
	if err := syscall.Mkfifo(folder+"/fifo", 0o666); err != nil {
		t.Fatal(err)
	}
	link(t, "fifo", folder+"/tofifo")
	special := []string{"fifo", "tofifo"}
	if os.Getuid() == 0 {
		if err := syscall.Mknod(folder+"/null", syscall.S_IFCHR|0o666, 1<<8|3); err == nil {
			special = append(special, "null")
		}
	}
	for _, path := range special {
		_, err := get(t, path)
		refused(t, "bad_request", err)
		refused(t, "bad_request", put(t, path, "x"))
		_, err = call(t, newStream(t, bytes.NewReader([]byte("x"))), "fs.write", fields{"path": path, "append": true})
		refused(t, "bad_request", err)
		_, err = do(t, "fs.search", fields{"path": path, "pattern": "x"})
		refused(t, "bad_request", err)
	}
	_, err := get(t, ".")
	refused(t, "is_a_directory", err)
	refused(t, "is_a_directory", put(t, ".", "x"))
	refused(t, "is_a_directory", put(t, "folder/", "x"))
}

func TestWorkIsDoneWithTheRightsOfBox(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can take another user's rights")
	}
	folder := workFolder(t)
	if err := put(t, "a/b", "x"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"a", "a/b"} {
		if uid := owner(t, folder+"/"+path); uid != 1000 {
			t.Fatalf("%s belongs to %d", path, uid)
		}
	}
	if err := os.WriteFile(folder+"/roots", []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	// What a hardlink to a file of root's would be.
	if err := os.Link(folder+"/roots", folder+"/hard"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(folder+"/closed", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"roots", "hard", "closed/x"} {
		_, err := get(t, path)
		refused(t, "permission_denied", err)
	}
	refused(t, "permission_denied", put(t, "closed/x", "x"))
	_, err := call(t, newStream(t, bytes.NewReader([]byte("x"))), "fs.write", fields{"path": "hard", "append": true})
	refused(t, "permission_denied", err)
	if os.Geteuid() != 0 || os.Getegid() != 0 {
		t.Fatal("the agent's rights did not come back")
	}
	stream := newStream(t, nil)
	if _, err := call(t, stream, "fs.read", fields{"path": folder + "/roots", "as": "root"}); err != nil {
		t.Fatal(err)
	}
	if stream.data.String() != "secret" {
		t.Fatal("root read something else")
	}
}

func TestVeryDeepTreesAreRemoved(t *testing.T) {
	folder := workFolder(t)
	const depth = 3000
	at, err := os.OpenRoot(folder)
	if err != nil {
		t.Fatal(err)
	}
	uid := int(owner(t, folder))
	for range depth {
		if err := errors.Join(at.Mkdir("d", 0o755), at.Lchown("d", uid, uid)); err != nil {
			t.Fatal(err)
		}
		next, err := at.OpenRoot("d")
		if err != nil {
			t.Fatal(err)
		}
		at.Close()
		at = next
	}
	at.Close()
	reply := must(t, "fs.tree", fields{"path": ".", "depth_max": 256})
	if reply["count"].(float64) != 256 {
		t.Fatalf("a tree of %v", reply)
	}
	if reply := must(t, "fs.remove", fields{"path": "d", "recursive": true}); reply["removed"].(float64) != depth {
		t.Fatalf("removed %v", reply)
	}
	if left := names(t, folder); len(left) != 0 {
		t.Fatalf("left: %v", left)
	}
}
