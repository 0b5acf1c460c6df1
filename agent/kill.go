package agent

import (
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// kill.go: an agent is stopped everywhere (SPEC §7 "Kill switch").

// The published names.
const (
	killedType = "security.agent_killed"
	liftedType = "security.kill_lifted"
)

// Kill records a kill of the agent everywhere. It is in force before it is recorded, and is repeated until it is: a kill that is
// recorded, or was lifted since, records nothing. An operator's.
type Kill struct{ Kill policy.Kill }

// LiftKill ends it. An operator's.
type LiftKill struct{}

func (Kill) command()     {}
func (LiftKill) command() {}

// Killed is recorded when the agent is stopped everywhere.
type Killed struct {
	ID     string        `json:"id"`
	Agent  policy.DID    `json:"agent"`
	Scope  string        `json:"scope"` // agent
	Reason policy.Reason `json:"reason"`
	Note   string        `json:"note,omitempty"`
	By     policy.DID    `json:"by"`
	At     time.Time     `json:"at"` // since when

	Substitute policy.DID `json:"substitute,omitempty"`
}

// KillLifted is recorded when the agent may act again.
type KillLifted struct {
	ID    string     `json:"id"` // of the kill
	Agent policy.DID `json:"agent"`
}

const scopeAgent = "agent"

func decideKill(s *State, env *Env, c Kill) Outcome {
	k := c.Kill
	switch {
	case !env.Caller.Runs():
		return refuse(policy.Forbidden, "only an operator kills; %s is %s", env.Caller.DID, env.Caller.Role)
	case s.Killed != nil || s.Lifted == k.ID:
		return allow()
	}
	return allow(Killed{k.ID, s.DID, scopeAgent, k.Reason, k.Note, k.By, k.At, k.Substitute})
}

func decideLiftKill(s *State, env *Env) Outcome {
	switch {
	case !env.Caller.Runs():
		return refuse(policy.Forbidden, "only an operator lifts a kill; %s is %s", env.Caller.DID, env.Caller.Role)
	case s.Killed == nil:
		return refuse(policy.NotFound, "%s is not killed", s.DID)
	}
	return allow(KillLifted{s.Killed.ID, s.DID})
}

// Append appends the event's JSON.
func (e Killed) Append(dst []byte) []byte {
	return audit.Event(dst, killedType).Str("id", e.ID).Str("agent", string(e.Agent)).Str("scope", e.Scope).
		Str("reason", string(e.Reason)).OptStr("note", e.Note).Str("by", string(e.By)).Time("at", e.At).OptStr("substitute", string(e.Substitute)).End()
}

func (e Killed) apply(s *State, _ time.Time) {
	s.Killed = &policy.Kill{ID: e.ID, Scope: policy.Scope{Agent: s.DID}, Reason: e.Reason, Note: e.Note, By: e.By, At: e.At, Substitute: e.Substitute}
}

// Append appends the event's JSON.
func (e KillLifted) Append(dst []byte) []byte {
	return audit.Event(dst, liftedType).Str("id", e.ID).Str("agent", string(e.Agent)).End()
}

func (e KillLifted) apply(s *State, _ time.Time) { s.Killed, s.Lifted = nil, e.ID }
