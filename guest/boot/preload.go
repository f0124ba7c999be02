package boot

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unsafe"
)

const (
	noAutomount       = 0x800
	statxBasic        = 0x7ff
	statxBytes        = 256
	statxLibrary      = "/usr/lib/callbox/statx.so"
	preloadList       = "/etc/ld.so.preload"
	preloadBytesMax   = 64 << 10
	muslLoaders       = "/lib/ld-musl-*.so.1"
	preloadVariable   = "LD_PRELOAD"
	sanitizerVariable = "ASAN_OPTIONS"
)

//go:embed statx/statx.so
var statxBinary []byte

// repairStatx makes statx work for programs where the kernel refuses a flag that coreutils always pass: `ls` would fail.
// It returns what the environment of programs needs besides the files.
func repairStatx() (map[string]string, error) {
	if !refusesNoAutomount() {
		return nil, nil
	}
	if err := installPreload(statxLibrary, preloadList); err != nil {
		return nil, fmt.Errorf("install %s: %w", statxLibrary, err)
	}
	// The address sanitizer refuses to run behind another library unless it is told that this is meant so.
	environment := map[string]string{sanitizerVariable: "verify_asan_link_order=0"}
	// The list is glibc's. musl reads only the variable.
	if found, _ := filepath.Glob(muslLoaders); len(found) > 0 {
		environment[preloadVariable] = statxLibrary
	}
	return environment, nil
}

func refusesNoAutomount() bool {
	root := []byte("/\x00")
	var buffer [statxBytes]byte
	_, _, errno := syscall.Syscall6(sysStatx, 0, uintptr(unsafe.Pointer(&root[0])), noAutomount, statxBasic,
		uintptr(unsafe.Pointer(&buffer[0])), 0)
	return errno == syscall.EINVAL
}

// installPreload writes the library and names it in the list. What else the list names stays, behind ours.
func installPreload(library, list string) error {
	if err := makeFolder(filepath.Dir(library), 0o755, 0); err != nil {
		return err
	}
	if err := replaceFile(library, statxBinary, 0o644); err != nil {
		return err
	}
	content, err := readBounded(list)
	if err != nil || slices.Contains(strings.Fields(content), library) {
		return err
	}
	return replaceFile(list, []byte(library+"\n"+content), 0o644)
}

// readBounded reads a small regular file; one that is missing is empty.
func readBounded(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case info.Size() > preloadBytesMax || !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a list", path)
	}
	content, err := os.ReadFile(path)
	return string(content), err
}
