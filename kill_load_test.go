package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// A hastyClock runs so fast that no bucket is ever empty; what waits, waits as long as it says.
type hastyClock struct{ start time.Time }

func (c hastyClock) Now() time.Time {
	const speed = 1000
	return c.start.Add(speed * time.Since(c.start)).UTC().Truncate(time.Microsecond)
}

func (c hastyClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// A fleet is agents that call and call, in teams of which each has a session, and who watches what is dispatched.
type fleet struct {
	t     *testing.T
	hv    *hypervisor.Hypervisor
	teams []*team

	pulse    chan struct{} // something was dispatched
	everyone sync.RWMutex  // held for writing by a kill of everything
	over     chan struct{}

	dispatched, strays, kills, cancelled, stubborn atomic.Int64
}

type team struct {
	agents  []*worker
	session atomic.Pointer[hypervisor.Session]
	killing sync.RWMutex // held for writing by a kill of the session
}

// A worker is an agent as the tool server sees it.
type worker struct {
	did     policy.DID
	team    *team
	killing sync.Mutex   // held by a kill of the agent
	stopped atomic.Int64 // acknowledged kills in force
	running atomic.Int64 // in the tool now
	excused atomic.Int64 // calls that a kill in force has named as still running
}

const (
	fleetTeams, teamSize = 10, 10
	fleetKills           = 1000
	fleetKillers         = 8
)

func (f *fleet) newSession(tm *team) {
	agents := map[policy.DID]string{}
	for _, w := range tm.agents {
		agents[w.did] = "0.97"
	}
	s := hypervisortest.Session(f.t, f.hv, &session.Config{MaxDuration: session.MaxDuration}, agents)
	for _, w := range tm.agents {
		if err := s.SetTools(w.did, "work", []hypervisor.Tool{{Descriptor: action.Descriptor{ID: "work", Reversibility: action.Partial}, Do: f.work(w)}}); err != nil {
			f.t.Error(err)
		}
	}
	tm.session.Store(s)
}

// work is a tool that counts what reaches it, takes a little while and heeds its cancelling.
func (f *fleet) work(w *worker) action.Func {
	return func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
		w.running.Add(1)
		defer w.running.Add(-1)
		f.dispatched.Add(1)
		if w.stopped.Load() > 0 && w.excused.Add(-1) < 0 {
			f.strays.Add(1)
		}
		select {
		case f.pulse <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(rand.N(2 * time.Millisecond)):
			return nil, nil
		}
	}
}

// live lets an agent call until the load is over.
func (f *fleet) live(w *worker) {
	for {
		changed := f.hv.KillsChanged()
		out, err := w.team.session.Load().Act(context.Background(), policy.Agent(w.did), session.Act{Action: "work"})
		switch {
		case err != nil && !errors.Is(err, hypervisor.ErrOverloaded) && !errors.Is(err, hypervisor.ErrNotFound):
			f.t.Errorf("%s: %v", w.did, err)
		case err == nil && !out.Allowed && !slices.Contains([]policy.Code{policy.AgentKilled, policy.KilledAll, policy.SessionNotActive, policy.RateLimited}, out.Code):
			f.t.Errorf("%s: %+v", w.did, out.Decision)
		}
		select {
		case <-f.over:
			return
		default:
		}
		if err != nil || !out.Allowed {
			select {
			case <-changed:
			case <-time.After(time.Millisecond):
			}
		}
	}
}

// moment waits until a random number of calls were dispatched.
func (f *fleet) moment() {
	for range rand.N(8) {
		select {
		case <-f.pulse:
		case <-time.After(5 * time.Millisecond): // nobody may be left who calls
		}
	}
}

// kill kills, checks that all that was killed has stopped, and lifts the kill.
func (f *fleet) kill() {
	tm := f.teams[rand.N(len(f.teams))]
	w := tm.agents[rand.N(len(tm.agents))]
	scope, stopped := policy.Scope{}, []*worker{w}
	switch n := rand.N(100); {
	case n < 4:
		f.everyone.Lock()
		defer f.everyone.Unlock()
		scope.All, stopped = true, nil
		for _, tm := range f.teams {
			stopped = append(stopped, tm.agents...)
		}
	case n < 10:
		f.everyone.RLock()
		defer f.everyone.RUnlock()
		tm.killing.Lock()
		defer tm.killing.Unlock()
		scope.Session, stopped = tm.session.Load().ID(), tm.agents
	default:
		f.everyone.RLock()
		defer f.everyone.RUnlock()
		tm.killing.RLock()
		defer tm.killing.RUnlock()
		w.killing.Lock()
		defer w.killing.Unlock()
		if scope.Agent = w.did; n < 40 {
			scope.Session = tm.session.Load().ID()
		}
	}
	f.moment()
	f.check(scope, stopped)
}

func (f *fleet) check(scope policy.Scope, stopped []*worker) {
	report, err := f.hv.Kill(context.Background(), admin, policy.Kill{Scope: scope, Reason: policy.Manual})
	if err != nil {
		f.t.Errorf("killing %s: %v", scope, err)
		return
	}
	for _, w := range stopped { // from here on nothing of it may reach the tool
		w.excused.Store(int64(len(report.StillRunning)))
		w.stopped.Add(1)
		if n := w.running.Load(); n > int64(len(report.StillRunning)) {
			f.t.Errorf("%s: %d calls of %s run, %d are reported", scope, n, w.did, len(report.StillRunning))
		}
	}
	f.kills.Add(1)
	f.cancelled.Add(int64(len(report.Cancelled)))
	f.stubborn.Add(int64(len(report.StillRunning)))
	w := stopped[0]
	if out, err := w.team.session.Load().Act(context.Background(), policy.Agent(w.did), session.Act{Action: "work"}); err == nil && out.Allowed {
		f.t.Errorf("%s: the next call of %s is allowed: %+v", scope, w.did, out)
	}
	f.moment()
	for _, w := range stopped {
		w.stopped.Add(-1)
	}
	if scope.Session != "" && scope.Agent == "" {
		f.newSession(w.team)
		return
	}
	if d, err := f.hv.LiftKill(context.Background(), admin, scope); err != nil || !d.Allowed {
		f.t.Errorf("lifting %s: %+v, %v", scope, d, err)
	}
}

// "1,000 kills at random moments of a load of 100 agents: after the acknowledgement nothing of the killed is dispatched (the tool
// counts), the killed agent's running call is cancelled or reported".
func TestAThousandKillsUnderLoad(t *testing.T) {
	store := newKept()
	hv := open(t, &hypervisor.Options{Store: store, Clock: hastyClock{time.Now()}})
	f := &fleet{t: t, hv: hv, pulse: make(chan struct{}, 1), over: make(chan struct{})}
	for i := range fleetTeams {
		tm := &team{}
		for j := range teamSize {
			tm.agents = append(tm.agents, &worker{did: policy.DID(fmt.Sprintf("did:mesh:agent-%d-%d", i, j)), team: tm})
		}
		f.newSession(tm)
		f.teams = append(f.teams, tm)
	}
	var load, killers sync.WaitGroup
	for _, tm := range f.teams {
		for _, w := range tm.agents {
			load.Go(func() { f.live(w) })
		}
	}
	var turn atomic.Int64
	for range fleetKillers {
		killers.Go(func() {
			for turn.Add(1) <= fleetKills && !t.Failed() {
				f.kill()
			}
		})
	}
	killers.Wait()
	close(f.over)
	load.Wait()
	if n := f.strays.Load(); n > 0 {
		t.Errorf("%d calls were dispatched after their agent's kill was acknowledged", n)
	}
	if f.kills.Load() != fleetKills || f.cancelled.Load() < fleetKills/10 {
		t.Errorf("%d kills cancelled %d calls: this shows little", f.kills.Load(), f.cancelled.Load())
	}
	t.Logf("%d kills, %d calls dispatched, %d cancelled, %d reported as still running", f.kills.Load(), f.dispatched.Load(), f.cancelled.Load(), f.stubborn.Load())
	closeAll(t, hv)
	verify(t, store)
}
