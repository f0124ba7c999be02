package process

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"callbox.dev/guest/operation"
)

// The limits of a request.
const (
	argumentsMax    = 4096
	environmentMax  = 1024
	ringBytesLeast  = 4096
	ringBytesMost   = 1 << 30
	ringBytesUsual  = 16 << 20
	terminalSizeMax = 4096
)

var identifier = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

type size struct {
	Rows    int `json:"rows"`
	Columns int `json:"columns"`
}

// start is the request of exec.start. Two requests are the same if they are equal after defaults were filled in.
type start struct {
	ID        string            `json:"id"`
	Argv      []string          `json:"argv"`
	Shell     string            `json:"shell"`
	Cwd       string            `json:"cwd"`
	Env       map[string]string `json:"env"`
	User      string            `json:"user"`
	Stdin     string            `json:"stdin"`
	Pty       *size             `json:"pty"`
	TimeoutS  *float64          `json:"timeout_s"`
	RingBytes int64             `json:"ring_bytes"`
	OnFull    string            `json:"on_full"`
	KeepAlive bool              `json:"keep_alive"`
}

func parseStart(raw json.RawMessage, work string) (*start, error) {
	asked := &start{Cwd: work, User: "box", Stdin: "none", RingBytes: ringBytesUsual, OnFull: "drop"}
	if err := parse(raw, asked); err != nil {
		return nil, err
	}
	if asked.Env == nil {
		asked.Env = map[string]string{}
	}
	if asked.Cwd == "" {
		asked.Cwd = work
	}
	return asked, asked.check()
}

func (s *start) check() error {
	bad := func(format string, arguments ...any) error {
		return operation.Fail("bad_request", fmt.Sprintf(format, arguments...))
	}
	switch {
	case !identifier.MatchString(s.ID):
		return bad("id must be 1 to 64 of a-z 0-9 _ -")
	case (len(s.Argv) == 0) == (s.Shell == ""):
		return bad("give either argv or shell")
	case len(s.Argv) > argumentsMax || len(s.Env) > environmentMax:
		return bad("more than %d arguments or %d variables", argumentsMax, environmentMax)
	case len(s.Argv) > 0 && s.Argv[0] == "":
		return bad("argv[0] is empty")
	case !slices.Contains([]string{"box", "root"}, s.User):
		return bad("user is box or root")
	case !slices.Contains([]string{"none", "pipe"}, s.Stdin):
		return bad("stdin is none or pipe")
	case !slices.Contains([]string{"drop", "block"}, s.OnFull):
		return bad("on_full is drop or block")
	case s.RingBytes < ringBytesLeast || s.RingBytes > ringBytesMost:
		return bad("ring_bytes is from %d to %d", ringBytesLeast, ringBytesMost)
	case s.TimeoutS != nil && !(*s.TimeoutS > 0 && *s.TimeoutS < math.MaxInt32):
		return bad("timeout_s must be more than 0")
	case s.Pty != nil && !s.Pty.valid():
		return bad("rows and columns are from 1 to %d", terminalSizeMax)
	}
	texts := append([]string{s.Shell, s.Cwd}, s.Argv...)
	for key, value := range s.Env {
		if key == "" || strings.Contains(key, "=") {
			return bad("%q cannot be the name of a variable", key)
		}
		texts = append(texts, key, value)
	}
	if slices.ContainsFunc(texts, func(each string) bool { return strings.ContainsRune(each, 0) }) {
		return bad("NUL cannot be passed to a process")
	}
	return nil
}

func (s *size) valid() bool {
	return s.Rows >= 1 && s.Rows <= terminalSizeMax && s.Columns >= 1 && s.Columns <= terminalSizeMax
}

func (s *start) argv() []string {
	if s.Shell != "" {
		return []string{"/bin/sh", "-c", s.Shell}
	}
	return s.Argv
}

// same tells a repeated request from another one that took the same id.
func (s *start) same(other *start) bool {
	mine, _ := json.Marshal(s)
	others, _ := json.Marshal(other)
	return string(mine) == string(others)
}

func parse(raw json.RawMessage, into any) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return operation.Fail("bad_request", err.Error())
	}
	return nil
}
