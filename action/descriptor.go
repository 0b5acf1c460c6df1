package action

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/agenthypervisor/hypervisor/ring"
)

// A Reversibility says how far an action can be taken back. The zero value is Irreversible: what nobody described is not
// reversible (SPEC §2).
type Reversibility uint8

// The three degrees, as configuration spells them: none, partial, full.
const (
	Irreversible Reversibility = iota
	Partial
	Full
)

var reversibilities = [...]string{"none", "partial", "full"}

// String returns none, partial or full.
func (r Reversibility) String() string { return reversibilities[r] }

// MarshalText returns the word configuration uses.
func (r Reversibility) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads none, partial or full, and nothing else.
func (r *Reversibility) UnmarshalText(b []byte) error {
	for i, word := range reversibilities {
		if string(b) == word {
			*r = Reversibility(i)
			return nil
		}
	}
	return fmt.Errorf("reversibility %q is not one of full, partial, none", b)
}

// An Omega is a risk weight in [0, 1], in whole millionths.
type Omega uint32

// The weights: the midpoints of SPEC §4's bands.
const (
	fullWeight    Omega = 200_000
	partialWeight Omega = 650_000
	noneWeight    Omega = 950_000
)

// String returns the weight as a decimal.
func (o Omega) String() string { return ring.Sigma(o).String() }

// MarshalJSON returns the weight as a JSON number.
func (o Omega) MarshalJSON() ([]byte, error) { return ring.Sigma(o).MarshalJSON() }

// UnmarshalJSON reads a JSON number.
func (o *Omega) UnmarshalJSON(b []byte) error { return (*ring.Sigma)(o).UnmarshalJSON(b) }

// A Descriptor is what the hypervisor knows of an action before it decides on it.
// The zero Descriptor but for its ID is an action that cannot be taken back and touches nothing it said.
type Descriptor struct {
	ID            string           `json:"id"`                    // as policies and records say it: server.tool, or a name of the library user's
	Name          string           `json:"name,omitempty"`        // for people; empty: the ID
	Execute       string           `json:"execute,omitempty"`     // where it is done, for records and people
	Image         *Look            `json:"image,omitempty"`       // how what it touches is read; nil: no image is taken
	Undo          []Call           `json:"undo,omitzero"`         // what takes it back, in this order; nil: nothing does; empty: nothing has to be called
	UndoAbsent    []Call           `json:"undo_absent,omitzero"`  // the same, where the image says that nothing was there
	UndoOnly      map[string][]any `json:"undo_only,omitempty"`   // the undo is only for calls whose arguments have one of these values; null: not given. Nil: for all
	After         string           `json:"after,omitempty"`       // template for the bytes the action leaves, where the arguments say so; empty: they are read
	Probe         *Probe           `json:"probe,omitempty"`       // says of an unknown outcome whether the action took place; nil: nothing does
	Reversibility Reversibility    `json:"reversibility"`         // as described; Effective says as what it is decided
	UndoWindow    time.Duration    `json:"undo_window,omitempty"` // how long Undo is worth calling; zero: no limit is known
	ReadOnly      bool             `json:"read_only,omitempty"`
	Admin         bool             `json:"admin,omitempty"`      // ring 0: no agent's
	Idempotent    bool             `json:"idempotent,omitempty"` // doing it twice is doing it once
	Resource      string           `json:"resource,omitempty"`   // what it touches: a literal, or a template over args
	Network       bool             `json:"network,omitempty"`    // reaches beyond this machine
	Files         bool             `json:"files,omitempty"`      // touches the host's files
	Subprocess    bool             `json:"subprocess,omitempty"` // starts programs on the host
}

// Weight returns ω for a reversibility: the midpoint of its band (SPEC §4).
func (r Reversibility) Weight() Omega {
	switch r {
	case Full:
		return fullWeight
	case Partial:
		return partialWeight
	}
	return noneWeight
}

// RequiredRing returns the ring an action decided as r needs (SPEC §2 "Required by an action").
func (d Descriptor) RequiredRing(r Reversibility) ring.Ring {
	switch {
	case d.Admin:
		return ring.Root
	case d.ReadOnly:
		return ring.Sandbox
	case r == Irreversible:
		return ring.Privileged
	}
	return ring.Standard
}

// Digest returns the SHA-256 of the descriptor's JSON. Every field takes part, so a changed descriptor is another one.
// The descriptor has passed Validate.
func (d Descriptor) Digest() [sha256.Size]byte {
	b, err := json.Marshal(d)
	if err != nil {
		panic("action: a descriptor's calls hold what JSON cannot: " + err.Error()) // Validate refuses it
	}
	return sha256.Sum256(b)
}
