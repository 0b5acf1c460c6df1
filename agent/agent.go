package agent

import (
	"fmt"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// State is an agent's standing as the fold of its records. The zero State but for its DID is a newcomer.
type State struct {
	DID        policy.DID  `json:"did"`
	Seq        uint64      `json:"seq"`
	Time       time.Time   `json:"time"`
	Set        *ring.Sigma `json:"set,omitempty"`        // the newest entry's; nil: none
	Configured *ring.Sigma `json:"configured,omitempty"` // what the configuration said last; nil: nothing yet
}

// Sigma returns σ_raw.
func (s *State) Sigma() ring.Sigma {
	if s.Set == nil {
		return ring.Newcomer
	}
	return *s.Set
}

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

// SigmaSet is the ledger entry of an operator.
type SigmaSet struct {
	Sigma  ring.Sigma `json:"sigma"`
	Source Source     `json:"source"`
}

const sigmaSetType = "agent.sigma_set"

// An Outcome is a decision and what is to be recorded because of it.
type Outcome struct {
	policy.Decision
	Events []SigmaSet
}

// Decide answers the command; it changes nothing.
func Decide(s *State, caller policy.Caller, c SetSigma) Outcome {
	switch {
	case !caller.Runs():
		return Outcome{Decision: policy.Refuse(policy.Forbidden, "only an operator sets an agent's σ; %s is %s", caller.DID, caller.Role)}
	case c.Sigma > ring.One:
		return Outcome{Decision: policy.Refuse(policy.InvalidArguments, "σ is from 0 to 1, and %d millionths are more", c.Sigma)}
	case c.Source == FromConfig && s.Configured != nil && *s.Configured == c.Sigma:
		return Outcome{Decision: policy.Allow()} // the file says what it said; what has moved since stays moved
	case c.Source != FromConfig && s.Set != nil && *s.Set == c.Sigma:
		return Outcome{Decision: policy.Allow()}
	}
	out := Outcome{Decision: policy.Allow(), Events: []SigmaSet{{c.Sigma, c.Source}}}
	out.Seq = s.Seq + 1
	return out
}

// Apply folds a record into the state.
func Apply(s *State, seq uint64, at time.Time, events []SigmaSet) {
	if seq != s.Seq+1 {
		panic(fmt.Sprintf("agent: record %d applied to %s at %d", seq, s.DID, s.Seq))
	}
	s.Seq, s.Time = seq, at
	for _, e := range events {
		sigma := e.Sigma
		s.Set = &sigma
		if e.Source == FromConfig {
			s.Configured = &sigma
		}
	}
}

// AppendEvents appends events as the JSON array of a record.
func AppendEvents(dst []byte, events []SigmaSet) []byte {
	dst = append(dst, '[')
	for i, e := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = audit.Event(dst, sigmaSetType).Millionths("sigma", uint32(e.Sigma)).Str("source", string(e.Source)).End()
	}
	return append(dst, ']')
}

// ParseEvents reads the events of a record. It returns audit.ErrEvent for a type or a member it does not know.
func ParseEvents(b []byte) ([]SigmaSet, error) { return readers.Parse(b) }

var readers = audit.Readers[SigmaSet]{sigmaSetType: audit.Reader(func(e SigmaSet) SigmaSet { return e })}
