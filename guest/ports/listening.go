package ports

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const stateListen = "0A"

// listener is one listening TCP socket.
type listener struct {
	Port    int    `json:"port"`
	Address string `json:"address"`
	PID     int    `json:"pid,omitempty"`
	inode   string
}

// listening reads the kernel's tables. Who owns a socket is found in the processes' descriptors, if at all.
func listening(proc string) ([]listener, error) {
	var found []listener
	tables := 0
	for _, name := range []string{"tcp", "tcp6"} {
		file, err := os.Open(filepath.Join(proc, "net", name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		tables++
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			if one, ok := parse(lines.Text()); ok {
				found = append(found, one)
			}
		}
		err = errors.Join(lines.Err(), file.Close())
		if err != nil {
			return nil, err
		}
	}
	if tables == 0 {
		return nil, fmt.Errorf("%s/net has no table of TCP sockets", proc)
	}
	owners := socketOwners(proc, found)
	for at := range found {
		found[at].PID = owners[found[at].inode]
	}
	slices.SortFunc(found, func(a, b listener) int {
		return cmpOr(a.Port-b.Port, strings.Compare(a.Address, b.Address))
	})
	if found == nil {
		found = []listener{}
	}
	return found, nil
}

func cmpOr(first, second int) int {
	if first != 0 {
		return first
	}
	return second
}

// parse reads one line of proc_net_tcp(5): "sl local_address rem_address st ... uid timeout inode".
func parse(line string) (listener, bool) {
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[3] != stateListen {
		return listener{}, false
	}
	address, port, ok := strings.Cut(fields[1], ":")
	if !ok {
		return listener{}, false
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return listener{}, false
	}
	raw, err := hex.DecodeString(address)
	if err != nil || len(raw)%4 != 0 {
		return listener{}, false
	}
	// The kernel prints each 32 bits of the address in the machine's own order.
	for at := 0; at < len(raw); at += 4 {
		binary.NativeEndian.PutUint32(raw[at:], binary.BigEndian.Uint32(raw[at:]))
	}
	parsed, ok := netip.AddrFromSlice(raw)
	if !ok {
		return listener{}, false
	}
	return listener{Port: int(number), Address: parsed.String(), inode: fields[9]}, true
}

// socketOwners finds which process holds each socket: the lowest pid, which is the one that began.
func socketOwners(proc string, wanted []listener) map[string]int {
	missing := map[string]bool{}
	for _, each := range wanted {
		if each.inode != "0" {
			missing[each.inode] = true
		}
	}
	owners := map[string]int{}
	for _, pid := range processes(proc) {
		if len(missing) == 0 {
			break
		}
		folder := filepath.Join(proc, strconv.Itoa(pid), "fd")
		descriptors, err := os.ReadDir(folder)
		if err != nil {
			continue // ended, or not ours to look at
		}
		for _, each := range descriptors {
			target, err := os.Readlink(filepath.Join(folder, each.Name()))
			inode, isSocket := strings.CutPrefix(strings.TrimSuffix(target, "]"), "socket:[")
			if err == nil && isSocket && missing[inode] {
				owners[inode] = pid
				delete(missing, inode)
			}
		}
	}
	return owners
}

func processes(proc string) []int {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}
