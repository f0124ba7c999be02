package files

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strconv"
	"syscall"

	"callbox.dev/guest/operation"
)

const (
	renameNoReplace = 1
	// removeDepthMax bounds descriptors and stack; deeper folders are first moved up.
	removeDepthMax = 64
)

func mkdir(_ operation.Stream, request json.RawMessage) (any, error) {
	wanted := struct {
		located
		Mode    *uint32
		Parents *bool
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
	parents := wanted.Parents == nil || *wanted.Parents
	err = at.find(how{last: true, make: parents}, func(in *folder, name string) error {
		return in.makeFolder(name, mode, parents)
	})
	return empty{}, failure(wanted.Path, err)
}

// makeFolder makes a folder with the exact mode; with `there`, one that is there already is fine.
func (f *folder) makeFolder(name string, mode uint32, there bool) error {
	err := f.mkdir(name, mode)
	if err == nil {
		// The umask took some bits. The folder is entered first: its name may mean another one by now.
		made, err := f.enter(name)
		if err != nil {
			return err
		}
		defer made.close()
		return made.chmod(mode)
	}
	if there && errors.Is(err, syscall.EEXIST) {
		if found, looked := f.status(name); looked == nil && found.isFolder() {
			return nil
		}
	}
	return err
}

type moveRequest struct {
	From, To, As string
	FromBase64   *string `json:"from_base64"`
	ToBase64     *string `json:"to_base64"`
	Overwrite    bool
}

func (r *moveRequest) settle() error {
	if err := unpack("from_base64", r.FromBase64, &r.From); err != nil {
		return err
	}
	return unpack("to_base64", r.ToBase64, &r.To)
}

func move(_ operation.Stream, request json.RawMessage) (any, error) {
	wanted := moveRequest{}
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
	defer source.folder.close()
	target, err := to.anchor()
	if err != nil {
		return nil, failure(wanted.To, err)
	}
	defer target.folder.close()
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
	folder *folder
	base   string
}

// anchor opens the folder that the last component of a place is in; a symlink there is not followed.
func (p *place) anchor() (*anchor, error) {
	made := &anchor{}
	err := p.find(how{}, func(in *folder, name string) error {
		if name == "." {
			return operation.Fail("bad_request", p.name(p.path)+" is the whole folder")
		}
		held, err := in.again()
		made.folder, made.base = held, name
		return err
	})
	return made, err
}

func (a *anchor) rename(target *anchor, overwrite bool) error {
	flags := uintptr(renameNoReplace)
	if overwrite {
		flags = 0
	}
	err := a.folder.rename(a.base, target.folder, target.base, flags)
	if overwrite || !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOSYS) {
		return err
	}
	// A file system that cannot refuse by itself: somebody inside may then make the target in between.
	_, looked := target.folder.status(target.base)
	if looked == nil {
		return syscall.EEXIST
	}
	if !errors.Is(looked, syscall.ENOENT) {
		return looked
	}
	return a.folder.rename(a.base, target.folder, target.base, 0)
}

func remove(stream operation.Stream, request json.RawMessage) (any, error) {
	wanted := struct {
		located
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
	err = at.find(how{}, func(in *folder, name string) error {
		if name == "." {
			return operation.Fail("bad_request", wanted.Path+" is the whole folder")
		}
		if !wanted.Recursive {
			return job.one(in, name)
		}
		return job.whole(in, name)
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
	top     *folder
	lifted  []string // folders moved up into top, still to be removed
	names   int
}

func (r *remover) one(in *folder, name string) error {
	err := in.unlink(name)
	if errors.Is(err, syscall.EISDIR) {
		err = in.rmdir(name)
	}
	if err == nil {
		r.removed++
	}
	return err
}

func (r *remover) whole(in *folder, name string) error {
	r.top = in
	if err := r.tree(in, name, 0); err != nil {
		return err
	}
	for len(r.lifted) > 0 {
		next := r.lifted[len(r.lifted)-1]
		r.lifted = r.lifted[:len(r.lifted)-1]
		if err := r.tree(in, next, 0); err != nil && !errors.Is(err, syscall.ENOENT) {
			return err
		}
	}
	return nil
}

func (r *remover) tree(in *folder, name string, depth int) error {
	if err := r.stream.Context().Err(); err != nil {
		return err
	}
	found, err := in.status(name)
	if err != nil {
		return err
	}
	if !found.isFolder() {
		return r.one(in, name)
	}
	if depth >= removeDepthMax {
		return r.lift(in, name)
	}
	inside, err := in.enter(name)
	if err != nil {
		return err
	}
	defer inside.close()
	if err := r.contents(inside, depth); err != nil {
		return err
	}
	return r.one(in, name)
}

// contents removes what is in a folder, in rounds: what was removed changes what a directory stream says next.
func (r *remover) contents(inside *folder, depth int) error {
	for {
		listing, err := inside.listing()
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
			if err := r.tree(inside, name, depth+1); err != nil && !errors.Is(err, syscall.ENOENT) {
				return err
			}
		}
	}
}

// lift moves a folder that is too deep beside the tree's top, to be removed from there.
func (r *remover) lift(in *folder, name string) error {
	r.names++
	lifted := temporaryPrefix + "removed-" + strconv.Itoa(r.names)
	if err := in.rename(name, r.top, lifted, 0); err != nil {
		return err
	}
	r.lifted = append(r.lifted, lifted)
	return nil
}
