package saga_test

import (
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/saga"
)

// Retries back off exponentially with jitter: 1 s, ×2, cap 30 s (SPEC §5).
func TestRetriesBackOffBetweenHalfAndAll(t *testing.T) {
	d := saga.Definition{Name: "s", Steps: []saga.Step{{ID: "a", Agent: "did:mesh:a", Action: "f", Retries: saga.MaxRetries}}}
	p := saga.NewPlan(&d, []saga.Nature{{}})
	r := p.Start()
	for try, most := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30, 30, 30} {
		most *= time.Second
		r.Steps[0] = saga.StepRun{State: saga.Executing, Flying: true, Tries: try}
		least, longest := most, time.Duration(0)
		for n := range uint64(10_000) {
			random := n * 0x9e3779b97f4a7c15 // spread over all of uint64
			e, ok := p.Settle(r, saga.Answer{Result: saga.NotRun}, epoch, random).(saga.Deferred)
			if !ok || !e.Counted || e.Maybe {
				t.Fatalf("try %d: %+v", try, e)
			}
			wait := e.After.Sub(epoch)
			least, longest = min(least, wait), max(longest, wait)
		}
		if least < most/2 || least > most/2+most/100 || longest > most || longest < most-most/100 {
			t.Errorf("try %d waits from %v to %v, want from %v to %v", try, least, longest, most/2, most)
		}
	}
	r.Steps[0] = saga.StepRun{State: saga.Executing, Flying: true, Tries: saga.MaxRetries}
	if e := p.Settle(r, saga.Answer{Result: saga.NotRun}, epoch, 0); e != (saga.Settled{To: saga.Failed}) {
		t.Errorf("after the last retry: %+v", e)
	}
}
