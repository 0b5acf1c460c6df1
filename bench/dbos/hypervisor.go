package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// A clock runs a thousand times as fast as the machine's, so that no agent's rate bounds what is measured.
type clock struct{ began time.Time }

const clockSpeed = 1000

// Now returns the fast time.
func (c clock) Now() time.Time { return c.began.Add(clockSpeed * time.Since(c.began)) }

// After waits in fast time.
func (c clock) After(d time.Duration) <-chan time.Time { return time.After(d / clockSpeed) }

// openHypervisor opens the embedded store, and a session of one agent for each caller.
func openHypervisor(ctx context.Context, dir string, callers int) (*contender, error) {
	admin, ann := policy.Operator("did:mesh:admin"), policy.DID("did:mesh:ann")
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Dir: filepath.Join(dir, "hypervisor"), Clock: clock{time.Now()}, Program: "bench"})
	if err != nil {
		return nil, err
	}
	all, errs := make([]*hypervisor.Session, callers), make([]error, callers)
	open := func(i int) error {
		s, err := hv.CreateSession(ctx, admin, &session.Config{MaxDuration: session.MaxDuration})
		if err != nil {
			return err
		}
		if _, err := s.Join(ctx, admin, session.Join{Agent: ann, Sigma: ring.MustSigma("0.97")}); err != nil {
			return err
		}
		s.Register(action.Descriptor{ID: "step", Reversibility: action.Partial, Idempotent: true},
			func(context.Context, json.RawMessage) (json.RawMessage, error) { return json.RawMessage(`"done"`), nil })
		all[i] = s
		return s.Activate(ctx, admin)
	}
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { errs[i] = open(i) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	d := saga.Definition{Name: "three", Steps: []saga.Step{{ID: "a"}, {ID: "b", Needs: []string{"a"}}, {ID: "c", Needs: []string{"b"}}}}
	for i := range d.Steps {
		d.Steps[i].Agent, d.Steps[i].Action, d.Steps[i].Timeout = ann, "step", saga.MaxTimeout // by the fast clock
	}
	return &contender{
		name:     "hypervisor, sagas on the embedded store",
		settings: "SQLite, journal_mode=WAL, synchronous=FULL; each step admitted as its agent's action, two records of it, each durable before what follows",
		run: func(ctx context.Context, caller int) error {
			out, err := all[caller].RunSaga(ctx, admin, d)
			if err != nil || !out.Allowed {
				return fmt.Errorf("running a saga: %s %s, %w", out.Code, out.Reason, err)
			}
			v, err := all[caller].AwaitSaga(ctx, out.ID)
			if err == nil && v.State != saga.Completed.String() {
				err = fmt.Errorf("the saga is %s: %s", v.State, v.Why)
			}
			return err
		},
		close: hv.Close,
	}, nil
}
