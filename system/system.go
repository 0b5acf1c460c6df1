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
	Pins        map[string]Definition `json:"pins"`        // by server.tool
	Rules       string                `json:"rules"`       // version of the policies in force
	Config      audit.Hash            `json:"config"`      // of the configuration in force; zero: none was said
	Tokens      map[string]Token      `json:"tokens"`      // by the hash of the secret; those that expired go when the next is issued
	Aliases     map[string]string     `json:"aliases"`     // the newest session of each name
	Killed      *policy.Kill          `json:"killed"`      // everything is stopped; nil: it is not
	Lifted      string                `json:"lifted"`      // the kill of everything that was lifted last, by its id
}

// NewState returns the node before its first record.
func NewState() *State {
	return &State{Open: map[string]struct{}{}, Pins: map[string]Definition{}, Tokens: map[string]Token{}, Aliases: map[string]string{}}
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
	// LoadRules puts policies in force.
	LoadRules struct{ Version string }
	// LoadConfig puts a configuration in force.
	LoadConfig struct{ Digest audit.Hash }
)

func (Start) command()     {}
func (Stop) command()      {}
func (Open) command()      {}
func (Commit) command()    {}
func (LoadRules) command() {}

func (LoadConfig) command() {}

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
	rulesType     = "policy.loaded"
	configType    = "config.loaded"
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
	// RulesLoaded is recorded when other policies than before are in force.
	RulesLoaded struct {
		Version string `json:"version"`
	}
	// ConfigLoaded is recorded when another configuration than before is in force.
	ConfigLoaded struct {
		Digest audit.Hash `json:"digest"` // SHA-256 of its text
	}
)

// Env is what a decision may know beyond the state. It is stamped by package hypervisor.
type Env struct {
	Now    time.Time
	Caller policy.Caller
	Random [32]byte     // salts derive from it
	Kills  policy.Kills // in force, as far as this process knows
}

// An Outcome is a decision and what is to be recorded because of it.
type Outcome struct {
	policy.Decision
	Events []Event
	Parts  []audit.Part // what the events commit to
}

// Decide answers a command; it changes nothing.
func Decide(s *State, env Env, c Command) Outcome {
	if !env.Caller.Runs() {
		return refuse(policy.Forbidden, "only an operator does this; %s is %s", env.Caller.DID, env.Caller.Role)
	}
	out := decide(s, &env, c)
	if len(out.Events) > 0 {
		out.Seq = s.Seq + 1
	}
	return out
}

func decide(s *State, env *Env, c Command) Outcome {
	switch c := c.(type) {
	case Start:
		epoch := s.Epoch
		if epoch == 0 || !s.Stopped {
			epoch++
		}
		return allow(Started{c.Incarnation, epoch, c.Program})
	case Stop:
		return allow(Stopped{})
	case Open:
		if _, open := s.Open[c.Session]; open {
			return allow()
		}
		return allow(Opened(c))
	case Commit:
		if _, open := s.Open[c.Session]; !open {
			return allow() // stated already: the effect that asks is repeated after a crash
		}
		return allow(Committed(c))
	case Pin:
		return decidePin(s, env, c)
	case Accept:
		return decideAccept(s, env, c)
	case LoadRules:
		if c.Version == s.Rules {
			return allow()
		}
		return allow(RulesLoaded(c))
	case LoadConfig:
		if c.Digest == s.Config {
			return allow()
		}
		return allow(ConfigLoaded(c))
	case IssueToken:
		return decideIssue(s, env, c)
	case RevokeToken:
		return decideRevoke(s, c)
	case BindAlias:
		return decideAlias(s, c)
	case Kill:
		return decideKill(s, c)
	case LiftKill:
		return decideLift(s)
	case RevokeTokensOf:
		return decideRevokeOf(s, c)
	}
	panic(fmt.Sprintf("system: unknown command %T", c))
}

func refuse(code policy.Code, format string, args ...any) Outcome {
	return Outcome{Decision: policy.Refuse(code, format, args...)}
}

func allow(events ...Event) Outcome { return Outcome{Decision: policy.Allow(), Events: events} }

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
func (e RulesLoaded) apply(s *State) { s.Rules = e.Version }

func (e ConfigLoaded) apply(s *State) { s.Config = e.Digest }

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
func (e RulesLoaded) Append(dst []byte) []byte {
	return audit.Event(dst, rulesType).Str("version", e.Version).End()
}

// Append appends the event's JSON.
func (e ConfigLoaded) Append(dst []byte) []byte {
	return audit.Event(dst, configType).Hash("digest", e.Digest).End()
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
	acceptedType:  reader[Accepted](),
	issuedType:    reader[TokenIssued](),
	revokedType:   reader[TokenRevoked](),
	aliasType:     reader[AliasBound](),
	killedType:    reader[Killed](),
	liftedType:    reader[KillLifted](),
	rulesType:     reader[RulesLoaded](),
	configType:    reader[ConfigLoaded](),
}
