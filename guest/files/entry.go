package files

import (
	"encoding/json"
	"os"
	pathpkg "path"
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

	PathBase64   string `json:"path_base64,omitempty"`
	TargetBase64 string `json:"target_base64,omitempty"`
}

// describe makes an entry. A symlink's target is read after the fact; it may be gone by then.
func describe(path string, found *status, in *folder) entry {
	made := entry{
		Path:    path,
		Name:    pathpkg.Base(path),
		Type:    found.kind(),
		Size:    found.Size,
		Mode:    found.Mode & 0o7777,
		ModTime: found.Mtim.Nano(),
		UID:     found.Uid,
		GID:     found.Gid,

		PathBase64: encoded(path),
	}
	if found.isLink() {
		made.Target, _ = in.readlink(found.name)
		made.TargetBase64 = encoded(made.Target)
	}
	return made
}

func (s *status) kind() string {
	switch {
	case s.isFile():
		return "file"
	case s.isFolder():
		return "directory"
	case s.isLink():
		return "symlink"
	}
	return "other"
}

func stat(_ operation.Stream, request json.RawMessage) (any, error) {
	wanted := struct {
		located
		Follow *bool
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
	follow := wanted.Follow == nil || *wanted.Follow
	err = at.find(how{last: follow}, func(in *folder, name string) error {
		status, err := in.status(name)
		if err == nil {
			found = describe(at.name(at.path), status, in)
		}
		return err
	})
	if err != nil {
		return nil, failure(wanted.Path, err)
	}
	return struct {
		Entry entry `json:"entry"`
	}{found}, nil
}

// regular opens a file for reading and refuses everything else. A FIFO or a terminal would make the reader wait for
// ever, and opening a device can do things: so it is looked at first, opened without waiting, and looked at again.
func (f *folder) regular(name string) (*os.File, error) {
	found, err := f.status(name)
	if err == nil {
		err = found.refuse()
	}
	if err != nil {
		return nil, err
	}
	file, err := f.open(name, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if err := refuseFile(file); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// read opens the file that the place is.
func (p *place) read() (*os.File, error) {
	var found *os.File
	err := p.again(func(in *folder, name string) error {
		file, err := in.regular(name)
		found = file
		return err
	})
	return found, err
}

func (s *status) refuse() error {
	switch {
	case s.isFile():
		return nil
	case s.isFolder():
		return syscall.EISDIR
	}
	return operation.Fail("bad_request", s.name+" is not a regular file")
}

func refuseFile(file *os.File) error {
	opened := &status{name: file.Name()}
	if err := syscall.Fstat(int(file.Fd()), &opened.Stat_t); err != nil {
		return err
	}
	return opened.refuse()
}
