package files

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

const (
	atSymlinkNoFollow = 0x100
	atRemoveDir       = 0x200
	linkBytesMax      = 4096
)

// folder is a folder by its descriptor. What its methods are given are names in it, never paths: a name without a slash
// that is not followed if it is a symlink cannot lead anywhere else.
type folder struct{ fd int }

func openFolder(path string) (*folder, error) {
	fd, err := retried(func() (int, error) {
		return syscall.Open(path, openPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, err
	}
	return &folder{fd}, nil
}

func retried(call func() (int, error)) (int, error) {
	for {
		result, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return result, err
		}
	}
}

func (f *folder) close() { syscall.Close(f.fd) }

// enter opens a folder in this one.
func (f *folder) enter(name string) (*folder, error) {
	fd, err := retried(func() (int, error) {
		return syscall.Openat(f.fd, name, openPath|syscall.O_NOFOLLOW|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, err
	}
	return &folder{fd}, nil
}

// again is the same folder with a descriptor of its own.
func (f *folder) again() (*folder, error) {
	fd, _, code := syscall.Syscall(syscall.SYS_FCNTL, uintptr(f.fd), syscall.F_DUPFD_CLOEXEC, 0)
	if code != 0 {
		return nil, code
	}
	return &folder{int(fd)}, nil
}

// open opens a file in this folder.
func (f *folder) open(name string, flags int, mode uint32) (*os.File, error) {
	if flags&syscall.O_DIRECTORY != 0 && name != "." {
		return nil, syscall.EINVAL // see steps: folders are entered
	}
	fd, err := retried(func() (int, error) {
		return syscall.Openat(f.fd, name, flags|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, mode)
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// listing opens this folder to be read.
func (f *folder) listing() (*os.File, error) {
	return f.open(".", syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
}

// status is what is known of a name.
type status struct {
	name string
	syscall.Stat_t
}

func (s *status) isFolder() bool { return s.Mode&syscall.S_IFMT == syscall.S_IFDIR }
func (s *status) isFile() bool   { return s.Mode&syscall.S_IFMT == syscall.S_IFREG }
func (s *status) isLink() bool   { return s.Mode&syscall.S_IFMT == syscall.S_IFLNK }

func (f *folder) status(name string) (*status, error) {
	found := &status{name: name}
	err := f.call(fstatAt, name, uintptr(unsafe.Pointer(&found.Stat_t)), atSymlinkNoFollow)
	return found, err
}

// call makes a system call whose arguments are this folder and a name.
func (f *folder) call(number uintptr, name string, rest ...uintptr) error {
	if name == "" || strings.ContainsRune(name, '/') {
		return syscall.EINVAL
	}
	bytes, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	var more [4]uintptr
	copy(more[:], rest)
	_, _, code := syscall.Syscall6(
		number, uintptr(f.fd), uintptr(unsafe.Pointer(bytes)), more[0], more[1], more[2], more[3],
	)
	if code != 0 {
		return code
	}
	return nil
}

func (f *folder) readlink(name string) (string, error) {
	bytes, err := syscall.BytePtrFromString(name)
	if err != nil {
		return "", err
	}
	buffer := make([]byte, linkBytesMax)
	count, _, code := syscall.Syscall6(
		syscall.SYS_READLINKAT, uintptr(f.fd), uintptr(unsafe.Pointer(bytes)),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(len(buffer)), 0, 0,
	)
	if code != 0 {
		return "", code
	}
	return string(buffer[:count]), nil
}

func (f *folder) mkdir(name string, mode uint32) error { return syscall.Mkdirat(f.fd, name, mode) }

func (f *folder) unlink(name string) error { return f.call(syscall.SYS_UNLINKAT, name, 0) }

func (f *folder) rmdir(name string) error { return f.call(syscall.SYS_UNLINKAT, name, atRemoveDir) }

// link gives a file in this folder another name in it.
func (f *folder) link(name, other string) error {
	bytes, err := syscall.BytePtrFromString(other)
	if err != nil {
		return err
	}
	return f.call(syscall.SYS_LINKAT, name, uintptr(f.fd), uintptr(unsafe.Pointer(bytes)), 0)
}

// rename moves a name to another folder.
func (f *folder) rename(name string, to *folder, other string, flags uintptr) error {
	bytes, err := syscall.BytePtrFromString(other)
	if err != nil {
		return err
	}
	return f.call(renameAt2, name, uintptr(to.fd), uintptr(unsafe.Pointer(bytes)), flags)
}

// chmod changes this folder itself.
func (f *folder) chmod(mode uint32) error {
	self, err := f.listing()
	if err != nil {
		return err
	}
	defer self.Close()
	return syscall.Fchmod(int(self.Fd()), mode)
}
