package process

import (
	"encoding/json"
	"errors"
	"time"

	"callbox.dev/guest/operation"
)

const (
	sendLeast = 16 << 10
	sendMost  = 256 << 10
)

type place struct {
	StdoutOffset int64 `json:"stdout_offset"`
	StderrOffset int64 `json:"stderr_offset"`
	Follow       *bool `json:"follow"`
}

func (p place) check() error {
	if p.StdoutOffset < 0 || p.StderrOffset < 0 {
		return operation.Fail("bad_request", "offsets begin at 0")
	}
	return nil
}

func (m *Manager) start(_ operation.Stream, raw json.RawMessage) (any, error) {
	e, err := m.begin(raw)
	if err != nil {
		return nil, err
	}
	return map[string]any{"id": e.request.ID, "pid": e.pid}, nil
}

func (m *Manager) run(stream operation.Stream, raw json.RawMessage) (any, error) {
	var from place
	if err := parse(raw, &from); err != nil {
		return nil, err
	}
	if err := from.check(); err != nil {
		return nil, err
	}
	e, err := m.begin(raw)
	if err != nil {
		return nil, err
	}
	from.Follow = nil
	return e.attach(stream, from)
}

func (m *Manager) attach(stream operation.Stream, raw json.RawMessage) (any, error) {
	var from place
	if err := parse(raw, &from); err != nil {
		return nil, err
	}
	if err := from.check(); err != nil {
		return nil, err
	}
	e, err := m.named(raw)
	if err != nil {
		return nil, err
	}
	return e.attach(stream, from)
}

// attach sends both channels from where the host is, side by side: one that is full does not hold up the other.
func (e *exec) attach(stream operation.Stream, from place) (any, error) {
	follow := from.Follow == nil || *from.Follow
	failures := make(chan error, 2)
	go func() { failures <- e.pump(stream, operation.Stdout, e.out, from.StdoutOffset, follow) }()
	go func() { failures <- e.pump(stream, operation.Stderr, e.err, from.StderrOffset, follow) }()
	if err := errors.Join(<-failures, <-failures); err != nil {
		return nil, err
	}
	if follow {
		select {
		case <-e.done:
		case <-stream.Context().Done():
			return nil, stream.Context().Err()
		}
	}
	return e.result(), nil
}

// pump sends one ring from `offset` until its end, or until the exec is done although an orphan still writes to it.
func (e *exec) pump(stream operation.Stream, channel operation.Channel, from *ring, offset int64, follow bool) error {
	from.attach()
	defer from.detach()
	var buffer []byte
	over := false
	for {
		got, err := from.read(buffer, offset)
		if err != nil {
			return operation.Fail("internal", "the ring cannot be read: "+err.Error())
		}
		switch {
		case got.gap != nil:
			gap := map[string]any{
				"event": "gap", "channel": channel, "from": got.gap.from, "to": got.gap.to, "reason": got.gap.reason,
			}
			if err := stream.Event(gap); err != nil {
				return err
			}
			offset = got.gap.to
		case got.n > 0 && buffer == nil:
			buffer = make([]byte, sendLeast) // not before there is something: most commands are silent on one channel
		case got.n > 0:
			if err := stream.Send(channel, buffer[:got.n]); err != nil {
				return err
			}
			offset += int64(got.n)
			from.sent(offset)
			if got.n == len(buffer) && got.n < sendMost {
				buffer = make([]byte, 4*got.n)
			}
		case got.ended || over || !follow:
			return nil
		default:
			select {
			case <-got.change:
			case <-e.done:
				over = true // one more look: what came before the end is sent
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
		}
	}
}

func (m *Manager) stdin(stream operation.Stream, raw json.RawMessage) (any, error) {
	var asked struct {
		Offset *int64 `json:"offset"`
		Close  *bool  `json:"close"`
	}
	if err := parse(raw, &asked); err != nil {
		return nil, err
	}
	e, err := m.named(raw)
	if err != nil {
		return nil, err
	}
	written, err := e.input.take(stream, asked.Offset, asked.Close == nil || *asked.Close)
	if err != nil {
		return nil, err
	}
	return map[string]any{"written": written}, nil
}

func (m *Manager) wait(stream operation.Stream, raw json.RawMessage) (any, error) {
	var asked struct {
		TimeoutS *float64 `json:"timeout_s"`
	}
	if err := parse(raw, &asked); err != nil {
		return nil, err
	}
	e, err := m.named(raw)
	if err != nil {
		return nil, err
	}
	var alarm <-chan time.Time
	if asked.TimeoutS != nil {
		alarm = time.After(time.Duration(*asked.TimeoutS * float64(time.Second)))
	}
	select {
	case <-e.done:
		return e.result(), nil
	case <-alarm:
		return nil, operation.Fail("timeout", "it still runs")
	case <-stream.Context().Done():
		return nil, stream.Context().Err()
	}
}
