package process

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// lines is text in which every place is different.
func lines(bytesMost int) []byte {
	var all bytes.Buffer
	for i := 0; all.Len() < bytesMost; i++ {
		fmt.Fprintf(&all, "line %d\n", i)
	}
	return all.Bytes()[:bytesMost]
}

// readAll reads a finished ring from `offset`; the gaps' reasons say what is missing.
func readAll(t *testing.T, r *ring, offset int64) ([]byte, []hole) {
	t.Helper()
	var all []byte
	var gaps []hole
	for {
		buffer := make([]byte, 30_000)
		got, err := r.read(buffer, offset)
		switch {
		case err != nil:
			t.Fatal(err)
		case got.gap != nil:
			gaps = append(gaps, *got.gap)
			offset = got.gap.to
		case got.n == 0:
			return all, gaps
		default:
			all, offset = append(all, buffer[:got.n]...), offset+int64(got.n)
		}
	}
}

func testManager(t *testing.T, total int64) *Manager {
	m := &Manager{config: Config{State: t.TempDir()}, execs: map[string]*exec{}}
	m.budget = &budget{total: total, evict: m.evict}
	return m
}

func (m *Manager) testExec(id string) *exec {
	place := filepath.Join(m.config.State, id)
	e := &exec{
		request: &start{ID: id}, pid: 1, done: make(chan struct{}),
		out: newRing(place+".1", 16<<20, false, m.budget), err: newRing(place+".2", 16<<20, false, m.budget),
	}
	m.execs[id] = e
	return e
}

func (e *exec) testEnd(at time.Time) {
	e.out.finish()
	e.err.finish()
	e.ended = at
	close(e.done)
}

func onDisk(t *testing.T, folder string) int64 {
	t.Helper()
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, each := range files {
		if info, err := each.Info(); err == nil {
			total += info.Size()
		}
	}
	return total
}

func TestTheOldestOutputMakesRoom(t *testing.T) {
	m := testManager(t, 4<<20)
	text := lines(900_000)
	began := time.Now()
	for i := range 8 {
		e := m.testExec(fmt.Sprint("e", i))
		e.out.write(context.Background(), text)
		e.testEnd(began.Add(time.Duration(i) * time.Second))
	}
	if size := onDisk(t, m.config.State); size > m.budget.total || size < m.budget.total/2 || size != m.budget.used {
		t.Error(size, m.budget.used)
	}
	for i, whole := range []bool{false, false, false, false, true, true, true, true} {
		got, gaps := readAll(t, m.execs[fmt.Sprint("e", i)].out, 0)
		if whole != bytes.Equal(got, text) || whole != (len(gaps) == 0) {
			t.Errorf("%d: %d bytes, %v", i, len(got), gaps)
		}
		if !whole && (len(got) != 0 || gaps[0] != hole{0, 900_000, "evicted"}) {
			t.Errorf("%d: %d bytes, %v", i, len(got), gaps)
		}
	}
	// What somebody reads goes last.
	m.execs["e4"].out.attach()
	m.testExec("next").out.write(context.Background(), text)
	if m.execs["e4"].out.evicted || !m.execs["e5"].out.evicted {
		t.Error("the one that is read was dropped first")
	}
	for _, each := range m.execs {
		each.out.remove()
		each.err.remove()
	}
	if m.budget.used != 0 {
		t.Error(m.budget.used)
	}
}

func TestARunningExecWrapsAroundWhereTheBudgetEnds(t *testing.T) {
	m := testManager(t, 1<<20)
	other, e := m.testExec("other"), m.testExec("e")
	e.out.size, other.out.size = 16<<20, 16<<20 // as if there had been more room when they began
	other.out.write(context.Background(), lines(700_000))
	text := lines(3_000_000)
	for at := 0; at < len(text); at += 50_000 {
		e.out.write(context.Background(), text[at:at+50_000])
	}
	e.out.finish()
	got, gaps := readAll(t, e.out, 0)
	if len(gaps) != 1 || gaps[0].reason != "overwritten" || !bytes.Equal(got, text[gaps[0].to:]) || len(got) < ringLeast {
		t.Error(len(got), gaps)
	}
	if size := onDisk(t, m.config.State); size > m.budget.total || size != m.budget.used {
		t.Error(size, m.budget.used)
	}
}
