package session

import (
	"cmp"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// vouch.go: an agent puts up some of its σ for another (SPEC §3 "Vouching"). A bond takes three records: VouchRequested here, which
// owes the reservation and from then on the release; the voucher's own, which has the collateral; and Vouched here, from which
// on it counts. If we crash between any two, what is owed is told again, and its number says so.

// The published names.
const (
	requestedType     = "liability.vouch_requested"
	vouchedType       = "liability.vouch_created"
	vouchRefusedType  = "liability.vouch_refused"
	vouchEndedType    = "liability.vouch_ended"
	vouchReleasedType = "liability.vouch_released"
)

const maxBonds = 1000 // requested, active or answering at once, in one session

// Vouch puts up some of the caller's σ for another participant. An agent's, with its own.
type Vouch struct {
	Vouchee policy.DID
	Bond    ring.Sigma // zero: 20 % of the voucher's σ_raw
	Expires time.Time  // zero: with the session
	Key     string     // idempotency key; empty: none
}

// Withdraw takes a vouch back: the voucher does, or an operator. It still answers for the calls that were admitted under it.
type Withdraw struct{ ID string }

func (Vouch) command()    {}
func (Withdraw) command() {}

// A Bond is what one participant has put up for another.
type Bond struct {
	ID      string     `json:"id"`
	Voucher policy.DID `json:"voucher"`
	Vouchee policy.DID `json:"vouchee"`
	Amount  ring.Sigma `json:"amount"` // as reserved; the voucher's standing says what is left of one that was cut
	Status  BondStatus `json:"status"`
	Expires time.Time  `json:"expires,omitzero"`
	Since   uint64     `json:"since"`            // the record it was requested in, then the one from which on it counts
	Number  uint64     `json:"number,omitempty"` // of the entry that reserves it
	Calls   []string   `json:"calls,omitempty"`  // of the vouchee, that an ended bond answers for
}

// A BondStatus is where a bond stands. The zero status is requested.
type BondStatus uint8

// The statuses. A bond that has ended and answers for nothing is forgotten.
const (
	BondRequested BondStatus = iota
	BondActive               // it counts
	BondAnswering            // it counts no more, and can still be lost
)

var bondStatuses = [...]string{"requested", "active", "answering"}

// String returns the status's word.
func (b BondStatus) String() string { return bondStatuses[b] }

// MarshalText returns the status's word.
func (b BondStatus) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads a status's word.
func (b *BondStatus) UnmarshalText(text []byte) error { return readWord(b, bondStatuses[:], text) }

// The events.
type (
	// VouchRequested is recorded first: the voucher's stream is to set the collateral aside.
	VouchRequested struct {
		ID      string     `json:"id"`
		Voucher policy.DID `json:"voucher"`
		Vouchee policy.DID `json:"vouchee"`
		Bond    ring.Sigma `json:"bond"`
		Above   ring.Sigma `json:"above"` // the vouchee's σ_raw, which the voucher's must exceed
		Expires time.Time  `json:"expires,omitzero"`
	}
	// Vouched is recorded when the collateral is set aside: from now on it counts.
	Vouched struct {
		ID      string     `json:"id"`
		Voucher policy.DID `json:"voucher"`
		Vouchee policy.DID `json:"vouchee"`
		Bond    ring.Sigma `json:"bond"`
	}
	// VouchRefused is recorded when the voucher's stream did not set it aside.
	VouchRefused struct {
		ID   string      `json:"id"`
		Code policy.Code `json:"code"`
		Why  string      `json:"why"`
	}
	// VouchEnded is recorded when a bond counts no more and still answers for calls that run.
	VouchEnded struct {
		ID    string   `json:"id"`
		Why   string   `json:"why"`
		Calls []string `json:"calls"`
	}
	// VouchReleased is recorded when a bond answers for nothing any more: the collateral is to be free again.
	VouchReleased struct {
		ID  string `json:"id"`
		Why string `json:"why"` // withdrawn, expired, the agent left, session ended, slashed, session not active, outcomes known
	}
)

func decideVouch(s *State, env *Env, c Vouch) Outcome {
	by := env.Caller.DID
	if d := s.mayVouch(env, c); d != nil {
		return Outcome{Decision: *d}
	}
	voucher, vouchee := env.standing(by), env.standing(c.Vouchee)
	amount := cmp.Or(c.Bond, ring.Sigma(uint64(voucher.Sigma)*uint64(agent.BondShare)/uint64(ring.One)))
	switch {
	case s.slashed(env, by) || s.slashed(env, c.Vouchee):
		return refuse(policy.VouchRefused, "who was slashed neither vouches nor is vouched for")
	case voucher.Sigma <= agent.VoucherAbove:
		return refuse(policy.VouchRefused, "who vouches has σ above %s; %s has %s", agent.VoucherAbove, by, voucher.Sigma)
	case voucher.Sigma <= vouchee.Sigma:
		return refuse(policy.VouchRefused, "who vouches has a σ above the other's; %s has %s, and %s has %s", by, voucher.Sigma, c.Vouchee, vouchee.Sigma)
	case s.backs(c.Vouchee, by):
		return refuse(policy.VouchRefused, "%s stands behind %s already, so it cannot stand behind it in turn", c.Vouchee, by)
	case amount == 0 || amount > agent.MostBonded(voucher.Sigma)-min(voucher.Bonded, agent.MostBonded(voucher.Sigma)):
		return refuse(policy.ExposureExceeded, "%s has bonded %s of the %s it may, in all sessions together; %s more is too much", by, voucher.Bonded, agent.MostBonded(voucher.Sigma), amount)
	case len(s.Bonds) >= maxBonds:
		return refuse(policy.QuotaExceeded, "session %s has %d bonds, and may have no more", s.ID, maxBonds)
	}
	id := s.newID(env, "vch-")
	out := allow(VouchRequested{id, by, c.Vouchee, amount, vouchee.Sigma, c.Expires})
	out.ID = id
	return out
}

// mayVouch refuses what is no vouch between two participants of an open session.
func (s *State) mayVouch(env *Env, c Vouch) *policy.Decision {
	by := env.Caller.DID
	switch {
	case env.Caller.Role != policy.AgentRole:
		return deny(policy.Forbidden, "an agent vouches with its own σ; %s is %s", by, env.Caller.Role)
	case s.Lifecycle != Handshaking && s.Lifecycle != Active:
		return deny(policy.SessionNotActive, "session %s is %s", s.ID, s.Lifecycle)
	case !env.Now.Before(s.Ends):
		return deny(policy.SessionNotActive, "session %s is over since %s", s.ID, s.Ends.Format(time.RFC3339))
	case s.Participants[by] == nil:
		return deny(policy.NotAParticipant, "%s is not in session %s", by, s.ID)
	case s.Participants[c.Vouchee] == nil:
		return deny(policy.NotAParticipant, "%s is not in session %s; an operator can join it", c.Vouchee, s.ID)
	case c.Bond > ring.One:
		return deny(policy.InvalidArguments, "a bond is from 0 to 1")
	case !c.Expires.IsZero() && !env.Now.Before(c.Expires):
		return deny(policy.InvalidArguments, "%s is past", c.Expires.Format(time.RFC3339))
	case s.kin(by, c.Vouchee):
		return deny(policy.VouchRefused, "nobody vouches for itself, nor for whom it brought or was brought by")
	case s.root(by) != by || s.root(c.Vouchee) != c.Vouchee: // for vouches a child is its parent
		return deny(policy.VouchRefused, "%s answers for %s, and %s for %s: one of these vouches for the other", s.root(by), by, s.root(c.Vouchee), c.Vouchee)
	}
	if k, killed := s.killed(env, by); killed {
		return deny(policy.AgentKilled, "%s was killed (%s)", by, k.Reason)
	}
	if d := s.quarantined(env, by); d != nil {
		return d
	}
	for _, b := range s.Bonds {
		if b.Voucher == by && b.Vouchee == c.Vouchee {
			return deny(policy.VouchRefused, "%s vouches for %s already: %s", by, c.Vouchee, b.ID)
		}
	}
	return nil
}

// backs reports whether one agent stands behind another by a chain of bonds, however long: requested ones too.
func (s *State) backs(voucher, vouchee policy.DID) bool {
	if len(s.Bonds) == 0 {
		return false
	}
	behind := map[policy.DID][]policy.DID{}
	for _, b := range s.Bonds {
		if b.Status != BondAnswering {
			behind[b.Voucher] = append(behind[b.Voucher], b.Vouchee)
		}
	}
	seen := map[policy.DID]bool{voucher: true}
	for next := []policy.DID{voucher}; len(next) > 0; {
		at := next[len(next)-1]
		next = next[:len(next)-1]
		for _, did := range behind[at] {
			if did == vouchee {
				return true
			}
			if !seen[did] {
				seen[did] = true
				next = append(next, did)
			}
		}
	}
	return false
}

// bonded reports whether a bond ties two agents, either way.
func (s *State) bonded(one, other policy.DID) bool {
	for _, b := range s.Bonds {
		if b.Voucher == one && b.Vouchee == other || b.Voucher == other && b.Vouchee == one {
			return true
		}
	}
	return false
}

func decideWithdraw(s *State, env *Env, c Withdraw) Outcome {
	b := s.Bonds[c.ID]
	switch {
	case b == nil:
		return refuse(policy.NotFound, "there is no vouch %s in session %s, or it has ended", c.ID, s.ID)
	case env.Caller.DID != b.Voucher && !env.Caller.Runs():
		return refuse(policy.Forbidden, "%s is %s's; it or an operator withdraws it", b.ID, b.Voucher)
	case b.Status == BondRequested:
		return refuse(policy.VouchRefused, "%s is not decided yet; try again", b.ID)
	case b.Status == BondAnswering:
		return Outcome{Decision: policy.Allow(), Durable: true} // it has ended already
	}
	out := allow(s.endBond(b, "withdrawn"))
	out.ID = b.ID
	return out
}

// endBond ends an active bond: it answers on for calls that were admitted under it and run.
func (s *State) endBond(b *Bond, why string) Event {
	var calls []string
	for id, r := range s.Running {
		if r.Agent == b.Vouchee && r.Seq > b.Since {
			calls = append(calls, id)
		}
	}
	if len(calls) == 0 {
		return VouchReleased{b.ID, why}
	}
	slices.SortFunc(calls, func(x, y string) int { return cmp.Compare(s.Running[x].Seq, s.Running[y].Seq) })
	return VouchEnded{b.ID, why, calls}
}

// endBonds ends the active bonds that which picks.
func (s *State) endBonds(why string, which func(*Bond) bool) (events []Event) {
	for _, id := range s.bondIDs() {
		if b := s.Bonds[id]; b.Status == BondActive && which(b) {
			events = append(events, s.endBond(b, why))
		}
	}
	return events
}

// bondIDs lists the bonds in the order they were requested.
func (s *State) bondIDs() []string {
	return ordered(s.Bonds, func(a, b string) int {
		return cmp.Or(cmp.Compare(s.Bonds[a].Number, s.Bonds[b].Number), cmp.Compare(a, b))
	})
}

// expireBonds ends the bonds whose time is over, and those of agents that were slashed elsewhere.
func (s *State) expireBonds(env *Env) []Event {
	if len(s.Bonds) == 0 {
		return nil
	}
	events := s.endBonds("expired", func(b *Bond) bool { return b.over(env.Now) })
	return append(events, s.endBonds("slashed", func(b *Bond) bool {
		return !b.over(env.Now) && (env.standing(b.Vouchee).Blacklisted || env.standing(b.Voucher).Blacklisted)
	})...)
}

// over reports whether the bond's time is over.
func (b *Bond) over(now time.Time) bool { return !b.Expires.IsZero() && !now.Before(b.Expires) }

// freed releases the bonds that answer for nothing any more once the calls have ended whose outcomes are about to be recorded.
func (s *State) freed(events []Event) (released []Event) {
	if s.Answering == 0 {
		return nil
	}
	ended := map[string]bool{}
	for _, e := range events {
		switch e := e.(type) {
		case Completed:
			ended[e.ID] = true
		case Failed:
			ended[e.ID] = true
		case Unknown:
			ended[e.ID] = true
		default: // ends no call
		}
	}
	if len(ended) == 0 {
		return nil
	}
	for _, id := range s.bondIDs() {
		b := s.Bonds[id]
		if b.Status == BondAnswering && !slices.ContainsFunc(b.Calls, func(id string) bool { return !ended[id] }) {
			released = append(released, VouchReleased{b.ID, "outcomes known"})
		}
	}
	return released
}

// reserved says what comes of a request once the voucher's stream has answered.
func (s *State) reserved(env *Env, b *Bond, a Answer) Event {
	why := ""
	switch {
	case a.Code != "":
		return VouchRefused{b.ID, a.Code, a.Why}
	case s.Lifecycle != Handshaking && s.Lifecycle != Active:
		why = "session not active"
	case s.Participants[b.Voucher] == nil || s.Participants[b.Vouchee] == nil:
		why = whyLeft
	case s.slashed(env, b.Vouchee):
		why = "slashed"
	case b.over(env.Now):
		why = "expired"
	default:
		return Vouched{b.ID, b.Voucher, b.Vouchee, b.Amount}
	}
	return VouchReleased{b.ID, why}
}

// Append appends the event's JSON.
func (e VouchRequested) Append(dst []byte) []byte {
	return audit.Event(dst, requestedType).Str("id", e.ID).Str("voucher", string(e.Voucher)).Str("vouchee", string(e.Vouchee)).
		Millionths("bond", uint32(e.Bond)).Millionths("above", uint32(e.Above)).OptTime("expires", e.Expires).End()
}

func (e VouchRequested) apply(s *State, at Stamp) {
	s.owe(e.Voucher, agent.Entry{Kind: agent.Reserve, Bond: e.ID, Vouchee: e.Vouchee, Amount: e.Bond, Above: e.Above})
	if s.Bonds == nil {
		s.Bonds = map[string]*Bond{}
	}
	s.Bonds[e.ID] = &Bond{ID: e.ID, Voucher: e.Voucher, Vouchee: e.Vouchee, Amount: e.Bond, Expires: e.Expires, Since: at.Seq, Number: s.Entries}
}

func (VouchRequested) owes() Effect { return Tell{} }

// minBondsDue notes a bond's end.
func (s *State) minBondsDue(at time.Time) {
	if !at.IsZero() && (s.BondsDue.IsZero() || at.Before(s.BondsDue)) {
		s.BondsDue = at
	}
}

// Append appends the event's JSON.
func (e Vouched) Append(dst []byte) []byte {
	return audit.Event(dst, vouchedType).Str("id", e.ID).Str("voucher", string(e.Voucher)).Str("vouchee", string(e.Vouchee)).
		Millionths("bond", uint32(e.Bond)).End()
}

func (e Vouched) apply(s *State, at Stamp) {
	b := s.Bonds[e.ID]
	b.Status, b.Since = BondActive, at.Seq
	s.minBondsDue(b.Expires)
}

// Append appends the event's JSON.
func (e VouchRefused) Append(dst []byte) []byte {
	return audit.Event(dst, vouchRefusedType).Str("id", e.ID).Str("code", string(e.Code)).Str("why", e.Why).End()
}

func (e VouchRefused) apply(s *State, _ Stamp) { s.forgetBond(e.ID) }

// Append appends the event's JSON.
func (e VouchEnded) Append(dst []byte) []byte {
	return audit.Event(dst, vouchEndedType).Str("id", e.ID).Str("why", e.Why).Strs("calls", e.Calls).End()
}

func (e VouchEnded) apply(s *State, _ Stamp) {
	b := s.Bonds[e.ID]
	b.Status, b.Calls = BondAnswering, slices.Clone(e.Calls) // the event stays as it is
	s.Answering++
	s.setBondsDue()
}

// Append appends the event's JSON.
func (e VouchReleased) Append(dst []byte) []byte {
	return audit.Event(dst, vouchReleasedType).Str("id", e.ID).Str("why", e.Why).End()
}

func (e VouchReleased) apply(s *State, _ Stamp) {
	s.owe(s.Bonds[e.ID].Voucher, agent.Entry{Kind: agent.Release, Bond: e.ID})
	s.forgetBond(e.ID)
}

func (VouchReleased) owes() Effect { return Tell{} }

// forgetBond takes a bond out of the table.
func (s *State) forgetBond(id string) {
	b := s.Bonds[id]
	delete(s.Bonds, id)
	if len(s.Bonds) == 0 {
		s.Bonds = nil
	}
	if b.Status == BondAnswering {
		s.Answering--
	}
	if b.Expires.Equal(s.BondsDue) && !s.BondsDue.IsZero() {
		s.setBondsDue()
	}
}

// bondCallEnded notes that an ended bond answers for a call no more.
func (s *State) bondCallEnded(call string) {
	if s.Answering == 0 {
		return
	}
	for _, b := range s.Bonds {
		if i := slices.Index(b.Calls, call); i >= 0 {
			b.Calls = slices.Delete(b.Calls, i, i+1)
		}
	}
}

// setBondsDue finds when the next bond ends.
func (s *State) setBondsDue() {
	s.BondsDue = time.Time{}
	for _, b := range s.Bonds {
		if b.Status == BondActive {
			s.minBondsDue(b.Expires)
		}
	}
}
