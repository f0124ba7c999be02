package files

import (
	"errors"
	"path"
	"strings"
	"syscall"

	"callbox.dev/guest/operation"
)

// area is a folder that requests are confined to.
type area struct {
	name   string // as the host calls it
	folder string // where it is
}

// setup is what Configure says.
type setup struct {
	areas []area
	user  credentials
}

func newSetup(work string, uid, gid int) setup {
	work = path.Clean(work)
	return setup{
		// Where the agent runs outside of a machine, /work still means its folder.
		areas: []area{{work, work}, {"/work", work}, {"/tmp", "/tmp"}},
		user:  userCredentials(uid, gid),
	}
}

// place is one path of a request: a root, and what remains beneath it.
type place struct {
	root *folder
	area area
	path string // relative to the root; "." for itself
	as   credentials
}

// open finds where a path of a request is. The caller closes the place.
func (s setup) open(requested, as string) (*place, error) {
	if requested == "" || len(requested) > pathBytesMax || strings.IndexByte(requested, 0) >= 0 {
		return nil, operation.Fail("bad_request", "a path has 1 to 4096 bytes, none of them NUL")
	}
	areas, who := s.areas, s.user
	switch as {
	case "", "box":
	case "root":
		areas, who = []area{{"/", "/"}}, agentCredentials()
	default:
		return nil, operation.Fail("bad_request", "as is box or root")
	}
	full := requested
	if !strings.HasPrefix(full, "/") {
		full = s.areas[0].name + "/" + full
	}
	for _, each := range areas {
		rest, inside := beneath(each.name, full)
		if !inside {
			continue
		}
		if climbs(rest) {
			break
		}
		root, err := openFolder(each.folder)
		if err != nil {
			return nil, failure(requested, err)
		}
		return &place{root: root, area: each, path: rest, as: who}, nil
	}
	return nil, operation.Fail("path_escapes", requested+" leaves the folders that are open to it")
}

// climbs says that ".." leads out whatever the folders are. The rest is for the walk to judge.
func climbs(relative string) bool {
	depth := 0
	for part := range strings.SplitSeq(relative, "/") {
		switch part {
		case "", ".":
		case "..":
			depth--
		default:
			depth++
		}
		if depth < 0 {
			return true
		}
	}
	return false
}

// beneath says what of a path remains within a folder. "..", which may cross a symlink, is left for the walk to judge.
func beneath(folder, full string) (string, bool) {
	if folder != "/" {
		if full != folder && !strings.HasPrefix(full, folder+"/") {
			return "", false
		}
		full = full[len(folder):]
	}
	rest := strings.TrimLeft(full, "/")
	if rest == "" {
		rest = "."
	}
	return rest, true
}

func (p *place) close() { p.root.close() }

// name is the absolute path that the host is told for something beneath the root.
func (p *place) name(relative string) string { return path.Join(p.area.name, relative) }

// find walks to the place with its credentials, and then runs work on the name in its folder.
func (p *place) find(how how, work func(in *folder, name string) error) error {
	return p.as.do(func() error {
		in, name, err := p.root.walk(p.area.folder, p.path, how)
		if err != nil {
			return err
		}
		defer in.close()
		return work(in, name)
	})
}

// enter opens the folder that the place is. One that turns into a symlink meanwhile is followed again.
func (p *place) enter() (*folder, error) {
	var found *folder
	err := p.again(func(in *folder, name string) error {
		inside, err := in.enter(name)
		found = inside
		return err
	})
	return found, err
}

// again is find for what is done to what a link leads to: the link may have come after the walk.
func (p *place) again(work func(in *folder, name string) error) error {
	var err error
	for range retriesMax {
		err = p.find(how{last: true}, func(in *folder, name string) error {
			failed := work(in, name)
			if failed != nil {
				if found, looked := in.status(name); looked == nil && found.isLink() {
					return errLinked
				}
			}
			return failed
		})
		if !errors.Is(err, errLinked) {
			return err
		}
	}
	return syscall.EBUSY
}

// errLinked says that what was a file or folder is a symlink by now.
var errLinked = errors.New("it has become a link")
