package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// A saga is put together of ordinary functions. The card is declined, so the rooms are given back, the last first.
func ExampleNewSaga() {
	ctx, admin, clerk := context.Background(), policy.Operator("did:mesh:admin"), policy.DID("did:mesh:clerk")
	hv, err := hypervisor.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	s, err := hv.CreateSession(ctx, admin, nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := s.Join(ctx, admin, session.Join{Agent: clerk, Sigma: ring.MustSigma("0.80")}); err != nil {
		log.Fatal(err)
	}
	if err := s.Activate(ctx, admin); err != nil {
		log.Fatal(err)
	}
	says := func(what string) func(context.Context) error {
		return func(context.Context) error {
			fmt.Println(what)
			return nil
		}
	}
	trip := hypervisor.NewSaga("trip").
		Step("rome", clerk, says("booked Rome")).Undo(says("cancelled Rome")).
		Step("oslo", clerk, says("booked Oslo")).Undo(says("cancelled Oslo")).Needs("rome").
		Step("card", clerk, func(context.Context) error { return errors.New("declined") }).ReadOnly().Needs("oslo")
	run, err := trip.Run(ctx, s, admin)
	if err != nil || !run.Allowed {
		log.Fatal(run.Reason, err)
	}
	end, err := s.AwaitSaga(ctx, run.ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s\n", end.State, end.Why)
	if err := hv.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// booked Rome
	// booked Oslo
	// cancelled Oslo
	// cancelled Rome
	// compensated: card is failed
}

// Everything that a file can say of a step of functions a program can say too, and a saga goes on in the next process once that has
// brought its functions.
func TestABuiltSagaGoesOnInTheNextProcess(t *testing.T) {
	ctx := context.Background()
	store, clock := newKept(), hypervisortest.NewClock()
	var calls []string
	does := func(name string) func(context.Context) error {
		return func(context.Context) error {
			calls = append(calls, name)
			return nil
		}
	}
	build := func() *hypervisor.SagaBuilder {
		return hypervisor.NewSaga("release").
			Step("east", ann, does("east")).Undo(does("east back")).Idempotent().Retries(2).Substitutes(bob).Checkpoint("east is out").
			Step("west", ann, does("west")).Undo(does("west back")).
			Step("look", bob, does("look")).ReadOnly().Needs("east").
			FanOut(saga.All, "east", "west")
	}
	first := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, first, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
	out, err := build().Run(ctx, s, admin)
	if err != nil || !out.Allowed {
		t.Fatal(out.Decision, err)
	}
	next := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock, Random: hypervisortest.NewSeeded(2)}) // the first is never stepped again
	if s, err = next.Session(ctx, s.ID()); err != nil {
		t.Fatal(err)
	}
	if err := build().Equip(s); err != nil {
		t.Fatal(err)
	}
	if got := stepStates(rests(t, s, out.ID)); got != "completed: east committed west committed look committed" || len(calls) != 3 || !slices.Contains(calls, "look") {
		t.Errorf("%s: %v", got, calls)
	}
	if out, err := build().Run(ctx, s, admin); err != nil || !out.Allowed || rests(t, s, out.ID).State != "completed" {
		t.Errorf("run again: %+v, %v", out.Decision, err)
	}
	if _, err := hypervisor.NewSaga("release").Step("a", ann, does("a")).Needs("b").Run(ctx, s, admin); err == nil {
		t.Error("a saga that needs a step that is not there is run")
	}
}
