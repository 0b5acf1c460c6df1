package sim

import (
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// ring_test.go: the ring of an agent by SPEC §2 and §3, added up from the records alone. A decision is made a moment before its record
// is in, so what has ended in this turn or the last still counts: the oracle is never below the ring that the decision saw.

// A bond is one that counts, or did until its turn.
type bond struct {
	voucher, vouchee policy.DID
	amount           ring.Sigma
	active           bool
	ended            int // the turn
}

// An elevation is one that was granted.
type elevation struct {
	ring  ring.Ring
	until time.Time
	over  bool
	ended int
}

// A heldRing is what an agent is held in: by probation, or a demotion.
type heldRing struct {
	ring  ring.Ring
	since int // the turn
}

func (b *book) recently(turn int) bool { return b.w.turn-turn <= 1 || turn > b.w.turn }

// ringEvent notes what moves a ring.
func (b *book) ringEvent(s *sessionBook, e session.Event) {
	switch e := e.(type) {
	case session.VouchRequested:
		s.bonds[e.ID] = &bond{voucher: e.Voucher, vouchee: e.Vouchee, amount: e.Bond}
	case session.Vouched:
		s.bonds[e.ID].active = true
	case session.VouchEnded:
		s.bonds[e.ID].ends(b.w.turn)
	case session.VouchReleased:
		s.bonds[e.ID].ends(b.w.turn)
	case session.BondForfeited:
		s.bonds[e.ID].ends(b.w.turn)
	case session.RingElevated:
		s.elevated[e.Agent] = &elevation{ring: e.Ring, until: e.Until}
	case session.ElevationExpired:
		if x := s.elevated[e.Agent]; x != nil {
			x.over, x.ended = true, b.w.turn
		}
	case session.RingDemoted:
		if m := s.members[e.Agent]; e.Held && m != nil {
			m.held = heldRing{max(m.held.ring, e.Ring), b.w.turn}
		}
	case session.DemotionLifted:
		s.members[e.Agent].held = heldRing{}
	default: // moves no ring
	}
}

func (b *bond) ends(turn int) {
	if b.active {
		b.active, b.ended = false, turn
	}
}

// highest returns the most privileged ring that the records allow an agent, and the best σ_eff.
func (b *book) highest(s *sessionBook, did policy.DID, raw ring.Sigma, at time.Time) (ring.Ring, ring.Sigma) {
	score := b.backed(s, did, raw)
	r := ring.Sandbox
	switch { // SPEC §2: by score
	case score > 950_000:
		r = ring.Privileged
	case score > 600_000:
		r = ring.Standard
	}
	if x := s.elevated[did]; x != nil && at.Before(x.until) && (!x.over || b.recently(x.ended)) {
		r = min(r, x.ring)
	}
	m := s.members[did]
	if m == nil {
		return r, score
	}
	if !b.recently(m.held.since) {
		r = max(r, m.held.ring)
	}
	if m.parent != "" { // at best its parent's ring + 1, and its σ_eff
		above, most := b.highest(s, m.parent, b.agent(m.parent).lately(b), at)
		score = min(score, most)
		r = max(r, min(above+1, ring.Sandbox))
		if by := ringByScore(score); s.elevated[did] == nil {
			r = max(r, by)
		}
	}
	return r, score
}

func ringByScore(score ring.Sigma) ring.Ring {
	switch {
	case score > 950_000:
		return ring.Privileged
	case score > 600_000:
		return ring.Standard
	}
	return ring.Sandbox
}

// backed is SPEC §3: σ_eff = min(σ_raw of the best voucher, σ_raw + ω·Σ bonded), never below σ_raw; ω is 0.65 here.
func (b *book) backed(s *sessionBook, did policy.DID, raw ring.Sigma) ring.Sigma {
	sum, best := uint64(0), ring.Sigma(0)
	for _, x := range s.bonds {
		if x.vouchee == did && (x.active || x.ended > 0 && b.recently(x.ended)) {
			sum += uint64(x.amount)
			best = max(best, b.agent(x.voucher).lately(b))
		}
	}
	return max(raw, min(best, raw+ring.Sigma(sum*65/100)))
}

// lately returns the highest σ_raw of this turn and the last.
func (a *agentBook) lately(b *book) ring.Sigma {
	if b.recently(a.fell) {
		return max(a.sigma, a.before)
	}
	return a.sigma
}

// moves notes a change of σ.
func (a *agentBook) moves(b *book, to ring.Sigma) {
	if !b.recently(a.fell) || a.fell == 0 {
		a.before = 0
	}
	a.before, a.fell, a.sigma = max(a.before, a.sigma), b.w.turn, to
}

// needs is SPEC §2's "required by an action", for what there is in every session. What a drive's file is taken back by may be missing.
var needs = map[string]ring.Ring{"read": ring.Sandbox, "write": ring.Standard, "unwrite": ring.Standard, "put": ring.Standard, "unput": ring.Standard,
	"destroy": ring.Privileged, "drive.read": ring.Sandbox, "drive.write": ring.Standard, "drive.remove": ring.Privileged,
	plain + "write": ring.Standard, plain + "unwrite": ring.Standard, keyed + "put": ring.Standard, keyed + "unput": ring.Standard}

// judgeRing checks an admission of an agent's.
func (b *book) judgeRing(s *sessionBook, r audit.Record, e session.Admitted) {
	w := b.w
	required, known := needs[e.Action]
	w.must(ringHolds, e.Undoes != "" || known && (e.RequiredRing == required || e.Action == "drive.write" && e.RequiredRing == ring.Privileged),
		"%s (%s) is decided as one for ring %d", e.ID, e.Action, e.RequiredRing)
	a := b.agent(e.Agent)
	raw, there := a.at[e.Standing]
	w.must(ringHolds, there || e.Standing == 0, "%s is decided on record %d of %s, which there is none of", e.ID, e.Standing, e.Agent)
	if e.Standing == 0 {
		raw = ring.Newcomer
	}
	highest, score := b.highest(s, e.Agent, raw, r.Time)
	above := e.RequiredRing < highest && !(e.Approval != "" && e.RequiredRing == ring.Privileged && highest == ring.Standard)
	w.must(ringHolds, !above, "%s (%s) needs ring %d, and %s with σ_eff %s is in ring %d at best", e.ID, e.Action, e.RequiredRing, e.Agent, score, highest)
	w.must(ringHolds, e.RequiredRing != ring.Privileged || e.Approval != "" || e.Undoes != "", "%s (%s) cannot be taken back, and nobody approved it", e.ID, e.Action)
}
