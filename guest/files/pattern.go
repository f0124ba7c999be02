package files

import (
	"path"
	"strings"

	"callbox.dev/guest/operation"
)

// globPattern is a pattern cut at its slashes. "**" stands for any number of folders, none included; the others are
// path.Match's: * ? [a-z] \x. Hidden names match like others.
type globPattern []string

func compileGlob(pattern string) (globPattern, error) {
	if pattern == "" || len(pattern) > patternBytesMax {
		return nil, operation.Fail("bad_request", "a pattern has 1 to 4096 bytes")
	}
	var parts globPattern
	for part := range strings.SplitSeq(strings.Trim(pattern, "/"), "/") {
		if _, err := path.Match(part, ""); err != nil {
			return nil, operation.Fail("bad_request", "pattern: "+err.Error())
		}
		if part == ".." {
			return nil, operation.Fail("path_escapes", "a pattern has no ..")
		}
		// Neighbours of the same kind say nothing more, and would only cost time.
		if part == "" || part == "." || part == "**" && len(parts) > 0 && parts[len(parts)-1] == "**" {
			continue
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// reach follows a path through the pattern and returns which of its parts may come next: one bit each, one more for the
// end. Time is the product of both lengths, whatever the pattern.
func (g globPattern) reach(relative string) []bool {
	now := make([]bool, len(g)+1)
	now[0] = true
	g.skip(now)
	for name := range strings.SplitSeq(relative, "/") {
		next := make([]bool, len(g)+1)
		for at, part := range g {
			if !now[at] {
				continue
			}
			if part == "**" {
				next[at] = true
			} else if matched, err := path.Match(part, name); err == nil && matched {
				next[at+1] = true
			}
		}
		g.skip(next)
		now = next
	}
	return now
}

// skip lets every "**" stand for nothing.
func (g globPattern) skip(states []bool) {
	for at, part := range g {
		if states[at] && part == "**" {
			states[at+1] = true
		}
	}
}

func (g globPattern) matches(relative string) bool { return g.reach(relative)[len(g)] }

// leads says that something beneath a folder may match.
func (g globPattern) leads(relative string) bool {
	for _, possible := range g.reach(relative)[:len(g)] {
		if possible {
			return true
		}
	}
	return false
}
