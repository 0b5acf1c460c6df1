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
	Cause    string     `json:"cause,omitempty"` // what people can look up: an action, an incident, a reason
}

// Enter hands an agent what a session owes it. The hypervisor's own.
type Enter struct{ Entry Entry }

func (Enter) command() {}

// Moved is an entry in the ledger: what it was, and what it has made of the standing.
type Moved struct {
	Entry
	Sigma       ring.Sigma `json:"sigma"` // σ_raw from then on
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
	case e.Number <= s.Heard[e.Session]:
		return allow() // it is told again, since nobody recorded that it was told
	}
	if e.Kind == Clean && s.Credited == day(env.Now) {
		return allow() // once a day
	}
	return s.move(e, Moved{})
}

// day names the day of a time, in UTC.
func day(at time.Time) string { return at.UTC().Format(time.DateOnly) }

// move makes the entry; m has what else is to be said of it.
func (s *State) move(e Entry, m Moved) Outcome {
	m.Entry = e
	m.Sigma, m.Risk = e.after(s.Sigma(), s.Risk, 0)
	return allow(m)
}

// Append appends the event's JSON.
func (e Moved) Append(dst []byte) []byte {
	return audit.Event(dst, movedType).OptStr("session", e.Session).OptUint("number", e.Number).Str("kind", string(e.Kind)).
		OptMillionths("share", uint32(e.Share)).OptMillionths("severity", uint32(e.Severity)).OptStr("cause", e.Cause).
		Millionths("sigma", uint32(e.Sigma)).Millionths("risk", uint32(e.Risk)).
		OptStr("witness", string(e.Witness)).OptBool("unwitnessed", e.Unwitnessed).End()
}

func (e Moved) apply(s *State, at time.Time) {
	sigma := e.Sigma
	s.Set, s.Risk = &sigma, e.Risk
	switch e.Kind {
	case Clean:
		s.Credited = day(at)
	case Slashing:
		s.Blacklisted, s.Asked = true, nil
	case Reinstatement:
		s.Blacklisted, s.Asked = false, nil
	}
	s.heard(e.Entry)
}

// heard remembers the number of an entry.
func (s *State) heard(e Entry) {
	if e.Session == "" {
		return
	}
	if s.Heard == nil {
		s.Heard = map[string]uint64{}
	}
	s.Heard[e.Session] = e.Number
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
