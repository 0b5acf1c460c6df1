package hypervisor_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// BenchmarkSagaOfThreeSteps is a saga of three steps in memory, from RunSaga to its end, in five records.
func BenchmarkSagaOfThreeSteps(b *testing.B) {
	ctx := context.Background()
	clock := hypervisortest.NewClock()
	hv := hypervisortest.Open(b, &hypervisor.Options{Clock: clock})
	s := hypervisortest.Session(b, hv, nil, map[policy.DID]string{ann: "0.97"})
	s.Register(action.Descriptor{ID: "step", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil })
	d := saga.Definition{Name: "three", Steps: []saga.Step{
		{ID: "a", Agent: ann, Action: "step"}, {ID: "b", Agent: ann, Action: "step", Needs: []string{"a"}}, {ID: "c", Agent: ann, Action: "step", Needs: []string{"b"}}}}
	b.ReportAllocs()
	for b.Loop() {
		clock.Advance(60e6) // three tokens
		out, err := s.RunSaga(ctx, admin, d)
		if err != nil || !out.Allowed {
			b.Fatal(out.Decision, err)
		}
		if v, err := s.AwaitSaga(ctx, out.ID); err != nil || v.State != "completed" {
			b.Fatal(v, err)
		}
	}
}
