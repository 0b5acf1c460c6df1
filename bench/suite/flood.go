package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// flood.go: what a flood of refused calls in one session does to the calls of another.

const (
	flooder    = policy.DID("did:mesh:flooder") // a newcomer: it may not write
	floodTurns = 10                             // with and without it, one after the other
	floodPause = 100 * time.Microsecond         // between two refused calls: more than any one client comes to through a door
	quiet      = 20                             // sessions that take turns, so that none comes to its rate
)

// flood compares the calls of one session with and without an agent of another that calls what it may not as fast as a client can.
func flood(ctx context.Context, r *run) ([]Row, error) {
	// By the machine's own clock: by a fast one there would be a record of refusals every millisecond.
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Dir: filepath.Join(r.dir, "flood"), Program: "bench"})
	if err != nil {
		return nil, err
	}
	all, err := openSessions(ctx, hv, quiet+1)
	if err != nil {
		return nil, err
	}
	flooded := all[quiet]
	if _, err := flooded.Join(ctx, admin, session.Join{Agent: flooder}); err != nil {
		return nil, err
	}
	var alone, beside []time.Duration
	var refused int64
	for turn := range 2 * floodTurns {
		took := &alone
		stop := func() error { return nil }
		if turn%2 == 1 {
			took, stop = &beside, flooding(ctx, flooded, &refused)
		}
		for i := range max(quiet, min(r.Calls/floodTurns, 20*quiet)) {
			began := time.Now()
			out, err := all[i%quiet].Act(ctx, ann, session.Act{Action: "write", Args: json.RawMessage(writeArgs)})
			if err != nil || out.State != "done" {
				return nil, fmt.Errorf("calling beside a flood: %+v, %w", out, err)
			}
			*took = append(*took, time.Since(began))
		}
		if err := stop(); err != nil {
			return nil, err
		}
	}
	state, err := flooded.State(ctx)
	if err != nil {
		return nil, err
	}
	p50 := millis(percentile(alone, 50))
	row := Row{Work: "a governed call beside a flood of refused ones, p50", Value: millis(percentile(beside, 50)), Unit: "ms", Reach: "≤ 1.25 × without",
		Beside: "the same call without", Baseline: p50,
		Note: fmt.Sprintf("%d calls refused, which left %d records", refused, state.Seq)}
	return []Row{row.atMost(1.25 * p50)}, hv.Close(ctx)
}

// flooding floods a session until stop is called.
func flooding(ctx context.Context, s *hypervisor.Session, refused *int64) (stop func() error) {
	var over atomic.Bool
	done := make(chan error, 1)
	go func() {
		for !over.Load() {
			out, err := s.Act(ctx, policy.Agent(flooder), session.Act{Action: "write", Args: json.RawMessage(writeArgs)})
			if err != nil || out.Allowed {
				done <- fmt.Errorf("a call that must be refused: %+v, %w", out, err)
				return
			}
			*refused++
			time.Sleep(floodPause)
		}
		done <- nil
	}()
	return func() error { over.Store(true); return <-done }
}
