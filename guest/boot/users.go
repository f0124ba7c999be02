package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// accountBytesMax bounds what is read of an image's account files.
const accountBytesMax = 4 << 20

// account is one line that a file of /etc must have; images without adduser get it too.
type account struct {
	file, name, line, empty string
	mode                    os.FileMode
	optional                bool
}

var accounts = []account{
	{"passwd", "box", "box:x:1000:1000:box:/work:/bin/sh", "root:x:0:0:root:/root:/bin/sh\n", 0o644, false},
	{"group", "box", "box:x:1000:", "root:x:0:\n", 0o644, false},
	// "!" is no password's hash: nobody logs in as box.
	{"shadow", "box", "box:!:19000:0:99999:7:::", "", 0o640, true},
}

// prepareRoot makes what every sandbox has, whatever its image lacks.
func prepareRoot() error {
	if err := makeFolder(WorkDirectory, 0o755, boxID); err != nil {
		return err
	}
	if err := makeFolder("/tmp", os.FileMode(0o1777), 0); err != nil {
		return err
	}
	// Everybody may read the generation there; only the agent writes it.
	for _, folder := range []string{"/run", "/run/callbox"} {
		if err := makeFolder(folder, 0o755, 0); err != nil {
			return err
		}
	}
	return addAccounts("/etc")
}

func addAccounts(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, each := range accounts {
		if err := each.add(folder); err != nil {
			return fmt.Errorf("%s: %w", each.file, err)
		}
	}
	return nil
}

func (a account) add(folder string) error {
	path := filepath.Join(folder, a.file)
	content, mode := a.empty, a.mode
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if a.optional {
			return nil
		}
	case err != nil:
		return err
	case info.Size() > accountBytesMax || !info.Mode().IsRegular():
		return errors.New("not an account file")
	default:
		read, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		content, mode = string(read), info.Mode().Perm()
	}
	for line := range strings.SplitSeq(content, "\n") {
		if name, _, _ := strings.Cut(line, ":"); name == a.name {
			return nil
		}
	}
	if content != "" && !strings.HasSuffix(content, "\n") {
		content += "\n"
	}
	return replaceFile(path, []byte(content+a.line+"\n"), mode)
}

// replaceFile writes a file so that readers see the old or the new content, never a part.
func replaceFile(path string, content []byte, mode os.FileMode) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	temporary := path + ".callbox"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	err = errors.Join(err, file.Chmod(mode), file.Close())
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		os.Remove(temporary)
	}
	return err
}
