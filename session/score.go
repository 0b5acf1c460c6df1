package session

import (
	"time"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// score.go: σ_eff = min(σ_raw of the best voucher, σ_raw + ω·Σ bonded), never below σ_raw, over the agent's active bonds in this
// session; ω is the session's vouch weight (SPEC §3).

// A backing is what stands behind one agent at a time.
type backing struct {
	sum   uint64     // of what is left of the active bonds, in millionths
	best  ring.Sigma // the greatest σ_raw of a voucher who has something left in one
	until time.Time  // when the first of them expires; zero: none does
}

// sigmaEff returns an agent's σ_eff.
func (s *State) sigmaEff(env *Env, did policy.DID) ring.Sigma {
	standing, known := env.Standings[did]
	raw := standing.Sigma
	switch {
	case !known:
		raw = ring.Newcomer
	case standing.Blacklisted:
		return 0
	}
	switch {
	case len(s.Slashes) > 0 && s.beingSlashed(did):
		return 0
	case len(s.Bonds) == 0:
		return raw
	}
	b, kept := env.Scores.backing(did)
	if !kept || !b.until.IsZero() && !env.Now.Before(b.until) {
		b = s.reckon(env, did)
	}
	return b.lift(raw, ring.Sigma(*s.Config.VouchWeight))
}

// lift returns the σ_eff of an agent that has σ_raw of its own.
func (b *backing) lift(raw, weight ring.Sigma) ring.Sigma {
	lifted := uint64(raw) + b.sum*uint64(weight)/uint64(ring.One)
	return max(raw, ring.Sigma(min(lifted, uint64(b.best))))
}

// reckon adds the bonds up. Scores keep what it finds, and this is what they are tested against.
func (s *State) reckon(env *Env, did policy.DID) (b backing) {
	for _, bond := range s.Bonds {
		if bond.Vouchee != did || bond.Status != BondActive || bond.over(env.Now) {
			continue
		}
		voucher := env.standing(bond.Voucher)
		b.add(s.left(bond, voucher), voucher.Sigma)
		b.end(bond.Expires)
	}
	return b
}

func (b *backing) add(left, sigma ring.Sigma) {
	if left > 0 {
		b.sum, b.best = b.sum+uint64(left), max(b.best, sigma)
	}
}

func (b *backing) end(at time.Time) {
	if !at.IsZero() && (b.until.IsZero() || at.Before(b.until)) {
		b.until = at
	}
}

// left returns what is left of a bond: its voucher's stream says so, from the moment its σ falls.
func (s *State) left(b *Bond, voucher agent.Standing) ring.Sigma {
	if voucher.Blacklisted {
		return 0
	}
	if left, cut := voucher.Cut[agent.BondKey(s.ID, b.ID)]; cut {
		return min(left, b.Amount)
	}
	return b.Amount
}

// Scores keep what stands behind each agent of a session, so that no decision adds bonds up. The rim has them beside the state:
// they follow from it and from the standings. Not safe for concurrent use.
type Scores struct {
	behind    map[policy.DID]*sums
	bonds     map[string]*keptBond
	byVoucher map[policy.DID]map[string]*keptBond
}

// sums are the backing of one agent with what it is the sum of.
type sums struct {
	backing
	weights []weight
	bonds   []*keptBond // in the same places
}

// A weight is what one bond counts: together in few bytes, since the best of a thousand is looked for at once.
type weight struct{ left, sigma ring.Sigma }

type keptBond struct {
	bond  Bond
	of    *sums
	place int
}

// NewScores adds up the active bonds of a session.
func NewScores(s *State, standings map[policy.DID]agent.Standing) *Scores {
	k := &Scores{behind: map[policy.DID]*sums{}, bonds: map[string]*keptBond{}, byVoucher: map[policy.DID]map[string]*keptBond{}}
	for _, b := range s.Bonds {
		k.put(s, b, standings)
	}
	return k
}

// backing returns what is kept for an agent, and whether anything is kept at all. A nil Scores keeps nothing.
func (k *Scores) backing(did policy.DID) (backing, bool) {
	if k == nil {
		return backing{}, false
	}
	if of := k.behind[did]; of != nil {
		return of.backing, true
	}
	return backing{}, true
}

// Follow takes in what a record has changed; the state has it already.
func (k *Scores) Follow(s *State, events []Event, standings map[policy.DID]agent.Standing) {
	for _, e := range events {
		switch e := e.(type) {
		case Vouched:
			k.put(s, s.Bonds[e.ID], standings)
		case VouchEnded:
			k.remove(e.ID)
		case VouchReleased:
			k.remove(e.ID)
		case BondForfeited:
			k.remove(e.ID)
		default: // changes no bond
		}
	}
}

// Stand takes in that a standing has changed.
func (k *Scores) Stand(s *State, did policy.DID, now agent.Standing) {
	for _, b := range k.byVoucher[did] {
		b.of.set(b.place, weight{s.left(&b.bond, now), now.Sigma})
	}
}

func (k *Scores) put(s *State, b *Bond, standings map[policy.DID]agent.Standing) {
	if b == nil || b.Status != BondActive { // of the record that made it, and of a later one in the same
		return
	}
	of := k.behind[b.Vouchee]
	if of == nil {
		of = &sums{}
		k.behind[b.Vouchee] = of
	}
	kept := &keptBond{*b, of, len(of.bonds)}
	k.bonds[b.ID] = kept
	if k.byVoucher[b.Voucher] == nil {
		k.byVoucher[b.Voucher] = map[string]*keptBond{}
	}
	k.byVoucher[b.Voucher][b.ID] = kept
	voucher, known := standings[b.Voucher]
	if !known {
		voucher = agent.Newcomer
	}
	of.bonds, of.weights = append(of.bonds, kept), append(of.weights, weight{})
	of.set(kept.place, weight{s.left(b, voucher), voucher.Sigma})
	of.end(b.Expires)
}

func (k *Scores) remove(id string) {
	b := k.bonds[id]
	if b == nil {
		return
	}
	delete(k.bonds, id)
	delete(k.byVoucher[b.bond.Voucher], id)
	of, last := b.of, len(b.of.bonds)-1
	of.set(b.place, weight{})
	of.bonds[b.place], of.weights[b.place] = of.bonds[last], of.weights[last]
	of.bonds[b.place].place = b.place
	of.bonds, of.weights = of.bonds[:last], of.weights[:last]
	if last == 0 {
		delete(k.behind, b.bond.Vouchee)
	} else if b.bond.Expires.Equal(of.until) && !of.until.IsZero() {
		of.until = time.Time{}
		for _, other := range of.bonds {
			of.end(other.bond.Expires)
		}
	}
}

// set changes what one bond counts.
func (of *sums) set(place int, w weight) {
	old := of.weights[place]
	of.weights[place] = w
	of.sum += uint64(w.left) - uint64(old.left)
	if w.left > 0 && w.sigma >= of.best {
		of.best = w.sigma
		return
	}
	if old.left == 0 || old.sigma < of.best {
		return // it was not the best
	}
	of.best = 0
	for _, w := range of.weights {
		if w.left > 0 && w.sigma > of.best {
			of.best = w.sigma
		}
	}
}
