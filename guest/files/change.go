package files

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"callbox.dev/guest/operation"
)

const (
	renameNoReplace = 1
	// removeDepthMax bounds descriptors and stack; deeper folders are first moved up.
	removeDepthMax = 64
)

func mkdir(_ operation.Stream, request json.RawMessage) (any, error) {
	wanted := struct {
		Path, As string
		Mode     *uint32
		Parents  *bool
	}{}
	if err := decode(request, &wanted); err != nil {
		return nil, err
	}
	mode := uint32(0o755)
	if wanted.Mode != nil {
		mode = *wanted.Mode
	}
	if mode > 0o7777 {
		return nil, operation.Fail("bad_request", "mode has at most 12 bits")
	}
	at, err := current().open(wanted.Path, wanted.As)
	if err != nil {
		return nil, err
	}
	defer at.close()
	err = at.try(func(relative string) error {
		return makeFolder(at.root, strings.TrimRight(relative, "/"), mode, wanted.Parents == nil || *wanted.Parents)
	})
	return empty{}, failure(wanted.Path, err)
}

// makeFolder makes the last folder with the exact mode, and with parents those on the way.
func makeFolder(root *os.Root, relative string, mode uint32, parents bool) error {
	if parents {
		if err := root.MkdirAll(path.Dir(relative), 0o755); err != nil {
			return err
		}
	}
	err := root.Mkdir(relative, fs.FileMode(mode&0o777))
	if err == nil {
		// The umask took some bits. The folder is reached by its descriptor: its name may mean another one by now.
		made, err := root.OpenRoot(relative)
		if err != nil {
			return err
		}
		defer made.Close()
		return made.Chmod(".", osMode(mode))
	}
	if parents && errors.Is(err, fs.ErrExist) {
		info, looked := root.Stat(relative)
		if looked != nil {
			return looked
		}
		if info.IsDir() {
			return nil
		}
	}
	return err
}

// osMode translates the kernel's bits: package os keeps three of them elsewhere.
func osMode(mode uint32) fs.FileMode {
	made := fs.FileMode(mode & 0o777)
	for bit, named := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			made |= named
		}
	}
	return made
}

func move(_ operation.Stream, request json.RawMessage) (any, error) {
	wanted := struct {
		From, To, As string
		Overwrite    bool
	}{}
	if err := decode(request, &wanted); err != nil {
		return nil, err
	}
	from, err := current().open(wanted.From, wanted.As)
	if err != nil {
		return nil, err
	}
	defer from.close()
	to, err := current().open(wanted.To, wanted.As)
	if err != nil {
		return nil, err
	}
	defer to.close()
	source, err := from.anchor()
	if err != nil {
		return nil, failure(wanted.From, err)
	}
	defer source.close()
	target, err := to.anchor()
	if err != nil {
		return nil, failure(wanted.To, err)
	}
	defer target.close()
	err = from.as.do(func() error { return source.rename(target, wanted.Overwrite) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, failure(wanted.From, err)
	case errors.Is(err, syscall.EXDEV):
		return nil, operation.Fail("bad_request", "they are on different file systems: copy, then remove")
	}
	return empty{}, failure(wanted.To, err)
}

// anchor is a name in a folder that is held open.
type anchor struct {
	folder *os.File
	base   string
}

func (a *anchor) close() { a.folder.Close() }

// anchor opens the folder that the last component of a place is in; a symlink there is not followed.
func (p *place) anchor() (*anchor, error) {
	made := &anchor{}
	err := p.try(func(relative string) error {
		relative = path.Clean(relative)
		made.base = path.Base(relative)
		if made.base == "." || made.base == ".." {
			return operation.Fail("bad_request", p.name(p.path)+" is the whole folder")
		}
		folder, err := p.root.Open(path.Dir(relative))
		if err != nil {
			return err
		}
		if info, err := folder.Stat(); err != nil || !info.IsDir() {
			folder.Close()
			return errors.Join(err, syscall.ENOTDIR)
		}
		made.folder = folder
		return nil
	})
	return made, err
}

func (a *anchor) rename(target *anchor, overwrite bool) error {
	flags := uintptr(renameNoReplace)
	if overwrite {
		flags = 0
	}
	err := renameAt(a, target, flags)
	if overwrite || !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOSYS) {
		return err
	}
	// A file system that cannot refuse by itself: somebody inside may then make the target in between.
	info, looked := os.Lstat("/proc/self/fd/" + strconv.Itoa(int(target.folder.Fd())) + "/" + target.base)
	if looked == nil && info != nil {
		return syscall.EEXIST
	}
	if !errors.Is(looked, fs.ErrNotExist) {
		return looked
	}
	return renameAt(a, target, 0)
}

func renameAt(from, to *anchor, flags uintptr) error {
	source, err := syscall.BytePtrFromString(from.base)
	if err != nil {
		return err
	}
	target, err := syscall.BytePtrFromString(to.base)
	if err != nil {
		return err
	}
	_, _, code := syscall.Syscall6(
		renameAt2, from.folder.Fd(), uintptr(unsafe.Pointer(source)), to.folder.Fd(), uintptr(unsafe.Pointer(target)), flags, 0,
	)
	if code != 0 {
		return code
	}
	return nil
}

func remove(stream operation.Stream, request json.RawMessage) (any, error) {
	wanted := struct {
		Path, As  string
		Recursive bool
		MissingOK bool `json:"missing_ok"`
	}{}
	if err := decode(request, &wanted); err != nil {
		return nil, err
	}
	at, err := current().open(wanted.Path, wanted.As)
	if err != nil {
		return nil, err
	}
	defer at.close()
	job := remover{stream: stream}
	err = at.try(func(relative string) error {
		relative = path.Clean(relative)
		base := path.Base(relative)
		if base == "." || base == ".." {
			return operation.Fail("bad_request", wanted.Path+" is the whole folder")
		}
		folder, err := at.root.OpenRoot(path.Dir(relative))
		if err != nil {
			return err
		}
		defer folder.Close()
		if !wanted.Recursive {
			return job.one(folder, base)
		}
		return job.whole(folder, base)
	})
	if wanted.MissingOK && errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return nil, failure(wanted.Path, err)
	}
	return struct {
		Removed int `json:"removed"`
	}{job.removed}, nil
}

// remover deletes trees of any depth with a bounded number of descriptors.
type remover struct {
	stream  operation.Stream
	removed int
	top     *anchor
	lifted  []string // folders moved up into top, still to be removed
	names   int
}

func (r *remover) one(folder *os.Root, base string) error {
	err := folder.Remove(base)
	if err == nil {
		r.removed++
	}
	return err
}

func (r *remover) whole(folder *os.Root, base string) error {
	here, err := folder.Open(".")
	if err != nil {
		return err
	}
	defer here.Close()
	r.top = &anchor{folder: here}
	if err := r.tree(folder, base, 0); err != nil {
		return err
	}
	for len(r.lifted) > 0 {
		next := r.lifted[len(r.lifted)-1]
		r.lifted = r.lifted[:len(r.lifted)-1]
		if err := r.tree(folder, next, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (r *remover) tree(folder *os.Root, base string, depth int) error {
	if err := r.stream.Context().Err(); err != nil {
		return err
	}
	info, err := folder.Lstat(base)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return r.one(folder, base)
	}
	inside, err := folder.OpenRoot(base)
	if err != nil {
		return err
	}
	defer inside.Close()
	if depth >= removeDepthMax {
		return r.lift(folder, base)
	}
	if err := r.contents(inside, depth); err != nil {
		return err
	}
	return r.one(folder, base)
}

// contents removes what is in a folder, in rounds: what was removed changes what a directory stream says next.
func (r *remover) contents(inside *os.Root, depth int) error {
	for {
		listing, err := inside.Open(".")
		if err != nil {
			return err
		}
		names, err := listing.Readdirnames(batchEntries)
		listing.Close()
		if len(names) == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		for _, name := range names {
			if err := r.tree(inside, name, depth+1); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
}

// lift moves a folder that is too deep beside the tree's top, to be removed from there.
func (r *remover) lift(folder *os.Root, base string) error {
	here, err := folder.Open(".")
	if err != nil {
		return err
	}
	defer here.Close()
	r.names++
	name := temporaryPrefix + "removed-" + strconv.Itoa(r.names)
	if err := renameAt(&anchor{here, base}, &anchor{r.top.folder, name}, renameNoReplace); err != nil {
		return err
	}
	r.lifted = append(r.lifted, name)
	return nil
}
