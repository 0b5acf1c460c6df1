package session

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/manifest"
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

// Join brings an agent into the session. An operator may, who may say the agent's σ: it is written to the agent's own stream
// first, so that the join is decided on it. A participant may bring one too, and is its parent then.
type Join struct {
	Agent policy.DID
	Sigma ring.Sigma // zero: not said
	Key   string     // idempotency key; empty: none
	// Manifest is what the agent says of itself: claims, which hold it lower and make its actions stricter, never the other way.
	// Of an agent that takes part already it takes the place of the one before. Nil: none.
	Manifest *manifest.Manifest `json:",omitempty"`
	// Receipts are of the agent's past sessions, at most MaxReceipts, the one that ended first first. Good ones raise nobody; bad ones
	// hold it in ring 3. Nil: none.
	Receipts []Receipt `json:",omitempty"`
	// Proofs are what was found out of each receipt, in their places. Session.Join stamps them; what its caller wrote there counts
	// for nothing. Another number than of receipts: nobody could say.
	Proofs []Proof `json:"-"`
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
	// Parent is the agent whose token the join was made with; empty: an operator's.
	Parent policy.DID `json:"parent,omitempty"`
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
	Held     bool       `json:"held,omitempty"` // it stays until an operator lifts it
	Why      string     `json:"why,omitempty"`  // of one that is held
}

func decideJoin(s *State, env *Env, c Join) Outcome {
	switch {
	case !env.Caller.Runs() && env.Caller.Role != policy.AgentRole:
		return refuse(policy.Forbidden, "only an operator joins agents to a session, or a participant one that it spawns; %s is %s", env.Caller.DID, env.Caller.Role)
	case s.Lifecycle != Handshaking && s.Lifecycle != Active:
		return refuse(policy.SessionNotActive, "session %s is %s; agents join while it is handshaking or active", s.ID, s.Lifecycle)
	case !env.Now.Before(s.Ends):
		return refuse(policy.SessionNotActive, "session %s is over since %s", s.ID, s.Ends.Format(time.RFC3339))
	}
	if _, err := policy.ParseDID(string(c.Agent)); err != nil {
		return refuse(policy.InvalidArguments, "the agent to join: %v", err)
	}
	if c.Agent == policy.System.DID {
		return refuse(policy.Forbidden, "%s is the hypervisor itself, and no agent", c.Agent)
	}
	if c.Manifest != nil && c.Manifest.Agent != c.Agent {
		return refuse(policy.InvalidArguments, "the manifest is of %s, and %s is to join", c.Manifest.Agent, c.Agent)
	}
	if what := malformed(c.Agent, c.Receipts); what != "" {
		return refuse(policy.InvalidArguments, "%s", what)
	}
	if k, ok := s.killed(env, c.Agent); ok && !k.All {
		return Outcome{Decision: k.Refusal()}
	}
	var parent policy.DID
	if env.Caller.Role == policy.AgentRole {
		parent = env.Caller.DID
		if k, ok := s.killed(env, parent); ok {
			return Outcome{Decision: k.Refusal()}
		}
		if d := decideSpawn(s, env, c); d != nil {
			return Outcome{Decision: *d}
		}
	}
	if _, there := s.Participants[c.Agent]; there {
		return s.rejoin(env, c)
	}
	st := stance{parent: parent, elevated: ring.Sandbox}
	if before := s.Left[c.Agent]; before != nil {
		if before.Parent != "" && env.Caller.Role == policy.SystemRole { // its token alone brings it back without whom it is held by
			return refuse(policy.Forbidden, "%s was brought by %s, who alone, or an operator, brings it again", c.Agent, before.Parent)
		}
		st.held, st.manifest, st.suspect = before.Held, before.Manifest, before.History.suspect(env.Now)
	}
	said := s.presents(env, c, &st)
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
	st.probation = standing.Risk >= agent.RiskProbation
	r, score := s.ringAs(env, c.Agent, st)
	out := allow(Joined{Agent: c.Agent, Sigma: standing.Sigma, Standing: standing.Version, Probation: st.probation, Parent: parent})
	out.Events = append(append(out.Events, said...), RingAssigned{c.Agent, r, score})
	out.Ring, out.SigmaEff = &r, &score
	return out
}

// presents returns what is recorded of what a join brings along, and takes it into the agent's stance.
func (s *State) presents(env *Env, c Join, st *stance) (events []Event) {
	if c.Manifest != nil {
		st.manifest = presented(c.Manifest)
		events = append(events, ManifestPresented{c.Agent, *st.manifest})
	}
	return append(events, s.judged(env, c, st)...)
}

// rejoin answers for an agent that takes part already: its ring as it is now, with what is presented.
func (s *State) rejoin(env *Env, c Join) Outcome {
	st := s.stance(env, c.Agent)
	events := s.ringChange(env, c.Agent)
	if said := s.presents(env, c, &st); len(said) > 0 {
		events = append(said, s.ringChangeAs(env, c.Agent, st)...)
	}
	r, score := s.ringAs(env, c.Agent, st)
	out := allow(events...)
	out.Ring, out.SigmaEff = &r, &score
	return out
}

// Append appends the event's JSON.
func (e Joined) Append(dst []byte) []byte {
	return audit.Event(dst, joinedType).Str("agent", string(e.Agent)).Millionths("sigma", uint32(e.Sigma)).
		OptUint("standing", e.Standing).OptBool("probation", e.Probation).OptStr("parent", string(e.Parent)).End()
}

func (e Joined) apply(s *State, at Stamp) {
	p := &Participant{}
	if before := s.Left[e.Agent]; before != nil {
		p = before // with its bucket and what holds it: leaving sheds neither
		delete(s.Left, e.Agent)
	}
	p.Joined, p.Ring, p.Parent, p.Probation, p.Running = at.Time, ring.Sandbox, e.Parent, e.Probation, 0
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
		Millionths("sigma_eff", uint32(e.SigmaEff)).OptBool("held", e.Held).OptStr("why", e.Why).End()
}

func (e RingDemoted) apply(s *State, _ Stamp) {
	p := s.took(e.Agent) // one that has left is held when it comes back
	p.Ring = e.Ring
	if e.Held {
		p.Held = e.Ring
	}
}

// maxLeft bounds those who took part before and are remembered; whoever joined first is forgotten first.
const maxLeft = MaxParticipants

// depart remembers who leaves.
func (s *State) depart(did policy.DID) {
	if len(s.Left) >= maxLeft {
		first := policy.DID("")
		for other, p := range s.Left {
			if first == "" || cmp.Or(p.Joined.Compare(s.Left[first].Joined), cmp.Compare(other, first)) < 0 {
				first = other
			}
		}
		delete(s.Left, first)
	}
	s.Left[did] = s.Participants[did]
	delete(s.Participants, did)
}

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
	leavers := append(s.descendants(agent), agent) // whom it brought does not stay without it
	events := s.flush(env, true)                   // while they take part: leaving sheds no refusal that is counted only
	events = append(events, s.endBonds(whyLeft, func(b *Bond) bool { return slices.Contains(leavers, b.Voucher) || slices.Contains(leavers, b.Vouchee) })...)
	for _, did := range leavers {
		events = append(events, s.leaving(did)...)
	}
	out := allow(events...)
	out.Tallies = s.settled(env, true)
	return out
}

// leaving is what ends with an agent's part in the session.
func (s *State) leaving(did policy.DID) (events []Event) {
	for _, id := range s.approvalIDs() {
		if a := s.Approvals[id]; a.Agent == did && (a.Status == Open || a.Status == Granted) {
			events = append(events, ApprovalExpired{ID: id, Why: whyLeft})
		}
	}
	if e := s.Elevations[did]; e != nil {
		events = append(events, ElevationExpired{e.ID, did, whyLeft})
	}
	return append(events, Left{did})
}

// Append appends the event's JSON.
func (e Left) Append(dst []byte) []byte {
	return audit.Event(dst, leftType).Str("agent", string(e.Agent)).End()
}

func (e Left) apply(s *State, _ Stamp) {
	s.depart(e.Agent)
	maps.DeleteFunc(s.Approvals, func(_ string, a *Approval) bool { return a.Agent == e.Agent && a.Status == ExpiredUnspoken })
}
