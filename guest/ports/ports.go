// Package ports runs the port.* operations of docs/guest-protocol.md.
package ports

import "callbox.dev/guest/operation"

// Table returns the port.* operations.
func Table() operation.Table { return operation.Table{} }
