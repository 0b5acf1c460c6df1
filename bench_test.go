package hypervisor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// activeSessions opens n sessions of one ring-1 agent each. The agent's rate does not bound the benchmark: each session is
// called less often than its bucket fills, or the refusal is what is measured.
func activeSessions(b *testing.B, hv *hypervisor.Hypervisor, n int) []*hypervisor.Session {
	ctx, all := context.Background(), make([]*hypervisor.Session, n)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			s, err := hv.CreateSession(ctx, admin, &session.Config{MaxDuration: session.MaxDuration})
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := s.Join(ctx, admin, session.Join{Agent: ann, Sigma: ring.MustSigma("0.97")}); err != nil {
				b.Error(err)
			}
			if err := s.Activate(ctx, admin); err != nil {
				b.Error(err)
			}
			s.Register(action.Descriptor{ID: "write", Reversibility: action.Partial}, func(_ context.Context, args json.RawMessage) (json.RawMessage, error) {
				return args, nil
			})
			all[i] = s
		})
	}
	wg.Wait()
	return all
}

// A governed call is two durable records: the intent before dispatch, the outcome after. The clock runs fast, so that no
// bucket is ever empty.
func BenchmarkGovernedCalls(b *testing.B) {
	for _, dir := range []string{"memory", "sqlite"} {
		for _, n := range []int{1, 256} {
			b.Run(fmt.Sprintf("%s/sessions=%d", dir, n), func(b *testing.B) {
				opts := &hypervisor.Options{Clock: &fastClock{}}
				if dir == "sqlite" {
					opts.Dir = b.TempDir()
				}
				hv, err := hypervisor.Open(context.Background(), opts)
				if err != nil {
					b.Fatal(err)
				}
				all := activeSessions(b, hv, n)
				args := json.RawMessage(`{"path":"/srv/work/a.txt","text":"hello"}`)
				b.ResetTimer()
				var wg sync.WaitGroup
				for i := range n {
					wg.Go(func() {
						for j := i; j < b.N; j += n {
							out, err := all[i].Act(context.Background(), policy.Agent(ann), session.Act{Action: "write", Args: args})
							if err != nil || !out.Allowed {
								b.Errorf("%+v, %v", out, err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "commands/s")
				if err := hv.Close(context.Background()); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// What a command costs more for having the standings of its session's ten agents stamped: nobody's has moved, one has somewhere else,
// one here. Reach 10 % of a decision, which is 300 ns.
func BenchmarkStampStandings(b *testing.B) {
	for name, moved := range map[string]policy.DID{"still": "", "elsewhere": cem, "here": ann} {
		b.Run(name, func(b *testing.B) {
			hv := hypervisortest.Open(b, nil)
			agents := map[policy.DID]string{ann: "0.80"}
			for i := range 9 {
				agents[policy.DID(fmt.Sprint("did:mesh:other-", i))] = "0.70"
			}
			s := hypervisortest.Session(b, hv, nil, agents)
			hypervisortest.Session(b, hv, nil, map[policy.DID]string{cem: "0.80"})
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if moved != "" {
					b.StopTimer()
					hv.MoveStanding(moved)
					b.StartTimer()
				}
				if s.StampStandings() != 10 {
					b.Fatal("not ten")
				}
			}
			b.StopTimer()
			closeAll(b, hv)
		})
	}
}
