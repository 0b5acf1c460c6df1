package hypervisor_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// A told is a reputation service as far as it is told: it knows a report again by its id.
type told struct {
	t      *testing.T
	seen   map[audit.Hash]agent.Notice
	order  []audit.Hash
	calls  int
	answer func(n agent.Notice) (taken bool, err error) // nil: it takes everything
}

func newTold(t *testing.T) *told { return &told{t: t, seen: map[audit.Hash]agent.Notice{}} }

func (o *told) Report(_ context.Context, n agent.Notice) (bool, error) {
	o.calls++
	if o.answer != nil {
		if taken, err := o.answer(n); err != nil || !taken {
			return taken, err
		}
	}
	o.take(n)
	return true, nil
}

func (o *told) take(n agent.Notice) {
	if before, again := o.seen[n.ID]; again {
		if diff := cmp.Diff(before, n); diff != "" {
			o.t.Errorf("told twice as two things (-first +second):\n%s", diff)
		}
		return
	}
	o.seen[n.ID] = n
	o.order = append(o.order, n.ID)
}

// holds checks that the service knows exactly what stands in the agents' ledgers, in each one's order.
func (o *told) holds(hv *hypervisor.Hypervisor, dids ...policy.DID) {
	o.t.Helper()
	ctx, entries := context.Background(), 0
	for _, did := range dids {
		var here, there []string
		for e, err := range hv.Ledger(ctx, did, 1) {
			if err != nil {
				o.t.Fatal(err)
			}
			if e.Kind.Notable() {
				here = append(here, string(e.Kind)+" "+e.Session+" "+e.Moved.Sigma.String())
			}
		}
		for _, id := range o.order {
			if n := o.seen[id]; n.Agent == did {
				there = append(there, string(n.Kind)+" "+n.Session+" "+n.Sigma.String())
			}
		}
		if diff := cmp.Diff(here, there); diff != "" {
			o.t.Errorf("%s (-in the ledger +told):\n%s", did, diff)
		}
		entries += len(here)
	}
	if entries != len(o.seen) {
		o.t.Errorf("%d entries, %d told", entries, len(o.seen))
	}
}

// aFall has ann vouch for bob, who is slashed: a slash and a clip.
func aFall(t *testing.T, hv *hypervisor.Hypervisor) {
	t.Helper()
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.90", bob: "0.50"})
	vouch(t, s, ann, bob, "0.20")
	if d, err := s.Slash(context.Background(), admin, session.Slash{Agent: bob, Cause: "it leaked"}); err != nil || !d.Allowed {
		t.Fatalf("%+v, %v", d, err)
	}
	settled(hv)
}

// SPEC §9: reputation services "receive scores": what conduct brought, once it is durable; not what an operator says of a σ.
func TestWhatConductBroughtIsReported(t *testing.T) {
	store, clock := newKept(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	service := newTold(t)
	hv.SetReporter(service)
	aFall(t, hv)
	if d, err := hv.Reinstate(context.Background(), admin, bob, agent.Reinstate{}); err != nil || !d.Allowed {
		t.Fatalf("%+v, %v", d, err)
	}
	settled(hv)
	service.holds(hv, ann, bob)
	if len(service.seen) != 3 || service.calls != 3 {
		t.Errorf("%d reports by %d calls: want slash, clip, reinstatement", len(service.seen), service.calls)
	}
	closeAll(t, hv)
	verify(t, store)
	hv = hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	hv.SetReporter(service)
	settled(hv)
	if service.calls != 3 {
		t.Errorf("what was told and recorded is told again after a restart: %d calls", service.calls)
	}
}

// A service that is down is asked less and less often, keeps nothing growing, and is told when it is back: also by the next process,
// and also what happened while none was configured.
func TestWhatCouldNotBeToldStaysOwed(t *testing.T) {
	store, clock := newKept(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	aFall(t, hv) // before anybody is told
	service := newTold(t)
	service.answer = func(agent.Notice) (bool, error) { return false, errors.New("down") }
	hv.SetReporter(service)
	settled(hv)
	for range 3600 {
		clock.Advance(time.Second)
		settled(hv)
	}
	if service.calls < 10 || service.calls > 30 {
		t.Errorf("told %d times in an hour", service.calls)
	}
	closeAll(t, hv)
	hv = hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	service.answer = nil
	hv.SetReporter(service)
	settled(hv)
	service.holds(hv, ann, bob)
	closeAll(t, hv)
	verify(t, store)
}

// What the service has read and does not want is told once, and keeps nothing else back.
func TestAReportThatIsRefusedIsNotToldAgain(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	service, refused := newTold(t), 0
	service.answer = func(n agent.Notice) (bool, error) {
		if n.Kind == agent.Slashing {
			refused++
			return false, nil
		}
		return true, nil
	}
	hv.SetReporter(service)
	aFall(t, hv)
	if d, err := hv.Reinstate(context.Background(), admin, bob, agent.Reinstate{}); err != nil || !d.Allowed {
		t.Fatalf("%+v, %v", d, err)
	}
	settled(hv)
	if refused != 1 || len(service.seen) != 2 {
		t.Errorf("refused %d times, %d others taken", refused, len(service.seen))
	}
}

// A service that fails at one agent's entries is told of others.
func TestOneAgentsReportsKeepNoOthersBack(t *testing.T) {
	clock := hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock})
	service := newTold(t)
	service.answer = func(n agent.Notice) (bool, error) {
		if n.Agent == bob {
			return false, errors.New("a fault of its own")
		}
		return true, nil
	}
	hv.SetReporter(service)
	aFall(t, hv)
	clock.Advance(time.Minute)
	settled(hv)
	service.holds(hv, ann)
}

// The issue: "reported back at least once, idempotently". The machine dies at every append, before it and behind it, and at every
// report, before the service has it and behind it: nothing is lost, and nothing is told twice as two things.
func TestCrashBetweenAnyTwoReports(t *testing.T) {
	const appends, calls = 60, 8
	died := 0
	for at := range appends + calls {
		for _, behind := range []bool{false, true} {
			store, clock, service := newKept(), hypervisortest.NewClock(), newTold(t)
			n, alive := 0, false
			store.break_(func(recs []eventlog.Append) []error {
				n++
				if n == at+1 && !behind {
					panic(crashed{})
				}
				errs := store.Store.Append(context.Background(), recs)
				if n == at+1 {
					panic(crashed{})
				}
				return errs
			})
			service.answer = func(notice agent.Notice) (bool, error) {
				if service.calls == at-appends+1 {
					if behind {
						service.take(notice)
					}
					panic(crashed{})
				}
				return true, nil
			}
			func() {
				defer func() {
					if v := recover(); v != nil {
						if v != any(crashed{}) {
							panic(v)
						}
						died++
					}
				}()
				hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock, Random: hypervisortest.NewSeeded(1)})
				hv.SetReporter(service)
				aFall(t, hv)
				if _, err := hv.Slash(context.Background(), admin, ann, agent.Slash{}); err != nil {
					t.Fatal(err)
				}
				settled(hv)
				alive = true
			}()
			store.break_(nil)
			service.answer = nil
			hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock, Random: hypervisortest.NewSeeded(2)})
			hv.SetReporter(service)
			for range 3 {
				settled(hv)
				clock.Advance(2 * time.Second)
			}
			service.holds(hv, ann, bob)
			closeAll(t, hv)
			verify(t, store)
			if t.Failed() {
				t.Fatalf("death %d, behind it %t, alive %t", at+1, behind, alive)
			}
		}
	}
	t.Logf("%d deaths", died)
	if died < 30 {
		t.Errorf("only %d deaths", died)
	}
}

// A service that fails in the middle of what it is told, or refuses some of it, hears the rest: nothing is taken for told that was not.
func TestAServiceThatFailsMidwayHearsTheRest(t *testing.T) {
	clock := hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock})
	aFall(t, hv)
	ctx := context.Background()
	for range 3 { // one batch of seven
		if _, err := hv.Reinstate(ctx, admin, bob, agent.Reinstate{}); err != nil {
			t.Fatal(err)
		}
		if _, err := hv.Slash(ctx, admin, bob, agent.Slash{}); err != nil {
			t.Fatal(err)
		}
	}
	service, refused := newTold(t), 0
	service.answer = func(n agent.Notice) (bool, error) {
		switch {
		case service.calls%3 == 2:
			return false, errors.New("down")
		case n.Kind == agent.Reinstatement:
			refused++
			return false, nil
		}
		return true, nil
	}
	hv.SetReporter(service)
	for range 60 {
		settled(hv)
		clock.Advance(5 * time.Minute)
	}
	kinds := map[agent.Kind]int{}
	for _, n := range service.seen {
		kinds[n.Kind]++
	}
	if refused != 3 || kinds[agent.Slashing] != 4 || kinds[agent.Clip] != 1 || len(service.seen) != 5 {
		t.Errorf("%d refused, taken %v", refused, kinds)
	}
}
