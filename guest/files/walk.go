package files

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"callbox.dev/guest/operation"
)

// batch collects entries and sends them when there are enough.
type batch struct {
	stream  operation.Stream
	entries []entry
	count   int
}

type entriesEvent struct {
	Event   string  `json:"event"`
	Entries []entry `json:"entries"`
}

func (b *batch) add(found entry) error {
	b.entries = append(b.entries, found)
	b.count++
	if len(b.entries) < batchEntries {
		return nil
	}
	return b.flush()
}

func (b *batch) flush() error {
	if len(b.entries) == 0 {
		return nil
	}
	full := b.entries
	b.entries = b.entries[:0]
	return tell(b.stream, full, func(some []entry) any { return entriesEvent{"entries", some} })
}

// errEnough ends a walk whose bound is reached.
var errEnough = errors.New("enough")

// walker goes through a tree without following symlinks, names in order, by descriptors.
// The thread has the credentials of box only while it reads a folder: the host may take its time with what is sent.
type walker struct {
	stream  operation.Stream
	at      *place
	visited int
	// visit is told of everything found; descend of each folder, before it is read.
	visit   func(item item) error
	descend func(item item) bool
}

// item is one thing found: relative to where the walk began, and within its folder.
type item struct {
	relative string
	depth    int
	status   *status
	in       *folder
}

// walk begins at the place itself, which is a folder.
func (w *walker) walk() error {
	folder, err := w.at.enter()
	if err != nil {
		return err
	}
	defer folder.close()
	return w.folder(folder, "", 1)
}

func (w *walker) folder(in *folder, relative string, depth int) error {
	all, err := w.read(in)
	if err != nil {
		return err
	}
	for _, each := range all {
		if err := w.stream.Context().Err(); err != nil {
			return err
		}
		if w.visited++; w.visited > visitedMax {
			return errEnough
		}
		found := item{path.Join(relative, each.name), depth, each, in}
		if err := w.visit(found); err != nil {
			return err
		}
		if !each.isFolder() || depth >= depthMost || !w.descend(found) {
			continue
		}
		if err := w.enter(found); err != nil {
			return err
		}
	}
	return nil
}

// enter reads a subfolder. One that is gone, or not ours to read, is left out: the rest is still wanted.
func (w *walker) enter(found item) error {
	var inside *folder
	err := w.at.as.do(func() error {
		entered, err := found.in.enter(found.status.name)
		inside = entered
		return err
	})
	if err == nil {
		defer inside.close()
		err = w.folder(inside, found.relative, found.depth+1)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}

func (w *walker) read(in *folder) ([]*status, error) {
	var all []*status
	err := w.at.as.do(func() error {
		listing, err := in.listing()
		if err != nil {
			return err
		}
		defer listing.Close()
		for {
			names, err := listing.Readdirnames(batchEntries)
			for _, name := range names {
				if found, err := in.status(name); err == nil {
					all = append(all, found)
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if len(all) > folderEntriesMax {
				return operation.Fail("too_large", "a folder has too many entries")
			}
			if err := w.stream.Context().Err(); err != nil {
				return err
			}
		}
	})
	slices.SortFunc(all, func(a, b *status) int { return strings.Compare(a.name, b.name) })
	return all, err
}

// entry describes what was found.
func (w *walker) entry(found item) (made entry) {
	describeIt := func() error {
		made = describe(w.at.name(path.Join(w.at.path, found.relative)), found.status, found.in)
		return nil
	}
	if !found.status.isLink() || w.at.as.do(describeIt) != nil {
		_ = describeIt()
	}
	return made
}

func list(stream operation.Stream, request json.RawMessage) (any, error) {
	count, _, err := collect(stream, request, func(walkRequest) (selector, error) {
		return selector{
			entriesMax: folderEntriesMax,
			take:       func(item) bool { return true },
			descend:    func(item) bool { return false },
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return struct {
		Count int `json:"count"`
	}{count}, nil
}

func tree(stream operation.Stream, request json.RawMessage) (any, error) {
	return counted(collect(stream, request, func(wanted walkRequest) (selector, error) {
		if err := bounded("depth_max", &wanted.DepthMax, depthDefault, depthMost); err != nil {
			return selector{}, err
		}
		return selector{
			entriesMax: wanted.EntriesMax,
			take:       func(item) bool { return true },
			descend:    func(found item) bool { return found.depth < wanted.DepthMax },
		}, nil
	}))
}

func glob(stream operation.Stream, request json.RawMessage) (any, error) {
	return counted(collect(stream, request, func(wanted walkRequest) (selector, error) {
		compiled, err := compileGlob(wanted.Pattern)
		if err != nil {
			return selector{}, err
		}
		return selector{
			entriesMax: wanted.EntriesMax,
			take:       func(found item) bool { return compiled.matches(found.relative) },
			descend:    func(found item) bool { return compiled.leads(found.relative) },
		}, nil
	}))
}

type walkRequest struct {
	located
	Pattern    string
	DepthMax   int `json:"depth_max"`
	EntriesMax int `json:"entries_max"`
}

// selector is what list, tree and glob differ in.
type selector struct {
	entriesMax    int
	take, descend func(item) bool
}

type countReply struct {
	Count     int  `json:"count"`
	Truncated bool `json:"truncated"`
}

func counted(count int, truncated bool, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return countReply{count, truncated}, nil
}

func collect(
	stream operation.Stream, request json.RawMessage, choose func(walkRequest) (selector, error),
) (count int, truncated bool, err error) {
	wanted := walkRequest{}
	if err := decode(request, &wanted); err != nil {
		return 0, false, err
	}
	if err := bounded("entries_max", &wanted.EntriesMax, entriesDefault, entriesMost); err != nil {
		return 0, false, err
	}
	chosen, err := choose(wanted)
	if err != nil {
		return 0, false, err
	}
	at, err := current().open(wanted.Path, wanted.As)
	if err != nil {
		return 0, false, err
	}
	defer at.close()
	sending := &batch{stream: stream}
	w := &walker{stream: stream, at: at, descend: chosen.descend}
	w.visit = func(found item) error {
		if !chosen.take(found) {
			return nil
		}
		if sending.count >= chosen.entriesMax {
			return errEnough
		}
		return sending.add(w.entry(found))
	}
	err = w.walk()
	truncated = errors.Is(err, errEnough)
	if truncated {
		err = nil
	}
	if err == nil {
		err = sending.flush()
	}
	return sending.count, truncated, failure(wanted.Path, err)
}
