package process

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"callbox.dev/guest/wire"
)

// entriesOf are as large as can be; the first `running` of them run.
func entriesOf(count, running, idBytes int, argument string) []entry {
	code := 255
	var all []entry
	for i := range count {
		all = append(all, entry{
			ID: fmt.Sprintf("%0*d", idBytes, i), Pid: 4_194_304, Argv: []string{argument, argument, argument, argument, argument},
			Running: i < running, StartedNs: 1<<63 - 1, ExitCode: &code, StdoutEnd: 1<<63 - 1, StderrEnd: 1<<63 - 1,
		})
	}
	return all
}

func TestAListOfAllExecsFitsAFrame(t *testing.T) {
	awkward := strings.Repeat("\x01\xff", 5000) // six bytes each in JSON
	for name, each := range map[string]struct {
		entries  []entry
		complete bool
	}{
		"none":                  {nil, true},
		"256 as callbox starts": {entriesOf(256, 128, 17, "a long argument of a usual program"), true},
		"256 awkward":           {entriesOf(256, 0, 17, awkward), true},
		"all, as callbox":       {entriesOf(384, 128, 17, awkward), false},
		"all, with long ids":    {entriesOf(384, 128, 64, awkward), false},
	} {
		kept, truncated := fit(each.entries, listBytesMax)
		payload, err := json.Marshal(map[string]any{"ok": map[string]any{"execs": kept, "truncated": truncated}})
		if err != nil || len(payload) > wire.PayloadMax {
			t.Errorf("%s: %d bytes, %v", name, len(payload), err)
		}
		if truncated == each.complete || (each.complete && len(kept) != len(each.entries)) {
			t.Errorf("%s: %d of %d, truncated %v", name, len(kept), len(each.entries), truncated)
		}
		if truncated && len(payload) < wire.PayloadMax*9/10 {
			t.Errorf("%s: only %d bytes used", name, len(payload))
		}
		running := 0
		for _, one := range kept {
			if one.Running {
				running++
			}
			if one.Argv == nil {
				t.Fatalf("%s: argv is null", name)
			}
		}
		if truncated && (running != 128 || kept[len(kept)-1].ID != each.entries[len(each.entries)-1].ID) {
			t.Errorf("%s: %d running, and the latest is %s", name, running, kept[len(kept)-1].ID)
		}
	}
}

func TestAShortListKeepsItsArguments(t *testing.T) {
	kept, truncated := fit(entriesOf(3, 1, 17, strings.Repeat("x", 150)), listBytesMax)
	if truncated || len(kept[2].Argv) != 5 || len(kept[2].Argv[4]) != 150 {
		t.Error(kept)
	}
}
