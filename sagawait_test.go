package hypervisor_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/memlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// sagawait_test.go: a wait of a saga ends by the command that docs/saga.md names, also while nobody looks at its session.

// waitsFor has a saga of one step begin while ann, or everything, is stopped, and others be busy so that its session could be let go.
func waitsFor(t *testing.T, hv *hypervisor.Hypervisor, what string, stop func()) (s *hypervisor.Session, id string) {
	t.Helper()
	ctx := context.Background()
	s = hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	b := &workbench{}
	b.on(s, "a")
	out, err := s.RunSaga(ctx, admin, sagaOf("a"))
	if err != nil || !out.Allowed {
		t.Fatal(out.Decision, err)
	}
	stop()
	for hv.Step(ctx) {
	}
	v, err := s.Saga(ctx, out.ID)
	if err != nil || v.State != "waiting" || v.Steps[0].Waits != what {
		t.Fatalf("it waits for %s, and should for %s: %+v %v", v.Steps[0].Waits, what, v, err)
	}
	for range 3 {
		hypervisortest.Session(t, hv, nil, map[policy.DID]string{bob: "0.80"})
	}
	return s, out.ID
}

func endsSoon(t *testing.T, hv *hypervisor.Hypervisor, s *hypervisor.Session, clock *hypervisortest.Clock, id string) {
	t.Helper()
	began := clock.Now()
	for hv.Step(context.Background()) {
	}
	clock.Advance(time.Second)
	for hv.Step(context.Background()) {
	}
	if v, err := s.Saga(context.Background(), id); err != nil || v.State != "completed" || v.Ended.Sub(began) > time.Second {
		t.Errorf("%+v %v", v, err)
	}
}

// Issue 6 item 3: "each has a command that ends it": lifting the kill of everything, of a step that waits for that.
func TestASagaGoesOnOnceTheKillOfEverythingIsLifted(t *testing.T) {
	ctx, clock := context.Background(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock, MaxLoaded: 1})
	s, id := waitsFor(t, hv, "kill", func() {
		if _, err := hv.Kill(ctx, admin, policy.Kill{Scope: policy.Scope{All: true}, Reason: policy.Manual}); err != nil {
			t.Fatal(err)
		}
	})
	if d, err := hv.LiftKill(ctx, admin, policy.Scope{All: true}); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	endsSoon(t, hv, s, clock, id)
}

// The same of the release of an agent in quarantine.
func TestASagaGoesOnOnceItsAgentIsReleased(t *testing.T) {
	ctx, clock := context.Background(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock, MaxLoaded: 1})
	s, id := waitsFor(t, hv, "quarantine", func() {
		if d, err := hv.Quarantine(ctx, admin, ann, agent.EnterQuarantine{Reason: policy.Manual, For: 10 * time.Minute}); err != nil || !d.Allowed {
			t.Fatal(d, err)
		}
	})
	if d, err := hv.Release(ctx, admin, ann, agent.EndQuarantine{Note: "enough"}); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	endsSoon(t, hv, s, clock, id)
}

// How long a step waits for who does not answer is told by its session's own time: the node's may be ahead, where the clock was set back.
func TestHowLongAStepWaitsIsBySessionsTime(t *testing.T) {
	hv, _, clock, d := addressed(t, &places{away: true})
	clock.Advance(-10 * time.Minute)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	out, err := s.RunSaga(context.Background(), admin, d)
	if err != nil || !out.Allowed {
		t.Fatal(out.Decision, err)
	}
	passes(hv, clock, 5*time.Second)
	v := rests(t, s, out.ID)
	if most := clock.Now().Add(saga.ResolveWithin); v.Steps[0].Waits != "unreachable" || v.Steps[0].Until.After(most) {
		t.Errorf("it is %s, and it waits until %s: %+v", clock.Now().Format(time.TimeOnly), v.Steps[0].Until.Format(time.TimeOnly), v.Steps[0])
	}
}

// The same where the process died once the end of the kill was recorded, and somebody uses the session before the next has looked at it.
func TestASagaGoesOnOnceTheKillThatAnEarlierProcessLiftedIsFoundOver(t *testing.T) {
	ctx, clock, store := context.Background(), hypervisortest.NewClock(), memlog.New()
	died := hypervisortest.Open(t, &hypervisor.Options{Clock: clock, Store: store})
	s, id := waitsFor(t, died, "kill", func() {
		if _, err := died.Kill(ctx, admin, policy.Kill{Scope: policy.Scope{All: true}, Reason: policy.Manual}); err != nil {
			t.Fatal(err)
		}
	})
	if d, err := died.LiftKill(ctx, admin, policy.Scope{All: true}); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock, Store: store, Random: hypervisortest.NewSeeded(2)})
	s, err := hv.Session(ctx, s.ID())
	if err != nil {
		t.Fatal(err)
	}
	b := &workbench{}
	b.on(s, "a")
	endsSoon(t, hv, s, clock, id)
}

// A step that waits for the end of a kill of everything waits no more once that is lifted, also where its session was killed meanwhile.
func TestNoStepOfAKilledSessionWaitsForTheEndOfAKillOfEverythingThatIsLifted(t *testing.T) {
	ctx, clock := context.Background(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	kill := func(scope policy.Scope) {
		if _, err := hv.Kill(ctx, admin, policy.Kill{Scope: scope, Reason: policy.Manual}); err != nil {
			t.Fatal(err)
		}
	}
	b := &workbench{fails: map[string]func(context.Context) error{"b": func(context.Context) error {
		kill(policy.Scope{All: true})
		return errors.New("no")
	}}}
	b.on(s, "a", "b")
	out, err := s.RunSaga(ctx, admin, sagaOf("a", "b"))
	if err != nil || !out.Allowed {
		t.Fatal(out.Decision, err)
	}
	for hv.Step(ctx) {
	}
	if v, err := s.Saga(ctx, out.ID); err != nil || v.Steps[0].Waits != "kill" {
		t.Fatalf("%+v %v", v, err)
	}
	kill(policy.Scope{Session: s.ID()})
	if d, err := hv.LiftKill(ctx, admin, policy.Scope{All: true}); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	for hv.Step(ctx) {
	}
	if v, err := s.Saga(ctx, out.ID); err != nil || v.Steps[0].Waits != "" || v.Ended.IsZero() {
		t.Errorf("%s: %+v %v", stepStates(v), v.Steps[0], err)
	}
}
