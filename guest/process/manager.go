// Package process runs the processes of a sandbox: see "Processes" in docs/guest-protocol.md.
package process

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"callbox.dev/guest/operation"
)

// The limits of what is remembered and of what runs at once.
const (
	finishedMax = 256
	finishedFor = time.Hour
	runningMax  = 128
)

// Config is what does not change while the agent runs.
type Config struct {
	Work  string // where processes start, and the home of box
	State string // where rings are; emptied at the start
	UID   int    // of box
	GID   int
	Env   map[string]string // of the image
	Group string            // control group in which execs get groups of their own; "": none
}

// Settings is what the host sets with `configure`.
type Settings struct {
	Hostname     string            `json:"hostname"`
	Env          map[string]string `json:"env"`
	ProcessesMax int               `json:"processes_max"`
	MemoryBytes  int64             `json:"memory_bytes"`
	OpenFilesMax int64             `json:"open_files_max"`
}

// Manager owns all execs.
type Manager struct {
	config   Config
	groups   groups
	reaper   *reaper
	confined *spawner
	free     *spawner
	forest   *forest
	guard    *guard
	budget   *budget // of output

	mu       sync.Mutex
	execs    map[string]*exec
	settings Settings
	begun    int64 // execs ever
}

// New makes the agent the reaper of everything that it will start.
func New(config Config) (*Manager, error) {
	if err := os.RemoveAll(config.State); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.State, 0o700); err != nil {
		return nil, err
	}
	if os.Getpid() != 1 {
		if err := prctl(prSetSubreaper, 1); err != nil {
			return nil, fmt.Errorf("become the reaper of orphans: %w", err)
		}
	}
	within := groups{config.Group}
	m := &Manager{
		config: config, groups: within, reaper: newReaper(), execs: map[string]*exec{},
	}
	m.budget = newBudget(config.State, m.evict)
	m.forest = newForest(within, m.candidates, m.reaper.isMain)
	var err error
	if m.confined, err = newSpawner(true); err != nil {
		return nil, fmt.Errorf("no_new_privs: %w", err)
	}
	if m.free, err = newSpawner(false); err != nil {
		return nil, err
	}
	m.guard = newGuard(m)
	return m, nil
}

// Configure takes the host's settings; they hold for processes that start from now on.
func (m *Manager) Configure(settings Settings) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settings = settings
}

// KillAll ends every exec (before the machine is switched off).
func (m *Manager) KillAll() {
	var all sync.WaitGroup
	for _, each := range m.candidates() {
		all.Go(func() { m.killTree(each) })
	}
	all.Wait()
	m.guard.killStrays(func(seen) bool { return true })
}

// Table returns the exec.* operations.
func (m *Manager) Table() operation.Table {
	return operation.Table{
		"exec.start": m.start, "exec.run": m.run, "exec.attach": m.attach, "exec.stdin": m.stdin, "exec.signal": m.signal,
		"exec.resize": m.resize, "exec.wait": m.wait, "exec.list": m.list, "exec.forget": m.forget,
	}
}

// begin starts an exec, or finds the one that the same request started before.
func (m *Manager) begin(raw json.RawMessage) (*exec, error) {
	asked, err := parseStart(raw, m.config.Work)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.expire()
	if before, ok := m.execs[asked.ID]; ok {
		m.mu.Unlock()
		if !before.request.same(asked) {
			return nil, operation.Fail("exists", fmt.Sprintf("exec %s was started with another request", asked.ID))
		}
		<-before.launched
		return before, before.failed
	}
	if m.countRunning() >= runningMax {
		m.mu.Unlock()
		return nil, operation.Fail("busy", fmt.Sprintf("%d execs run already", runningMax))
	}
	place := filepath.Join(m.config.State, asked.ID)
	e := &exec{
		request: asked, began: time.Now(), launched: make(chan struct{}), done: make(chan struct{}),
		out: newRing(place+".1", asked.RingBytes, asked.OnFull == "block", m.budget),
		err: newRing(place+".2", asked.RingBytes, asked.OnFull == "block", m.budget),
	}
	m.begun++
	e.number = m.begun
	m.execs[asked.ID] = e
	m.mu.Unlock()
	if e.failed = m.launch(e); e.failed != nil {
		m.mu.Lock()
		delete(m.execs, asked.ID)
		m.mu.Unlock()
	}
	close(e.launched)
	return e, e.failed
}

func (m *Manager) find(id string) (*exec, error) {
	m.mu.Lock()
	e, ok := m.execs[id]
	m.mu.Unlock()
	if !ok {
		return nil, operation.Fail("not_found", fmt.Sprintf("there is no exec %q", id))
	}
	<-e.launched
	return e, e.failed
}

// expire forgets what ended long ago, and the oldest of too many. Called with the lock held.
func (m *Manager) expire() {
	var over []*exec
	for _, each := range m.execs {
		if each.settled() {
			over = append(over, each)
		}
	}
	slices.SortFunc(over, func(a, b *exec) int { return a.endedAt().Compare(b.endedAt()) })
	for i, each := range over {
		if len(over)-i > finishedMax || time.Since(each.endedAt()) > finishedFor {
			m.drop(each)
		}
	}
}

// settled: ended, with nothing of its tree left.
func (e *exec) settled() bool { return !e.running() && !e.survivors.Load() }

func (e *exec) endedAt() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ended
}

func (m *Manager) drop(e *exec) {
	delete(m.execs, e.request.ID)
	m.groups.remove(e.request.ID)
	e.out.remove()
	e.err.remove()
}

func (m *Manager) finished(e *exec) {
	if e.settled() {
		m.groups.remove(e.request.ID)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
}

func (m *Manager) countRunning() int {
	count := 0
	for _, each := range m.execs {
		if !each.settled() {
			count++
		}
	}
	return count
}

// candidates are the execs that processes may belong to.
func (m *Manager) candidates() []*exec {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*exec
	for _, each := range m.execs {
		if each.pid != 0 && !each.settled() {
			all = append(all, each)
		}
	}
	return all
}

func (m *Manager) busy() bool { return len(m.candidates()) > 0 }

func (m *Manager) limits() (int, int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settings.ProcessesMax, m.settings.MemoryBytes
}

func (m *Manager) forget(_ operation.Stream, raw json.RawMessage) (any, error) {
	e, err := m.named(raw)
	if err != nil {
		return nil, err
	}
	if !e.settled() {
		return nil, operation.Fail("busy", "it still runs")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.execs[e.request.ID] == e {
		m.drop(e)
	}
	return nil, nil
}

func (m *Manager) named(raw json.RawMessage) (*exec, error) {
	var asked struct {
		ID string `json:"id"`
	}
	if err := parse(raw, &asked); err != nil {
		return nil, err
	}
	return m.find(asked.ID)
}

func (m *Manager) signal(_ operation.Stream, raw json.RawMessage) (any, error) {
	asked := struct {
		Signal int  `json:"signal"`
		Tree   bool `json:"tree"`
	}{Tree: true}
	if err := parse(raw, &asked); err != nil {
		return nil, err
	}
	if asked.Signal < 1 || asked.Signal > 64 {
		return nil, operation.Fail("bad_request", "signal is from 1 to 64")
	}
	e, err := m.named(raw)
	if err != nil {
		return nil, err
	}
	if e.settled() {
		return nil, operation.Fail("gone", "it has ended")
	}
	number := syscall.Signal(asked.Signal)
	switch {
	case !asked.Tree:
		if m.reaper.signal(e.pid, number) != nil {
			return nil, operation.Fail("gone", "its main process has ended")
		}
	case number == syscall.SIGKILL:
		m.killTree(e)
	default:
		trees, _ := m.forest.look()
		for _, each := range trees[e] {
			_ = syscall.Kill(each.pid, number)
		}
	}
	return nil, nil
}

func (m *Manager) resize(_ operation.Stream, raw json.RawMessage) (any, error) {
	var asked size
	if err := parse(raw, &asked); err != nil {
		return nil, err
	}
	if !asked.valid() {
		return nil, operation.Fail("bad_request", fmt.Sprintf("rows and columns are from 1 to %d", terminalSizeMax))
	}
	e, err := m.named(raw)
	if err != nil {
		return nil, err
	}
	return nil, e.resize(asked)
}
