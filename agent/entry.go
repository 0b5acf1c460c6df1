package agent

import (
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// entry.go: what moves a standing (SPEC §3 "Standing"). A session owes entries until a record of its own says that they were
// told; they come in the order of their numbers, and again after a crash.

// The published names.
const (
	movedType = "agent.standing_moved"
	overType  = "agent.sessions_over"
)

// A Kind says what an entry is about.
type Kind string

// The kinds of entries that sessions owe, and those of people and services.
const (
	Clean      Kind = "clean"      // a session ended in which the agent did something and nothing against it was found
	Fault      Kind = "fault"      // Share of the blame
	Quarantine Kind = "quarantine" // of Severity
	Slashing   Kind = "slash"      // of Severity: nothing is left, and the agent is blacklisted
	Clip       Kind = "clip"       // a slash of Severity took the Bond
	Reserve    Kind = "reserve"    // Amount is to be set aside for Vouchee, as Bond
	Release    Kind = "release"    // Bond is free again

	Reinstatement Kind = "reinstate" // by an operator
	Score         Kind = "score"     // by a service
)

// An Entry is what a session tells an agent's stream. The zero Entry is none.
type Entry struct {
	Session  string     `json:"session,omitempty"`
	Number   uint64     `json:"number,omitempty"` // of what the session has owed so far, from 1
	Kind     Kind       `json:"kind"`
	Share    ring.Sigma `json:"share,omitempty"`
	Severity ring.Sigma `json:"severity,omitempty"`
	Bond     string     `json:"bond,omitempty"` // the vouch it was put up for
	Vouchee  policy.DID `json:"vouchee,omitempty"`
	Amount   ring.Sigma `json:"amount,omitempty"`
	Above    ring.Sigma `json:"above,omitempty"` // of a Reserve: the vouchee's σ_raw, which the voucher's must exceed
	Cause    string     `json:"cause,omitempty"` // what people can look up: an action, an incident, a reason
}

// A Heard is what an agent's stream remembers of one session that may tell it something again.
type Heard struct {
	Number uint64             `json:"number"`          // of the newest entry
	Clips  map[uint64]Clipped `json:"clips,omitempty"` // what came of each, since the session goes on from that
}

// A Clipped is what came of a clip.
type Clipped struct {
	Sigma ring.Sigma `json:"sigma"`
	Lost  ring.Sigma `json:"lost"`
}

// Enter hands an agent what a session owes it. The hypervisor's own.
type Enter struct{ Entry Entry }

func (Enter) command() {}

// Moved is an entry in the ledger: what it was, and what it has made of the standing.
type Moved struct {
	Entry
	Lost        ring.Sigma `json:"lost,omitempty"` // of a clip: the bond, as much as was left of it
	Sigma       ring.Sigma `json:"sigma"`          // σ_raw from then on
	Risk        ring.Sigma `json:"risk"`
	Witness     policy.DID `json:"witness,omitempty"`     // the operator who co-signed an act of ring 0
	Unwitnessed bool       `json:"unwitnessed,omitempty"` // the act of the only operator there is
}

// SessionsOver is recorded with an entry when sessions have ended since: their numbers need not be remembered.
type SessionsOver struct {
	Sessions []string `json:"sessions"`
}

func decideEnter(s *State, env *Env, c Enter) Outcome {
	e := c.Entry
	switch {
	case env.Caller.Role != policy.SystemRole:
		return refuse(policy.Forbidden, "an entry is what a session owes; %s is %s", env.Caller.DID, env.Caller.Role)
	case e.Kind == Reserve:
		return decideReserve(s, e)
	case e.Number <= s.Heard[e.Session].Number: // it is told again, since nobody recorded that it was told
		out := allow()
		if c, clipped := s.Heard[e.Session].Clips[e.Number]; clipped {
			out.Sigma, out.Lost = c.Sigma, c.Lost
		}
		return out
	case e.Kind == Clean && (s.Blacklisted || s.Credited == day(env.Now)):
		return allow() // once a day, and nothing to who is to be reinstated first
	case (e.Kind == Release || e.Kind == Clip) && s.bond(e.Session, e.Bond) < 0:
		return allow()
	case e.Kind == Release:
		return allow(BondReleased{e.Session, e.Number, e.Bond})
	}
	if e.Kind == Quarantine {
		return s.quarantine(env, e, quarantineOwed(e))
	}
	return s.move(e, Moved{})
}

// day names the day of a time, in UTC.
func day(at time.Time) string { return at.UTC().Format(time.DateOnly) }

// move makes the entry; m has what else is to be said of it.
func (s *State) move(e Entry, m Moved) Outcome {
	m.Entry = e
	if i := s.bond(e.Session, e.Bond); e.Kind == Clip && i >= 0 {
		m.Lost = s.Bonds[i].Amount
	}
	m.Sigma, m.Risk = e.after(s.Sigma(), s.Risk, m.Lost)
	out := allow(m)
	out.Lost = m.Lost
	return out
}

// Append appends the event's JSON.
func (e Moved) Append(dst []byte) []byte {
	return audit.Event(dst, movedType).OptStr("session", e.Session).OptUint("number", e.Number).Str("kind", string(e.Kind)).
		OptMillionths("share", uint32(e.Share)).OptMillionths("severity", uint32(e.Severity)).OptStr("bond", e.Bond).
		OptStr("cause", e.Cause).OptMillionths("lost", uint32(e.Lost)).
		Millionths("sigma", uint32(e.Sigma)).Millionths("risk", uint32(e.Risk)).
		OptStr("witness", string(e.Witness)).OptBool("unwitnessed", e.Unwitnessed).End()
}

func (e Moved) apply(s *State, at time.Time) {
	sigma := e.Sigma
	s.Set, s.Risk = &sigma, e.Risk
	if e.Kind.Notable() {
		s.owe()
	}
	switch e.Kind {
	case Clean:
		s.Credited = day(at)
	case Slashing:
		s.Blacklisted, s.Asked = true, nil
	case Reinstatement:
		s.Blacklisted, s.Asked = false, nil
	case Clip:
		s.drop(e.Session, e.Bond)
	}
	s.heard(e.Session, e.Number)
	if h := s.Heard[e.Session]; e.Kind == Clip {
		if h.Clips == nil {
			h.Clips = map[uint64]Clipped{}
			s.Heard[e.Session] = h
		}
		h.Clips[e.Number] = Clipped{e.Sigma, e.Lost}
	}
}

// heard remembers the number of an entry.
func (s *State) heard(session string, number uint64) {
	if session == "" {
		return
	}
	if s.Heard == nil {
		s.Heard = map[string]Heard{}
	}
	h := s.Heard[session]
	h.Number = number
	s.Heard[session] = h
}

// Append appends the event's JSON.
func (e SessionsOver) Append(dst []byte) []byte {
	return audit.Event(dst, overType).Strs("sessions", e.Sessions).End()
}

func (e SessionsOver) apply(s *State, _ time.Time) {
	for _, id := range e.Sessions {
		delete(s.Heard, id)
	}
	if len(s.Heard) == 0 {
		s.Heard = nil
	}
}

// HeardOf returns the sessions whose entries' numbers are remembered, in order.
func (s *State) HeardOf() []string {
	all := make([]string, 0, len(s.Heard))
	for id := range s.Heard {
		all = append(all, id)
	}
	slices.Sort(all)
	return all
}
