package files

import "syscall"

const (
	fstatAt   = syscall.SYS_FSTATAT
	renameAt2 = 276
)
