package hypervisor_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

const cem = policy.DID("did:mesh:cem")

// codeOf returns the code of a refusal; empty: it is none.
func codeOf(err error) policy.Code {
	var refused *hypervisor.Refused
	if errors.As(err, &refused) {
		return refused.Decision.Code
	}
	return ""
}

func vouch(t testing.TB, s *hypervisor.Session, voucher, vouchee policy.DID, bond string) hypervisor.Bond {
	t.Helper()
	b, err := s.Vouch(context.Background(), policy.Agent(voucher), session.Vouch{Vouchee: vouchee, Bond: ring.MustSigma(bond)})
	if err != nil || b.Status != session.BondActive {
		t.Fatalf("%s for %s: %+v, %v", voucher, vouchee, b, err)
	}
	return b
}

func sigmaOf(t testing.TB, hv *hypervisor.Hypervisor, did policy.DID) string {
	t.Helper()
	v, err := hv.Agent(context.Background(), did)
	if err != nil {
		t.Fatal(err)
	}
	return v.Sigma.String()
}

// The story of SPEC §3: a vouch lifts a sandboxed agent into ring 2 for a real write; it is slashed, and its voucher loses the bond.
func TestVouchLiftsAndTheSlashTakesTheBond(t *testing.T) {
	store, ctx := newKept(), context.Background()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.90", bob: "0.50", cem: "0.99"})
	other := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.90", bob: "0.50"})
	var tool echo
	register(s, tool.do)
	register(other, tool.do)
	if out := act(t, s, bob, "write", `{}`); out.Code != policy.RingInsufficient {
		t.Fatalf("%+v", out.Decision)
	}
	vouch(t, s, ann, bob, "0.40")
	if out := act(t, s, bob, "write", `{}`); !out.Allowed || out.SigmaEff.String() != "0.76" {
		t.Fatalf("%+v", out.Decision)
	}
	if out := act(t, other, bob, "write", `{}`); out.Allowed {
		t.Error("a bond in one session lifts in another")
	}
	if _, err := other.Vouch(ctx, policy.Agent(ann), session.Vouch{Vouchee: bob, Bond: ring.MustSigma("0.33")}); codeOf(err) != policy.ExposureExceeded {
		t.Errorf("0.72 is all ann may bond in all sessions together: %v", err)
	}
	vouch(t, other, ann, bob, "0.32")
	if d, err := s.Slash(ctx, admin, session.Slash{Agent: bob, Cause: "act-9"}); err != nil || !d.Allowed {
		t.Fatalf("%+v, %v", d, err)
	}
	if got := sigmaOf(t, hv, bob) + " " + sigmaOf(t, hv, ann) + " " + sigmaOf(t, hv, cem); got != "0.00 0.50 0.99" {
		t.Errorf("after the slash: %s", got)
	}
	if out := act(t, s, bob, "write", `{}`); out.Allowed || *out.SigmaEff != 0 {
		t.Errorf("%+v", out.Decision)
	}
	steps(hv) // the bond elsewhere is released, not lost
	if bonds, err := other.Bonds(ctx); err != nil || len(bonds) != 0 {
		t.Errorf("elsewhere: %+v, %v", bonds, err)
	}
	v, err := hv.Agent(ctx, ann)
	if err != nil || len(v.Bonds) != 0 {
		t.Errorf("ann has still bonded %+v, %v", v.Bonds, err)
	}
	closeAll(t, hv)
	verify(t, store)
}

// SPEC §3: "When a voucher's σ falls, its bonds are cut, newest first, to 80 %", in every session at its next call.
func TestBondsAreCutNewestFirstWhenTheVoucherFalls(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	ctx := context.Background()
	old := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.90", bob: "0.50"})
	young := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.90", bob: "0.50"})
	vouch(t, old, ann, bob, "0.30")
	vouch(t, young, ann, bob, "0.40")
	if _, err := hv.SetSigma(ctx, admin, ann, ring.MustSigma("0.70")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		s    *hypervisor.Session
		bond string
		eff  string
	}{{old, "0.30", "0.695"}, {young, "0.26", "0.669"}} {
		bonds, err := c.s.Bonds(ctx)
		if err != nil || bonds[0].Amount.String() != c.bond {
			t.Errorf("%+v, %v; want %s", bonds, err, c.bond)
		}
		if p, err := c.s.Participant(ctx, bob); err != nil || p.SigmaEff.String() != c.eff {
			t.Errorf("%+v, %v; want %s", p, err, c.eff)
		}
	}
	// What is cut stays cut: the collateral is free for others.
	if _, err := hv.SetSigma(ctx, admin, ann, ring.MustSigma("0.90")); err != nil {
		t.Fatal(err)
	}
	if bonds, err := young.Bonds(ctx); err != nil || bonds[0].Amount.String() != "0.26" {
		t.Errorf("%+v, %v", bonds, err)
	}
}

// SPEC §3: "two vouches at once never spend the same collateral". All are decided in their sessions before any is recorded, so that
// each finds nothing set aside yet and only the voucher's own stream can say no.
func TestConcurrentVouchesNeverOverspend(t *testing.T) {
	store := newKept()
	hv := open(t, &hypervisor.Options{Store: store})
	ctx := context.Background()
	const sessions = 12
	var all []*hypervisor.Session
	for range sessions {
		all = append(all, hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.90", bob: "0.50", cem: "0.50"}))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	given, decided := ring.Sigma(0), make(chan struct{})
	store.break_(func(recs []eventlog.Append) []error {
		<-decided
		return store.Store.Append(ctx, recs)
	})
	for i, s := range all {
		for _, vouchee := range []policy.DID{bob, cem} {
			wg.Go(func() {
				b, err := s.Vouch(ctx, policy.Agent(ann), session.Vouch{Vouchee: vouchee, Bond: ring.Sigma(90_000 + i)})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					given += b.Amount
				} else if codeOf(err) != policy.ExposureExceeded {
					t.Errorf("%v", err)
				}
			})
		}
	}
	for _, s := range all {
		for bonds := []hypervisor.Bond(nil); len(bonds) < 2; runtime.Gosched() {
			var err error
			if bonds, err = s.Bonds(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(decided)
	wg.Wait()
	v, err := hv.Agent(ctx, ann)
	if err != nil || given > agent.MostBonded(v.Sigma) || given < 600_000 {
		t.Errorf("%s is bonded of %s; %v", given, agent.MostBonded(v.Sigma), err)
	}
	sum := ring.Sigma(0)
	for _, b := range v.Bonds {
		sum += b.Amount
	}
	if sum != given {
		t.Errorf("the stream has %s set aside, and %s was given", sum, given)
	}
	closeAll(t, hv)
}

// A vouch whose records are lost on the way comes to be or does not; the collateral is set aside exactly if it counts.
func TestVouchOnADiskThatFails(t *testing.T) {
	for _, text := range []string{"liability.vouch_requested", "agent.bond_reserved", "session.told", "liability.vouch_released", "agent.bond_released"} {
		for _, stored := range []bool{false, true} {
			store, clock, ctx := newKept(), hypervisortest.NewClock(), context.Background()
			hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.90", bob: "0.50"})
			store.break_(store.failing(text, errors.New("disk full"), stored))
			b, err := s.Vouch(ctx, policy.Agent(ann), session.Vouch{Vouchee: bob})
			if err == nil {
				_, err = s.Withdraw(ctx, policy.Agent(ann), session.Withdraw{ID: b.ID})
				steps(hv)
			}
			if err != nil && !errors.Is(err, hypervisor.ErrStoreUnavailable) {
				t.Errorf("%s, stored %t: %v", text, stored, err)
			}
			store.break_(nil)
			for range 3 {
				clock.Advance(2 * time.Second)
				steps(hv)
			}
			agree(t, text, hv, s)
			verify(t, store)
			closeAll(t, hv)
		}
	}
}

// agree holds a session's bonds against what ann's stream has set aside.
func agree(t *testing.T, name string, hv *hypervisor.Hypervisor, sessions ...*hypervisor.Session) {
	t.Helper()
	v, err := hv.Agent(context.Background(), ann)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, s := range sessions {
		bonds, err := s.Bonds(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range bonds {
			if b.Status == session.BondRequested {
				t.Errorf("%s: %s is still asked for", name, b.ID)
			}
			there[agent.BondKey(s.ID(), b.ID)] = true
		}
	}
	for _, b := range v.Bonds {
		if !there[agent.BondKey(b.Session, b.ID)] {
			t.Errorf("%s: collateral locked for %s/%s, and there is no such bond", name, b.Session, b.ID)
		}
		delete(there, agent.BondKey(b.Session, b.ID))
	}
	if len(there) > 0 {
		t.Errorf("%s: bonds without collateral: %v", name, there)
	}
}
