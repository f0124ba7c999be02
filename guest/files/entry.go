package files

import (
	"encoding/json"
	"io/fs"
	"os"
	"path"
	"syscall"

	"callbox.dev/guest/operation"
)

// entry is the protocol's Entry.
type entry struct {
	Path    string `json:"path"`
	Name    string `json:"name"`
	Type    string `json:"type"`
	Size    int64  `json:"size"`
	Mode    uint32 `json:"mode"`
	ModTime int64  `json:"mtime_ns"`
	UID     uint32 `json:"uid"`
	GID     uint32 `json:"gid"`
	Target  string `json:"target,omitempty"`
}

// describe makes an entry; readlink is asked for a symlink's target, which may be gone by then.
func describe(name string, info fs.FileInfo, readlink func() (string, error)) entry {
	made := entry{
		Path:    name,
		Name:    path.Base(name),
		Type:    kind(info.Mode()),
		Size:    info.Size(),
		ModTime: info.ModTime().UnixNano(),
	}
	if native, ok := info.Sys().(*syscall.Stat_t); ok {
		made.Mode, made.UID, made.GID = native.Mode&0o7777, native.Uid, native.Gid
	}
	if made.Type == "symlink" && readlink != nil {
		made.Target, _ = readlink()
	}
	return made
}

func kind(mode fs.FileMode) string {
	switch mode.Type() {
	case 0:
		return "file"
	case fs.ModeDir:
		return "directory"
	case fs.ModeSymlink:
		return "symlink"
	}
	return "other"
}

func stat(_ operation.Stream, request json.RawMessage) (any, error) {
	wanted := struct {
		Path, As string
		Follow   *bool
	}{}
	if err := decode(request, &wanted); err != nil {
		return nil, err
	}
	at, err := current().open(wanted.Path, wanted.As)
	if err != nil {
		return nil, err
	}
	defer at.close()
	var found entry
	err = at.try(func(relative string) error {
		look := at.root.Stat
		if wanted.Follow != nil && !*wanted.Follow {
			look = at.root.Lstat
		}
		info, err := look(relative)
		if err != nil {
			return err
		}
		found = describe(at.name(at.path), info, func() (string, error) { return at.root.Readlink(relative) })
		return nil
	})
	if err != nil {
		return nil, failure(wanted.Path, err)
	}
	return struct {
		Entry entry `json:"entry"`
	}{found}, nil
}

// regular opens a file for reading and refuses everything else. A FIFO or a terminal would make the reader wait for ever,
// and opening a device can do things: so it is looked at first, opened without waiting, and looked at again.
func regular(root *os.Root, relative string) (*os.File, fs.FileInfo, error) {
	info, err := root.Stat(relative)
	if err == nil {
		err = refuse(info)
	}
	if err != nil {
		return nil, nil, err
	}
	file, err := root.OpenFile(relative, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err = file.Stat()
	if err == nil {
		err = refuse(info)
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

func refuse(info fs.FileInfo) error {
	switch {
	case info.Mode().IsRegular():
		return nil
	case info.IsDir():
		return syscall.EISDIR
	}
	return operation.Fail("bad_request", info.Name()+" is not a regular file")
}
