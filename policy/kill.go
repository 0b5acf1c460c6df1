package policy

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// kill.go: what is stopped, and why (SPEC §7 "Kill switch").

// A Reason says in one word why something was stopped.
type Reason string

// The reasons (SPEC §7).
const (
	ForDrift             Reason = "drift"
	ForRate              Reason = "rate"
	ForBreach            Reason = "breach"
	Manual               Reason = "manual"
	ForQuarantineTimeout Reason = "quarantine_timeout"
	ForSessionTimeout    Reason = "session_timeout"
)

// Reasons lists the reasons.
var Reasons = []Reason{ForDrift, ForRate, ForBreach, Manual, ForQuarantineTimeout, ForSessionTimeout}

// A Scope is what a kill stops: All, or the Session, or the Agent everywhere, or the Agent in the Session. The zero Scope stops
// nothing and is refused.
type Scope struct {
	All     bool   `json:"all,omitempty"`
	Session string `json:"session,omitempty"`
	Agent   DID    `json:"agent,omitempty"`
}

// String says what the scope is of, for people.
func (s Scope) String() string {
	switch {
	case s.All:
		return "everything"
	case s.Agent == "":
		return "session " + s.Session
	case s.Session == "":
		return string(s.Agent)
	}
	return string(s.Agent) + " in session " + s.Session
}

// MaxNoteBytes bounds the note of a kill.
const MaxNoteBytes = 256

// A Kill is one turn of the kill switch.
type Kill struct {
	ID string `json:"id"`
	Scope
	Reason Reason    `json:"reason"`
	Note   string    `json:"note,omitempty"` // what a person said beside the reason
	By     DID       `json:"by"`
	At     time.Time `json:"at"`
	// Substitute does in sagas what the killed agent was to do, if its ring suffices; empty: who the definition names, or nobody.
	Substitute DID `json:"substitute,omitempty"`
}

// Because returns the reason that a text names, or Manual and the text as a note.
func Because(text string) (Reason, string) {
	switch {
	case text == "":
		return Manual, ""
	case slices.Contains(Reasons, Reason(text)):
		return Reason(text), ""
	}
	return Manual, text
}

// Fault returns what is wrong with what a caller said of the kill, or nil.
func (k Kill) Fault() *Decision {
	_, bad := ParseDID(string(k.Agent))
	_, badSubstitute := ParseDID(string(k.Substitute))
	var d Decision
	switch {
	case k.Scope == Scope{}:
		d = Refuse(InvalidArguments, "a kill is of a session, of an agent, or of everything")
	case k.All && (k.Session != "" || k.Agent != ""):
		d = Refuse(InvalidArguments, "a kill of everything names no session and no agent")
	case k.Agent != "" && bad != nil:
		d = Refuse(InvalidArguments, "the agent to kill: %v", bad)
	case k.Substitute != "" && (k.Agent == "" || k.Substitute == k.Agent):
		d = Refuse(InvalidArguments, "a substitute is another agent's, for one that is killed")
	case k.Substitute != "" && badSubstitute != nil:
		d = Refuse(InvalidArguments, "the substitute: %v", badSubstitute)
	case len(k.Session) > MaxDIDBytes:
		d = Refuse(InvalidArguments, "a session's id has at most %d bytes", MaxDIDBytes)
	case !slices.Contains(Reasons, k.Reason):
		d = Refuse(InvalidArguments, "reason %q is not one of %s", k.Reason, joined(Reasons))
	case len(k.Note) > MaxNoteBytes || !utf8.ValidString(k.Note):
		d = Refuse(InvalidArguments, "a note is text of at most %d bytes", MaxNoteBytes)
	default:
		return nil
	}
	return &d
}

func joined(reasons []Reason) string {
	words := make([]string, len(reasons))
	for i, r := range reasons {
		words[i] = string(r)
	}
	return strings.Join(words, ", ")
}

// Refusal is the answer to who is stopped by the kill.
func (k Kill) Refusal() Decision {
	code, why := AgentKilled, string(k.Reason)
	if k.All {
		code = KilledAll
	}
	if k.Note != "" {
		why += ", " + k.Note
	}
	return Refuse(code, "%s was killed (%s) at %s; an operator can lift that", k.Scope, why, k.At.Format(time.RFC3339))
}

// Kills are the kills in force, one a scope. They are never written to: With and Without return others. The zero value is none.
type Kills struct{ by map[Scope]Kill }

// Of returns the kill that stops an agent in a session, the narrowest first. A zero agent is who has no name there: a kill of
// the session or of everything is found.
func (k Kills) Of(session string, agent DID) (Kill, bool) {
	if len(k.by) == 0 {
		return Kill{}, false
	}
	for _, scope := range [...]Scope{{Session: session, Agent: agent}, {Agent: agent}, {Session: session}, {All: true}} {
		if found, ok := k.by[scope]; ok {
			return found, true
		}
	}
	return Kill{}, false
}

// In returns the kill of exactly this scope.
func (k Kills) In(s Scope) (Kill, bool) {
	found, ok := k.by[s]
	return found, ok
}

// With returns the kills and one more; one of the same scope stays as it is.
func (k Kills) With(more Kill) Kills {
	if _, there := k.by[more.Scope]; there {
		return k
	}
	next := maps.Clone(k.by)
	if next == nil {
		next = map[Scope]Kill{}
	}
	next[more.Scope] = more
	return Kills{next}
}

// Without returns the kills but for those that gone names.
func (k Kills) Without(gone func(Kill) bool) Kills {
	next := maps.Clone(k.by)
	maps.DeleteFunc(next, func(_ Scope, k Kill) bool { return gone(k) })
	return Kills{next}
}

// Any reports whether there is one that the function names.
func (k Kills) Any(is func(Kill) bool) bool {
	for _, kill := range k.by {
		if is(kill) {
			return true
		}
	}
	return false
}

// All returns the kills, oldest first.
func (k Kills) All() []Kill {
	return slices.SortedFunc(maps.Values(k.by), func(a, b Kill) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID)) })
}
