package agent

import (
	"fmt"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// State is an agent's standing as the fold of its records. The zero State but for its DID is a newcomer.
type State struct {
	DID         policy.DID       `json:"did"`
	Seq         uint64           `json:"seq"`
	Time        time.Time        `json:"time"`
	Set         *ring.Sigma      `json:"set,omitempty"`         // σ_raw after the newest entry; nil: none
	Configured  *ring.Sigma      `json:"configured,omitempty"`  // what the configuration said last; nil: nothing yet
	Risk        ring.Sigma       `json:"risk,omitempty"`        // from 0 to 1, clamped after every entry
	Blacklisted bool             `json:"blacklisted,omitempty"` // slashed and not reinstated since
	Credited    string           `json:"credited,omitempty"`    // the day of the newest clean session, in UTC: 2026-01-02
	Asked       *WitnessAsked    `json:"asked,omitempty"`       // the newest act of ring 0 that a second operator may complete
	Bonds       []Bond           `json:"bonds,omitempty"`       // outstanding, oldest first
	Heard       map[string]Heard `json:"heard,omitempty"`       // of each session that may send more
	Untold      Stretch          `json:"untold,omitzero"`       // holds the entries that a reputation service is to be told of

	Quarantine *Quarantined `json:"quarantine,omitempty"` // never written to; nil: none

	Killed *policy.Kill `json:"killed,omitempty"` // it is stopped everywhere; nil: it is not
	Lifted string       `json:"lifted,omitempty"` // the kill that was lifted last, by its id
}

// Sigma returns σ_raw.
func (s *State) Sigma() ring.Sigma {
	if s.Set == nil {
		return ring.Newcomer
	}
	return *s.Set
}

// sigmaAfter returns the σ_raw that events will have made.
func (s *State) sigmaAfter(events []Event) ring.Sigma {
	sigma := s.Sigma()
	for _, e := range events {
		switch e := e.(type) {
		case SigmaSet:
			sigma = e.Sigma
		case Moved:
			sigma = e.Sigma
		default: // moves no σ
		}
	}
	return sigma
}

// A Command asks for something, in the imperative.
//
//sumtype:decl
type Command interface{ command() }

// An Event is something that happened, in the past tense: a part of a record of the agent's stream.
//
//sumtype:decl
type Event interface {
	// Append appends the event as a JSON object whose "type" is its published name.
	Append(dst []byte) []byte
	apply(s *State, at time.Time)
}

// Env is what a decision may know beyond the state. It is stamped by package hypervisor.
type Env struct {
	Now       time.Time
	Caller    policy.Caller
	Operators int      // how many are configured: with two or more, an act of ring 0 needs a witness
	Over      []string // sessions that State has heard of and that will send nothing any more
}

// An Outcome is a decision and what is to be recorded because of it.
type Outcome struct {
	policy.Decision
	Events []Event // empty: nothing is recorded

	// Sigma is σ_raw after it, and Lost what a clip took: also of an entry that was told before.
	Sigma, Lost ring.Sigma
}

// Decide answers a command; it changes nothing.
func Decide(s *State, env Env, c Command) Outcome {
	out := decide(s, &env, c)
	if out.Sigma == 0 {
		out.Sigma = s.sigmaAfter(out.Events)
	}
	if len(out.Events) == 0 {
		return out
	}
	if len(s.Bonds) > 0 {
		out.Events = append(out.Events, s.cuts(out.Events)...)
	}
	if len(env.Over) > 0 {
		out.Events = append(out.Events, SessionsOver{env.Over})
	}
	out.Seq = s.Seq + 1
	return out
}

func decide(s *State, env *Env, c Command) Outcome {
	switch c := c.(type) {
	case SetSigma:
		return decideSetSigma(s, env, c)
	case Reinstate:
		return decideReinstate(s, env, c)
	case Slash:
		return decideSlash(s, env, c)
	case Report:
		return decideReport(s, env, c)
	case Enter:
		return decideEnter(s, env, c)
	case EnterQuarantine:
		return decideQuarantine(s, env, c)
	case EndQuarantine:
		return decideEndQuarantine(s, env, c)
	case Tick:
		return decideTick(s, env)
	case Noticed:
		return decideNoticed(s, env, c)
	case Kill:
		return decideKill(s, env, c)
	case LiftKill:
		return decideLiftKill(s, env)
	}
	panic(fmt.Sprintf("agent: unknown command %T", c))
}

func refuse(code policy.Code, format string, args ...any) Outcome {
	return Outcome{Decision: policy.Refuse(code, format, args...)}
}

func allow(events ...Event) Outcome { return Outcome{Decision: policy.Allow(), Events: events} }

// Apply folds a record into the state.
func Apply(s *State, seq uint64, at time.Time, events []Event) {
	if seq != s.Seq+1 {
		panic(fmt.Sprintf("agent: record %d applied to %s at %d", seq, s.DID, s.Seq))
	}
	s.Seq, s.Time = seq, at
	for _, e := range events {
		e.apply(s, at)
	}
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

// readers has one entry for every event, under its published name.
var readers = audit.Readers[Event]{
	sigmaSetType: reader[SigmaSet](),
	movedType:    reader[Moved](),
	askedType:    reader[WitnessAsked](),
	overType:     reader[SessionsOver](),
	noticedType:  reader[Reported](),

	reservedType:    reader[BondReserved](),
	releasedType:    reader[BondReleased](),
	cutType:         reader[BondsCut](),
	killedType:      reader[Killed](),
	liftedType:      reader[KillLifted](),
	quarantinedType: reader[QuarantineEntered](),
	quarantineOver:  reader[QuarantineReleased](),
}
