package agent

import (
	"slices"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// quarantine.go: an agent that may look and do nothing, for a time (SPEC §3 "Quarantine").

// The published names.
const (
	quarantinedType = "liability.quarantine_entered"
	quarantineOver  = "liability.quarantine_released"
)

const (
	// DefaultQuarantine is how long a quarantine lasts, and how much a second reason adds to it.
	DefaultQuarantine = 300 * time.Second
	// MaxQuarantine bounds what is left of a quarantine.
	MaxQuarantine = 7 * 24 * time.Hour
	// DefaultSeverity is what is counted where nobody says how bad it is.
	DefaultSeverity ring.Sigma = 500_000

	maxReasons = 16 // remembered in the state; the records have all
)

// EnterQuarantine begins a quarantine, or extends one that is in force by For and adds its reason. An operator's.
type EnterQuarantine struct {
	Reason   policy.Reason
	Note     string        // what a person said beside the reason
	Severity ring.Sigma    // zero: DefaultSeverity
	For      time.Duration // zero: DefaultQuarantine; at most MaxQuarantine
	Session  string        // where the evidence stands; empty: nowhere in particular
}

// EndQuarantine ends a quarantine before its time. An operator's.
type EndQuarantine struct{ Note string }

// Tick lets time do what is due. One whose time kills is ended only once the agent is killed.
type Tick struct{}

func (EnterQuarantine) command() {}
func (EndQuarantine) command()   {}
func (Tick) command()            {}

// QuarantineEntered is recorded when a quarantine begins, or goes on for another reason.
type QuarantineEntered struct {
	Agent    policy.DID    `json:"agent"`
	Reason   policy.Reason `json:"reason"`
	Note     string        `json:"note,omitempty"`
	Severity ring.Sigma    `json:"severity"`
	Session  string        `json:"session,omitempty"`
	Until    time.Time     `json:"until"` // its end from now on
}

// QuarantineReleased is recorded when it ends.
type QuarantineReleased struct {
	Agent policy.DID `json:"agent"`
	Why   string     `json:"why"` // operator, time, killed
	Note  string     `json:"note,omitempty"`
}

// A Quarantined is a quarantine in force.
type Quarantined struct {
	Since    time.Time  `json:"since"`
	Until    time.Time  `json:"until"`
	Reasons  []string   `json:"reasons"`  // the first 16
	Severity ring.Sigma `json:"severity"` // the greatest
	Kills    bool       `json:"kills"`    // its time does not release but kill: drift or a critical breach is among the reasons
}

// Refusal is the answer to what the agent may not do meanwhile.
func (q *Quarantined) Refusal(did policy.DID) policy.Decision {
	return policy.Refuse(policy.AgentQuarantined, "%s is in quarantine until %s (%s) and may only read; an operator can release it",
		did, q.Until.Format(time.RFC3339), strings.Join(q.Reasons, "; "))
}

// kills reports whether a quarantine for the reason kills when its time is over.
func kills(r policy.Reason) bool { return r == policy.ForDrift || r == policy.ForBreach }

func decideQuarantine(s *State, env *Env, c EnterQuarantine) Outcome {
	if c.Severity == 0 {
		c.Severity = DefaultSeverity
	}
	if c.For == 0 {
		c.For = DefaultQuarantine
	}
	if d := mayRun(env, c.Severity, c.Note); d != nil {
		return Outcome{Decision: *d}
	}
	switch {
	case !slices.Contains(policy.Reasons, c.Reason):
		return refuse(policy.InvalidArguments, "%q is no reason", c.Reason)
	case c.For < 0 || c.For > MaxQuarantine:
		return refuse(policy.InvalidArguments, "a quarantine lasts at most %v", MaxQuarantine)
	}
	cause := strings.TrimSpace(string(c.Reason) + " " + c.Note)
	return s.quarantine(env, Entry{Kind: Quarantine, Severity: c.Severity, Cause: cause}, c)
}

// quarantine records the entry and what it is about.
func (s *State) quarantine(env *Env, e Entry, c EnterQuarantine) Outcome {
	until := env.Now
	if q := s.Quarantine; q != nil && q.Until.After(until) {
		until = q.Until
	}
	until = until.Add(c.For.Truncate(time.Microsecond)) // as records tell time
	if latest := env.Now.Add(MaxQuarantine); until.After(latest) {
		until = latest
	}
	out := s.move(e, Moved{})
	out.Events = append(out.Events, QuarantineEntered{s.DID, c.Reason, c.Note, c.Severity, c.Session, until})
	return out
}

// quarantineOwed is what a session's entry of that kind begins: for drift where its cause begins so, else for a breach.
func quarantineOwed(e Entry) EnterQuarantine {
	reason := policy.ForBreach
	if strings.HasPrefix(e.Cause, string(policy.ForDrift)) {
		reason = policy.ForDrift
	}
	return EnterQuarantine{Reason: reason, Note: e.Cause, Severity: e.Severity, For: DefaultQuarantine, Session: e.Session}
}

func decideEndQuarantine(s *State, env *Env, c EndQuarantine) Outcome {
	if d := mayRun(env, 0, c.Note); d != nil {
		return Outcome{Decision: *d}
	}
	if s.Quarantine == nil {
		return refuse(policy.NotFound, "%s is not in quarantine", s.DID)
	}
	return allow(QuarantineReleased{s.DID, "operator", c.Note})
}

func decideTick(s *State, env *Env) Outcome {
	q := s.Quarantine
	switch {
	case q == nil || env.Now.Before(q.Until):
		return allow()
	case q.Kills && s.Killed == nil:
		return allow() // who ticks kills it first
	case q.Kills:
		return allow(QuarantineReleased{s.DID, "killed", ""})
	}
	return allow(QuarantineReleased{s.DID, "time", ""})
}

// Due returns when the agent next wants a Tick; zero: never.
func Due(s *State) time.Time {
	if s.Quarantine == nil {
		return time.Time{}
	}
	return s.Quarantine.Until
}

// Append appends the event's JSON.
func (e QuarantineEntered) Append(dst []byte) []byte {
	return audit.Event(dst, quarantinedType).Str("agent", string(e.Agent)).Str("reason", string(e.Reason)).OptStr("note", e.Note).
		Millionths("severity", uint32(e.Severity)).OptStr("session", e.Session).Time("until", e.Until).End()
}

func (e QuarantineEntered) apply(s *State, at time.Time) {
	next := Quarantined{Since: at}
	if s.Quarantine != nil {
		next = *s.Quarantine // and not changed: sessions may hold it
	}
	next.Until, next.Severity, next.Kills = e.Until, max(next.Severity, e.Severity), next.Kills || kills(e.Reason)
	if len(next.Reasons) < maxReasons {
		reason := string(e.Reason)
		if e.Note != "" && e.Note != reason {
			reason += ", " + e.Note
		}
		next.Reasons = append(slices.Clip(next.Reasons), reason)
	}
	s.Quarantine = &next
}

// Append appends the event's JSON.
func (e QuarantineReleased) Append(dst []byte) []byte {
	return audit.Event(dst, quarantineOver).Str("agent", string(e.Agent)).Str("why", e.Why).OptStr("note", e.Note).End()
}

func (QuarantineReleased) apply(s *State, _ time.Time) { s.Quarantine = nil }
