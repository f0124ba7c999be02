package files

import (
	"errors"
	"strings"
	"syscall"

	"callbox.dev/guest/operation"
)

const (
	linksMax    = 40
	restartsMax = 64
	retriesMax  = 16
	openPath    = 0x200000 // O_PATH: only a place in the tree; nothing is opened, so no device or FIFO notices
)

// errEscapes is the refusal of a path that leaves its root.
var errEscapes = operation.Fail("path_escapes", "the path leaves the folders that are open to it")

// how a path is followed.
type how struct {
	last bool // a symlink at the end is followed too
	make bool // folders that are missing on the way are made
}

// steps is the walk along one path. Only descriptors decide: each component is opened relative to the one before, never
// through a symlink; symlinks are read and spelled out here, so that absolute ones that stay inside work as well.
//
// os.Root does the same, but asks for O_NOFOLLOW|O_DIRECTORY, which gVisor's releases up to 2022 at least answer by
// following the symlink: there os.Root is left with one link. O_PATH|O_NOFOLLOW|O_DIRECTORY is refused as it should be.
type steps struct {
	root     *folder
	inside   string // what the root is called in absolute symlinks
	how      how
	at       *folder // where we are: root, or ours to close
	done     []string
	pending  []string
	links    int
	restarts int
}

// walk returns the folder that the last component of a path is in, and its name: "." for the root itself.
// The caller closes the folder.
func (r *folder) walk(inside, path string, how how) (*folder, string, error) {
	s := &steps{root: r, inside: inside, how: how, at: r, pending: strings.Split(path, "/")}
	base, err := s.run()
	if err == nil && s.at == r {
		s.at, err = r.again()
	}
	if err != nil {
		s.leave()
		return nil, "", err
	}
	return s.at, base, nil
}

func (s *steps) run() (string, error) {
	for len(s.pending) > 0 {
		part := s.pending[0]
		s.pending = s.pending[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if err := s.up(); err != nil {
				return "", err
			}
			continue
		}
		if s.isLast() {
			expanded, err := s.end(part)
			if err != nil {
				return "", err
			}
			if !expanded {
				return part, nil
			}
			continue
		}
		if err := s.into(part); err != nil {
			return "", err
		}
	}
	return ".", nil
}

func (s *steps) isLast() bool {
	for _, part := range s.pending {
		if part != "" && part != "." {
			return false
		}
	}
	return true
}

// up starts again without the component before: "..", asked of the kernel, would follow a folder that was moved out.
func (s *steps) up() error {
	if len(s.done) == 0 {
		return errEscapes
	}
	if s.restarts++; s.restarts > restartsMax {
		return syscall.ELOOP
	}
	s.restart(append(append([]string{}, s.done[:len(s.done)-1]...), s.pending...))
	return nil
}

func (s *steps) restart(pending []string) {
	s.leave()
	s.at, s.done, s.pending = s.root, nil, pending
}

func (s *steps) leave() {
	if s.at != nil && s.at != s.root {
		s.at.close()
	}
	s.at = s.root
}

// into goes on to a folder, or spells a symlink out.
func (s *steps) into(part string) error {
	next, err := s.at.enter(part)
	if s.how.make && errors.Is(err, syscall.ENOENT) {
		if err := s.at.mkdir(part, 0o755); err != nil && !errors.Is(err, syscall.EEXIST) {
			return err
		}
		next, err = s.at.enter(part)
	}
	if err == nil {
		s.leave()
		s.at = next
		s.done = append(s.done, part)
		return nil
	}
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		if expanded, failed := s.expand(part); expanded || failed != nil {
			return failed
		}
	}
	return err
}

// end looks whether the last component is a symlink to be followed.
func (s *steps) end(part string) (bool, error) {
	if !s.how.last {
		return false, nil
	}
	return s.expand(part)
}

// expand puts a symlink's target in the place of its name; false if it is none.
func (s *steps) expand(part string) (bool, error) {
	target, err := s.at.readlink(part)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if s.links++; s.links > linksMax {
		return false, syscall.ELOOP
	}
	if strings.HasPrefix(target, "/") {
		rest, ok := beneath(s.inside, target)
		if !ok {
			return false, errEscapes
		}
		s.restart(append(strings.Split(rest, "/"), s.pending...))
		return true, nil
	}
	s.pending = append(strings.Split(target, "/"), s.pending...)
	return true, nil
}
