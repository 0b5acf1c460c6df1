package liability

import "github.com/agenthypervisor/hypervisor/ring"

// A Portion is a part of a whole, in whole millionths from 0 to 1. The zero Portion is nothing.
type Portion uint32

// Whole is all of it.
const Whole = Portion(ring.One)

// SlashFrom is the share from which an operator's incident slashes (SPEC §3). The direct cause alone is below it.
const SlashFrom Portion = 800_000

// String returns the portion as a decimal with at least two places.
func (p Portion) String() string { return ring.Sigma(p).String() }

// MarshalJSON returns the portion as a JSON number.
func (p Portion) MarshalJSON() ([]byte, error) { return ring.Sigma(p).MarshalJSON() }

// UnmarshalJSON reads a JSON number. No float is involved.
func (p *Portion) UnmarshalJSON(b []byte) error { return (*ring.Sigma)(p).UnmarshalJSON(b) }
