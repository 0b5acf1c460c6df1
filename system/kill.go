package system

import (
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// kill.go: the kill of everything, and the tokens that a kill ends (SPEC §7 "Kill switch").

// The published names.
const (
	killedType = "security.killed"
	liftedType = "security.kill_lifted"
)

// maxRevoked bounds the tokens that one record revokes.
const maxRevoked = 512

// Kill stops everything. It is recorded once: the command is repeated until it is.
type Kill struct{ Kill policy.Kill }

// LiftKill ends the kill of everything.
type LiftKill struct{}

// RevokeTokensOf ends the tokens with which those come whom a kill stops: an agent's, or an agent's into a session, or all that
// are for the session alone. A name's tokens outlive its killed session. At most 512 at once.
type RevokeTokensOf struct{ Scope policy.Scope }

func (Kill) command()           {}
func (LiftKill) command()       {}
func (RevokeTokensOf) command() {}

// Killed is recorded when everything was stopped.
type Killed struct {
	ID     string        `json:"id"`
	Scope  string        `json:"scope"` // all
	Reason policy.Reason `json:"reason"`
	Note   string        `json:"note,omitempty"`
	By     policy.DID    `json:"by"`
	At     time.Time     `json:"at"`
}

// KillLifted is recorded when the kill of everything ends.
type KillLifted struct {
	ID    string `json:"id"` // of the kill
	Scope string `json:"scope"`
}

const scopeAll = "all"

func decideKill(s *State, c Kill) Outcome {
	if s.Killed != nil || s.Lifted == c.Kill.ID {
		return allow()
	}
	k := c.Kill
	return allow(Killed{k.ID, scopeAll, k.Reason, k.Note, k.By, k.At})
}

func decideLift(s *State) Outcome {
	if s.Killed == nil {
		return refuse(policy.NotFound, "everything is not killed")
	}
	return allow(KillLifted{s.Killed.ID, scopeAll})
}

func decideRevokeOf(s *State, c RevokeTokensOf) Outcome {
	out := allow()
	ids := s.TokensOf(c.Scope)
	for _, id := range ids[:min(len(ids), maxRevoked)] {
		out.Events = append(out.Events, TokenRevoked{id})
	}
	return out
}

// TokensOf returns the ids of the tokens that a kill of a scope ends, in order.
func (s *State) TokensOf(scope policy.Scope) (ids []string) {
	for _, t := range s.Tokens {
		if s.stops(scope, t) {
			ids = append(ids, t.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// stops reports whether a kill of a scope ends a token.
func (s *State) stops(scope policy.Scope, t Token) bool {
	switch {
	case scope.All || t.Role != policy.AgentRole:
		return false
	case scope.Session == "":
		return t.Subject == scope.Agent
	case scope.Agent == "":
		return t.Session == scope.Session
	}
	return t.Subject == scope.Agent && s.leadsTo(t) == scope.Session
}

// Barred returns the kill that bars an agent's token from what it is for, and whether there is one.
func (s *State) Barred(kills policy.Kills, t Token) (policy.Kill, bool) {
	if t.Role != policy.AgentRole {
		return policy.Kill{}, false
	}
	k, ok := kills.Of(s.leadsTo(t), t.Subject)
	return k, ok && k.Agent != ""
}

// leadsTo returns the session that an agent's token lets its bearer into now.
func (s *State) leadsTo(t Token) string {
	if t.Alias != "" {
		return s.Aliases[t.Alias]
	}
	return t.Session
}

// Append appends the event's JSON.
func (e Killed) Append(dst []byte) []byte {
	return audit.Event(dst, killedType).Str("id", e.ID).Str("scope", e.Scope).Str("reason", string(e.Reason)).OptStr("note", e.Note).
		Str("by", string(e.By)).Time("at", e.At).End()
}

func (e Killed) apply(s *State) {
	s.Killed = &policy.Kill{ID: e.ID, Scope: policy.Scope{All: true}, Reason: e.Reason, Note: e.Note, By: e.By, At: e.At}
}

// Append appends the event's JSON.
func (e KillLifted) Append(dst []byte) []byte {
	return audit.Event(dst, liftedType).Str("id", e.ID).Str("scope", e.Scope).End()
}

func (e KillLifted) apply(s *State) { s.Killed, s.Lifted = nil, e.ID }
