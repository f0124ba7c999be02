package files

import (
	"encoding/binary"
	"os"
	"strconv"
	"strings"
	"syscall"
)

const (
	inotifyMask = syscall.IN_CREATE | syscall.IN_MODIFY | syscall.IN_ATTRIB | syscall.IN_DELETE |
		syscall.IN_MOVED_FROM | syscall.IN_MOVED_TO | syscall.IN_DELETE_SELF | syscall.IN_ONLYDIR | syscall.IN_EXCL_UNLINK
	inotifyBufferBytes = 64 << 10
)

// notice is one event of inotify(7).
type notice struct {
	watch  int32
	mask   uint32
	cookie uint32
	name   string
}

func (n notice) has(bits uint32) bool { return n.mask&bits != 0 }

// inotify is one inotify instance, read without blocking a thread.
type inotify struct {
	file   *os.File
	fd     int
	buffer []byte
}

func openInotify() (*inotify, error) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return &inotify{file: os.NewFile(uintptr(fd), "inotify"), fd: fd, buffer: make([]byte, inotifyBufferBytes)}, nil
}

// add watches the folder behind an open descriptor: a path could mean another one by now.
func (i *inotify) add(folder *os.File) (int32, error) {
	watch, err := syscall.InotifyAddWatch(i.fd, "/proc/self/fd/"+strconv.Itoa(int(folder.Fd())), inotifyMask)
	return int32(watch), err
}

func (i *inotify) drop(watch int32) { _, _ = syscall.InotifyRmWatch(i.fd, uint32(watch)) }

// read waits for events; closing the file ends it.
func (i *inotify) read() ([]notice, error) {
	count, err := i.file.Read(i.buffer)
	if err != nil {
		return nil, err
	}
	var found []notice
	const header = syscall.SizeofInotifyEvent
	for rest := i.buffer[:count]; len(rest) >= header; {
		order := binary.NativeEndian
		length := int(order.Uint32(rest[12:]))
		if header+length > len(rest) {
			break
		}
		found = append(found, notice{
			watch:  int32(order.Uint32(rest)),
			mask:   order.Uint32(rest[4:]),
			cookie: order.Uint32(rest[8:]),
			name:   strings.TrimRight(string(rest[header:header+length]), "\x00"),
		})
		rest = rest[header+length:]
	}
	return found, nil
}
