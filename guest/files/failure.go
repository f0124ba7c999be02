package files

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"callbox.dev/guest/operation"
)

// codes of the protocol for what the kernel says; the first that matches.
var codes = []struct {
	cause error
	code  string
}{
	{context.Canceled, "cancelled"},
	{context.DeadlineExceeded, "timeout"},
	{syscall.ENOTEMPTY, "not_empty"},
	{syscall.EEXIST, "exists"},
	{syscall.ENOTDIR, "not_a_directory"},
	{syscall.EISDIR, "is_a_directory"},
	{syscall.ENOSPC, "no_space"},
	{syscall.EDQUOT, "no_space"},
	{syscall.EFBIG, "too_large"},
	{syscall.ENAMETOOLONG, "bad_request"},
	{syscall.ELOOP, "path_escapes"},
	{syscall.EINVAL, "bad_request"},
	{syscall.EBUSY, "busy"},
	{syscall.ETXTBSY, "busy"},
	{syscall.EROFS, "permission_denied"},
	{fs.ErrNotExist, "not_found"},
	{fs.ErrExist, "exists"},
	{fs.ErrPermission, "permission_denied"},
}

// failure turns an error into what the host is told about the path that it named.
func failure(path string, err error) error {
	if err == nil {
		return nil
	}
	var known *operation.Failure
	if errors.As(err, &known) {
		if known == errEscapes {
			return operation.Fail(known.Code, path+" leaves the folders that are open to it")
		}
		return known
	}
	for _, each := range codes {
		if errors.Is(err, each.cause) {
			return operation.Fail(each.code, path+": "+reason(err))
		}
	}
	return err
}

// reason is the kernel's part of an error: the rest names paths as the agent sees them.
func reason(err error) string {
	var code syscall.Errno
	if errors.As(err, &code) {
		return code.Error()
	}
	return err.Error()
}
