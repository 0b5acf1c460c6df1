package hypervisor_test

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"slices"
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

var long = flag.Bool("long", false, "run ten times as much where a run is a sample")

// crashed is what a dying process unwinds with.
type crashed struct{}

// A bondStory is vouches, a withdrawal, a slash and two ends, over a machine that dies at one append of many: before it, or behind it.
type bondStory struct {
	t     *testing.T
	store *kept
	clock *hypervisortest.Clock
	hv    *hypervisor.Hypervisor
	boot  uint64
	ids   []string

	appends int
	dies    int // at this append; 0: it lives
	behind  bool
	r       *rand.Rand // nil: the rim takes its steps in order
}

func (b *bondStory) append(recs []eventlog.Append) []error {
	b.appends++
	if b.appends == b.dies && !b.behind {
		panic(crashed{})
	}
	errs := b.store.Store.Append(context.Background(), recs)
	if b.appends == b.dies {
		panic(crashed{})
	}
	return errs
}

func (b *bondStory) start() {
	b.boot++
	o := &hypervisor.Options{Store: b.store, Clock: b.clock, Random: hypervisortest.NewSeeded(b.boot)}
	if b.r != nil {
		o.Choose = b.r.IntN
	}
	b.hv = hypervisortest.Open(b.t, o)
}

// tell lives through the story, and returns false if it died in it.
func (b *bondStory) tell() (alive bool) {
	defer func() {
		if v := recover(); v != nil && v != any(crashed{}) {
			panic(v)
		}
	}()
	ctx := context.Background()
	b.start()
	var all []*hypervisor.Session
	for range 2 {
		s, err := b.hv.CreateSession(ctx, admin, &session.Config{MaxDuration: session.MaxDuration})
		if err != nil {
			b.t.Fatal(err)
		}
		b.ids = append(b.ids, s.ID())
		all = append(all, s)
		for did, sigma := range map[policy.DID]string{ann: "0.65", bob: "0.50", cem: "0.90"} {
			if _, err := s.Join(ctx, admin, session.Join{Agent: did, Sigma: ring.MustSigma(sigma)}); err != nil {
				b.t.Fatal(err)
			}
		}
		if err := s.Activate(ctx, admin); err != nil {
			b.t.Fatal(err)
		}
		register(s, (&echo{}).do)
	}
	here, there := all[0], all[1]
	vouch(b.t, here, ann, bob, "0.20")
	vouch(b.t, here, cem, ann, "0.20")
	old := vouch(b.t, there, ann, bob, "0.20")
	if out := act(b.t, here, bob, "write", `{}`); !out.Allowed {
		b.t.Fatalf("%+v", out.Decision)
	}
	if d, err := there.Withdraw(ctx, policy.Agent(ann), session.Withdraw{ID: old.ID}); err != nil || !d.Allowed {
		b.t.Fatalf("%+v, %v", d, err)
	}
	b.steps()
	vouch(b.t, there, cem, bob, "0.10")
	if d, err := here.Slash(ctx, admin, session.Slash{Agent: bob}); err != nil || !d.Allowed {
		b.t.Fatalf("%+v, %v", d, err)
	}
	b.steps()
	return true
}

func (b *bondStory) steps() {
	for b.hv.Step(context.Background()) {
	}
}

// rest begins another process in good weather, lets it do what is owed, and checks what it says.
func (b *bondStory) rest() {
	ctx := context.Background()
	b.dies = 0
	b.start()
	for range 3 {
		b.steps()
		b.clock.Advance(2 * time.Second)
	}
	var bonds []*hypervisor.Session
	slashed, forfeited := false, 0
	for _, id := range b.ids {
		s, err := b.hv.Session(ctx, id)
		if errors.Is(err, hypervisor.ErrNotFound) {
			continue // it was never acknowledged
		}
		if err != nil {
			b.t.Fatal(err)
		}
		bonds = append(bonds, s)
		for _, kind := range types(b.t, s) {
			slashed = slashed || kind == "liability.slash_executed"
			if kind == "liability.bond_forfeited" {
				forfeited++
			}
		}
	}
	b.agree(bonds)
	b.entries(slashed, forfeited)
	for _, s := range bonds {
		if _, err := s.Terminate(ctx, admin); err != nil {
			b.t.Fatal(err)
		}
	}
	b.agree(nil) // nothing stays locked behind the last session
	closeAll(b.t, b.hv)
	verify(b.t, b.store)
}

// agree holds the sessions' bonds against what is set aside.
func (b *bondStory) agree(sessions []*hypervisor.Session) {
	ctx, there := context.Background(), map[string]bool{}
	for _, s := range sessions {
		all, err := s.Bonds(ctx)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, bond := range all {
			there[agent.BondKey(s.ID(), bond.ID)] = true
			if bond.Status == session.BondRequested {
				b.t.Errorf("%s is still asked for", bond.ID)
			}
		}
	}
	for _, did := range []policy.DID{ann, bob, cem} {
		v, err := b.hv.Agent(ctx, did)
		if errors.Is(err, hypervisor.ErrNotFound) {
			continue
		}
		if err != nil {
			b.t.Fatal(err)
		}
		sum := ring.Sigma(0)
		for _, bond := range v.Bonds {
			sum += bond.Amount
			if key := agent.BondKey(bond.Session, bond.ID); !there[key] {
				b.t.Errorf("%s has %s locked for %s, which is no more", did, bond.Amount, key)
			} else {
				delete(there, key)
			}
		}
		if sum > agent.MostBonded(v.Sigma) {
			b.t.Errorf("%s has bonded %s with σ %s", did, sum, v.Sigma)
		}
	}
	for key := range there {
		b.t.Errorf("%s has no collateral", key)
	}
}

// entries checks that each entry of the slash stands in its agent's ledger, once.
func (b *bondStory) entries(slashed bool, forfeited int) {
	count := map[agent.Kind]int{}
	for _, did := range []policy.DID{ann, bob, cem} {
		for e, err := range b.hv.Ledger(context.Background(), did, 1) {
			if err != nil {
				b.t.Fatal(err)
			}
			count[e.Kind]++
		}
	}
	want := 0
	if slashed {
		want = 1
	}
	if count[agent.Slashing] != want || count[agent.Clip] != forfeited {
		b.t.Errorf("slashed %t, %d bonds forfeited; the ledgers have %d slashes and %d clips", slashed, forfeited, count[agent.Slashing], count[agent.Clip])
	}
	if slashed && forfeited != 2 { // ann falls to 0.45, so cem, who stands behind it, is clipped too
		b.t.Errorf("the cascade took %d bonds", forfeited)
	}
}

// SPEC §3, and issue of trust: SIGKILL between any two records of a vouch or a slash leaves neither a bond without collateral nor
// collateral locked for ever, and every loss once. Every append is a point to die at, before it and behind it.
func TestCrashBetweenAnyTwoRecordsOfAVouchOrASlash(t *testing.T) {
	whole := &bondStory{t: t, store: newKept(), clock: hypervisortest.NewClock()}
	whole.store.break_(whole.append)
	if !whole.tell() {
		t.Fatal("it died by itself")
	}
	points := whole.appends
	whole.rest()
	shuffled := 1
	if *long {
		shuffled = 20
	}
	died := 0
	for order := range shuffled + 1 {
		for at := range points {
			for _, behind := range []bool{false, true} {
				b := &bondStory{t: t, store: newKept(), clock: hypervisortest.NewClock(), dies: at + 1, behind: behind}
				if order > 0 {
					b.r = rand.New(rand.NewPCG(uint64(order), uint64(at)))
				}
				b.store.break_(b.append)
				if !b.tell() {
					died++
				}
				b.rest()
				if t.Failed() {
					t.Fatalf("order %d, death at append %d of %d, behind it %t; sessions %v", order, at+1, points, behind, slices.Clone(b.ids))
				}
			}
		}
	}
	t.Logf("%d deaths at %d appends", died, points)
	if died < 100 {
		t.Errorf("only %d deaths", died)
	}
}

// A session that is used at once after a start, before the start itself has come to it, tells what an earlier process left owed all the
// same: a slash was not told, nor collateral freed, until the session's own deadline.
func TestWhatIsOwedIsToldThoughTheSessionIsUsedFirst(t *testing.T) {
	store, clock, ctx := newKept(), hypervisortest.NewClock(), context.Background()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.90", bob: "0.50"})
	vouch(t, s, ann, bob, "0.20")
	settled(hv)
	store.break_(func(recs []eventlog.Append) []error {
		errs := store.Store.Append(ctx, recs)
		panic(errors.Join(append(errs, errDied)...)) // behind the slash, before anybody is told
	})
	func() {
		defer func() {
			if err, ok := recover().(error); !ok || !errors.Is(err, errDied) {
				t.Fatalf("it lived: %v", err)
			}
		}()
		_, _ = s.Slash(ctx, admin, session.Slash{Agent: bob})
	}()
	store.break_(nil)
	hv = hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	again, err := hv.Session(ctx, s.ID())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.State(ctx); err != nil {
		t.Fatal(err)
	}
	settled(hv)
	for did, want := range map[policy.DID]string{ann: "0.70", bob: "0.00"} {
		if v, err := hv.Agent(ctx, did); err != nil || v.Sigma.String() != want {
			t.Errorf("%s has σ %s, want %s (%v)", did, v.Sigma, want, err)
		}
	}
}

var errDied = errors.New("the machine died")
