package process

import (
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

// Limits that nobody reaches carry the number of the exec that a process descends from: seconds of processor time and
// bytes of a file. A process without root's rights may lower a hard limit and never raise one. The sum of the two is
// always the same, so whoever changes them names no other exec, but nobody: that is a proof where the environment is a word.
const (
	rlimitCPU  = 0
	rlimitFile = 1
	tagSeconds = 1 << 32 // 136 years
	tagBytes   = 1 << 60
	tagsMax    = 1 << 31
)

// tag is the limits that name exec number `number`.
func tag(number int64) map[int]int64 {
	return map[int]int64{rlimitCPU: tagSeconds + number, rlimitFile: tagBytes - number}
}

// tagOf reads the number of the exec that a process descends from; 0: it has none.
func tagOf(pid int) int64 {
	seconds, first := hardLimit(pid, rlimitCPU)
	bytes, second := hardLimit(pid, rlimitFile)
	number := int64(seconds - tagSeconds)
	if !first || !second || number <= 0 || number > tagsMax || bytes != uint64(tagBytes-number) {
		return 0
	}
	return number
}

func hardLimit(pid, resource int) (uint64, bool) {
	var limit rlimit
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), uintptr(resource), 0,
		uintptr(unsafe.Pointer(&limit)), 0, 0)
	return limit.hard, errno == 0
}

// limitProcess sets one limit of another process, soft and hard.
func limitProcess(pid, resource int, value int64) error {
	limit := rlimit{uint64(value), uint64(value)}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), uintptr(resource),
		uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// stamp makes a new process and its descendants tell whose they are, where we may (CAP_SYS_RESOURCE).
func (e *exec) stamp(pid int) {
	for resource, value := range tag(e.number) {
		if limitProcess(pid, resource, value) != nil {
			return
		}
	}
	e.stamped.Store(true)
}

// setExpendable: when memory is gone the kernel must take what we started, not spare it as it spares us.
func setExpendable(pid int) error {
	return os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(expendable), 0)
}
