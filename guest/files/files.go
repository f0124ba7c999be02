// Package files runs the fs.* operations of docs/guest-protocol.md.
//
// The host's requests come from a model, and the user box races with them: a folder that was looked at may be a
// symlink when it is opened. So nothing here trusts a path twice. A path is walked by descriptors, one component after the other
// and never through a symlink (steps), with the rights of box (credentials); what is then done in a folder is done to a
// name in it, relative to its descriptor (folder).
package files

import (
	"encoding/json"
	"sync"

	"callbox.dev/guest/operation"
)

// Limits of what one request may ask for.
const (
	chunkBytes       = 64 << 10
	pathBytesMax     = 4096
	batchEntries     = 128
	folderEntriesMax = 1_000_000
	visitedMax       = 2_000_000
	entriesDefault   = 10_000
	entriesMost      = 1_000_000
	depthDefault     = 8
	depthMost        = 256
	matchesDefault   = 1_000
	matchesMost      = 100_000
	lineBytesDefault = 400
	lineBytesMost    = 16_384
	patternBytesMax  = 4096
	watchesMax       = 8192
)

var configured = struct {
	sync.RWMutex
	setup setup
}{setup: newSetup("/work", 1000, 1000)}

// Configure says where relative paths start, and whose file-system credentials work is done with.
func Configure(work string, uid, gid int) {
	configured.Lock()
	defer configured.Unlock()
	configured.setup = newSetup(work, uid, gid)
}

func current() setup {
	configured.RLock()
	defer configured.RUnlock()
	return configured.setup
}

// Table returns the fs.* operations.
func Table() operation.Table {
	return operation.Table{
		"fs.read":   read,
		"fs.write":  write,
		"fs.stat":   stat,
		"fs.list":   list,
		"fs.tree":   tree,
		"fs.glob":   glob,
		"fs.search": search,
		"fs.mkdir":  mkdir,
		"fs.move":   move,
		"fs.remove": remove,
		"fs.watch":  watch,
	}
}

// empty is the reply of operations that only succeed.
type empty struct{}

func decode(request json.RawMessage, into any) error {
	if err := json.Unmarshal(request, into); err != nil {
		return operation.Fail("bad_request", err.Error())
	}
	if named, ok := into.(interface{ settle() error }); ok {
		return named.settle()
	}
	return nil
}

// bounded fills in a default and refuses what is out of range.
func bounded(name string, value *int, normal, most int) error {
	if *value == 0 {
		*value = normal
	}
	if *value < 0 || *value > most {
		return operation.Fail("bad_request", name+" is out of range")
	}
	return nil
}
