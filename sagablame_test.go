package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// failsAt makes a saga of which ann does a, bob b, which needs it, and cem c, which needs that and fails.
func failsAt(b *workbench, fault bool) saga.Definition {
	b.fails = map[string]func(context.Context) error{"c": func(context.Context) error { return errors.New("no") }}
	d := sagaOf("a", "b", "c")
	d.Steps[1].Agent, d.Steps[2].Agent, d.Fault = bob, cem, fault
	return d
}

// SPEC §3: "when a saga fails … each agent gets its Shapley value"; "so is a tool's ordinary error unless the saga says `fault: true`".
func TestAFailedSagaReachesTheLedgersOfWhoLedToIt(t *testing.T) {
	for _, fault := range []bool{true, false} {
		t.Run(fmt.Sprint("fault ", fault), func(t *testing.T) {
			hv := hypervisortest.Open(t, nil)
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80", cem: "0.80"})
			b := &workbench{}
			b.on(s, "a", "b", "c")
			v := runs(t, s, failsAt(b, fault))
			if v.State != "compensated" || (v.Blame != nil) != fault || (v.Faultless == "failed_outcome") == fault {
				t.Fatalf("%+v", v)
			}
			for hv.Step(context.Background()) {
			}
			for i, did := range []policy.DID{ann, bob, cem} {
				a, err := hv.Agent(context.Background(), did)
				if err != nil {
					t.Fatal(err)
				}
				if fell := a.Sigma.String() != "0.80"; fell != fault {
					t.Errorf("%s has σ %s", did, a.Sigma)
				}
				if fault && v.Blame.Shares[(i+1)%3].Agent != did { // who failed first, then in the order of their actions
					t.Errorf("%+v", v.Blame.Shares)
				}
			}
		})
	}
}

// The process dies when the saga's end is in the log and before anybody found out who bears it: the next one finds that owed.
func TestWhoBearsAFailedSagaIsFoundOutByTheNextProcess(t *testing.T) {
	ctx := context.Background()
	store, clock := newKept(), hypervisortest.NewClock()
	first := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, first, nil, map[policy.DID]string{ann: "0.80", bob: "0.80", cem: "0.80"})
	b := &workbench{}
	b.on(s, "a", "b", "c")
	out, err := s.RunSaga(ctx, admin, failsAt(b, true))
	if err != nil || !out.Allowed {
		t.Fatal(out.Decision, err)
	}
	for {
		if v, err := s.Saga(ctx, out.ID); err != nil || !v.Ended.IsZero() {
			if err != nil || v.Failed == "" || v.Blame != nil || v.Rests() {
				t.Fatalf("%+v, %v", v, err)
			}
			break
		}
		if !first.Step(ctx) {
			t.Fatal("the saga has not ended")
		}
	}
	next := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock, Random: hypervisortest.NewSeeded(2)}) // the first is never stepped again
	if s, err = next.Session(ctx, s.ID()); err != nil {
		t.Fatal(err)
	}
	v := rests(t, s, out.ID)
	if v.Blame == nil || len(v.Blame.Shares) != 3 || v.Blame.Shares[0].Agent != cem {
		t.Errorf("%+v", v)
	}
}
