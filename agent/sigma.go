package agent

import (
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// sigma.go: σ set by an operator (SPEC §3 "Standing").

const sigmaSetType = "agent.sigma_set"

// A Source says through what an operator set a σ.
type Source string

// The sources.
const (
	FromConfig   Source = "config" // counts at first sight and when the figure changed
	FromJoin     Source = "join"
	FromOperator Source = "operator" // said of the agent itself, outside any session
)

// SetSigma asks to set an agent's σ. Only an operator may.
type SetSigma struct {
	Sigma  ring.Sigma
	Source Source
}

func (SetSigma) command() {}

// SigmaSet is the ledger entry of an operator.
type SigmaSet struct {
	Sigma  ring.Sigma  `json:"sigma"`
	Source Source      `json:"source"`
	Said   *ring.Sigma `json:"said,omitempty"` // what the configuration says of a blacklisted agent, whose σ stays; nil: Sigma
}

func decideSetSigma(s *State, env *Env, c SetSigma) Outcome {
	switch {
	case !env.Caller.Runs():
		return refuse(policy.Forbidden, "only an operator sets an agent's σ; %s is %s", env.Caller.DID, env.Caller.Role)
	case c.Sigma > ring.One:
		return refuse(policy.InvalidArguments, "σ is from 0 to 1, and %d millionths are more", c.Sigma)
	case c.Source == FromConfig && s.Configured != nil && *s.Configured == c.Sigma:
		return allow() // the file says what it said; what has moved since stays moved
	case s.Blacklisted && c.Source == FromConfig:
		return allow(SigmaSet{Sigma: s.Sigma(), Source: c.Source, Said: &c.Sigma}) // noted, so that it moves nothing later either
	case s.Blacklisted:
		return refuse(policy.Blacklisted, "%s was slashed; only 'agent reinstate' lifts that", s.DID)
	case c.Source != FromConfig && s.Set != nil && *s.Set == c.Sigma:
		return allow()
	}
	return allow(SigmaSet{Sigma: c.Sigma, Source: c.Source})
}

// Append appends the event's JSON.
func (e SigmaSet) Append(dst []byte) []byte {
	o := audit.Event(dst, sigmaSetType).Millionths("sigma", uint32(e.Sigma)).Str("source", string(e.Source))
	if e.Said != nil {
		o = o.Millionths("said", uint32(*e.Said))
	}
	return o.End()
}

func (e SigmaSet) apply(s *State, _ time.Time) {
	sigma := e.Sigma
	s.Set = &sigma
	if e.Source == FromConfig {
		s.Configured = &sigma
		if e.Said != nil {
			s.Configured = e.Said
		}
	}
}
