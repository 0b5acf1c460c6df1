package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// kill.go: how long after the kill switch is turned its agent's next call is refused, while others call.

const (
	killCallers  = 256 // that keep the store busy, four in each session
	killSessions = 64
	killers      = 4
	victim       = policy.DID("did:mesh:victim")
)

// killed samples calls and kills of the same time.
type killed struct {
	mu                       sync.Mutex
	calls, refused, answered []time.Duration
}

func (k *killed) add(to *[]time.Duration, d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	*to = append(*to, d)
}

func killSwitch(ctx context.Context, r *run) ([]Row, error) {
	n, err := r.openNode(ctx)
	if err != nil {
		return nil, err
	}
	all, err := openSessions(ctx, n.hv, killSessions)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		if _, err := s.Join(ctx, admin, session.Join{Agent: victim, Sigma: high}); err != nil {
			return nil, err
		}
	}
	k := &killed{}
	var turn, over atomic.Int64
	err = together(killCallers+killers, func() error {
		i := int(turn.Add(1) - 1)
		if i < killCallers {
			return k.call(ctx, all[i%killSessions], func() bool { return over.Load() == killers })
		}
		defer over.Add(1)
		const own = killSessions / killers
		return k.kill(ctx, n.hv, all[(i-killCallers)*own:][:own], max(20, r.Calls/10))
	})
	if err != nil {
		return nil, err
	}
	p99 := percentile(k.calls, 99)
	row := Row{Work: fmt.Sprintf("kill to refusal, p99, %d callers", killCallers), Value: millis(percentile(k.refused, 99)), Unit: "ms", Reach: "≤ a governed call, p99",
		Beside: "the governed calls of the same time", Baseline: millis(p99),
		Note: fmt.Sprintf("%d kills, p50 %.2f ms; acknowledged p50 %.2f ms, p99 %.2f ms; %d calls, p50 %.2f ms", len(k.refused), millis(percentile(k.refused, 50)),
			millis(percentile(k.answered, 50)), millis(percentile(k.answered, 99)), len(k.calls), millis(percentile(k.calls, 50)))}
	return []Row{row.atMost(millis(p99))}, n.close(ctx)
}

// call calls until the kills are over.
func (k *killed) call(ctx context.Context, s *hypervisor.Session, over func() bool) error {
	var took []time.Duration
	for !over() {
		began := time.Now()
		out, err := s.Act(ctx, ann, session.Act{Action: "write", Args: json.RawMessage(writeArgs)})
		if err != nil || out.State != "done" {
			return fmt.Errorf("calling: %+v, %w", out, err)
		}
		took = append(took, time.Since(began))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls = slices.Concat(k.calls, took)
	return nil
}

// kill kills the victim in one of its sessions after the other, and has it call from then on.
func (k *killed) kill(ctx context.Context, hv *hypervisor.Hypervisor, all []*hypervisor.Session, kills int) error {
	for i := range kills {
		s := all[i%len(all)]
		scope := policy.Scope{Session: s.ID(), Agent: victim}
		began, done := time.Now(), make(chan error, 1)
		go func() {
			_, err := hv.Kill(ctx, admin, policy.Kill{Scope: scope, Reason: policy.Manual})
			k.add(&k.answered, time.Since(began))
			done <- err
		}()
		for !hv.KilledIn(s.ID(), victim) { // a call that is made before is not the next one
			runtime.Gosched()
		}
		out, err := s.Act(ctx, policy.Agent(victim), session.Act{Action: "write", Args: json.RawMessage(writeArgs)})
		if err != nil || out.Code != policy.AgentKilled {
			return fmt.Errorf("the killed agent calls: %+v, %w", out, err)
		}
		k.add(&k.refused, time.Since(began))
		if err := <-done; err != nil {
			return err
		}
		if d, err := hv.LiftKill(ctx, admin, scope); err != nil || !d.Allowed {
			return fmt.Errorf("lifting a kill: %+v, %w", d, err)
		}
	}
	return nil
}
