package agent

import (
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// bond.go: what an agent has put up for others, out of its own σ and across all sessions (SPEC §3 "Vouching"). The collateral is
// here and nowhere else, so that two vouches at once never spend the same.

// The published names.
const (
	reservedType = "agent.bond_reserved"
	releasedType = "agent.bond_released"
	cutType      = "agent.bonds_cut"
)

const (
	// VoucherAbove is the σ_raw a voucher must have more than.
	VoucherAbove ring.Sigma = 600_000
	// BondShare is the share of its σ that an agent bonds unless it says another amount.
	BondShare ring.Sigma = 200_000

	mostBonded = 800_000 // of σ, by all bonds together
	maxBonds   = 1000    // outstanding at once
)

// A Bond is what an agent has put up for another in one session.
type Bond struct {
	Session string     `json:"session"`
	ID      string     `json:"id"` // of the vouch, in its session
	Vouchee policy.DID `json:"vouchee"`
	Amount  ring.Sigma `json:"amount"`
	Cut     bool       `json:"cut,omitempty"` // Amount is less than was reserved, since σ has fallen
}

// MostBonded returns how much an agent of this σ_raw may have bonded in all.
func MostBonded(sigma ring.Sigma) ring.Sigma { return times(sigma, mostBonded) }

// bonded returns the sum of the bonds outstanding.
func (s *State) bonded() (sum ring.Sigma) {
	for i := range s.Bonds {
		sum += s.Bonds[i].Amount
	}
	return sum
}

func (s *State) bond(session, id string) int {
	return slices.IndexFunc(s.Bonds, func(b Bond) bool { return b.ID == id && b.Session == session })
}

// The events.
type (
	// BondReserved is recorded when collateral is set aside for a vouch.
	BondReserved struct {
		Session string     `json:"session"`
		Number  uint64     `json:"number"`
		Bond    string     `json:"bond"`
		Vouchee policy.DID `json:"vouchee"`
		Amount  ring.Sigma `json:"amount"`
	}
	// BondReleased is recorded when it is free again.
	BondReleased struct {
		Session string `json:"session"`
		Number  uint64 `json:"number"`
		Bond    string `json:"bond"`
	}
	// BondsCut is recorded when σ fell so far that the bonds are more than it bears: the newest are cut first.
	BondsCut struct {
		Bonds []CutBond `json:"bonds"`
	}
	// A CutBond is what is left of a bond.
	CutBond struct {
		Session string     `json:"session"`
		Bond    string     `json:"bond"`
		Amount  ring.Sigma `json:"amount"`
	}
)

// decideReserve sets collateral aside. What was refused is recorded nowhere and may be asked again.
func decideReserve(s *State, e Entry) Outcome {
	sigma := s.Sigma()
	switch {
	case s.bond(e.Session, e.Bond) >= 0:
		return allow()
	case e.Number <= s.Heard[e.Session].Number:
		return refuse(policy.VouchRefused, "the bond %s was not reserved, or is free again", e.Bond)
	case s.Blacklisted || s.Killed != nil:
		return refuse(policy.VouchRefused, "%s was slashed or killed, and vouches for nobody", s.DID)
	case sigma <= VoucherAbove:
		return refuse(policy.VouchRefused, "who vouches has σ above %s; %s has %s", VoucherAbove, s.DID, sigma)
	case sigma <= e.Above:
		return refuse(policy.VouchRefused, "who vouches has a σ above the other's; %s has %s, and %s has %s", s.DID, sigma, e.Vouchee, e.Above)
	case len(s.Bonds) >= maxBonds:
		return refuse(policy.ExposureExceeded, "%s has %d bonds outstanding, and may have no more", s.DID, maxBonds)
	case uint64(s.bonded())+uint64(e.Amount) > uint64(MostBonded(sigma)):
		return refuse(policy.ExposureExceeded, "%s has bonded %s of the %s it may, in all sessions together; %s more is too much", s.DID, s.bonded(), MostBonded(sigma), e.Amount)
	}
	return allow(BondReserved{e.Session, e.Number, e.Bond, e.Vouchee, e.Amount})
}

// cuts returns what is cut because of events that are about to be recorded.
func (s *State) cuts(events []Event) []Event {
	lost := -1
	for _, e := range events {
		if m, ok := e.(Moved); ok && m.Kind == Clip {
			lost = s.bond(m.Session, m.Bond)
		}
	}
	left, cut := MostBonded(s.sigmaAfter(events)), BondsCut{}
	for i := range s.Bonds { // oldest first: the newest find the least left
		b := &s.Bonds[i]
		if i == lost {
			continue
		}
		amount := min(b.Amount, left)
		left -= amount
		if amount < b.Amount {
			cut.Bonds = append(cut.Bonds, CutBond{b.Session, b.ID, amount})
		}
	}
	if cut.Bonds == nil {
		return nil
	}
	return []Event{cut}
}

// cutBonds returns what is left of the bonds that were cut, by BondKey; nil: none was.
func (s *State) cutBonds() map[string]ring.Sigma {
	var cut map[string]ring.Sigma
	for i := range s.Bonds {
		if b := &s.Bonds[i]; b.Cut {
			if cut == nil {
				cut = map[string]ring.Sigma{}
			}
			cut[BondKey(b.Session, b.ID)] = b.Amount
		}
	}
	return cut
}

// BondKey names a bond among those of all sessions.
func BondKey(session, id string) string { return session + "/" + id }

// drop forgets a bond.
func (s *State) drop(session, id string) {
	if i := s.bond(session, id); i >= 0 {
		s.Bonds = slices.Delete(s.Bonds, i, i+1)
	}
	if len(s.Bonds) == 0 {
		s.Bonds = nil
	}
}

// Append appends the event's JSON.
func (e BondReserved) Append(dst []byte) []byte {
	return audit.Event(dst, reservedType).Str("session", e.Session).Uint("number", e.Number).Str("bond", e.Bond).
		Str("vouchee", string(e.Vouchee)).Millionths("amount", uint32(e.Amount)).End()
}

func (e BondReserved) apply(s *State, _ time.Time) {
	s.Bonds = append(s.Bonds, Bond{Session: e.Session, ID: e.Bond, Vouchee: e.Vouchee, Amount: e.Amount})
	s.heard(e.Session, e.Number)
}

// Append appends the event's JSON.
func (e BondReleased) Append(dst []byte) []byte {
	return audit.Event(dst, releasedType).Str("session", e.Session).Uint("number", e.Number).Str("bond", e.Bond).End()
}

func (e BondReleased) apply(s *State, _ time.Time) {
	s.drop(e.Session, e.Bond)
	s.heard(e.Session, e.Number)
}

// Append appends the event's JSON.
func (e BondsCut) Append(dst []byte) []byte {
	var list []byte
	for i, b := range e.Bonds {
		sep := byte(',')
		if i == 0 {
			sep = '['
		}
		list = append(append(list, sep), `{"session":`...)
		list = append(audit.AppendString(list, b.Session), `,"bond":`...)
		list = append(audit.AppendString(list, b.Bond), `,"amount":`...)
		list = append(ring.AppendMillionths(list, uint32(b.Amount)), '}')
	}
	return audit.Event(dst, cutType).Raw("bonds", append(list, ']')).End()
}

func (e BondsCut) apply(s *State, _ time.Time) {
	for _, c := range e.Bonds {
		if i := s.bond(c.Session, c.Bond); i >= 0 {
			s.Bonds[i].Amount, s.Bonds[i].Cut = c.Amount, true
		}
	}
}
