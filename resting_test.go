package hypervisor_test

import (
	"context"
	"runtime"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// While anybody holds a session's handle it is the only one, however often its state was let go; otherwise two of them would
// decide side by side on two copies of one state.
func TestASessionThatWasLetGoHasOneHandle(t *testing.T) {
	ctx := context.Background()
	hv := hypervisortest.Open(t, &hypervisor.Options{MaxLoaded: 1})
	held := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	left := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"}).ID() // held lets its state go
	for range 3 {
		runtime.GC()
		if s, err := hv.Session(ctx, held.ID()); err != nil || s != held {
			t.Fatalf("another handle, or %v", err)
		}
		if err := held.Leave(ctx, admin, session.Leave{Agent: ann}); err != nil {
			t.Fatal(err)
		}
		if _, err := held.Join(ctx, admin, session.Join{Agent: ann}); err != nil {
			t.Fatal(err)
		}
		s, err := hv.Session(ctx, left) // nobody held it, and held lets its state go again
		if err != nil {
			t.Fatal(err)
		}
		if state, err := s.State(ctx); err != nil || state.Lifecycle != session.Active {
			t.Fatalf("%+v, %v", state, err)
		}
	}
	if err := hv.Close(ctx); err != nil {
		t.Fatal(err)
	}
}
