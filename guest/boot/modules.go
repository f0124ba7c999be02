package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"
)

const modulesFolder = "/modules"

// loadModules loads what /modules/order names, in that order. The initramfs was made for this kernel, so all must load.
func loadModules() error {
	order, err := os.ReadFile(filepath.Join(modulesFolder, "order"))
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(order)) {
		if err := loadModule(filepath.Join(modulesFolder, filepath.Base(name))); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	parameters := [1]byte{}
	_, _, code := syscall.Syscall(finitModule, file.Fd(), uintptr(unsafe.Pointer(&parameters[0])), 0)
	if code != 0 && !errors.Is(code, syscall.EEXIST) {
		return code
	}
	return nil
}
