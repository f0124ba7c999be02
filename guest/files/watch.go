package files

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"callbox.dev/guest/operation"
)

const (
	// moveWait is how long the first half of a move waits for the second, which the kernel sends right after it.
	moveWait     = 20 * time.Millisecond
	batchChanges = 256
)

type change struct {
	Kind string `json:"kind"`
	Path string `json:"path"`
	From string `json:"from,omitempty"`

	PathBase64 string `json:"path_base64,omitempty"`
	FromBase64 string `json:"from_base64,omitempty"`
}

type changesEvent struct {
	Event   string   `json:"event"`
	Changes []change `json:"changes"`
}

type plainEvent struct {
	Event string `json:"event"`
}

// half is a name that was moved away, until it is known where to.
type half struct {
	relative string
	folder   bool
}

// watcher turns one inotify instance into changes beneath a place. Its queue is the kernel's, which is bounded and says
// when it overflows: a host that takes its time costs no memory here.
type watcher struct {
	stream    operation.Stream
	at        *place
	recursive bool
	source    *inotify
	folders   map[int32]string // what each watch is for, relative to the place
	changes   []change
	moving    map[uint32]half
}

func watch(stream operation.Stream, request json.RawMessage) (any, error) {
	wanted := struct {
		located
		Recursive *bool
	}{}
	if err := decode(request, &wanted); err != nil {
		return nil, err
	}
	at, err := current().open(wanted.Path, wanted.As)
	if err != nil {
		return nil, err
	}
	defer at.close()
	source, err := openInotify()
	if err != nil {
		return nil, failure(wanted.Path, err)
	}
	defer source.file.Close()
	w := &watcher{
		stream: stream, at: at, recursive: wanted.Recursive == nil || *wanted.Recursive, source: source,
		folders: map[int32]string{}, moving: map[uint32]half{},
	}
	err = w.run()
	if stream.Context().Err() != nil {
		err = stream.Context().Err()
	}
	return nil, failure(wanted.Path, err)
}

func (w *watcher) run() error {
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-w.stream.Context().Done():
			// Ends the read below.
			w.source.file.Close()
		case <-stop:
		}
	}()
	if err := w.arm("", false); err != nil {
		return err
	}
	if err := w.stream.Event(plainEvent{"watching"}); err != nil {
		return err
	}
	for {
		notices, err := w.next()
		if err != nil {
			return err
		}
		for _, each := range notices {
			if err := w.take(each); err != nil {
				return err
			}
		}
		if len(notices) == 0 {
			w.abandon()
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
}

// next reads; while a move is half told, it waits only for the other half, and returns nothing if that does not come.
func (w *watcher) next() ([]notice, error) {
	deadline := time.Time{}
	if len(w.moving) > 0 {
		deadline = time.Now().Add(moveWait)
	}
	if err := w.source.file.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	found, err := w.source.read()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, nil
	}
	return found, err
}

// arm watches a folder and what is in it. `tell`: it is new, so what is already in it was made unseen.
func (w *watcher) arm(relative string, tell bool) error {
	walking := &walker{stream: w.stream, at: w.below(relative)}
	walking.descend = func(item) bool { return w.recursive }
	if err := w.one(relative); err != nil {
		return err
	}
	if !w.recursive && !tell {
		return nil
	}
	walking.visit = func(found item) error {
		name := path.Join(relative, found.relative)
		if tell {
			w.say(change{Kind: "created", Path: w.name(name)})
		}
		if found.status.isFolder() && w.recursive {
			return ignoreGone(w.one(name))
		}
		return nil
	}
	return walking.walk()
}

// below is the place of something beneath the watched one; it shares the root, and is not closed.
func (w *watcher) below(relative string) *place {
	made := *w.at
	made.path = path.Join(w.at.path, relative)
	return &made
}

func (w *watcher) name(relative string) string { return w.at.name(path.Join(w.at.path, relative)) }

// one watches one folder.
func (w *watcher) one(relative string) error {
	at := w.below(relative)
	return at.again(func(in *folder, name string) error {
		entered, err := in.enter(name)
		if err != nil {
			return err
		}
		defer entered.close()
		folder, err := entered.listing()
		if err != nil {
			return err
		}
		defer folder.Close()
		if len(w.folders) >= watchesMax {
			return operation.Fail("too_large", "there are too many folders to watch")
		}
		watch, err := w.source.add(folder)
		if errors.Is(err, syscall.ENOSPC) {
			return operation.Fail("too_large", "the kernel watches no more folders")
		}
		if err == nil {
			w.folders[watch] = relative
		}
		return err
	})
}

// take turns one event into changes.
func (w *watcher) take(n notice) error {
	if n.has(syscall.IN_Q_OVERFLOW) {
		return w.overflowed()
	}
	folder, known := w.folders[n.watch]
	if !known {
		return nil
	}
	if n.has(syscall.IN_IGNORED) {
		delete(w.folders, n.watch)
		if folder == "" {
			return operation.Fail("gone", w.name("")+" was removed")
		}
		return nil
	}
	if n.name == "" {
		return nil
	}
	relative := path.Join(folder, n.name)
	isFolder := n.has(syscall.IN_ISDIR)
	switch {
	case n.has(syscall.IN_CREATE):
		w.say(change{Kind: "created", Path: w.name(relative)})
		return w.added(relative, isFolder)
	case n.has(syscall.IN_MODIFY | syscall.IN_ATTRIB):
		w.say(change{Kind: "modified", Path: w.name(relative)})
	case n.has(syscall.IN_DELETE):
		w.say(change{Kind: "deleted", Path: w.name(relative)})
	case n.has(syscall.IN_MOVED_FROM):
		w.moving[n.cookie] = half{relative, isFolder}
	case n.has(syscall.IN_MOVED_TO):
		return w.arrived(n, relative, isFolder)
	}
	return nil
}

func (w *watcher) arrived(n notice, relative string, isFolder bool) error {
	from, known := w.moving[n.cookie]
	delete(w.moving, n.cookie)
	if !known {
		w.say(change{Kind: "created", Path: w.name(relative)})
		return w.added(relative, isFolder)
	}
	w.say(change{Kind: "moved", Path: w.name(relative), From: w.name(from.relative)})
	if from.folder {
		// The watches go with the folders; only what they are called changes.
		for watch, name := range w.folders {
			if name == from.relative || strings.HasPrefix(name, from.relative+"/") {
				w.folders[watch] = relative + name[len(from.relative):]
			}
		}
	}
	return nil
}

// added watches a new folder, and tells of what was made in it before the watch was there.
func (w *watcher) added(relative string, isFolder bool) error {
	if !isFolder || !w.recursive {
		return nil
	}
	return ignoreGone(w.arm(relative, true))
}

// abandon gives up waiting for second halves: those names left the tree.
func (w *watcher) abandon() {
	for cookie, from := range w.moving {
		delete(w.moving, cookie)
		w.say(change{Kind: "deleted", Path: w.name(from.relative)})
		for watch, name := range w.folders {
			if from.folder && (name == from.relative || strings.HasPrefix(name, from.relative+"/")) {
				delete(w.folders, watch)
				w.source.drop(watch)
			}
		}
	}
}

// overflowed says that changes were lost, and watches whatever folders there are now.
func (w *watcher) overflowed() error {
	clear(w.moving)
	w.changes = nil
	if err := w.stream.Event(plainEvent{"overflow"}); err != nil {
		return err
	}
	return w.arm("", false)
}

// say adds a change, unless it is the same as the one before: a writer makes thousands of those.
func (w *watcher) say(made change) {
	made.PathBase64, made.FromBase64 = encoded(made.Path), encoded(made.From)
	if count := len(w.changes); count > 0 && w.changes[count-1] == made {
		return
	}
	w.changes = append(w.changes, made)
}

func (w *watcher) flush() error {
	for len(w.changes) > 0 {
		count := min(len(w.changes), batchChanges)
		event := func(some []change) any { return changesEvent{"changed", some} }
		if err := tell(w.stream, w.changes[:count], event); err != nil {
			return err
		}
		w.changes = w.changes[count:]
	}
	w.changes = nil
	return nil
}

// ignoreGone is for folders that were removed, swapped or closed to us before they were looked at.
func ignoreGone(err error) error {
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) ||
		errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) || errors.Is(err, errEscapes) {
		return nil
	}
	return err
}
