package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrEvent is returned, wrapped with the type, for an event this program does not know: it is of a newer one, or not ours.
// A reader stops at it; it is never skipped.
var ErrEvent = errors.New("unknown event")

// Readers has one entry for each of a kernel's events, under its published name: it makes the event of its members, without
// the type.
type Readers[E any] map[string]func(members []byte) (E, error)

// Reader is the entry of an event that encoding/json can read. A member it does not know is an error.
func Reader[E any, T any](as func(T) E) func([]byte) (E, error) {
	return func(members []byte) (e E, err error) {
		var v T
		d := json.NewDecoder(bytes.NewReader(members))
		d.DisallowUnknownFields()
		if err := d.Decode(&v); err != nil {
			return e, err
		}
		return as(v), nil
	}
}

// Parse reads the events of a record. It returns ErrEvent for a type or a member it does not know.
func (r Readers[E]) Parse(events []byte) ([]E, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(events, &raw); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvent, err)
	}
	out := make([]E, len(raw))
	for i, b := range raw {
		kind, members, err := splitType(b)
		if err != nil {
			return nil, err
		}
		read, ok := r[kind]
		if !ok {
			return nil, fmt.Errorf("%w: %q", ErrEvent, kind)
		}
		if out[i], err = read(members); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrEvent, kind, err)
		}
	}
	return out, nil
}

// splitType takes the "type" member, which every event has first, off the front of an event.
func splitType(event []byte) (kind string, members []byte, err error) {
	rest, ok := bytes.CutPrefix(event, []byte(`{"type":"`))
	end := bytes.IndexByte(rest, '"')
	if !ok || end < 0 {
		return "", nil, fmt.Errorf("%w: it does not begin with its type", ErrEvent)
	}
	kind, rest = string(rest[:end]), rest[end+1:]
	return kind, append([]byte{'{'}, bytes.TrimPrefix(rest, []byte{','})...), nil
}
