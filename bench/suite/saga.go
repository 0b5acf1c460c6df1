package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/sqlitelog"
	"github.com/agenthypervisor/hypervisor/system"
)

// saga.go: what a saga costs beyond its actions, and how fast many go on after a crash.

// sagaSteps is how many steps the measured sagas have, one after the other.
const sagaSteps = 3

// step is a saga's step that may be tried again after a crash.
var step = action.Descriptor{ID: "step", Reversibility: action.Partial, Idempotent: true}

func doStep(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil }

func threeSteps() saga.Definition {
	d := saga.Definition{Name: "three", Steps: []saga.Step{{ID: "a"}, {ID: "b", Needs: []string{"a"}}, {ID: "c", Needs: []string{"b"}}}}
	for i := range d.Steps {
		d.Steps[i].Agent, d.Steps[i].Action, d.Steps[i].Timeout = ann.DID, step.ID, saga.MaxTimeout // by a clock that may be fast
	}
	return d
}

// runOne runs a saga to its end.
func runOne(ctx context.Context, s *hypervisor.Session, d saga.Definition) error {
	out, err := s.RunSaga(ctx, admin, d)
	if err != nil || !out.Allowed {
		return fmt.Errorf("running a saga: %+v, %w", out.Decision, err)
	}
	v, err := s.AwaitSaga(ctx, out.ID)
	if err == nil && v.State != saga.Completed.String() {
		err = fmt.Errorf("the saga is %s: %s", v.State, v.Why)
	}
	return err
}

// sagaInMemory runs sagas of three steps in turns with three plain calls.
func sagaInMemory(ctx context.Context, r *run) ([]Row, error) {
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Clock: newClock(), Program: "bench"})
	if err != nil {
		return nil, err
	}
	const sessions = 16 // the agent of one would be too fast for its ring, also by the fast clock
	all := make([]*hypervisor.Session, sessions)
	for i := range all {
		if all[i], err = openSession(ctx, hv, session.Strong); err != nil {
			return nil, err
		}
		all[i].Register(step, doStep)
	}
	d, turn, failed := threeSteps(), 0, error(nil)
	next := func() *hypervisor.Session {
		turn++
		return all[turn%sessions]
	}
	took := inTurns(r.Sample, func(n int) {
		for range n {
			failed = errors.Join(failed, runOne(ctx, next(), d))
		}
	}, func(n int) {
		for range n {
			s := next()
			for range sagaSteps {
				out, err := s.Act(ctx, ann, session.Act{Action: step.ID})
				if err == nil && out.State != "done" {
					err = fmt.Errorf("calling: %+v", out)
				}
				failed = errors.Join(failed, err)
			}
		}
	})
	row := Row{Work: "saga of three steps, in memory, from its start to its end", Value: micros(took[0]), Unit: "µs", Reach: "≤ 40 µs",
		Beside: "three plain calls of the same", Baseline: micros(took[1])}
	return []Row{row.atMost(40)}, errors.Join(failed, hv.Close(ctx))
}

// sagaRate has 256 sagas run at once, each in a session of its own, over and over. Then the very records that came of it go into
// the bare table, in groups as large as the sagas could have made.
func sagaRate(ctx context.Context, r *run) ([]Row, error) {
	const sagas = 256
	n, err := r.openNode(ctx)
	if err != nil {
		return nil, err
	}
	all, err := openSessions(ctx, n.hv, sagas)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		s.Register(step, doStep)
	}
	if _, err := n.newRecords(ctx); err != nil {
		return nil, err
	}
	var lasted [2]time.Duration // of the sagas, of the table
	records, done := 0, 0
	for round := range r.Rounds {
		r.say(fmt.Sprintf("round %d of %d", round+1, r.Rounds))
		began := time.Now()
		var ended, next atomic.Int64
		err := together(sagas, func() error {
			s, d := all[next.Add(1)-1], threeSteps()
			for time.Since(began) < r.Round {
				if err := runOne(ctx, s, d); err != nil {
					return err
				}
				ended.Add(1)
			}
			return nil
		})
		for n.log.Step(ctx) {
		}
		lasted[0] += time.Since(began)
		recs, tailed := n.newRecords(ctx)
		if err := errors.Join(err, tailed); err != nil {
			return nil, err
		}
		records, done = records+len(recs), done+int(ended.Load())
		began = time.Now()
		if err := inGroups(recs, min(sagas, eventlog.MaxBatch), func(g []eventlog.Append) error { return n.table.Commit(ctx, g) }); err != nil {
			return nil, err
		}
		lasted[1] += time.Since(began)
	}
	steps, bare := float64(done*sagaSteps)/lasted[0].Seconds(), float64(records)/lasted[1].Seconds()
	row := Row{Work: fmt.Sprintf("durable steps of sagas of %d, %d sagas at once", sagaSteps, sagas), Value: steps, Unit: "steps/s",
		Reach: "≥ 0.2 × the table", Beside: "their records, appended to one bare table, a second", Baseline: bare,
		Note: fmt.Sprintf("%.1f records a step, %.0f records/s", float64(records)/float64(done*sagaSteps), float64(records)/lasted[0].Seconds())}
	return []Row{row.atLeast(0.2 * bare)}, n.close(ctx)
}

// sagaRestart starts a hypervisor on a log that a crash has left with so many sagas, each of a session of its own and each amid its
// first step, and waits until each of these steps is tried again.
func sagaRestart(ctx context.Context, r *run) ([]Row, error) {
	dir, crashed := filepath.Join(r.dir, "log"), filepath.Join(r.dir, "crashed")
	if err := r.writeSagas(ctx, dir, crashed); err != nil {
		return nil, fmt.Errorf("writing the log: %w", err)
	}
	r.say("starting again")
	began, used := time.Now(), processor()
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Dir: crashed, Program: "bench"})
	if err != nil {
		return nil, err
	}
	opened := time.Since(began)
	var running atomic.Int64
	all := make(chan struct{})
	hv.Equip(func(_ context.Context, s *hypervisor.Session, _ policy.DID) error {
		var first sync.Once
		return s.SetTools(policy.System.DID, "", []hypervisor.Tool{{Descriptor: step, Do: func(context.Context, json.RawMessage) (json.RawMessage, error) {
			first.Do(func() {
				if running.Add(1) == int64(r.Sagas) {
					close(all)
				}
			})
			return nil, nil
		}}})
	})
	const patience = 5 * time.Minute
	select {
	case <-all:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(patience):
		return nil, fmt.Errorf("after %s only %d of %d sagas run", patience, running.Load(), r.Sagas)
	}
	row := Row{Work: fmt.Sprintf("restart after a crash amid %d sagas: Open until all run again", r.Sagas), Value: time.Since(began).Seconds(), Unit: "s",
		Reach: "≤ 5 s", Note: fmt.Sprintf("Open alone %.2f s; of the processor %.1f s", opened.Seconds(), (processor() - used).Seconds())}
	return []Row{row.atMost(5)}, hv.Close(ctx)
}

// rate records what an operator says the agent is worth, as the first record of its stream.
func (w *logWriter) rate(ctx context.Context) {
	out := agent.Decide(&agent.State{DID: ann.DID}, agent.Env{Now: w.now, Caller: admin}, agent.SetSigma{Sigma: high, Source: agent.FromOperator})
	rec := audit.Record{Stream: audit.AgentPrefix + string(ann.DID), Seq: 1, Time: w.now, Trace: trace, Events: agent.AppendEvents(nil, out.Events),
		Caller: audit.Caller{DID: string(admin.DID), Role: admin.Role.String(), Via: admin.Via}}
	body := rec.Append(nil)
	w.add(ctx, eventlog.Append{Stream: rec.Stream, Seq: 1, Body: body, Hash: audit.Leaf(body), Durable: true})
}

// writeSagas fills dir with sessions whose saga's first step is under way, and copies it as it stands on the disk.
func (r *run) writeSagas(ctx context.Context, dir, crashed string) (err error) {
	w := &logWriter{state: system.NewState(), now: lately()}
	if w.store, err = sqlitelog.Open(ctx, dir, nil); err != nil {
		return err
	}
	w.node(ctx, system.Start{Incarnation: "0123456789abcdef", Program: "bench"})
	w.rate(ctx)
	call := &session.Call{Descriptor: step, Digest: step.Digest(), Args: json.RawMessage("{}"), Values: map[string]any{}}
	run := session.RunSaga{Name: "three", Args: []byte("[{},{},{}]")}
	for _, s := range threeSteps().Steps {
		run.Steps = append(run.Steps, session.SagaStep{ID: s.ID, Agent: s.Agent, Action: s.Action, Needs: s.Needs, Timeout: s.Timeout,
			Idempotent: true, UndoIdempotent: true, Requires: step.RequiredRing(step.Effective(action.NoImage))})
	}
	var room scratch
	for i := 0; i < r.Sagas && w.err == nil; i++ {
		id := fmt.Sprintf("ses-%08d", i)
		k := newKernel(id, &room)
		k.keep = func(a eventlog.Append) { w.add(ctx, a) }
		k.do(admin, session.Create{Config: session.Config{MaxDuration: session.MaxDuration}}, nil)
		w.node(ctx, system.Open{Session: id})
		k.do(admin, session.Join{Agent: ann.DID}, nil)
		k.do(admin, session.Activate{}, nil)
		try := session.SagaTry{Saga: k.do(admin, run, nil).ID, No: 1}
		k.do(ann.Through("saga"), session.Act{Action: step.ID, Args: call.Args, Saga: &try}, call)
	}
	if w.flush(ctx); w.err != nil {
		return w.err
	}
	return errors.Join(os.CopyFS(crashed, os.DirFS(dir)), w.store.Close())
}
