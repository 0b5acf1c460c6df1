package session

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// slash.go: an agent loses its standing, and who vouched for it here loses its bond (SPEC §3 "Slashing"). The cascade goes level by
// level: whom a clip takes to 0.50 or less is known once its own stream has answered, and only then are its vouchers clipped.

// The published names.
const (
	slashedType   = "liability.slash_executed"
	forfeitedType = "liability.bond_forfeited"
	askedType     = "session.witness_asked"
)

const (
	cascadeDepth              = 2       // levels of vouchers above the slashed agent
	cascadeBelow   ring.Sigma = 500_000 // whom a clip takes to this or less has its own vouchers clipped
	witnessTime               = 15 * time.Minute
	maxCauseBytes             = 256
	whySlashed                = "slashed"
	maxLiveSlashes            = 100 // whose cascade is not over
)

// Slash takes an agent's standing for what it did in this session. An operator's, an act of ring 0; or the hypervisor's.
type Slash struct {
	Agent    policy.DID
	Severity ring.Sigma // zero: 1
	Cause    string     // what people can look up
}

func (Slash) command() {}

// A Cascade is a slash whose vouchers' streams have not all answered.
type Cascade struct {
	Severity ring.Sigma     `json:"severity"`
	Agent    policy.DID     `json:"agent"`
	Touched  []policy.DID   `json:"touched"` // the slashed agent and all who were clipped: each once
	Waiting  map[uint64]int `json:"waiting"` // the level of each clip, by its entry's number
}

// The events.
type (
	// SlashExecuted is recorded when an agent loses its standing.
	SlashExecuted struct {
		ID          string     `json:"id"`
		Agent       policy.DID `json:"agent"`
		Severity    ring.Sigma `json:"severity"`
		Cause       string     `json:"cause,omitempty"`
		Witness     policy.DID `json:"witness,omitempty"`     // the operator who had asked for the same before
		Unwitnessed bool       `json:"unwitnessed,omitempty"` // the act of the only operator there is
	}
	// BondForfeited is recorded when a voucher loses what it put up.
	BondForfeited struct {
		ID      string     `json:"id"`
		Slash   string     `json:"slash"`
		Voucher policy.DID `json:"voucher"`
		Level   int        `json:"level"` // 1: it stood behind the slashed agent itself
	}
	// WitnessAsked is recorded when an operator has asked for an act of ring 0 that a second must ask for too.
	WitnessAsked struct {
		Act     audit.Hash `json:"act"` // digest of it
		By      policy.DID `json:"by"`
		Expires time.Time  `json:"expires"`
	}
)

func decideSlash(s *State, env *Env, c Slash) Outcome {
	c.Severity = cmp.Or(c.Severity, ring.One)
	switch {
	case !env.Caller.Runs():
		return refuse(policy.Forbidden, "to slash is an act of ring 0, an operator's; %s is %s", env.Caller.DID, env.Caller.Role)
	case c.Severity > ring.One || len(c.Cause) > maxCauseBytes || !utf8.ValidString(c.Cause):
		return refuse(policy.InvalidArguments, "a severity is from 0 to 1, and a reason text of at most %d bytes", maxCauseBytes)
	case s.Lifecycle == Absent || s.Lifecycle == Archived:
		return refuse(policy.SessionNotActive, "session %s is %s", s.ID, s.Lifecycle)
	case s.Participants[c.Agent] == nil && s.Conduct[c.Agent] == nil:
		return refuse(policy.NotAParticipant, "%s has done nothing in session %s; 'agent slash' without a session takes its standing all the same", c.Agent, s.ID)
	case s.slashed(env, c.Agent):
		return Outcome{Decision: policy.Allow(), Durable: true} // nothing is left to take
	case len(s.Slashes) >= maxLiveSlashes:
		return refuse(policy.QuotaExceeded, "%d slashes are not over yet; try again", len(s.Slashes))
	}
	slash := SlashExecuted{Agent: c.Agent, Severity: c.Severity, Cause: c.Cause, Unwitnessed: env.Caller.Role == policy.OperatorRole && env.Operators < 2}
	if env.Caller.Role == policy.OperatorRole && env.Operators > 1 {
		by, ask := s.witness(env, audit.Hash(sha256.Sum256(fmt.Appendf(nil, "slash %s %s %s", c.Agent, c.Severity, c.Cause))))
		if ask != nil {
			return *ask
		}
		slash.Witness = by
	}
	events := s.slash(env, slash)
	out := allow(events...)
	out.ID = events[0].(SlashExecuted).ID
	return out
}

// witness returns the operator who has asked for the same before, or the answer that asks for one.
func (s *State) witness(env *Env, act audit.Hash) (policy.DID, *Outcome) {
	open := s.Asked != nil && s.Asked.Act == act && env.Now.Before(s.Asked.Expires)
	if open && s.Asked.By != env.Caller.DID {
		return s.Asked.By, nil
	}
	expires := env.Now.Add(witnessTime)
	out := refuse(policy.WitnessRequired, "this needs a second operator: who asks for the very same before %s does it", expires.Format(time.RFC3339))
	if !open {
		out.Events, out.Durable = []Event{WitnessAsked{act, env.Caller.DID, expires}}, true
	}
	return "", &out
}

// slash returns what a slash brings about: the agent's own, its vouchers' bonds, and the end of those it put up itself.
func (s *State) slash(env *Env, e SlashExecuted) []Event {
	e.ID = s.newID(env, "sls-")
	events := []Event{e}
	if p := s.Participants[e.Agent]; p != nil && p.Ring < ring.Sandbox {
		events = append(events, RingDemoted{Agent: e.Agent, From: p.Ring, Ring: ring.Sandbox})
	}
	events = append(events, s.forfeit(e.ID, []policy.DID{e.Agent}, e.Agent, 1)...)
	return append(events, s.endBonds(whySlashed, func(b *Bond) bool { return b.Voucher == e.Agent && b.Vouchee != e.Agent })...)
}

// forfeit takes the bonds of who stands behind an agent here, but for those who were touched.
func (s *State) forfeit(slash string, touched []policy.DID, agent policy.DID, level int) (events []Event) {
	for _, id := range s.bondIDs() {
		b := s.Bonds[id]
		if b.Vouchee == agent && b.Status != BondRequested && !slices.Contains(touched, b.Voucher) {
			events = append(events, BondForfeited{b.ID, slash, b.Voucher, level})
		}
	}
	return events
}

// cascade returns the next level's clips that the answers to clips bring about.
func (s *State) cascade(answers []Answer) (events []Event) {
	touched, gone := map[string][]policy.DID{}, map[string]bool{}
	for _, a := range answers {
		clipped := s.owedTo(a.Number)
		for _, id := range ordered(s.Slashes, cmp.Compare) {
			c := s.Slashes[id]
			level := c.Waiting[a.Number]
			if level == 0 || level >= cascadeDepth || a.Lost == 0 || a.Sigma > cascadeBelow {
				continue
			}
			for _, e := range s.forfeit(id, slices.Concat(c.Touched, touched[id]), clipped, level+1) {
				f := e.(BondForfeited)
				touched[id] = append(touched[id], f.Voucher)
				if !gone[f.ID] { // another slash may be taking it
					gone[f.ID] = true
					events = append(events, f)
				}
			}
		}
	}
	return events
}

// slashed reports whether an agent has lost its standing and is not reinstated: it is so from the record of its slash on.
func (s *State) slashed(env *Env, did policy.DID) bool {
	return env.standing(did).Blacklisted || len(s.Slashes) > 0 && s.beingSlashed(did)
}

// beingSlashed reports whether an agent's stream is yet to be told of its slash: it counts already.
func (s *State) beingSlashed(did policy.DID) bool {
	for i := range s.Owed {
		if o := &s.Owed[i]; o.Agent == did && o.Entry.Kind == agent.Slashing {
			return true
		}
	}
	return false
}

// Append appends the event's JSON.
func (e SlashExecuted) Append(dst []byte) []byte {
	return audit.Event(dst, slashedType).Str("id", e.ID).Str("agent", string(e.Agent)).Millionths("severity", uint32(e.Severity)).
		OptStr("cause", e.Cause).OptStr("witness", string(e.Witness)).OptBool("unwitnessed", e.Unwitnessed).End()
}

func (e SlashExecuted) apply(s *State, _ Stamp) {
	s.Asked = nil
	s.Breakers = slices.DeleteFunc(s.Breakers, func(did policy.DID) bool { return s.root(did) == e.Agent })
	if len(s.Breakers) == 0 {
		s.Breakers = nil
	}
	s.owe(e.Agent, agent.Entry{Kind: agent.Slashing, Severity: e.Severity, Cause: e.Cause})
	if s.Slashes == nil {
		s.Slashes = map[string]*Cascade{}
	}
	s.Slashes[e.ID] = &Cascade{Severity: e.Severity, Agent: e.Agent, Touched: []policy.DID{e.Agent}, Waiting: map[uint64]int{s.Entries: 0}}
}

func (SlashExecuted) owes() Effect { return Tell{} }

// Append appends the event's JSON.
func (e BondForfeited) Append(dst []byte) []byte {
	return audit.Event(dst, forfeitedType).Str("id", e.ID).Str("slash", e.Slash).Str("voucher", string(e.Voucher)).
		Uint("level", uint64(e.Level)).End()
}

func (e BondForfeited) apply(s *State, _ Stamp) {
	c := s.Slashes[e.Slash]
	s.owe(e.Voucher, agent.Entry{Kind: agent.Clip, Severity: c.Severity, Bond: e.ID, Cause: "the slash " + e.Slash + " of " + string(c.Agent)})
	c.Touched, c.Waiting[s.Entries] = append(c.Touched, e.Voucher), e.Level
	s.forgetBond(e.ID)
}

func (BondForfeited) owes() Effect { return Tell{} }

// answered notes that an entry was told; a slash all of whose entries were is over.
func (s *State) answered(number uint64) {
	for id, c := range s.Slashes {
		if delete(c.Waiting, number); len(c.Waiting) == 0 {
			delete(s.Slashes, id)
		}
	}
	if len(s.Slashes) == 0 {
		s.Slashes = nil
	}
}

// Append appends the event's JSON.
func (e WitnessAsked) Append(dst []byte) []byte {
	return audit.Event(dst, askedType).Hash("act", e.Act).Str("by", string(e.By)).Time("expires", e.Expires).End()
}

func (e WitnessAsked) apply(s *State, _ Stamp) { s.Asked = &e }
