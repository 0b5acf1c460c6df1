package system

import (
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// alias.go: a name that stands for the newest of a row of sessions, each the successor of the one before.

const aliasType = "session.alias_bound"

// MaxAliases bounds the names.
const MaxAliases = 100_000

// BindAlias makes a name stand for a session. A name whose session has not ended is not taken from it.
type BindAlias struct{ Name, Session string }

func (BindAlias) command() {}

// AliasBound is recorded when a name stands for a session from now on.
type AliasBound struct {
	Name    string `json:"name"`
	Session string `json:"session"`
	After   string `json:"after,omitempty"` // the session before it; empty: the first
}

func decideAlias(s *State, c BindAlias) Outcome {
	old := s.Aliases[c.Name]
	_, open := s.Open[old]
	switch {
	case c.Name == "" || c.Session == "":
		return refuse(policy.InvalidArguments, "an alias needs a name and a session")
	case old == c.Session:
		return allow()
	case open:
		return refuse(policy.Forbidden, "%q stands for session %s, which has not ended", c.Name, old)
	case old == "" && len(s.Aliases) >= MaxAliases:
		return refuse(policy.QuotaExceeded, "there are %d aliases", len(s.Aliases))
	}
	return allow(AliasBound{c.Name, c.Session, old})
}

// Append appends the event's JSON.
func (e AliasBound) Append(dst []byte) []byte {
	return audit.Event(dst, aliasType).Str("name", e.Name).Str("session", e.Session).OptStr("after", e.After).End()
}

func (e AliasBound) apply(s *State) { s.Aliases[e.Name] = e.Session }
