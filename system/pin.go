package system

import (
	"crypto/sha256"
	"maps"
	"slices"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// pin.go: what a tool's definition was when it was first seen; another one counts only once an operator has looked at it (SPEC §7).

// The published names.
const (
	pinnedType   = "tools.pinned"
	acceptedType = "tools.accepted"
)

// MaxPins bounds the tools that can be pinned. One beyond it stays unpinned, and so counts as changed.
const MaxPins = 65_536

// A Definition is what is pinned of a tool.
type Definition struct {
	Digest audit.Hash `json:"digest"`
	Seq    uint64     `json:"seq"` // of the record beside which the text stands
}

// Pin records the definitions of tools at first sight. A tool that is pinned already keeps its pin.
type Pin struct{ Tools map[string]Seen }

// A Seen is a definition as a server gives it.
type Seen struct {
	Digest audit.Hash
	Text   []byte // JSON
}

// Accept pins another definition of a tool. An operator's, who repeats the digest of the text he saw.
type Accept struct {
	Tool string
	Seen Seen
}

func (Pin) command()    {}
func (Accept) command() {}

// Pinned is recorded when a tool is seen for the first time.
type Pinned struct {
	Tool       string     `json:"tool"`
	Digest     audit.Hash `json:"digest"`
	Definition audit.Hash `json:"definition"` // commitment to the text
}

// Accepted is recorded when an operator has accepted a changed definition.
type Accepted struct {
	Tool       string     `json:"tool"`
	Digest     audit.Hash `json:"digest"`
	Was        audit.Hash `json:"was"`
	Definition audit.Hash `json:"definition"` // commitment to the text
}

// decidePin pins what is not pinned yet, in the order of the names.
func decidePin(s *State, env *Env, c Pin) Outcome {
	out := allow()
	for _, tool := range slices.Sorted(maps.Keys(c.Tools)) {
		if _, there := s.Pins[tool]; there || len(s.Pins)+len(out.Events) >= MaxPins {
			continue
		}
		p := definition(env, tool, c.Tools[tool])
		out.Events = append(out.Events, Pinned{tool, c.Tools[tool].Digest, p.Commitment()})
		out.Parts = append(out.Parts, p)
	}
	return out
}

func decideAccept(s *State, env *Env, c Accept) Outcome {
	old, there := s.Pins[c.Tool]
	switch {
	case !there && len(s.Pins) >= MaxPins:
		return refuse(policy.QuotaExceeded, "%d tools are pinned", len(s.Pins))
	case old.Digest == c.Seen.Digest:
		return allow()
	}
	p := definition(env, c.Tool, c.Seen)
	out := allow(Accepted{c.Tool, c.Seen.Digest, old.Digest, p.Commitment()})
	out.Parts = []audit.Part{p}
	return out
}

// definition makes a part of a definition's text, with a salt of its own.
func definition(env *Env, tool string, seen Seen) audit.Part {
	salt := sha256.Sum256(append(env.Random[:len(env.Random):len(env.Random)], tool...))
	return audit.Part{Name: "definition", Salt: salt, Bytes: seen.Text}
}

// Append appends the event's JSON.
func (e Pinned) Append(dst []byte) []byte {
	return audit.Event(dst, pinnedType).Str("tool", e.Tool).Hash("digest", e.Digest).Hash("definition", e.Definition).End()
}

func (e Pinned) apply(s *State) { s.Pins[e.Tool] = Definition{e.Digest, s.Seq} }

// Append appends the event's JSON.
func (e Accepted) Append(dst []byte) []byte {
	return audit.Event(dst, acceptedType).Str("tool", e.Tool).Hash("digest", e.Digest).Hash("was", e.Was).Hash("definition", e.Definition).End()
}

func (e Accepted) apply(s *State) { s.Pins[e.Tool] = Definition{e.Digest, s.Seq} }
