package session

import (
	"fmt"
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

// vouchedFor returns a session in which an agent has so many bonds behind it, and its standings.
func vouchedFor(b *testing.B, bonds int) (*State, *Env, policy.DID) {
	new, n := policy.DID("did:mesh:new"), max(bonds, 1)
	cfg, err := Config{MaxParticipants: MaxParticipants}.Resolved()
	if err != nil {
		b.Fatal(err)
	}
	s := NewState("s1")
	s.Lifecycle, s.Config, s.Participants[new] = Active, cfg, &Participant{Ring: ring.Sandbox}
	s.Ends = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	env := &Env{Now: s.Ends.Add(-time.Hour), Caller: policy.Agent(new), Standings: map[policy.DID]agent.Standing{new: agent.Newcomer},
		Call: &Call{Descriptor: action.Descriptor{ID: "files.write_file", Reversibility: action.Partial}}}
	s.Bonds = map[string]*Bond{}
	for i := range bonds {
		id, voucher := fmt.Sprint("vch-", i), policy.DID(fmt.Sprint("did:mesh:voucher-", i))
		s.Participants[voucher] = &Participant{Ring: ring.Standard}
		env.Standings[voucher] = agent.Standing{Sigma: ring.Sigma(700_000 + i)}
		s.Bonds[id] = &Bond{ID: id, Voucher: voucher, Vouchee: new, Amount: ring.Sigma(300_000 / n), Status: BondActive}
	}
	env.Scores = NewScores(s, env.Standings)
	return s, env, new
}

// The full ring check of an agent that others vouch for. Reach 100 ns.
func BenchmarkRingCheckWithBonds(bm *testing.B) {
	for _, bonds := range []int{0, 3, 999} {
		bm.Run(fmt.Sprint("bonds=", bonds), func(b *testing.B) {
			s, env, new := vouchedFor(b, bonds)
			b.ReportAllocs()
			for b.Loop() {
				a := admission{s: s, env: env, agent: new}
				if a.inactive() != nil || a.absent() != nil || a.notKnown() != nil || bonds > 0 && a.aboveRing() != nil || a.beyondCapability() != nil || a.needs.any() {
					b.Fatal("refused")
				}
			}
		})
	}
}

// σ_eff after one of a thousand vouchers' standing has moved: of any, or of the best, whose successor is looked for. Reach 1 µs.
func BenchmarkSigmaEffUpdate(bm *testing.B) {
	for name, which := range map[string]int{"any": 500, "best": 998} {
		bm.Run(name, func(b *testing.B) {
			s, env, new := vouchedFor(b, 999)
			who := policy.DID(fmt.Sprint("did:mesh:voucher-", which))
			moved := ring.Sigma(0)
			b.ReportAllocs()
			for b.Loop() {
				moved ^= 90_000
				env.Scores.Stand(s, who, agent.Standing{Sigma: ring.Sigma(700_000+which) - moved})
				if s.sigmaEff(env, new) <= ring.Newcomer {
					b.Fatal("not lifted")
				}
			}
		})
	}
}
