// Package machine answers what concerns the machine as a whole: see "Machine" in docs/guest-protocol.md.
package machine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"callbox.dev/guest/operation"
	"callbox.dev/guest/process"
)

var hostname = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,62})$`)

// Machine knows what ends it and who it is.
type Machine struct {
	Processes  *process.Manager
	Work       string
	BootID     string
	Generation func() int64
	// Alone says whether host name and power are this machine's own; a test's agent shares them with its host.
	Alone bool
	// PowerOff does not return.
	PowerOff func()
	began    time.Time
}

// Table returns ping, info, configure, quiesce and shutdown.
func (m *Machine) Table() operation.Table {
	m.began = time.Now()
	return operation.Table{
		"ping": m.ping, "info": m.info, "configure": m.configure, "quiesce": m.quiesce, "shutdown": m.shutdown,
	}
}

func (m *Machine) ping(operation.Stream, json.RawMessage) (any, error) {
	return map[string]int64{"now_ns": time.Now().UnixNano()}, nil
}

func (m *Machine) info(operation.Stream, json.RawMessage) (any, error) {
	total, available := memory()
	var disk syscall.Statfs_t
	if err := syscall.Statfs(m.Work, &disk); err != nil {
		return nil, fmt.Errorf("statfs %s: %w", m.Work, err)
	}
	var name syscall.Utsname
	_ = syscall.Uname(&name)
	return map[string]any{
		"uptime_s": uptime(m.began), "memory_total_bytes": total, "memory_available_bytes": available,
		"processes": processes(), "disk_total_bytes": int64(disk.Blocks) * disk.Bsize,
		"disk_free_bytes": int64(disk.Bavail) * disk.Bsize, "kernel": text(name.Release[:]),
		"generation": m.Generation(), "boot_id": m.BootID,
	}, nil
}

func (m *Machine) configure(_ operation.Stream, raw json.RawMessage) (any, error) {
	var asked process.Settings
	if err := json.Unmarshal(raw, &asked); err != nil {
		return nil, operation.Fail("bad_request", err.Error())
	}
	if asked.ProcessesMax < 0 || asked.MemoryBytes < 0 || asked.OpenFilesMax < 0 {
		return nil, operation.Fail("bad_request", "a limit is 0 (none) or more")
	}
	for key, value := range asked.Env {
		if key == "" || strings.ContainsAny(key, "=\x00") || strings.ContainsRune(value, 0) {
			return nil, operation.Fail("bad_request", fmt.Sprintf("%q cannot be a variable", key))
		}
	}
	if asked.Hostname != "" {
		if !hostname.MatchString(asked.Hostname) {
			return nil, operation.Fail("bad_request", "hostname is 1 to 63 letters, digits and hyphens")
		}
		if m.Alone {
			if err := syscall.Sethostname([]byte(asked.Hostname)); err != nil {
				return nil, fmt.Errorf("sethostname: %w", err)
			}
		}
	}
	m.Processes.Configure(asked)
	return nil, nil
}

func (m *Machine) quiesce(stream operation.Stream, _ json.RawMessage) (any, error) {
	done := make(chan struct{})
	go func() { syscall.Sync(); close(done) }()
	select {
	case <-done:
		return nil, nil
	case <-stream.Context().Done():
		return nil, stream.Context().Err()
	}
}

// leaving is the reply to shutdown: power goes off when the host can know that it will.
type leaving struct{ machine *Machine }

func (m *Machine) shutdown(operation.Stream, json.RawMessage) (any, error) {
	m.Processes.KillAll()
	syscall.Sync()
	return leaving{m}, nil
}

// MarshalJSON makes the reply {}.
func (leaving) MarshalJSON() ([]byte, error) { return []byte("{}"), nil }

// Sent implements mux.After.
func (l leaving) Sent() { l.machine.PowerOff() }

func memory() (total, available int64) {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	return kilobytes(raw, "MemTotal:"), kilobytes(raw, "MemAvailable:")
}

func kilobytes(raw []byte, key string) int64 {
	_, after, _ := bytes.Cut(raw, []byte(key))
	fields := bytes.Fields(after)
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(string(fields[0]), 10, 64)
	return n << 10
}

func uptime(began time.Time) float64 {
	raw, err := os.ReadFile("/proc/uptime")
	if err == nil {
		if seconds, err := strconv.ParseFloat(strings.Fields(string(raw) + " ")[0], 64); err == nil {
			return seconds
		}
	}
	return time.Since(began).Seconds()
}

func processes() int {
	folder, err := os.Open("/proc")
	if err != nil {
		return 0
	}
	defer folder.Close()
	names, _ := folder.Readdirnames(-1)
	count := 0
	for _, name := range names {
		if name[0] >= '0' && name[0] <= '9' {
			count++
		}
	}
	return count
}

func text(raw []int8) string {
	var out []byte
	for _, c := range raw {
		if c == 0 {
			break
		}
		out = append(out, byte(c))
	}
	return string(out)
}
