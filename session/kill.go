package session

import (
	"fmt"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// kill.go: an agent is stopped in this session, or the session is (SPEC §7 "Kill switch").

// The published names.
const (
	agentKilledType   = "security.agent_killed"
	sessionKilledType = "security.killed"
	killLiftedType    = "security.kill_lifted"
)

// whyKilled is what is recorded of what a kill ends.
const whyKilled = "killed"

// Kill records a kill of this session, or of an agent in it. It is in force before it is recorded, and is repeated until it is:
// a kill that is recorded, or was lifted since, records nothing.
type Kill struct{ Kill policy.Kill }

// LiftKill ends the kill of an agent in this session. A killed session has ended and stays so.
type LiftKill struct{ Agent policy.DID }

func (Kill) command()     {}
func (LiftKill) command() {}

// AgentKilled is recorded when an agent is stopped in this session. It stays a participant.
type AgentKilled struct {
	ID     string        `json:"id"`
	Agent  policy.DID    `json:"agent"`
	Scope  string        `json:"scope"` // session
	Reason policy.Reason `json:"reason"`
	Note   string        `json:"note,omitempty"`
	By     policy.DID    `json:"by"`
	At     time.Time     `json:"at"` // since when

	Substitute policy.DID `json:"substitute,omitempty"`
}

// SessionKilled is recorded when the session is stopped, beside the beginning of its end.
type SessionKilled struct {
	ID     string        `json:"id"`
	Scope  string        `json:"scope"` // session
	Reason policy.Reason `json:"reason"`
	Note   string        `json:"note,omitempty"`
	By     policy.DID    `json:"by"`
	At     time.Time     `json:"at"`
}

// KillLifted is recorded when an agent may act in this session again.
type KillLifted struct {
	ID    string     `json:"id"` // of the kill
	Agent policy.DID `json:"agent"`
}

const scopeSession = "session"

// killed returns the kill that stops an agent here, the narrowest first, and whether there is one. The zero agent is an operator.
func (s *State) killed(env *Env, agent policy.DID) (policy.Kill, bool) {
	for {
		if k, ok := s.Kills[agent]; ok {
			return k, true
		}
		if k, ok := env.Kills.Of(s.ID, agent); ok {
			return k, true
		}
		p := s.Participants[agent]
		if p == nil || p.Parent == "" {
			return policy.Kill{}, false
		}
		agent = p.Parent // a killed parent's children are killed (SPEC §2)
	}
}

// killedItself is killed without a kill of everything: one of the agent, or of the session.
func (s *State) killedItself(env *Env, agent policy.DID) bool {
	k, ok := s.killed(env, agent)
	return ok && !k.All
}

func decideKill(s *State, env *Env, c Kill) (Outcome, error) {
	switch {
	case !env.Caller.Runs():
		return refuse(policy.Forbidden, "only an operator kills; %s is %s", env.Caller.DID, env.Caller.Role), nil
	case c.Kill.Session != s.ID:
		return Outcome{}, fmt.Errorf("%w: a kill of %s, in session %s", ErrImpossible, c.Kill.Scope, s.ID)
	case s.Lifecycle == Absent:
		return refuse(policy.NotFound, "there is no session %s", s.ID), nil
	case c.Kill.Agent == "":
		return decideKillSession(s, env, c.Kill), nil
	}
	k := c.Kill
	if _, there := s.Kills[k.Agent]; there || s.Lifted[k.Agent] == k.ID {
		return Outcome{Decision: policy.Allow(), Durable: true}, nil
	}
	switch {
	case s.Lifecycle == Archived:
		return refuse(policy.SessionNotActive, "session %s has ended", s.ID), nil
	case s.Participants[k.Agent] == nil && !s.runs(k.Agent):
		return refuse(policy.NotAParticipant, "%s is not in session %s; to stop it everywhere, name no session", k.Agent, s.ID), nil
	}
	out := allow(AgentKilled{k.ID, k.Agent, scopeSession, k.Reason, k.Note, k.By, k.At, k.Substitute})
	out.Events = append(out.Events, s.closeApprovals(k.Agent)...)
	return out, nil
}

// runs reports whether calls of an agent are under way.
func (s *State) runs(agent policy.DID) bool {
	for _, r := range s.Running {
		if r.Agent == agent {
			return true
		}
	}
	return false
}

// closeApprovals ends the approvals that a killed agent waits for.
func (s *State) closeApprovals(agent policy.DID) (events []Event) {
	for _, id := range s.approvalIDs() {
		if a := s.Approvals[id]; slices.Contains(s.Line(a.Agent), agent) && (a.Status == Open || a.Status == Granted) {
			events = append(events, ApprovalExpired{ID: id, Why: whyKilled})
		}
	}
	return events
}

// decideKillSession begins the session's end without its grace time: what runs is cancelled at once.
func decideKillSession(s *State, env *Env, k policy.Kill) Outcome {
	switch {
	case s.Killed:
		return Outcome{Decision: policy.Allow(), Durable: true}
	case s.Lifecycle == Archived:
		return refuse(policy.SessionNotActive, "session %s has ended", s.ID)
	}
	var events []Event
	var settled []TallyOf
	if s.Lifecycle < Terminating {
		events, settled = s.endEvents(env, whyKilled, 0), s.settled(env, true)
	}
	events = append([]Event{SessionKilled{k.ID, scopeSession, k.Reason, k.Note, k.By, k.At}}, events...)
	if len(s.Running) > 0 && (s.Lifecycle < Terminating || !s.Grace.IsZero()) {
		events = append(events, Cancelling{s.runningIDs()})
	}
	out := allow(events...)
	out.Tallies = settled
	return out
}

func decideLiftKill(s *State, env *Env, c LiftKill) Outcome {
	k, there := s.Kills[c.Agent]
	switch {
	case !env.Caller.Runs():
		return refuse(policy.Forbidden, "only an operator lifts a kill; %s is %s", env.Caller.DID, env.Caller.Role)
	case s.Lifecycle == Archived:
		return refuse(policy.SessionNotActive, "session %s has ended", s.ID)
	case !there:
		return refuse(policy.NotFound, "%s is not killed in session %s", c.Agent, s.ID)
	}
	return allow(KillLifted{k.ID, c.Agent})
}

// Append appends the event's JSON.
func (e AgentKilled) Append(dst []byte) []byte {
	return audit.Event(dst, agentKilledType).Str("id", e.ID).Str("agent", string(e.Agent)).Str("scope", e.Scope).
		Str("reason", string(e.Reason)).OptStr("note", e.Note).Str("by", string(e.By)).Time("at", e.At).OptStr("substitute", string(e.Substitute)).End()
}

func (e AgentKilled) apply(s *State, _ Stamp) {
	if s.Kills == nil {
		s.Kills = map[policy.DID]policy.Kill{}
	}
	s.Kills[e.Agent] = policy.Kill{ID: e.ID, Scope: policy.Scope{Session: s.ID, Agent: e.Agent}, Reason: e.Reason, Note: e.Note, By: e.By, At: e.At, Substitute: e.Substitute}
}

// Append appends the event's JSON.
func (e SessionKilled) Append(dst []byte) []byte {
	return audit.Event(dst, sessionKilledType).Str("id", e.ID).Str("scope", e.Scope).Str("reason", string(e.Reason)).OptStr("note", e.Note).
		Str("by", string(e.By)).Time("at", e.At).End()
}

func (SessionKilled) apply(s *State, _ Stamp) { s.Killed = true }

// Append appends the event's JSON.
func (e KillLifted) Append(dst []byte) []byte {
	return audit.Event(dst, killLiftedType).Str("id", e.ID).Str("agent", string(e.Agent)).End()
}

func (e KillLifted) apply(s *State, _ Stamp) {
	if delete(s.Kills, e.Agent); len(s.Kills) == 0 {
		s.Kills = nil // as a snapshot has it
	}
	if s.Lifted == nil {
		s.Lifted = map[policy.DID]string{}
	}
	s.Lifted[e.Agent] = e.ID
}
