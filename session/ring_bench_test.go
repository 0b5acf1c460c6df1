package session

import (
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// A full ring check, as admission does it: participant, standing, ceiling, ring, what the action is decided as, the ring it
// needs, capabilities. Reach 50 ns.
func BenchmarkRingCheck(b *testing.B) {
	ann := policy.DID("did:mesh:ann")
	cfg, err := Config{NetworkAllow: []string{"api.example.com"}}.Resolved()
	if err != nil {
		b.Fatal(err)
	}
	s := NewState("s1")
	s.Lifecycle, s.Config, s.Participants[ann] = Active, cfg, &Participant{Ring: ring.Standard}
	s.Ends = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	env := &Env{Now: s.Ends.Add(-time.Hour), Caller: policy.Agent(ann), Standings: map[policy.DID]agent.Standing{ann: {Sigma: 970_000}, "did:mesh:bob": {Sigma: 1}},
		Call: &Call{Descriptor: action.Descriptor{ID: "files.write_file", Reversibility: action.Partial, Files: true, Network: true}}}
	b.ReportAllocs()
	for b.Loop() {
		a := admission{s: s, env: env, agent: ann}
		if a.inactive() != nil || a.absent() != nil || a.notKnown() != nil || a.aboveRing() != nil || a.beyondCapability() != nil || a.needs.any() {
			b.Fatal("refused")
		}
	}
}
