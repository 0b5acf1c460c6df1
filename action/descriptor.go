package action

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
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

// A Call names a tool of the same server and its arguments, as a template: the undo of an action.
type Call struct {
	Tool string         `json:"tool"`
	Args map[string]any `json:"args,omitempty"`
}

// A Descriptor is what the hypervisor knows of an action before it decides on it.
// The zero Descriptor but for its ID is an action that cannot be taken back and touches nothing it said.
type Descriptor struct {
	ID            string        `json:"id"`                    // as policies and records say it: server.tool, or a name of the library user's
	Name          string        `json:"name,omitempty"`        // for people; empty: the ID
	Execute       string        `json:"execute,omitempty"`     // where it is done, for records and people
	Undo          *Call         `json:"undo,omitempty"`        // what takes it back; nil: nothing does
	Reversibility Reversibility `json:"reversibility"`         // as described; Effective says as what it is decided
	UndoWindow    time.Duration `json:"undo_window,omitempty"` // how long Undo is worth calling; zero: no limit is known
	ReadOnly      bool          `json:"read_only,omitempty"`
	Admin         bool          `json:"admin,omitempty"`      // ring 0: no agent's
	Idempotent    bool          `json:"idempotent,omitempty"` // doing it twice is doing it once
	Resource      string        `json:"resource,omitempty"`   // what it touches: a literal, or a template over args
	Network       bool          `json:"network,omitempty"`    // reaches beyond this machine
	Files         bool          `json:"files,omitempty"`      // touches the host's files
	Subprocess    bool          `json:"subprocess,omitempty"` // starts programs on the host
}

// MaxIDBytes bounds an action's ID.
const MaxIDBytes = 256

// ErrDescriptor is returned, wrapped with what is wrong, by Validate.
var ErrDescriptor = errors.New("bad descriptor")

var idShape = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._:/-]*[a-zA-Z0-9_-])?$`)

// Validate returns ErrDescriptor for a descriptor that contradicts itself or cannot be named in a record.
func (d Descriptor) Validate() error {
	switch {
	case len(d.ID) > MaxIDBytes || !idShape.MatchString(d.ID):
		return fmt.Errorf("%w: id %q: letters, digits and ._:/- only, at most %d bytes", ErrDescriptor, d.ID, MaxIDBytes)
	case d.ReadOnly && d.Admin:
		return fmt.Errorf("%w: %s is both read_only and admin", ErrDescriptor, d.ID)
	case d.ReadOnly && d.Undo != nil:
		return fmt.Errorf("%w: %s is read_only and has an undo", ErrDescriptor, d.ID)
	case d.UndoWindow < 0:
		return fmt.Errorf("%w: %s has a negative undo_window", ErrDescriptor, d.ID)
	case d.Undo != nil && d.Undo.Tool == "":
		return fmt.Errorf("%w: %s has an undo without a tool", ErrDescriptor, d.ID)
	}
	if _, err := json.Marshal(d.Undo); err != nil { // YAML and Go know values that JSON does not, such as .nan
		return fmt.Errorf("%w: %s: arguments of the undo: %w", ErrDescriptor, d.ID, err)
	}
	return nil
}

// Effective returns as what the action is decided. A full claim needs an undo and an image of what was there before;
// without an image it is decided as partial at best, without an undo as not reversible (SPEC §4). A read-only action leaves
// nothing to take back, so it is full whatever it says.
func (d Descriptor) Effective(image bool) Reversibility {
	switch {
	case d.ReadOnly:
		return Full
	case d.Reversibility != Full:
		return d.Reversibility
	case d.Undo == nil:
		return Irreversible
	case !image:
		return Partial
	}
	return Full
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
		panic("action: a descriptor's undo holds what JSON cannot: " + err.Error()) // Validate refuses it
	}
	return sha256.Sum256(b)
}
