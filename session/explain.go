package session

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// explain.go: why a call was decided as it was, and what would have to be true for it to pass.

// refusers names the question of SPEC §2 "Admission" that gives a code.
var refusers = map[policy.Code]string{
	policy.SessionNotActive: "session", policy.NotAParticipant: "participant", policy.Forbidden: "participant", policy.AgentKilled: "kill", policy.KilledAll: "kill",
	policy.BreakerOpen: "breaker", policy.RateLimited: "rate", policy.ConcurrencyExceeded: "concurrency", policy.UnknownAction: "descriptor",
	policy.ToolChanged: "descriptor", policy.InvalidArguments: "descriptor", policy.RingInsufficient: "ring", policy.CapabilityDenied: "capability",
	policy.PolicyDenied: "policy", policy.ApprovalRequired: "approval", policy.WitnessRequired: "approval", policy.ApprovalDenied: "approval",
	policy.ApprovalExpired: "approval", policy.QuotaExceeded: "approval",
}

// ceilings returns what holds an agent whatever its score or an elevation, the strictest first; above is its parent's ring.
func (s *State) ceilings(st stance, score ring.Sigma, above ring.Ring) []policy.Ceiling {
	var all []policy.Ceiling
	if s.leastScore(score) == ring.Sandbox {
		all = append(all, policy.Ceiling{Ring: ring.Sandbox, Why: "this session holds everyone under " + s.Config.MinSigmaEff.String() + " in ring 3"})
	}
	if st.probation {
		all = append(all, policy.Ceiling{Ring: ring.Sandbox, Why: "it is on probation for as long as it is in this session"})
	}
	if h := st.suspect; h != nil {
		all = append(all, policy.Ceiling{Ring: ring.Sandbox, Why: "its history is suspicious until " + h.Until.Format(time.RFC3339) + ": " + h.Why})
	}
	if st.held > ring.Root {
		all = append(all, policy.Ceiling{Ring: st.held, Why: "a demotion holds it until an operator lifts it"})
	}
	if m := st.manifest; m != nil {
		all = append(all, policy.Ceiling{Ring: m.Ring, Why: "its own manifest says no more than " + m.Level})
	}
	if st.parent != "" {
		all = append(all, policy.Ceiling{Ring: min(above+1, ring.Sandbox), Why: fmt.Sprintf("%s, which spawned it, is in ring %d", st.parent, above)})
	}
	slices.SortStableFunc(all, func(a, b policy.Ceiling) int { return cmp.Compare(b.Ring, a.Ring) })
	return all
}

// ceiling returns the strictest ceiling of an agent, and why; ring 0: none.
func (s *State) ceiling(env *Env, did policy.DID) (ring.Ring, string) {
	st := s.stance(env, did)
	_, score := s.ringAs(env, did, st)
	if all := s.ceilings(st, score, s.above(env, st)); len(all) > 0 {
		return all[0].Ring, all[0].Why
	}
	return ring.Root, ""
}

// above returns the ring of who spawned an agent.
func (s *State) above(env *Env, st stance) ring.Ring {
	if st.parent == "" {
		return ring.Root
	}
	r, _ := s.RingOf(env, st.parent)
	return r
}

// requires says why an action needs the ring it needs (SPEC §2 "Required by an action").
func requires(required ring.Ring) string {
	switch required {
	case ring.Root:
		return "it is administrative"
	case ring.Privileged:
		return "it cannot be taken back"
	case ring.Standard:
		return "it changes something and can be taken back"
	}
	return "it is read-only"
}

// explain adds to a refusal why it is one.
func (a *admission) explain(d *policy.Decision) {
	e := &policy.Explanation{RefusedBy: refusers[d.Code]}
	if d.RequiredRing != nil {
		e.Requires = requires(*d.RequiredRing)
	}
	if a.member != nil {
		st := a.s.stanceOf(a.env, a.agent, a.member)
		s := a.s.setting(st, a.score, a.s.above(a.env, st))
		e.ByScore, e.Elevated, e.Ceilings = s.ByScore, s.Elevated, s.Ceilings
	}
	e.ToPass = a.toPass(d, e)
	d.Explanation = e
}

// setting is the part of an explanation that is about the agent.
func (s *State) setting(st stance, score ring.Sigma, above ring.Ring) policy.Explanation {
	by := ring.ByScore(score)
	e := policy.Explanation{ByScore: &by, Ceilings: s.ceilings(st, score, above)}
	if st.elevated < ring.Sandbox {
		elevated := st.elevated
		e.Elevated = &elevated
	}
	return e
}

// WhyRing says why an agent is in the ring that RingOf gives.
func (s *State) WhyRing(env *Env, did policy.DID) policy.Explanation {
	st := s.stance(env, did)
	_, score := s.ringAs(env, did, st)
	return s.setting(st, score, s.above(env, st))
}

func (a *admission) toPass(d *policy.Decision, e *policy.Explanation) []string {
	switch d.Code {
	case policy.RingInsufficient:
		return a.toRise(*d.RequiredRing, e)
	case policy.CapabilityDenied:
		return a.toReach()
	case policy.RateLimited, policy.BreakerOpen:
		return []string{fmt.Sprintf("wait %d ms", d.RetryAfterMS)}
	case policy.ConcurrencyExceeded:
		return []string{"wait until one of its running calls has ended"}
	case policy.ToolChanged:
		return []string{"an operator looks at the changed definition and accepts it"}
	case policy.PolicyDenied:
		return []string{fmt.Sprintf("policy %q would have to say otherwise", d.Policy)}
	case policy.ApprovalRequired, policy.WitnessRequired:
		return []string{fmt.Sprintf("%s granted by %s, and the same call again", d.Approval.ID, strings.Join(d.Approval.By, " or "))}
	case policy.ApprovalExpired:
		return []string{"the same call again, which opens another approval"}
	case policy.AgentKilled, policy.KilledAll:
		return []string{"an operator lifts the kill"}
	case policy.NotAParticipant:
		return []string{"an operator joins it to the session"}
	}
	return nil
}

// toRise says how an agent comes to a ring.
func (a *admission) toRise(required ring.Ring, e *policy.Explanation) []string {
	if required == ring.Root {
		return []string{"an operator does it"}
	}
	within := ring.Standard // from where an approver's grant lets an action of ring 1 pass
	if len(e.Ceilings) > 0 && e.Ceilings[0].Ring > within {
		var all []string
		for _, c := range e.Ceilings {
			if c.Ring > within {
				all = append(all, c.Why)
			}
		}
		return []string{"first what holds it: " + strings.Join(all, "; ")}
	}
	ways := []string{fmt.Sprintf("a σ_eff above %s, and it has %s", ring.StandardAbove, a.score)}
	if raw := a.s.rawSigma(a.env, a.agent); carries(raw, within) {
		ways = append(ways, "an elevation to ring 2, sponsored by a participant of ring 2 by its own score or by an approver")
	}
	if required == ring.Privileged {
		for i := range ways {
			ways[i] += "; and then an approver's grant for this call"
		}
	}
	return ways
}

// toReach says how an agent comes by what an action uses.
func (a *admission) toReach() (ways []string) {
	call := a.env.Call
	host, file := "a host", "a path"
	if call.Resource != "" {
		host, file = call.Resource, call.Resource
	}
	d, l := &call.Descriptor, a.ring.Limits()
	if d.Network && l.Network != ring.Full {
		ways = append(ways, "ring 1, or ring 2 and "+host+" in the session's network_allow")
	}
	if d.Files && l.Files != ring.Full {
		ways = append(ways, "ring 1, or ring 2 and "+file+" in the session's files_scope")
	}
	if d.Subprocess && l.Subprocess != ring.Full {
		ways = append(ways, "ring 1: it starts programs")
	}
	if len(ways) > 1 {
		return []string{"all of: " + strings.Join(ways, "; ")}
	}
	return ways
}

// Explain says why an admitted action was decided as it was, from the state before its record.
func (s *State) Explain(e Admitted, at time.Time) policy.Explanation {
	out := policy.Explanation{Requires: requires(e.RequiredRing)}
	p := s.Participants[e.Agent]
	if p == nil {
		return out // an operator's
	}
	st := stance{parent: p.Parent, probation: p.Probation, held: p.Held, suspect: p.History.suspect(at), elevated: ring.Sandbox}
	if el := s.Elevations[e.Agent]; el != nil && at.Before(el.Until) {
		st.elevated = el.Ring
	}
	above := ring.Root
	if parent := s.Participants[p.Parent]; parent != nil {
		above = parent.Ring
	}
	is := s.setting(st, e.SigmaEff, above)
	out.ByScore, out.Elevated, out.Ceilings = is.ByScore, is.Elevated, is.Ceilings
	return out
}
