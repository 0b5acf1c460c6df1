package session

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// ledger.go: what the session owes its agents' streams (SPEC §3). An event that moves a standing owes an entry; entries are told
// in the order of their numbers, again after a crash, until a record says that they were. A session is not archived before.

// The published names.
const (
	cleanType = "session.clean"
	toldType  = "session.told"
)

// An OwedEntry is an entry that an agent's stream is to be told of.
type OwedEntry struct {
	Agent policy.DID  `json:"agent"`
	Entry agent.Entry `json:"entry"`
}

// A Conduct is what an agent has done in the session, for as long as the session is kept: also after it has left.
type Conduct struct {
	Changed int  `json:"changed,omitempty"` // calls that change something, done and not undone
	Against bool `json:"against,omitempty"` // an entry against it was owed
}

// owe notes that an agent is to be told; the session and the number are filled in. The event that calls it owes Tell.
func (s *State) owe(did policy.DID, e agent.Entry) {
	s.Entries++
	e.Session, e.Number = s.ID, s.Entries
	s.Owed = append(s.Owed, OwedEntry{did, e})
	switch e.Kind {
	case agent.Fault, agent.Quarantine, agent.Slashing, agent.Clip:
		s.conduct(did).Against = true
	}
}

func (s *State) conduct(did policy.DID) *Conduct {
	c := s.Conduct[did]
	if c == nil {
		c = &Conduct{}
		if s.Conduct == nil {
			s.Conduct = map[policy.DID]*Conduct{}
		}
		s.Conduct[did] = c
	}
	return c
}

// uncredit notes that something an agent has done was taken back: it earns no credit any more.
func (s *State) uncredit(did policy.DID) {
	if c := s.Conduct[did]; c != nil && c.Changed > 0 {
		c.Changed--
	}
}

// Told says what agents' streams made of the entries they were told. The executor gives it.
type Told struct{ Answers []Answer }

func (Told) command() {}

// An Answer is what came of one entry.
type Answer struct {
	Number uint64     `json:"number"`
	Sigma  ring.Sigma `json:"sigma"`          // the agent's σ_raw after it
	Lost   ring.Sigma `json:"lost,omitempty"` // of a clip: the bond
	// Code says why a reservation was refused; empty: it was not.
	Code policy.Code `json:"code,omitempty"`
	Why  string      `json:"why,omitempty"` // the same for people
}

// EntriesTold is recorded when entries stand in their agents' streams.
type EntriesTold struct {
	Answers []Answer `json:"answers"`
}

func decideTold(s *State, env *Env, c Told) Outcome {
	if env.Caller.Role != policy.SystemRole {
		return refuse(policy.Forbidden, "only the hypervisor knows what it has told")
	}
	answers := slices.DeleteFunc(slices.Clone(c.Answers), func(a Answer) bool { return !s.owes(a.Number) })
	if len(answers) == 0 {
		return Outcome{Decision: policy.Allow()} // somebody was faster
	}
	slices.SortFunc(answers, func(a, b Answer) int { return cmp.Compare(a.Number, b.Number) })
	events := append(s.cascade(answers), EntriesTold{answers}) // in this order, so that a slash is over only after its last clip
	for _, a := range answers {
		if b := s.requested(a.Number); b != nil {
			events = append(events, s.reserved(env, b, a))
		}
	}
	if s.Lifecycle != Terminating || !s.idle() || len(answers) < len(s.Owed) || len(events) > 1 || s.close() != nil {
		return allow(events...)
	}
	out := allow(slices.Concat(s.flush(env, true), events, []Event{SessionArchived{}})...) // nothing holds the end up any more
	out.Tallies = s.settled(env, true)
	return out
}

// requested returns the bond that an entry reserves; nil: it reserves none.
func (s *State) requested(number uint64) *Bond {
	for _, b := range s.Bonds {
		if b.Number == number && b.Status == BondRequested {
			return b
		}
	}
	return nil
}

// owedTo returns whom an entry is owed to.
func (s *State) owedTo(number uint64) policy.DID {
	for i := range s.Owed {
		if s.Owed[i].Entry.Number == number {
			return s.Owed[i].Agent
		}
	}
	return ""
}

func (s *State) owes(number uint64) bool {
	return slices.ContainsFunc(s.Owed, func(o OwedEntry) bool { return o.Entry.Number == number })
}

// CleanSession is recorded at the end of a session in which agents did something and nothing against them was found. Only
// operators open sessions, so each of them counts.
type CleanSession struct {
	Agents []policy.DID `json:"agents"`
}

// creditable returns the agents to which the session counts as clean, in order.
func (s *State) creditable() (dids []policy.DID) {
	for _, did := range ordered(s.Conduct, cmp.Compare) {
		if c := s.Conduct[did]; c.Changed > 0 && !c.Against {
			dids = append(dids, did)
		}
	}
	return dids
}

// close returns what is to be recorded once nothing runs any more and before the session is archived.
func (s *State) close() []Event {
	events := s.endBonds("session ended", func(*Bond) bool { return true })
	if s.Closed {
		return events
	}
	if dids := s.creditable(); len(dids) > 0 {
		events = append(events, CleanSession{dids})
	}
	return events
}

// Append appends the event's JSON.
func (e CleanSession) Append(dst []byte) []byte {
	return audit.Event(dst, cleanType).Strs("agents", texts(e.Agents)).End()
}

func (e CleanSession) apply(s *State, _ Stamp) {
	s.Closed = true
	for _, did := range e.Agents {
		s.owe(did, agent.Entry{Kind: agent.Clean})
	}
}

func (CleanSession) owes() Effect { return Tell{} }

// Append appends the event's JSON.
func (e EntriesTold) Append(dst []byte) []byte {
	list := make([]byte, 0, 64*len(e.Answers))
	for i, a := range e.Answers {
		sep := byte(',')
		if i == 0 {
			sep = '['
		}
		list = append(append(list, sep), `{"number":`...)
		list = append(strconv.AppendUint(list, a.Number, 10), `,"sigma":`...)
		list = ring.AppendMillionths(list, uint32(a.Sigma))
		if a.Lost > 0 {
			list = ring.AppendMillionths(append(list, `,"lost":`...), uint32(a.Lost))
		}
		if a.Code != "" {
			list = audit.AppendString(append(list, `,"code":`...), string(a.Code))
		}
		if a.Why != "" {
			list = audit.AppendString(append(list, `,"why":`...), a.Why)
		}
		list = append(list, '}')
	}
	return audit.Event(dst, toldType).Raw("answers", append(list, ']')).End()
}

func (e EntriesTold) apply(s *State, _ Stamp) {
	for _, a := range e.Answers {
		s.answered(a.Number)
	}
	s.Owed = slices.DeleteFunc(s.Owed, func(o OwedEntry) bool {
		return slices.ContainsFunc(e.Answers, func(a Answer) bool { return a.Number == o.Entry.Number })
	})
	if len(s.Owed) == 0 {
		s.Owed = nil
	}
}
