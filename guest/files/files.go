// Package files runs the fs.* operations of docs/guest-protocol.md.
package files

import "callbox.dev/guest/operation"

// Configure says where relative paths start, and whose file-system credentials work is done with.
func Configure(work string, uid, gid int) {}

// Table returns the fs.* operations.
func Table() operation.Table { return operation.Table{} }
