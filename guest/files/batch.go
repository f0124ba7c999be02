package files

import (
	"encoding/json"

	"callbox.dev/guest/operation"
	"callbox.dev/guest/wire"
)

// A match's text takes at most so much of a frame: its path may take the rest.
const (
	textEncodedMax = 30 << 10
	textSafeBytes  = textEncodedMax / 6 // JSON writes a byte as up to six
)

// tell sends items in as few events as fit frames: a hundred long names need more than one.
func tell[T any](stream operation.Stream, items []T, event func([]T) any) error {
	payload, err := json.Marshal(event(items))
	if err != nil {
		return err
	}
	if len(payload) <= wire.PayloadMax || len(items) == 1 {
		return stream.Event(json.RawMessage(payload))
	}
	half := len(items) / 2
	if err := tell(stream, items[:half], event); err != nil {
		return err
	}
	return tell(stream, items[half:], event)
}

// fits says whether a text can be part of a match.
func fits(text string) bool {
	if len(text) <= textSafeBytes {
		return true
	}
	encoded, _ := json.Marshal(text)
	return len(encoded) <= textEncodedMax
}
