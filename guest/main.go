// callbox-guest is the agent inside a sandbox. It serves docs/guest-protocol.md on a byte channel: standard input and
// output (`callbox-guest stdio`: gVisor and tests), or, as /init of a VM, the virtio port that the host opened.
package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"callbox.dev/guest/boot"
	"callbox.dev/guest/files"
	"callbox.dev/guest/machine"
	"callbox.dev/guest/mux"
	"callbox.dev/guest/operation"
	"callbox.dev/guest/ports"
	"callbox.dev/guest/process"
	"callbox.dev/guest/repair"
)

const (
	memoryBytesSoft = 64 << 20 // from here on the collector works harder; every buffer has a limit of its own
	bootParameter   = "callbox.boot=vm"
	stateFolder     = "/var/lib/callbox/exec"
)

type options struct {
	work, state string
	uid, gid    int
	group       string // of control groups; only in a machine of our own
}

func main() {
	debug.SetMemoryLimit(memoryBytesSoft)
	// A host that goes away in the middle of a write must not kill the agent. Not Ignore: children would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTTOU, syscall.SIGTTIN)
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "callbox: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	if isMachine() {
		connection, err := boot.Machine()
		if err != nil {
			return err
		}
		here := options{work: boot.WorkDirectory, state: stateFolder, uid: 1000, gid: 1000, group: repair.HeldGroup}
		err = serve(connection, here, nil)
		fmt.Fprintf(os.Stderr, "callbox: the port ended: %v\n", err)
		boot.PowerOff()
		return err
	}
	if len(os.Args) < 2 || os.Args[1] != "stdio" {
		return fmt.Errorf("usage: %s stdio [--work DIR] [--state DIR] [--uid N] [--gid N]", os.Args[0])
	}
	var chosen options
	flags := flag.NewFlagSet("stdio", flag.ExitOnError)
	flags.StringVar(&chosen.work, "work", boot.WorkDirectory, "where files and processes start")
	flags.StringVar(&chosen.state, "state", stateFolder, "where output is kept; emptied at the start")
	flags.IntVar(&chosen.uid, "uid", 1000, "user id of box")
	flags.IntVar(&chosen.gid, "gid", 1000, "group id of box")
	if err := flags.Parse(os.Args[2:]); err != nil {
		return err
	}
	environment := map[string]string{}
	if os.Getpid() == 1 {
		needed, err := boot.Container()
		if err != nil {
			return err
		}
		maps.Copy(environment, needed)
	}
	maps.Copy(environment, image(os.Environ()))
	return serve(stdio{}, chosen, environment)
}

func isMachine() bool {
	if os.Args[0] == "/init" {
		return true
	}
	if os.Getpid() != 1 || len(os.Args) > 1 {
		return false
	}
	line, err := os.ReadFile("/proc/cmdline")
	return err == nil && strings.Contains(string(line), bootParameter)
}

// serve answers until the connection ends; whatever runs then is killed.
func serve(connection io.ReadWriter, chosen options, environment map[string]string) error {
	digest := sync.OnceValue(ownDigest)
	go digest() // reading the binary takes longer than anything else at the start
	bootID := hex.EncodeToString(randomBytes(16))
	processes, err := process.New(process.Config{
		Work: chosen.work, State: chosen.state, UID: chosen.uid, GID: chosen.gid, Env: environment, Group: chosen.group,
	})
	if err != nil {
		return err
	}
	files.Configure(chosen.work, chosen.uid, chosen.gid)
	repaired := repair.New(bootID)
	own := &machine.Machine{
		Processes: processes, Work: chosen.work, BootID: bootID, Generation: repaired.Generation,
		Alone: os.Getpid() == 1, PowerOff: boot.PowerOff,
	}
	table := operation.Table{}
	for _, each := range []operation.Table{own.Table(), processes.Table(), files.Table(), ports.Table(), repaired.Table()} {
		maps.Copy(table, each)
	}
	session := &mux.Session{
		Table: table,
		Allow: func(op string) *operation.Failure { return allow(op, repaired.Ready()) },
		Welcome: func() map[string]any {
			return map[string]any{
				"agent": digest(), "boot_id": bootID, "generation": repaired.Generation(), "arch": runtime.GOARCH,
			}
		},
	}
	err = session.Serve(connection)
	processes.KillAll()
	return err
}

// allow fails closed: a machine that was restored and not repaired shares its random numbers with its siblings.
func allow(op string, ready bool) *operation.Failure {
	switch op {
	case "ping", "info", "repair", "expect_repair":
		return nil
	}
	if ready {
		return nil
	}
	return operation.Fail("not_repaired", "the machine was started or restored and has not been repaired")
}

// stdio is the channel when standard input and output are it.
type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }

func image(environment []string) map[string]string {
	all := map[string]string{}
	for _, each := range environment {
		key, value, _ := strings.Cut(each, "=")
		all[key] = value
	}
	return all
}

func randomBytes(n int) []byte {
	random := make([]byte, n)
	_, _ = rand.Read(random) // never fails: the runtime ends the program instead
	return random
}

// ownDigest names this build to the host: saved memory of another agent is refused.
func ownDigest() string {
	binary, err := os.Open("/proc/self/exe")
	if err != nil {
		return ""
	}
	defer binary.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, binary); err != nil {
		return ""
	}
	return hex.EncodeToString(sum.Sum(nil))[:16]
}
