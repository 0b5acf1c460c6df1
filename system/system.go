package system

import (
	"fmt"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// State is the node as the fold of its records. The zero State is a node that never ran; use NewState.
type State struct {
	Seq         uint64                `json:"seq"`
	Time        time.Time             `json:"time"`
	Incarnation string                `json:"incarnation"` // of the newest process
	Epoch       uint64                `json:"epoch"`       // from 1; one more after each unclean stop
	Stopped     bool                  `json:"stopped"`     // the newest process ended cleanly
	Open        map[string]struct{}   `json:"open"`        // sessions opened and not summarised
	Sessions    uint64                `json:"sessions"`    // ever opened
	Pins        map[string]audit.Hash `json:"pins"`        // by server.tool
	Rules       string                `json:"rules"`       // version of the policies in force
}

// MaxPins bounds the tools that can be pinned.
const MaxPins = 65_536

// NewState returns the node before its first record.
func NewState() *State {
	return &State{Open: map[string]struct{}{}, Pins: map[string]audit.Hash{}}
}

// A Command asks for something, in the imperative.
//
//sumtype:decl
type Command interface{ command() }

// The commands. All are the hypervisor's own or an operator's.
type (
	// Start is a process beginning to run the node.
	Start struct{ Incarnation, Program string }
	// Stop is its clean end.
	Stop struct{}
	// Open announces a session.
	Open struct{ Session string }
	// Commit states how a session ended: the number of its records and the root of their tree.
	Commit struct {
		Session string
		Records uint64
		Summary audit.Hash
	}
	// Pin records the definitions of tools at first sight. A tool that is pinned already keeps its pin.
	Pin struct{ Tools map[string]audit.Hash }
	// LoadRules puts policies in force.
	LoadRules struct{ Version string }
)

func (Start) command()     {}
func (Stop) command()      {}
func (Open) command()      {}
func (Commit) command()    {}
func (Pin) command()       {}
func (LoadRules) command() {}

// An Event is something that happened, in the past tense.
//
//sumtype:decl
type Event interface {
	// Append appends the event as a JSON object whose "type" is its published name.
	Append(dst []byte) []byte
	apply(s *State)
}

// The published names. The verifier in package audit knows the two that begin with audit.
const (
	startedType   = "system.started"
	stoppedType   = "system.stopped"
	openedType    = "audit.opened"
	committedType = "audit.committed"
	pinnedType    = "tools.pinned"
	rulesType     = "policy.loaded"
)

// The events.
type (
	// Started is recorded before a process does anything else.
	Started struct {
		Incarnation string `json:"incarnation"`
		Epoch       uint64 `json:"epoch"`
		Program     string `json:"program"`
	}
	// Stopped is recorded last.
	Stopped struct{}
	// Opened is recorded when a session has its first record.
	Opened struct {
		Session string `json:"session"`
	}
	// Committed is recorded when a session has its last.
	Committed struct {
		Session string     `json:"session"`
		Records uint64     `json:"records"`
		Summary audit.Hash `json:"summary"`
	}
	// Pinned is recorded when a tool is seen for the first time.
	Pinned struct {
		Tool   string     `json:"tool"`
		Digest audit.Hash `json:"digest"`
	}
	// RulesLoaded is recorded when other policies than before are in force.
	RulesLoaded struct {
		Version string `json:"version"`
	}
)

// An Outcome is a decision and what is to be recorded because of it.
type Outcome struct {
	policy.Decision
	Events []Event
}

// Decide answers a command; it changes nothing.
func Decide(s *State, caller policy.Caller, c Command) Outcome {
	if !caller.Runs() {
		return Outcome{Decision: policy.Refuse(policy.Forbidden, "only an operator does this; %s is %s", caller.DID, caller.Role)}
	}
	out := Outcome{Decision: policy.Allow(), Events: decide(s, c)}
	if len(out.Events) > 0 {
		out.Seq = s.Seq + 1
	}
	return out
}

func decide(s *State, c Command) []Event {
	switch c := c.(type) {
	case Start:
		epoch := s.Epoch
		if epoch == 0 || !s.Stopped {
			epoch++
		}
		return []Event{Started{c.Incarnation, epoch, c.Program}}
	case Stop:
		return []Event{Stopped{}}
	case Open:
		if _, open := s.Open[c.Session]; open {
			return nil
		}
		return []Event{Opened(c)}
	case Commit:
		if _, open := s.Open[c.Session]; !open {
			return nil // stated already: the effect that asks is repeated after a crash
		}
		return []Event{Committed(c)}
	case Pin:
		return decidePin(s, c)
	case LoadRules:
		if c.Version == s.Rules {
			return nil
		}
		return []Event{RulesLoaded(c)}
	}
	panic(fmt.Sprintf("system: unknown command %T", c))
}

// Apply folds a record into the state.
func Apply(s *State, seq uint64, at time.Time, events []Event) {
	if seq != s.Seq+1 {
		panic(fmt.Sprintf("system: record %d applied at %d", seq, s.Seq))
	}
	s.Seq, s.Time = seq, at
	for _, e := range events {
		e.apply(s)
	}
}

func (e Started) apply(s *State) { s.Incarnation, s.Epoch, s.Stopped = e.Incarnation, e.Epoch, false }
func (Stopped) apply(s *State)   { s.Stopped = true }
func (e Opened) apply(s *State)  { s.Open[e.Session] = struct{}{}; s.Sessions++ }

func (e Committed) apply(s *State)   { delete(s.Open, e.Session) }
func (e Pinned) apply(s *State)      { s.Pins[e.Tool] = e.Digest }
func (e RulesLoaded) apply(s *State) { s.Rules = e.Version }

// Append appends the event's JSON.
func (e Started) Append(dst []byte) []byte {
	return audit.Event(dst, startedType).Str("incarnation", e.Incarnation).Uint("epoch", e.Epoch).Str("program", e.Program).End()
}

// Append appends the event's JSON.
func (Stopped) Append(dst []byte) []byte { return audit.Event(dst, stoppedType).End() }

// Append appends the event's JSON.
func (e Opened) Append(dst []byte) []byte {
	return audit.Event(dst, openedType).Str("session", e.Session).End()
}

// Append appends the event's JSON.
func (e Committed) Append(dst []byte) []byte {
	return audit.Event(dst, committedType).Str("session", e.Session).Uint("records", e.Records).Hash("summary", e.Summary).End()
}

// Append appends the event's JSON.
func (e Pinned) Append(dst []byte) []byte {
	return audit.Event(dst, pinnedType).Str("tool", e.Tool).Hash("digest", e.Digest).End()
}

// Append appends the event's JSON.
func (e RulesLoaded) Append(dst []byte) []byte {
	return audit.Event(dst, rulesType).Str("version", e.Version).End()
}

// AppendEvents appends events as the JSON array of a record.
func AppendEvents(dst []byte, events []Event) []byte {
	dst = append(dst, '[')
	for i, e := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = e.Append(dst)
	}
	return append(dst, ']')
}

// ParseEvents reads the events of a record. It returns audit.ErrEvent for a type or a member it does not know.
func ParseEvents(b []byte) ([]Event, error) { return readers.Parse(b) }

func reader[E Event]() func([]byte) (Event, error) {
	return audit.Reader(func(e E) Event { return e })
}

var readers = audit.Readers[Event]{
	startedType:   reader[Started](),
	stoppedType:   reader[Stopped](),
	openedType:    reader[Opened](),
	committedType: reader[Committed](),
	pinnedType:    reader[Pinned](),
	rulesType:     reader[RulesLoaded](),
}
