package agent

import (
	"crypto/sha256"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// operator.go: acts of ring 0 on an agent, and what services report (SPEC §2 "Ring 0", §3). With two operators configured such
// an act needs a witness: it is asked for first, and done when another operator asks for the very same.

const askedType = "agent.witness_asked"

const (
	// witnessTime is how long a second operator has.
	witnessTime = 15 * time.Minute

	maxCauseBytes = 256 // of a reason
)

// Reinstate lifts a blacklist and sets σ. An operator's; an act of ring 0.
type Reinstate struct {
	Sigma *ring.Sigma // nil: Reinstated
	Cause string
}

// Slash takes an agent's standing, outside any session: who vouched for it loses nothing. An operator's; an act of ring 0.
type Slash struct {
	Severity ring.Sigma // zero: 1
	Cause    string
}

// Report says how a service rates an agent. A service's, or an operator's.
type Report struct {
	Sigma ring.Sigma
	Cause string
}

func (Reinstate) command() {}
func (Slash) command()     {}
func (Report) command()    {}

// WitnessAsked is recorded when an operator has asked for an act that a second must ask for too.
type WitnessAsked struct {
	Act     audit.Hash `json:"act"` // digest of it
	What    string     `json:"what"`
	By      policy.DID `json:"by"`
	Expires time.Time  `json:"expires"`
}

func decideReinstate(s *State, env *Env, c Reinstate) Outcome {
	sigma := Reinstated
	if c.Sigma != nil {
		sigma = *c.Sigma
	}
	if d := mayRun(env, sigma, c.Cause); d != nil {
		return Outcome{Decision: *d}
	}
	return s.witnessed(env, fmt.Sprintf("reinstate at σ %s", sigma), c.Cause, func(m Moved) Outcome {
		m.Entry = Entry{Kind: Reinstatement, Cause: c.Cause}
		m.Sigma, m.Risk = sigma, 0 // a new start: the risk that denied it would deny it again
		return allow(m)
	})
}

func decideSlash(s *State, env *Env, c Slash) Outcome {
	if c.Severity == 0 {
		c.Severity = ring.One
	}
	if d := mayRun(env, c.Severity, c.Cause); d != nil {
		return Outcome{Decision: *d}
	}
	if s.Blacklisted {
		return allow() // nothing is left to take
	}
	return s.witnessed(env, fmt.Sprintf("slash with severity %s", c.Severity), c.Cause, func(m Moved) Outcome {
		return s.move(Entry{Kind: Slashing, Severity: c.Severity, Cause: c.Cause}, m)
	})
}

// mayRun refuses who is no operator, a figure that is none, and a reason that cannot be recorded.
func mayRun(env *Env, figure ring.Sigma, cause string) *policy.Decision {
	var d policy.Decision
	switch {
	case !env.Caller.Runs():
		d = policy.Refuse(policy.Forbidden, "this is an act of ring 0, an operator's; %s is %s", env.Caller.DID, env.Caller.Role)
	case figure > ring.One:
		d = policy.Refuse(policy.InvalidArguments, "a figure is from 0 to 1, and %d millionths are more", figure)
	case len(cause) > maxCauseBytes || !utf8.ValidString(cause):
		d = policy.Refuse(policy.InvalidArguments, "a reason is text of at most %d bytes", maxCauseBytes)
	default:
		return nil
	}
	return &d
}

// witnessed does an act of ring 0 if it has its witness, and asks for one if not.
func (s *State) witnessed(env *Env, what, cause string, act func(Moved) Outcome) Outcome {
	by := env.Caller
	if by.Role == policy.SystemRole || env.Operators < 2 {
		return act(Moved{Unwitnessed: by.Role == policy.OperatorRole})
	}
	digest := audit.Hash(sha256.Sum256([]byte(what + "\x00" + cause)))
	asked := s.Asked
	open := asked != nil && asked.Act == digest && env.Now.Before(asked.Expires)
	if open && asked.By != by.DID {
		return act(Moved{Witness: asked.By})
	}
	out := refuse(policy.WitnessRequired, "to %s %s needs a second operator: who asks for the very same before %s does it", what, s.DID,
		env.Now.Add(witnessTime).Format(time.RFC3339))
	if !open {
		out.Events = []Event{WitnessAsked{digest, what, by.DID, env.Now.Add(witnessTime)}}
	}
	return out
}

func decideReport(s *State, env *Env, c Report) Outcome {
	switch {
	case env.Caller.Role != policy.ServiceRole && !env.Caller.Runs():
		return refuse(policy.Forbidden, "only a service reports scores; %s is %s", env.Caller.DID, env.Caller.Role)
	case c.Sigma > ring.One:
		return refuse(policy.InvalidArguments, "a score is from 0 to 1, and %d millionths are more", c.Sigma)
	case len(c.Cause) > maxCauseBytes || !utf8.ValidString(c.Cause):
		return refuse(policy.InvalidArguments, "a reason is text of at most %d bytes", maxCauseBytes)
	}
	sigma := min(c.Sigma, reportMost)
	if s.Set != nil {
		if sigma = min(c.Sigma, *s.Set); sigma == *s.Set {
			return allow() // later the lower counts, and that is ours
		}
	}
	return allow(Moved{Entry: Entry{Kind: Score, Cause: c.Cause}, Sigma: sigma, Risk: s.Risk})
}

// Append appends the event's JSON.
func (e WitnessAsked) Append(dst []byte) []byte {
	return audit.Event(dst, askedType).Hash("act", e.Act).Str("what", e.What).Str("by", string(e.By)).Time("expires", e.Expires).End()
}

func (e WitnessAsked) apply(s *State, _ time.Time) { s.Asked = &e }
