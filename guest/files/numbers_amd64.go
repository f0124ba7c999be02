package files

import "syscall"

const (
	fstatAt   = syscall.SYS_NEWFSTATAT
	renameAt2 = 316
)
