package session

import (
	"maps"
	"time"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// join.go: who takes part, and in which ring (SPEC §1 "Join", §2 "By score").

// The published names.
const (
	joinedType   = "session.joined"
	leftType     = "session.left"
	assignedType = "ring.assigned"
	demotedType  = "ring.demoted"
)

// Join brings an agent into the session. Only an operator may; it may say the agent's σ, which is written to the agent's
// own stream first, so that the join is decided on it.
type Join struct {
	Agent policy.DID
	Sigma ring.Sigma // zero: not said
	Key   string     // idempotency key; empty: none
}

// Leave takes an agent out of the session: itself, or an operator does it.
type Leave struct {
	Agent policy.DID // zero: the caller
}

func (Join) command()  {}
func (Leave) command() {}

// Joined is recorded when an agent takes part.
type Joined struct {
	Agent policy.DID `json:"agent"`
	Sigma ring.Sigma `json:"sigma"` // σ_raw at that moment
	// Standing is the number of the record of the agent's stream that the join was decided on; 0: it has none.
	Standing  uint64 `json:"standing,omitempty"`
	Probation bool   `json:"probation,omitempty"` // its risk holds it in ring 3 as long as it is here
}

// RingAssigned is recorded when an agent is given a ring, at join or later a more privileged one.
type RingAssigned struct {
	Agent    policy.DID `json:"agent"`
	Ring     ring.Ring  `json:"ring"`
	SigmaEff ring.Sigma `json:"sigma_eff"`
}

// RingDemoted is recorded when an agent's ring drops; it counts from that very command on.
type RingDemoted struct {
	Agent    policy.DID `json:"agent"`
	From     ring.Ring  `json:"from"`
	Ring     ring.Ring  `json:"ring"`
	SigmaEff ring.Sigma `json:"sigma_eff"`
}

func decideJoin(s *State, env *Env, c Join) Outcome {
	switch {
	case !env.Caller.Runs():
		return refuse(policy.Forbidden, "only an operator joins agents to a session")
	case s.Lifecycle != Handshaking && s.Lifecycle != Active:
		return refuse(policy.SessionNotActive, "session %s is %s; agents join while it is handshaking or active", s.ID, s.Lifecycle)
	case !env.Now.Before(s.Ends):
		return refuse(policy.SessionNotActive, "session %s is over since %s", s.ID, s.Ends.Format(time.RFC3339))
	}
	if _, err := policy.ParseDID(string(c.Agent)); err != nil {
		return refuse(policy.InvalidArguments, "the agent to join: %v", err)
	}
	if k, ok := s.killed(env, c.Agent); ok && !k.All {
		return Outcome{Decision: k.Refusal()}
	}
	if _, there := s.Participants[c.Agent]; there {
		r, score := s.RingOf(env, c.Agent)
		out := allow(s.ringChange(env, c.Agent)...)
		out.Ring, out.SigmaEff = &r, &score
		return out
	}
	if len(s.Participants) >= s.Config.MaxParticipants {
		return refuse(policy.SessionFull, "session %s has its %d participants", s.ID, s.Config.MaxParticipants)
	}
	standing := env.standing(c.Agent)
	switch {
	case standing.Blacklisted:
		return refuse(policy.Blacklisted, "%s was slashed; an operator can reinstate it", c.Agent)
	case standing.Risk >= agent.RiskDenied:
		return refuse(policy.RiskDenied, "%s has risk %s, and none is admitted with %s or more; clean sessions lower it, or an operator reinstates it",
			c.Agent, standing.Risk, agent.RiskDenied)
	}
	joined := Joined{Agent: c.Agent, Sigma: standing.Sigma, Standing: standing.Version, Probation: standing.Risk >= agent.RiskProbation}
	r, score := s.RingOf(env, c.Agent)
	if joined.Probation {
		r = ring.Sandbox
	}
	out := allow(joined, RingAssigned{c.Agent, r, score})
	out.Ring, out.SigmaEff = &r, &score
	return out
}

// ringChange computes an agent's ring anew and returns the event if it differs from the recorded one (SPEC §2 "Demotion").
func (s *State) ringChange(env *Env, agent policy.DID) []Event {
	p, ok := s.Participants[agent]
	if !ok {
		return nil
	}
	r, score := s.RingOf(env, agent)
	switch {
	case r > p.Ring:
		return []Event{RingDemoted{agent, p.Ring, r, score}}
	case r < p.Ring:
		return []Event{RingAssigned{agent, r, score}}
	}
	return nil
}

// Append appends the event's JSON.
func (e Joined) Append(dst []byte) []byte {
	return audit.Event(dst, joinedType).Str("agent", string(e.Agent)).Millionths("sigma", uint32(e.Sigma)).
		OptUint("standing", e.Standing).OptBool("probation", e.Probation).End()
}

func (e Joined) apply(s *State, at Stamp) {
	p := &Participant{Joined: at.Time, Ring: ring.Sandbox, Probation: e.Probation}
	for _, r := range s.Running { // of an agent that left and is back
		if r.Agent == e.Agent && r.During == "" {
			p.Running++
		}
	}
	s.Participants[e.Agent] = p
}

// Append appends the event's JSON.
func (e RingAssigned) Append(dst []byte) []byte {
	return audit.Event(dst, assignedType).Str("agent", string(e.Agent)).Uint("ring", uint64(e.Ring)).
		Millionths("sigma_eff", uint32(e.SigmaEff)).End()
}

func (e RingAssigned) apply(s *State, _ Stamp) { s.Participants[e.Agent].Ring = e.Ring }

// Append appends the event's JSON.
func (e RingDemoted) Append(dst []byte) []byte {
	return audit.Event(dst, demotedType).Str("agent", string(e.Agent)).Uint("from", uint64(e.From)).Uint("ring", uint64(e.Ring)).
		Millionths("sigma_eff", uint32(e.SigmaEff)).End()
}

func (e RingDemoted) apply(s *State, _ Stamp) { s.Participants[e.Agent].Ring = e.Ring }

// Left is recorded when an agent no longer takes part. Its running calls go on; their outcomes are recorded.
type Left struct {
	Agent policy.DID `json:"agent"`
}

func decideLeave(s *State, env *Env, c Leave) Outcome {
	agent := c.Agent
	if agent == "" {
		agent = env.Caller.DID
	}
	_, there := s.Participants[agent]
	if k, ok := s.killed(env, env.Caller.DID); ok && env.Caller.Role == policy.AgentRole {
		return Outcome{Decision: k.Refusal()}
	}
	switch {
	case agent != env.Caller.DID && !env.Caller.Runs():
		return refuse(policy.Forbidden, "an agent leaves by itself; another is taken out by an operator")
	case s.Lifecycle != Handshaking && s.Lifecycle != Active:
		return refuse(policy.SessionNotActive, "session %s is %s", s.ID, s.Lifecycle)
	case !there:
		return refuse(policy.NotAParticipant, "%s is not in session %s", agent, s.ID)
	}
	var events []Event
	for _, id := range s.approvalIDs() {
		if a := s.Approvals[id]; a.Agent == agent && (a.Status == Open || a.Status == Granted) {
			events = append(events, ApprovalExpired{ID: id, Why: "the agent left"})
		}
	}
	return allow(append(events, Left{agent})...)
}

// Append appends the event's JSON.
func (e Left) Append(dst []byte) []byte {
	return audit.Event(dst, leftType).Str("agent", string(e.Agent)).End()
}

func (e Left) apply(s *State, _ Stamp) {
	delete(s.Participants, e.Agent)
	maps.DeleteFunc(s.Approvals, func(_ string, a *Approval) bool { return a.Agent == e.Agent && a.Status == ExpiredUnspoken })
}
