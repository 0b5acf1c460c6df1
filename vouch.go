package hypervisor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// vouch.go: bonds between a session's participants, and what it costs to have vouched for the wrong one.

// A Bond is what one participant has put up for another.
type Bond struct {
	ID      string
	Voucher policy.DID
	Vouchee policy.DID
	Amount  ring.Sigma // what is left of it
	Status  session.BondStatus
	Expires time.Time // zero: with the session
}

// Vouch puts up some of the caller's σ for another participant, and returns once the collateral is set aside: from then on it
// counts. An agent's. The error is *Refused where the rules say no; where it is ErrStoreUnavailable the vouch may yet come to be.
func (s *Session) Vouch(ctx context.Context, caller policy.Caller, c session.Vouch) (Bond, error) {
	if err := s.hv.enter(); err != nil {
		return Bond{}, err
	}
	defer s.hv.leave()
	out, err := s.submit(ctx, caller, c, func(e *session.Env) { e.Key = key(e, c.Key, c) })
	if err := refusedOr(out.Decision, err); err != nil {
		return Bond{}, err
	}
	if err := s.tellAll(ctx); err != nil {
		return Bond{}, err
	}
	return s.vouched(ctx, out.Seq)
}

// vouched returns what came of the request that stands in a record.
func (s *Session) vouched(ctx context.Context, seq uint64) (b Bond, err error) {
	for r, err := range s.hv.read(ctx, audit.SessionPrefix+s.id, seq) {
		if err != nil {
			return b, err
		}
		events, err := session.ParseEvents(r.Events)
		if err != nil {
			return b, fmt.Errorf("record %d: %w", r.Seq, err)
		}
		for _, e := range events {
			switch e := e.(type) {
			case session.VouchRequested:
				if r.Seq == seq {
					b = Bond{ID: e.ID, Voucher: e.Voucher, Vouchee: e.Vouchee, Amount: e.Bond, Expires: e.Expires}
				}
			case session.Vouched:
				if e.ID == b.ID {
					b.Status = session.BondActive
					return b, nil
				}
			case session.VouchRefused:
				if e.ID == b.ID {
					return Bond{}, &Refused{policy.Refuse(e.Code, "the stream of %s did not set %s aside for %s: %s", b.Voucher, b.Amount, b.Vouchee, e.Why)}
				}
			case session.VouchReleased:
				if e.ID == b.ID {
					return Bond{}, &Refused{policy.Refuse(policy.VouchRefused, "what was set aside for %s is free again: %s", b.Vouchee, e.Why)}
				}
			default: // no other event decides a request
			}
		}
	}
	return b, nil // requested, and not decided yet
}

// Withdraw takes a vouch back: the voucher does, or an operator. It still answers for the calls that were admitted under it.
func (s *Session) Withdraw(ctx context.Context, caller policy.Caller, c session.Withdraw) (policy.Decision, error) {
	out, err := s.command(ctx, caller, c, nil)
	return out.Decision, err
}

// Bonds returns the session's bonds, requested, active or answering, in the order of their ids.
func (s *Session) Bonds(ctx context.Context) ([]Bond, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	known := s.live.agents.current(s.hv.agents, s.live.state)
	var bonds []Bond
	for _, b := range s.live.state.Bonds {
		amount := b.Amount
		if left, cut := known[b.Voucher].Cut[agent.BondKey(s.id, b.ID)]; cut {
			amount = min(left, amount)
		}
		bonds = append(bonds, Bond{b.ID, b.Voucher, b.Vouchee, amount, b.Status, b.Expires})
	}
	slices.SortFunc(bonds, func(a, b Bond) int {
		x, _ := seqOf(a.ID)
		y, _ := seqOf(b.ID)
		return int(x) - int(y)
	})
	return bonds, nil
}

// Slash takes an agent's standing for what it did in this session, and its vouchers' bonds. An operator's, an act of ring 0: with two
// operators configured it is done when the second asks for the same, and refused with witness_required until then. The agents'
// own streams are told before it returns, unless the store is away.
func (s *Session) Slash(ctx context.Context, caller policy.Caller, c session.Slash) (policy.Decision, error) {
	if err := s.hv.enter(); err != nil {
		return policy.Decision{}, err
	}
	defer s.hv.leave()
	known, err := s.hv.agents.know(ctx, c.Agent)
	if err != nil {
		return policy.Decision{}, err
	}
	out, err := s.submit(ctx, caller, c, func(*session.Env) { s.live.agents.watch(c.Agent, known[0]) })
	if err == nil && out.Allowed && len(out.Events) > 0 {
		s.tell(ctx)
	}
	return out.Decision, err
}
