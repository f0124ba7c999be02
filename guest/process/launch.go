package process

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"callbox.dev/guest/operation"
)

const pathUsual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// launch starts the process of an exec and the goroutines that follow it.
func (m *Manager) launch(e *exec) error {
	environment := m.environment(e.request)
	cwd := e.request.Cwd
	if !filepath.IsAbs(cwd) {
		cwd = filepath.Join(m.config.Work, cwd)
	}
	if info, err := os.Stat(cwd); err != nil || !info.IsDir() {
		return operation.Fail("spawn_failed", fmt.Sprintf("cwd %s is not a folder", cwd))
	}
	path, err := find(e.request.argv()[0], environment["PATH"], cwd)
	if err != nil {
		return err
	}
	ends, err := m.open(e)
	if err != nil {
		return operation.Fail("spawn_failed", err.Error())
	}
	defer ends.closeTheirs()
	attr := &syscall.ProcAttr{Dir: cwd, Env: flatten(environment), Files: ends.theirs, Sys: m.attributes(e)}
	if group := m.groups.make(e.request.ID); group != nil {
		defer group.Close()
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(group.Fd())
	}
	by := m.confined
	if e.request.User == "root" {
		by = m.free
	}
	what := spawn{path: path, argv: e.request.argv(), attr: attr, limit: m.limiter(e)}
	pid, end, err := m.reaper.start(func() spawned { return by.start(what) })
	if err != nil {
		ends.closeOurs()
		m.groups.remove(e.request.ID)
		return operation.Fail("spawn_failed", m.refusal(e, cwd, path, err))
	}
	m.mu.Lock()
	e.pid, e.began = pid, time.Now()
	m.mu.Unlock()
	go m.follow(e, end, ends.pipes)
	m.guard.wake()
	return nil
}

// refusal says what the kernel did not allow: its "permission denied" does not tell a folder from a program.
func (m *Manager) refusal(e *exec, cwd, path string, err error) string {
	uid, gid := m.identity(e.request.User)
	if errors.Is(err, syscall.EACCES) && !mayEnter(cwd, uid, gid) {
		return fmt.Sprintf("the working directory %s: user %s may not enter it (%s)", cwd, e.request.User, syscall.EACCES)
	}
	return fmt.Sprintf("%s: %s", path, err)
}

// mayEnter judges by the modes of a folder and of all above it, symlinks spelled out.
func mayEnter(folder string, uid, gid int) bool {
	if uid == 0 {
		return true
	}
	if resolved, err := filepath.EvalSymlinks(folder); err == nil {
		folder = resolved
	}
	for at := filepath.Clean(folder); ; at = filepath.Dir(at) {
		var found syscall.Stat_t
		if err := syscall.Stat(at, &found); err != nil {
			return false
		}
		bit := uint32(0o001)
		switch {
		case int(found.Uid) == uid:
			bit = 0o100
		case int(found.Gid) == gid:
			bit = 0o010
		}
		if found.Mode&bit == 0 {
			return false
		}
		if at == "/" {
			return true
		}
	}
}

func (m *Manager) environment(asked *start) map[string]string {
	environment := map[string]string{"PATH": pathUsual, "LANG": "C.UTF-8"}
	maps.Copy(environment, m.config.Env)
	environment["HOME"], environment["USER"], environment["LOGNAME"] = m.config.Work, "box", "box"
	if asked.User == "root" {
		environment["HOME"], environment["USER"], environment["LOGNAME"] = "/root", "root", "root"
	}
	if asked.Pty != nil {
		environment["TERM"] = "xterm-256color"
	}
	m.mu.Lock()
	maps.Copy(environment, m.settings.Env)
	m.mu.Unlock()
	maps.Copy(environment, asked.Env)
	environment[strings.TrimSuffix(marker, "=")] = asked.ID
	return environment
}

func flatten(environment map[string]string) []string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(environment)) {
		all = append(all, key+"="+environment[key])
	}
	return all
}

// find looks a program up as execvp would with the exec's own PATH and folder.
func find(name, path, cwd string) (string, error) {
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		for _, folder := range filepath.SplitList(path) {
			candidates = append(candidates, filepath.Join(folder, name))
		}
	}
	refused := false
	for _, each := range candidates {
		if !filepath.IsAbs(each) {
			each = filepath.Join(cwd, each)
		}
		info, err := os.Stat(each)
		if err != nil || info.IsDir() {
			continue
		}
		if info.Mode()&0o111 != 0 {
			return each, nil
		}
		refused = true
	}
	if refused {
		return "", operation.Fail("spawn_failed", name+" is not executable")
	}
	return "", operation.Fail("spawn_failed", name+" was not found")
}

func (m *Manager) attributes(e *exec) *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Setsid: true}
	if e.request.Pty != nil {
		attributes.Setctty, attributes.Ctty = true, 0
	}
	if os.Getpid() != 1 {
		attributes.Pdeathsig = syscall.SIGKILL
	}
	if os.Geteuid() == 0 {
		uid, gid := m.identity(e.request.User)
		attributes.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return attributes
}

func (m *Manager) identity(user string) (int, int) {
	if user == "root" {
		return 0, 0
	}
	return m.config.UID, m.config.GID
}

// ends are the two sides of an exec's stdin, stdout and stderr.
type ends struct {
	theirs []uintptr
	files  []*os.File // keeps what `theirs` names open
	pipes  []pipe
	input  *os.File
}

// give makes `file` descriptor number `as` of the process. Fd() makes that end block, as programs expect; ours does
// not, or each would occupy a thread.
func (x *ends) give(as int, file *os.File) {
	x.files = append(x.files, file)
	x.theirs[as] = file.Fd()
}

func (x *ends) closeTheirs() {
	for _, each := range x.files {
		_ = each.Close()
	}
}

func (x *ends) closeOurs() {
	for _, each := range x.pipes {
		_ = each.from.Close()
	}
	if x.input != nil {
		_ = x.input.Close()
	}
}

func (m *Manager) open(e *exec) (*ends, error) {
	if e.request.Pty != nil {
		return m.openTerminal(e)
	}
	x := &ends{theirs: make([]uintptr, 3)}
	err := func() error {
		if e.request.Stdin == "pipe" {
			theirs, ours, err := os.Pipe()
			if err != nil {
				return err
			}
			x.input = ours
			x.give(0, theirs)
		} else {
			null, err := os.Open(os.DevNull)
			if err != nil {
				return err
			}
			x.give(0, null)
		}
		for i, to := range []*ring{e.out, e.err} {
			ours, theirs, err := os.Pipe()
			if err != nil {
				return err
			}
			x.pipes = append(x.pipes, pipe{ours, to})
			x.give(i+1, theirs)
		}
		return nil
	}()
	if err != nil {
		x.closeTheirs()
		x.closeOurs()
		return nil, err
	}
	e.input = &input{to: x.input}
	return x, nil
}

// openTerminal makes a pseudo-terminal whose one stream of output is stdout.
func (m *Manager) openTerminal(e *exec) (*ends, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	var number, unlock int32
	if err = control(master, syscall.TIOCSPTLCK, unsafe.Pointer(&unlock)); err == nil {
		err = control(master, syscall.TIOCGPTN, unsafe.Pointer(&number))
	}
	var slave *os.File
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		_ = master.Close()
		return nil, err
	}
	if os.Geteuid() == 0 {
		uid, gid := m.identity(e.request.User)
		_ = slave.Chown(uid, gid)
	}
	e.master = master
	e.input = &input{to: master, terminal: true}
	e.err.finish()
	if err := e.resize(*e.request.Pty); err != nil {
		_ = master.Close()
		_ = slave.Close()
		return nil, err
	}
	fd := slave.Fd()
	return &ends{theirs: []uintptr{fd, fd, fd}, files: []*os.File{slave}, pipes: []pipe{{master, e.out}}}, nil
}

func (e *exec) resize(to size) error {
	if e.master == nil {
		return operation.Fail("bad_request", "it has no terminal")
	}
	window := [4]uint16{uint16(to.Rows), uint16(to.Columns)}
	if err := control(e.master, syscall.TIOCSWINSZ, unsafe.Pointer(&window)); err != nil {
		return operation.Fail("gone", err.Error())
	}
	return nil
}

// control calls ioctl without making the file block, which Fd() would do.
func control(file *os.File, request uintptr, argument unsafe.Pointer) error {
	connection, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var errno syscall.Errno
	err = connection.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(argument))
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return err
}
