package system

import (
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// token.go: who may come through a network door, and as whom. A token's secret is never here: only its hash is.

// The published names.
const (
	issuedType  = "token.issued"
	revokedType = "token.revoked"
)

const (
	// MaxTokens bounds the tokens that are neither expired nor revoked.
	MaxTokens = 100_000
	// MaxTokenLife bounds how long a token lives.
	MaxTokenLife = 366 * 24 * time.Hour
)

// A Token lets its bearer come as someone. The zero Token is nobody's.
type Token struct {
	ID      string      `json:"id"`
	Hash    audit.Hash  `json:"hash"` // SHA-256 of the secret
	Subject policy.DID  `json:"subject"`
	Role    policy.Role `json:"role"`
	Session string      `json:"session,omitempty"` // an agent's: the one session it is for, or
	Alias   string      `json:"alias,omitempty"`   // the name whose newest session it is for
	Expires time.Time   `json:"expires"`
}

// IssueToken asks to record a token. An operator's.
type IssueToken struct{ Token Token }

// RevokeToken ends a token before its time. An operator's.
type RevokeToken struct{ ID string }

func (IssueToken) command()  {}
func (RevokeToken) command() {}

// TokenIssued is recorded before the secret is given out.
type TokenIssued struct {
	Token
}

// TokenRevoked is recorded when a token no longer counts.
type TokenRevoked struct {
	ID string `json:"id"`
}

func decideIssue(s *State, env *Env, c IssueToken) Outcome {
	t := c.Token
	life := t.Expires.Sub(env.Now)
	agents := t.Role == policy.AgentRole
	if k, barred := s.Barred(env.Kills, t); barred {
		return Outcome{Decision: k.Refusal()}
	}
	switch {
	case t.ID == "" || t.Subject == "" || t.Hash == (audit.Hash{}):
		return refuse(policy.InvalidArguments, "a token needs an id, a subject and a hash")
	case t.Role == policy.NoRole || t.Role == policy.SystemRole:
		return refuse(policy.InvalidArguments, "nobody comes as %s", t.Role)
	case t.Subject == policy.System.DID:
		return refuse(policy.InvalidArguments, "nobody comes as %s, the hypervisor itself", t.Subject)
	case life <= 0 || life > MaxTokenLife:
		return refuse(policy.InvalidArguments, "a token lives at most %d days", MaxTokenLife/(24*time.Hour))
	case agents && (t.Session == "") == (t.Alias == ""):
		return refuse(policy.InvalidArguments, "an agent's token is for one session or one alias")
	case !agents && (t.Session != "" || t.Alias != ""):
		return refuse(policy.InvalidArguments, "only an agent's token is for a session")
	case t.Alias != "" && s.Aliases[t.Alias] == "":
		return refuse(policy.NotFound, "there is no session named %q", t.Alias)
	case s.hasToken(t.ID):
		return refuse(policy.IdempotencyConflict, "there is a token %s already; its secret was given out once and is kept nowhere", t.ID)
	case len(s.Tokens) >= MaxTokens:
		return refuse(policy.QuotaExceeded, "%d tokens are alive; revoke some", len(s.Tokens))
	}
	return allow(TokenIssued{t})
}

func decideRevoke(s *State, c RevokeToken) Outcome {
	if s.hasToken(c.ID) {
		return allow(TokenRevoked(c))
	}
	return refuse(policy.NotFound, "there is no token %s, or it has ended", c.ID)
}

func (s *State) hasToken(id string) bool {
	for _, t := range s.Tokens {
		if t.ID == id {
			return true
		}
	}
	return false
}

// Append appends the event's JSON.
func (e TokenIssued) Append(dst []byte) []byte {
	return audit.Event(dst, issuedType).Str("id", e.ID).Hash("hash", e.Hash).Str("subject", string(e.Subject)).Str("role", e.Role.String()).
		OptStr("session", e.Session).OptStr("alias", e.Alias).Time("expires", e.Expires).End()
}

func (e TokenIssued) apply(s *State) {
	for hash, t := range s.Tokens { // those whose time is over make room
		if !s.Time.Before(t.Expires) {
			delete(s.Tokens, hash)
		}
	}
	s.Tokens[e.Hash.String()] = e.Token
}

// Append appends the event's JSON.
func (e TokenRevoked) Append(dst []byte) []byte {
	return audit.Event(dst, revokedType).Str("id", e.ID).End()
}

func (e TokenRevoked) apply(s *State) {
	for hash, t := range s.Tokens {
		if t.ID == e.ID {
			delete(s.Tokens, hash)
		}
	}
}
