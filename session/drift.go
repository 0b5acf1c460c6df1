package session

import (
	"crypto/sha256"
	"fmt"
	"unicode/utf8"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/drift"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// drift.go: what an agent does is not what it claims to do (SPEC §9 "Drift"). A service says so, and the distance decides what
// follows: medium demotes, high slashes, critical slashes and quarantines.

const driftType = "verification.behavior_drift"

const whyDrift = "drift"

// ReportDrift says how far an agent has moved from what it claims. A service's, or an operator's.
type ReportDrift struct {
	Agent  policy.DID
	Reason string // at most 256 bytes
	Key    string // idempotency key; empty: none

	Metric            string       // drift.Cosine or drift.Euclidean; empty: Distance was measured elsewhere
	Claimed, Observed drift.Vector // with a Metric: what is measured
	Distance          ring.Sigma   // without one
}

func (ReportDrift) command() {}

// Measured returns the distance that is reported, measured here where a Metric says how, or drift.ErrVector where that cannot be.
func (c ReportDrift) Measured() (ring.Sigma, error) {
	if c.Metric == "" {
		return c.Distance, nil
	}
	return drift.Measure(c.Metric, c.Claimed, c.Observed)
}

// BehaviorDrift is recorded when a report comes to a level.
type BehaviorDrift struct {
	ID       string      `json:"id"`
	Agent    policy.DID  `json:"agent"`
	Level    drift.Level `json:"level"`
	Distance ring.Sigma  `json:"distance"`
	Metric   string      `json:"metric,omitempty"` // empty: whoever reports it has measured
	By       policy.DID  `json:"by"`
	Reason   string      `json:"reason,omitempty"`
}

func decideReportDrift(s *State, env *Env, c ReportDrift) Outcome {
	by := env.Caller
	switch {
	case by.Role != policy.ServiceRole && !by.Runs():
		return refuse(policy.Forbidden, "only a service reports drift; %s is %s", by.DID, by.Role)
	case s.Lifecycle == Absent || s.Lifecycle == Archived:
		return refuse(policy.SessionNotActive, "session %s is %s", s.ID, s.Lifecycle)
	case !s.tookPart(c.Agent):
		return refuse(policy.NotAParticipant, "%s has not been in session %s", c.Agent, s.ID)
	case len(c.Reason) > maxReasonBytes || !utf8.ValidString(c.Reason):
		return refuse(policy.InvalidArguments, "a reason is text of at most %d bytes", maxReasonBytes)
	}
	distance, err := c.Measured()
	if err != nil {
		return refuse(policy.InvalidArguments, "%v", err)
	}
	if distance > ring.One {
		return refuse(policy.InvalidArguments, "a distance is from 0 to 1, and %d millionths are more", distance)
	}
	e := BehaviorDrift{ID: s.newID(env, "drf-"), Agent: c.Agent, Level: drift.LevelOf(distance), Distance: distance, Metric: c.Metric, By: by.DID, Reason: c.Reason}
	if e.Level == drift.None {
		return Outcome{Decision: policy.Allow(), Durable: true} // as it claims; there is nothing to record
	}
	if e.Level >= drift.High {
		return s.driftedFar(env, e)
	}
	out := allow(e)
	out.ID = e.ID
	if e.Level == drift.Medium {
		out.Events = append(out.Events, s.demoteFor(env, c.Agent)...)
	}
	return out
}

// demoteFor holds an agent one ring below where it is, or was when it left, until an operator lifts it.
func (s *State) demoteFor(env *Env, did policy.DID) []Event {
	p := s.took(did)
	if p == nil || p.Held == ring.Sandbox {
		return nil
	}
	r, score := s.RingOf(env, did)
	if s.Participants[did] == nil {
		r = max(p.Ring, p.Held)
	}
	return []Event{RingDemoted{Agent: did, From: r, Ring: min(r+1, ring.Sandbox), SigmaEff: score, Held: true, Why: whyDrift}}
}

// driftedFar slashes. For blame a child is its parent (SPEC §2); the child itself is held besides.
func (s *State) driftedFar(env *Env, e BehaviorDrift) Outcome {
	who := s.root(e.Agent)
	slash := SlashExecuted{Agent: who, Severity: e.Distance, Cause: whyDrift + " " + e.ID}
	if env.Caller.Role == policy.OperatorRole { // it is the operator's word, and so an act of ring 0
		slash.Unwitnessed = env.Operators < 2
		if env.Operators > 1 {
			witness, ask := s.witness(env, sha256.Sum256(fmt.Appendf(nil, "drift %s %s", e.Agent, e.Distance)))
			if ask != nil {
				return *ask
			}
			slash.Witness = witness
		}
	}
	out := allow(e)
	out.ID = e.ID
	if who != e.Agent {
		out.Events = append(out.Events, s.demoteFor(env, e.Agent)...)
	}
	switch {
	case env.standing(who).Blacklisted || s.beingSlashed(who): // nothing is left to take
	case len(s.Slashes) >= maxLiveSlashes:
		return refuse(policy.QuotaExceeded, "%d slashes are not over yet; try again", len(s.Slashes))
	default:
		out.Events = append(out.Events, s.slash(env, slash)...)
	}
	return out
}

// Append appends the event's JSON.
func (e BehaviorDrift) Append(dst []byte) []byte {
	return audit.Event(dst, driftType).Str("id", e.ID).Str("agent", string(e.Agent)).Str("level", e.Level.String()).
		Millionths("distance", uint32(e.Distance)).OptStr("metric", e.Metric).Str("by", string(e.By)).OptStr("reason", e.Reason).End()
}

// apply owes the quarantine of one that has drifted critically.
func (e BehaviorDrift) apply(s *State, _ Stamp) {
	if e.Level == drift.Critical {
		s.owe(s.root(e.Agent), agent.Entry{Kind: agent.Quarantine, Severity: ring.One, Cause: whyDrift + " " + e.ID})
	}
}

func (e BehaviorDrift) owes() Effect {
	if e.Level == drift.Critical {
		return Tell{}
	}
	return nil
}
