package boot

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// hostPoll bounds what a host that comes back waits for; it only runs while no host is there.
const hostPoll = 2 * time.Millisecond

// port is the virtio-serial port. Hosts come and go; readers and writers only see time pass.
//
// A read returns 0 while no host has the other end open, and a write then blocks (virtio_console.c, port_fops_read and
// port_fops_write). Bytes that were under way are lost with the host; the protocol resynchronises.
type port struct {
	folder string
	mutex  sync.Mutex
	file   *os.File
	closed bool
}

func openPort(timeout time.Duration) (*port, error) {
	p := &port{folder: "/sys/class/virtio-ports"}
	err := waitFor("the port", timeout, func() bool { return p.reopen(nil) == nil })
	if err != nil {
		return nil, errors.Join(err, p.reopen(nil))
	}
	return p, nil
}

// find returns the device whose name the host chose.
func (p *port) find() (string, error) {
	names, err := filepath.Glob(filepath.Join(p.folder, "*", "name"))
	if err != nil {
		return "", err
	}
	for _, path := range names {
		name, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(name)) == portName {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(path))), nil
		}
	}
	return "", os.ErrNotExist
}

// reopen replaces the file that failed; another goroutine may have done so already.
func (p *port) reopen(failed *os.File) error {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.closed {
		return os.ErrClosed
	}
	if p.file != failed {
		return nil
	}
	if p.file != nil {
		// The device admits one opener at a time.
		p.file.Close()
		p.file = nil
	}
	path, err := p.find()
	if err != nil {
		return err
	}
	// Blocking on purpose: the poller's edges do not tell a host that left from one that has not come.
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC|syscall.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	p.file = os.NewFile(uintptr(fd), path)
	return nil
}

func (p *port) current() (*os.File, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.closed {
		return nil, os.ErrClosed
	}
	return p.file, nil
}

// Read waits until a host has sent something.
func (p *port) Read(buffer []byte) (int, error) {
	if len(buffer) == 0 {
		return 0, nil
	}
	for {
		file, err := p.current()
		if err != nil {
			return 0, err
		}
		if file != nil {
			count, err := file.Read(buffer)
			if count > 0 {
				return count, nil
			}
			if err == nil || errors.Is(err, io.EOF) || retryable(err) {
				time.Sleep(hostPoll)
				continue
			}
		}
		if err := p.reopen(file); errors.Is(err, os.ErrClosed) {
			return 0, err
		} else if err != nil {
			time.Sleep(hostPoll)
		}
	}
}

// Write waits until a host has taken everything.
func (p *port) Write(buffer []byte) (int, error) {
	written := 0
	for written < len(buffer) {
		file, err := p.current()
		if err != nil {
			return written, err
		}
		if file != nil {
			count, err := file.Write(buffer[written:])
			written += count
			if err == nil {
				continue
			}
			if retryable(err) {
				time.Sleep(hostPoll)
				continue
			}
		}
		if err := p.reopen(file); errors.Is(err, os.ErrClosed) {
			return written, err
		} else if err != nil {
			time.Sleep(hostPoll)
		}
	}
	return written, nil
}

func retryable(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.EPIPE)
}

// Close ends the channel. A reader that is blocked in the device stays there until the host sends or leaves.
func (p *port) Close() error {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	if p.file == nil {
		return nil
	}
	return p.file.Close()
}
