package session

import (
	"cmp"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// standing.go: the ring of an agent, computed anew whenever it matters: ring = max(ceilings, min(by score, by elevation))
// (SPEC §2). A drop is a record.

const liftedType = "ring.demotion_lifted"

// LiftDemotion ends what holds an agent in a ring since a breach or drift. Only an operator may.
type LiftDemotion struct {
	Agent policy.DID
}

func (LiftDemotion) command() {}

// DemotionLifted is recorded when an agent is no longer held.
type DemotionLifted struct {
	Agent policy.DID `json:"agent"`
}

// A stance is what this session knows of an agent beside its standing.
type stance struct {
	parent    policy.DID // who spawned it; empty: nobody
	probation bool       // its risk holds it in ring 3
	held      ring.Ring  // by a demotion, until it is lifted; Root: not
	elevated  ring.Ring  // for a while; Sandbox: not
	manifest  *Presented // nil: none
	suspect   *History   // holds it in ring 3; nil: none does
}

func (s *State) stance(env *Env, did policy.DID) stance {
	return s.stanceOf(env, did, s.Participants[did])
}

// stanceOf is stance for who has the participant; nil: it takes no part.
func (s *State) stanceOf(env *Env, did policy.DID, p *Participant) stance {
	st := stance{elevated: ring.Sandbox}
	if p != nil {
		st.parent, st.probation, st.held, st.manifest, st.suspect = p.Parent, p.Probation, p.Held, p.Manifest, p.History.suspect(env.Now)
	}
	if len(s.Elevations) == 0 {
		return st
	}
	if e := s.Elevations[did]; e != nil && s.elevationOver(env, did, e) == "" {
		st.elevated = e.Ring
	}
	return st
}

// RingOf computes an agent's ring and σ_eff from its standing as it is now: what a decision is made on.
func (s *State) RingOf(env *Env, did policy.DID) (ring.Ring, ring.Sigma) {
	return s.ringAs(env, did, s.stance(env, did))
}

func (s *State) ringAs(env *Env, did policy.DID, st stance) (ring.Ring, ring.Sigma) {
	score := s.sigmaEff(env, did)
	ceiling := st.held
	if st.probation || st.suspect != nil {
		ceiling = ring.Sandbox
	}
	if m := st.manifest; m != nil {
		ceiling, score = max(ceiling, m.Ring), m.most(score)
	}
	if st.parent != "" { // whose chain ends: an agent is spawned by one that is there, never by its own descendant
		above, most := s.RingOf(env, st.parent)
		score = min(score, most)
		ceiling = max(ceiling, min(above+1, ring.Sandbox))
	}
	return ring.Of(score, st.elevated, max(ceiling, s.leastScore(score))), score
}

// rawSigma returns σ_raw, which a spawned agent has none of beyond its parent's σ_eff.
func (s *State) rawSigma(env *Env, did policy.DID) ring.Sigma {
	raw := env.sigma(did)
	if len(s.Slashes) > 0 && s.beingSlashed(did) { // its stream is yet to be told
		return 0
	}
	p := s.Participants[did]
	if p == nil {
		return raw
	}
	if p.Parent != "" {
		_, most := s.RingOf(env, p.Parent)
		raw = min(raw, most)
	}
	return p.Manifest.most(raw)
}

// Reach returns the most privileged ring that an agent has, or that an elevation could give it as things are.
func (s *State) Reach(env *Env, did policy.DID) ring.Ring {
	r, _ := s.RingOf(env, did)
	raw := s.rawSigma(env, did)
	for to := ring.Privileged; to < r; to++ {
		if ceiling, _ := s.ceiling(env, did); carries(raw, to) && ceiling <= to {
			return to
		}
	}
	return r
}

// AllowedFrom returns the ring from which on an approval could let an agent do an action that is not administrative: ring 1's are an
// approver's to grant from ring 2 on (SPEC §2 "Ring 1").
func AllowedFrom(d action.Descriptor) ring.Ring {
	if required := d.RequiredRing(d.Effective(action.ImageTaken)); required > ring.Privileged {
		return required
	}
	return ring.Standard
}

// leastScore is the ceiling of min_sigma_eff: ring 3 under it. Where it asks for no more than ring 2 does by score it is none of
// its own, or no agent could ever be elevated under the default (docs/decisions/054).
func (s *State) leastScore(score ring.Sigma) ring.Ring {
	if least := *s.Config.MinSigmaEff; score < least && least > ring.StandardAbove {
		return ring.Sandbox
	}
	return ring.Root
}

// ringChange computes an agent's ring anew and returns what is to be recorded where it is not the recorded one (SPEC §2
// "Demotion"), and the end of an elevation whose time is over.
func (s *State) ringChange(env *Env, did policy.DID) []Event {
	var events []Event
	if e := s.Elevations[did]; e != nil {
		if why := s.elevationOver(env, did, e); why != "" {
			events = append(events, ElevationExpired{e.ID, did, why})
		}
	}
	return append(events, s.ringChangeAs(env, did, s.stance(env, did))...)
}

func (s *State) ringChangeAs(env *Env, did policy.DID, st stance) []Event {
	p, ok := s.Participants[did]
	if !ok {
		return nil
	}
	r, score := s.ringAs(env, did, st)
	switch {
	case r > p.Ring:
		return []Event{RingDemoted{Agent: did, From: p.Ring, Ring: r, SigmaEff: score}}
	case r < p.Ring:
		return []Event{RingAssigned{did, r, score}}
	}
	return nil
}

// review computes every participant's ring anew: what moved one may have been recorded elsewhere.
func (s *State) review(env *Env) []Event {
	var events []Event
	for _, did := range s.participantIDs() {
		events = append(events, s.ringChange(env, did)...)
	}
	return events
}

func (s *State) participantIDs() []policy.DID { return ordered(s.Participants, cmp.Compare) }

func decideLiftDemotion(s *State, env *Env, c LiftDemotion) Outcome {
	p := s.Participants[c.Agent]
	switch {
	case !env.Caller.Runs():
		return refuse(policy.Forbidden, "only an operator lifts a demotion; %s is %s", env.Caller.DID, env.Caller.Role)
	case s.Lifecycle != Handshaking && s.Lifecycle != Active:
		return refuse(policy.SessionNotActive, "session %s is %s", s.ID, s.Lifecycle)
	case p == nil:
		return refuse(policy.NotAParticipant, "%s is not in session %s", c.Agent, s.ID)
	case p.Held == ring.Root:
		return refuse(policy.NotFound, "no demotion holds %s; its ring follows from its standing", c.Agent)
	}
	st := s.stance(env, c.Agent)
	st.held = ring.Root
	out := allow(append([]Event{DemotionLifted(c)}, s.ringChangeAs(env, c.Agent, st)...)...)
	r, score := s.ringAs(env, c.Agent, st)
	out.Ring, out.SigmaEff = &r, &score
	return out
}

// Append appends the event's JSON.
func (e DemotionLifted) Append(dst []byte) []byte {
	return audit.Event(dst, liftedType).Str("agent", string(e.Agent)).End()
}

func (e DemotionLifted) apply(s *State, _ Stamp) { s.Participants[e.Agent].Held = ring.Root }
