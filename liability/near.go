package liability

import (
	"math/bits"
	"time"
)

// near.go: how much an ancestor counts by its nearness in time: half for every 60 s (SPEC §3, P).

// halfLife is the time in which an ancestor's weight halves.
const halfLife = 60 * time.Second

// nearest is the weight of the newest ancestor. Only ratios count, so the others are measured from it and not from the failing
// action: after a long pause there would be nothing left of any.
const nearest = uint64(1) << 40

// roots[i] is 2^(-2^-(i+1)) in units of 2^-63, rounded down.
var roots = [...]uint64{
	0x5a827999fcef3242, 0x6ba27e656b4eb57a, 0x75606373ee921c97, 0x7a92be8a92436616, 0x7d41d96db915019d, 0x7e9f06067a4360ba,
	0x7f4f08ae3dc7c425, 0x7fa765aca88f6452, 0x7fd3ab290e46d768, 0x7fe9d3a8e07bf085, 0x7ff4e9597bed93aa, 0x7ffa748dff8dc61e,
	0x7ffd3a3f50020332, 0x7ffe9d1dbc0a75a9, 0x7fff4e8e6306ed58, 0x7fffa74712c3cdfd, 0x7fffd3a381b1fa28, 0x7fffe9d1beed0189,
	0x7ffff4e8defb81d7, 0x7ffffa746f5f012f, 0x7ffffd3a37a7d0a8, 0x7ffffe9d1bd1fc58, 0x7fffff4e8de8832d, 0x7fffffa746f422d6,
	0x7fffffd3a37a09bb, 0x7fffffe9d1bd02f1,
}

// fade returns the weight of what happened a time before the newest ancestor, rounded down.
func fade(age time.Duration) uint64 {
	halvings, rest := age/halfLife, age%halfLife
	if halvings >= 64 {
		return 0
	}
	w := nearest << 23 >> uint(halvings)
	for _, root := range roots {
		rest *= 2
		if rest >= halfLife {
			rest -= halfLife
			hi, lo := bits.Mul64(w, root)
			w = hi<<1 | lo>>63
		}
	}
	return w >> 23
}
