package process

import (
	"encoding/json"
	"maps"
	"slices"

	"callbox.dev/guest/operation"
	"callbox.dev/guest/wire"
)

// listBytesMax leaves room for what is around the list in its frame.
const listBytesMax = wire.PayloadMax - 256

// entry is one exec in a list.
type entry struct {
	ID        string   `json:"id"`
	Pid       int      `json:"pid"`
	Argv      []string `json:"argv"`
	Running   bool     `json:"running"`
	KeepAlive bool     `json:"keep_alive"`
	StartedNs int64    `json:"started_ns"`
	ExitCode  *int     `json:"exit_code"`
	Signal    *int     `json:"signal"`
	StdoutEnd int64    `json:"stdout_end"`
	StderrEnd int64    `json:"stderr_end"`
}

func (m *Manager) list(_ operation.Stream, raw json.RawMessage) (any, error) {
	var asked struct {
		KeepAlive bool `json:"keep_alive"`
	}
	if err := parse(raw, &asked); err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.expire()
	all := slices.Collect(maps.Values(m.execs))
	m.mu.Unlock()
	entries := []entry{}
	for _, e := range all {
		if <-e.launched; e.failed != nil {
			continue
		}
		how := e.result()
		running := how.Running || e.survivors.Load()
		if asked.KeepAlive && !(running && e.request.KeepAlive) {
			continue
		}
		entries = append(entries, entry{
			e.request.ID, e.pid, e.request.argv(), running, e.request.KeepAlive,
			e.began.UnixNano(), how.ExitCode, how.Signal, how.StdoutEnd, how.StderrEnd,
		})
	}
	slices.SortFunc(entries, func(a, b entry) int { return int(min(max(a.StartedNs-b.StartedNs, -1), 1)) })
	entries, truncated := fit(entries, listBytesMax)
	return map[string]any{"execs": entries, "truncated": truncated}, nil
}

// fit makes a list small enough for one frame: first the arguments get shorter, for all alike; then the oldest of those
// that have ended are left out, and the list says so.
func fit(entries []entry, bytesMax int) ([]entry, bool) {
	for _, to := range []struct{ arguments, bytes int }{{8, 200}, {4, 24}, {2, 16}, {1, 12}, {0, 0}} {
		short := slices.Clone(entries)
		for i := range short {
			short[i].Argv = shorten(short[i].Argv, to.arguments, to.bytes)
		}
		if sizeOf(short) <= bytesMax {
			return short, false
		}
		if to.arguments == 0 {
			entries = short
		}
	}
	total := sizeOf(entries)
	entries = slices.DeleteFunc(entries, func(each entry) bool {
		if each.Running || total <= bytesMax {
			return false
		}
		total -= sizeOf([]entry{each}) - 1 // without the brackets, with the comma
		return true
	})
	return entries, true
}

func sizeOf(entries []entry) int {
	encoded, _ := json.Marshal(entries) // nothing in them can fail
	return len(encoded)
}

func shorten(argv []string, argumentsMost, bytesMost int) []string {
	short := slices.Clone(argv[:min(len(argv), argumentsMost)])
	for i, each := range short {
		if len(each) > bytesMost {
			short[i] = each[:bytesMost] + "…"
		}
	}
	if short == nil {
		return []string{}
	}
	return short
}
