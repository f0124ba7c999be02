package files

import (
	"os"
	"path"
	"strings"

	"callbox.dev/guest/operation"
)

const linksMax = 40

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
	root *os.Root
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
		root, err := os.OpenRoot(each.folder)
		if err != nil {
			return nil, failure(requested, err)
		}
		return &place{root: root, area: each, path: rest, as: who}, nil
	}
	return nil, operation.Fail("path_escapes", requested+" leaves the folders that are open to it")
}

// climbs says that ".." leads out whatever the folders are. The rest is os.Root's to judge.
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

// beneath says what of a path remains within a folder. "..", which may cross a symlink, is left for os.Root to judge.
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

func (p *place) close() { p.root.Close() }

// name is the absolute path that the host is told for something beneath the root.
func (p *place) name(relative string) string { return path.Join(p.area.name, relative) }

// try runs work on the place with its credentials, and again when an absolute symlink on the way only seemed to leave
// the root. os.Root refuses all absolute links; those that lead back in are spelled out, which is only a hint: whatever
// a racing process makes of them, the work goes through the root again.
func (p *place) try(work func(relative string) error) error {
	return p.as.do(func() error {
		relative := p.path
		for range linksMax {
			err := work(relative)
			if err == nil || !escapes(err) {
				return err
			}
			spelled, found := p.spell(relative)
			if !found {
				return err
			}
			relative = spelled
		}
		return operation.Fail("path_escapes", p.name(p.path)+" has too many links")
	})
}

// spell replaces the first absolute symlink that leads into the same root.
func (p *place) spell(relative string) (string, bool) {
	parts := strings.Split(relative, "/")
	for count := range parts {
		here := strings.Join(parts[:count+1], "/")
		info, err := p.root.Lstat(here)
		if err != nil {
			return "", false
		}
		if info.Mode()&os.ModeSymlink == 0 {
			continue
		}
		target, err := p.root.Readlink(here)
		if err != nil {
			return "", false
		}
		rest := strings.Join(parts[count+1:], "/")
		if !strings.HasPrefix(target, "/") {
			// A relative link: what it leads to may be or pass an absolute one.
			return p.follow(path.Dir(here)+"/"+target, rest)
		}
		inside, ok := beneath(p.area.folder, path.Clean(target))
		if !ok {
			return "", false
		}
		return path.Join(inside, rest), true
	}
	return "", false
}

func (p *place) follow(target, rest string) (string, bool) {
	cleaned := path.Join(target, rest)
	return cleaned, cleaned != ".." && !strings.HasPrefix(cleaned, "../")
}

// final is the path that writing to a place changes: symlinks at its end are followed as open(2) would.
// What leads out of the root is refused, here or when the path is used.
func (p *place) final(relative string) (string, error) {
	for range linksMax {
		info, err := p.root.Lstat(relative)
		if err != nil {
			if os.IsNotExist(err) {
				return relative, nil
			}
			return "", err
		}
		if info.Mode()&os.ModeSymlink == 0 {
			return relative, nil
		}
		target, err := p.root.Readlink(relative)
		if err != nil {
			return "", err
		}
		if strings.HasPrefix(target, "/") {
			inside, ok := beneath(p.area.folder, path.Clean(target))
			if !ok {
				break
			}
			relative = inside
			continue
		}
		next := path.Join(path.Dir(relative), target)
		if next == ".." || strings.HasPrefix(next, "../") {
			break
		}
		relative = next
	}
	return "", operation.Fail("path_escapes", p.name(p.path)+" leaves the folders that are open to it")
}
