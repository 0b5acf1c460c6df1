package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// Ordinary functions are steps and compensations. The payment fails, so the rooms are given back, the last first.
func ExampleSession_RunSaga() {
	ctx := context.Background()
	hv, err := hypervisor.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	admin := policy.Operator("did:mesh:admin")
	s, err := hv.CreateSession(ctx, admin, nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := s.Join(ctx, admin, session.Join{Agent: "did:mesh:clerk", Sigma: ring.MustSigma("0.80")}); err != nil {
		log.Fatal(err)
	}
	if err := s.Activate(ctx, admin); err != nil {
		log.Fatal(err)
	}
	says := func(what string) action.Func {
		return func(_ context.Context, args json.RawMessage) (json.RawMessage, error) {
			fmt.Println(what, string(args))
			return nil, nil
		}
	}
	s.Register(action.Descriptor{ID: "book", Reversibility: action.Partial}, says("booked"))
	s.Register(action.Descriptor{ID: "cancel", Reversibility: action.Partial}, says("cancelled"))
	s.Register(action.Descriptor{ID: "pay", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		return nil, errors.New("the card is declined")
	})
	run, err := s.RunSaga(ctx, admin, saga.Definition{Name: "trip", Steps: []saga.Step{
		{ID: "rome", Agent: "did:mesh:clerk", Execute: "func:book", Undo: "func:cancel", Args: json.RawMessage(`{"city":"Rome"}`)},
		{ID: "oslo", Agent: "did:mesh:clerk", Execute: "func:book", Undo: "func:cancel", Args: json.RawMessage(`{"city":"Oslo"}`), Needs: []string{"rome"}},
		{ID: "pay", Agent: "did:mesh:clerk", Execute: "func:pay", Needs: []string{"oslo"}},
	}})
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
	// booked {"city":"Rome"}
	// booked {"city":"Oslo"}
	// cancelled {"city":"Oslo"}
	// cancelled {"city":"Rome"}
	// compensated: pay is failed
}
