package files

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLongNamesAndLinesFitFrames(t *testing.T) {
	work := workFolder(t)
	line := strings.Repeat("\x01", 20_000)
	for i := range 200 {
		name := filepath.Join(work, fmt.Sprintf("%03d", i)+strings.Repeat("\x02", 250))
		if err := os.WriteFile(name, []byte("needle"+line), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for op, key := range map[string]string{"fs.list": "entries", "fs.search": "matches"} {
		stream := newStream(t, nil)
		stream.strict = true
		if _, err := call(t, stream, op, fields{"path": work, "pattern": "needle", "line_bytes_max": 16_384}); err != nil {
			t.Fatal(op, err)
		}
		if got := len(stream.listed(key)); got != 200 {
			t.Error(op, got)
		}
	}
}
