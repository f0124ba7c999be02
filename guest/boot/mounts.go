package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	imageDisk  = "/dev/vda"
	layerDisk  = "/dev/vdb"
	imageMount = "/callbox/image"
	layerMount = "/callbox/layer"
	rootMount  = "/callbox/root"
	// Nothing inside gains rights by running a file, and no device node made on a disk means anything.
	diskFlags = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOATIME
)

// layerFolder stays open so that power-off can reach the writable disk, which no path leads to after the switch.
var layerFolder *os.File

type mountPoint struct {
	source, target, kind string
	flags                uintptr
	data                 string
	mode                 os.FileMode
}

func (m mountPoint) mount() error {
	if err := makeFolder(m.target, m.mode, 0); err != nil {
		return err
	}
	// The kernel may have mounted devtmpfs by itself; a second one on top is the same file system.
	if err := syscall.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
	}
	return nil
}

func mountAll(points []mountPoint) error {
	for _, point := range points {
		if err := point.mount(); err != nil {
			return err
		}
	}
	return nil
}

func mountKernel() error {
	return mountAll([]mountPoint{
		{"devtmpfs", "/dev", "devtmpfs", syscall.MS_NOSUID | syscall.MS_NOEXEC, "mode=0755", 0o755},
		{"proc", "/proc", "proc", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC, "", 0o555},
		{"sysfs", "/sys", "sysfs", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC, "", 0o555},
	})
}

// mountDisks stacks the sandbox's private layer on the image, which all sandboxes share and none may change.
func mountDisks() error {
	for _, disk := range []string{imageDisk, layerDisk} {
		if err := waitFor(disk, deviceTimeout, func() bool { return isBlockDevice(disk) }); err != nil {
			return err
		}
	}
	if err := mountAll([]mountPoint{
		{imageDisk, imageMount, "ext4", diskFlags | syscall.MS_RDONLY, "", 0o755},
		// discard: what is deleted inside gives its room back to the host, whose file is sparse.
		{layerDisk, layerMount, "ext4", diskFlags, "errors=remount-ro,discard", 0o755},
	}); err != nil {
		return err
	}
	upper, work := layerMount+"/upper", layerMount+"/work"
	for _, folder := range []string{upper, work} {
		if err := makeFolder(folder, 0o755, 0); err != nil {
			return err
		}
	}
	folder, err := os.Open(layerMount)
	if err != nil {
		return err
	}
	layerFolder = folder
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=on", imageMount, upper, work)
	return mountPoint{"callbox", rootMount, "overlay", diskFlags, options, 0o755}.mount()
}

func isBlockDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
}

// switchRoot does what switch_root(8) does: the initramfs cannot be unmounted, so it is emptied and mounted over.
func switchRoot() error {
	for _, folder := range []string{"/dev", "/proc", "/sys"} {
		target := rootMount + folder
		if err := makeFolder(target, 0o755, 0); err != nil {
			return err
		}
		if err := syscall.Mount(folder, target, "", syscall.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", folder, err)
		}
	}
	var here syscall.Stat_t
	if err := syscall.Stat("/", &here); err != nil {
		return err
	}
	if err := emptyInitramfs("/", here.Dev); err != nil {
		return err
	}
	if err := os.Chdir(rootMount); err != nil {
		return err
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := syscall.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

// emptyInitramfs gives the memory of the initramfs back. It never leaves its file system.
func emptyInitramfs(folder string, device uint64) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(folder, entry.Name())
		var found syscall.Stat_t
		if err := syscall.Lstat(path, &found); err != nil {
			return err
		}
		if found.Dev != device {
			continue
		}
		if entry.IsDir() {
			if err := emptyInitramfs(path, device); err != nil {
				return err
			}
		}
		// A folder that something is mounted in is busy; the rest goes.
		_ = os.Remove(path)
	}
	return nil
}

func mountRuntime() error {
	const plain = syscall.MS_NOSUID | syscall.MS_NODEV
	err := mountAll([]mountPoint{
		{"devpts", "/dev/pts", "devpts", syscall.MS_NOSUID | syscall.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666", 0o755},
		{"tmpfs", "/dev/shm", "tmpfs", plain, "mode=1777,size=25%", 0o1777},
		{"tmpfs", "/run", "tmpfs", plain | syscall.MS_NOEXEC, "mode=0755,size=10%", 0o755},
	})
	if err != nil {
		return err
	}
	if err := mountCgroups(plain | syscall.MS_NOEXEC); err != nil {
		return err
	}
	// What udev would make: shells' process substitution and many scripts need them.
	for name, target := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		if err := os.Symlink("/proc/self/fd"+target, "/dev/"+name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// mountCgroups mounts what the repair freezes processes with. Moving one into a group waits for every processor in
// turn, tens of milliseconds each, unless the kernel (6.0 and later) is told that groups change often.
func mountCgroups(flags uintptr) error {
	groups := mountPoint{"cgroup2", "/sys/fs/cgroup", "cgroup2", flags, "favordynmods", 0o755}
	err := groups.mount()
	if errors.Is(err, syscall.EINVAL) {
		groups.data = ""
		err = groups.mount()
	}
	return err
}

// makeFolder makes a folder unless it is there, gives it to the owner, and sets its mode whatever the umask is.
func makeFolder(path string, mode os.FileMode, owner int) error {
	if err := os.MkdirAll(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		// A link here could lead the later mounts and the ownership anywhere.
		return fmt.Errorf("%s is not a folder", path)
	}
	if isKernelFileSystem(path) {
		return nil
	}
	for _, err := range []error{os.Lchown(path, owner, owner), syscall.Chmod(path, uint32(mode))} {
		if err != nil && !errors.Is(err, syscall.EROFS) {
			return err
		}
	}
	return nil
}

// isKernelFileSystem tells folders whose owner and mode the kernel alone decides.
func isKernelFileSystem(path string) bool {
	return path == "/proc" || path == "/sys" || strings.HasPrefix(path, "/proc/") || strings.HasPrefix(path, "/sys/")
}
