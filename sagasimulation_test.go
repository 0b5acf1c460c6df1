package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// A sagaWeather is a simulated machine on which sagas run: the same store, clock and deaths, and tools whose effects are kept, since
// no crash takes them back.
type sagaWeather struct {
	*power
	done   map[string]int // effects, by action and arguments
	sagas  map[string]int // acknowledged, SESSION/sag-4, and their number
	called []string
}

// does is a step's effect, or its compensation's: it fails now and then, and its process may die before, in and after it.
func (w *sagaWeather) does(name string) action.Func {
	return func(_ context.Context, args json.RawMessage) (json.RawMessage, error) {
		w.maybeCrash()
		switch w.r.IntN(12) {
		case 0:
			return nil, errors.New("no")
		case 1:
			return nil, action.ErrNotDispatched
		case 2:
			return nil, action.ErrUnknownOutcome // it did not happen, and nobody knows
		}
		w.done[name+string(args)]++
		w.called = append(w.called, name+string(args))
		w.maybeCrash()
		if w.r.IntN(20) == 0 {
			return nil, action.ErrUnknownOutcome // it did happen, and nobody knows
		}
		return json.RawMessage(`"ok"`), nil
	}
}

func (w *sagaWeather) equip(s *hypervisor.Session) {
	var tools []hypervisor.Tool
	for _, name := range []string{"write", "put"} {
		for _, un := range []string{"", "un"} {
			tools = append(tools, hypervisor.Tool{Do: w.does(un + name),
				Descriptor: action.Descriptor{ID: un + name, Reversibility: action.Partial, Idempotent: name == "put"}})
		}
	}
	if err := s.SetTools("", "", tools); err != nil {
		w.t.Fatal(err)
	}
}

func (w *sagaWeather) act() {
	ctx := context.Background()
	if len(w.ids) == 0 || w.r.IntN(20) == 0 {
		w.open(ctx)
		return
	}
	s, err := w.hv.Session(ctx, w.ids[w.r.IntN(len(w.ids))])
	if err != nil {
		return
	}
	if w.r.IntN(4) > 0 { // else nobody has brought the tools yet
		w.equip(s)
	}
	switch w.r.IntN(30) {
	case 0:
		_, _ = s.Terminate(ctx, admin) // part of the weather
		return
	case 1:
		for id := range w.sagas {
			if in, sag, _ := strings.Cut(id, "/"); in == s.ID() {
				_, _ = s.CancelSaga(ctx, admin, sag)
				return
			}
		}
	}
	w.number++
	out, err := s.RunSaga(ctx, admin, w.define())
	if err == nil && out.Allowed {
		w.sagas[s.ID()+"/"+out.ID] = w.number
	}
}

// define makes a saga of up to four steps, each needing some before it, perhaps with a group.
func (w *sagaWeather) define() saga.Definition {
	d := saga.Definition{Name: "weather", Fault: w.r.IntN(2) == 0}
	for i := range 1 + w.r.IntN(4) {
		name := []string{"write", "put"}[w.r.IntN(2)]
		s := saga.Step{ID: string(rune('a' + i)), Agent: ann, Execute: "func:" + name, Undo: "func:un" + name, Retries: w.r.IntN(3),
			Args: json.RawMessage(fmt.Sprintf(`{"n":%d,"s":%d}`, w.number, i))}
		for j := range i {
			if w.r.IntN(3) == 0 {
				s.Needs = append(s.Needs, string(rune('a'+j)))
			}
		}
		d.Steps = append(d.Steps, s)
	}
	if len(d.Steps) > 2 && len(d.Steps[1].Needs) == 0 && w.r.IntN(3) == 0 {
		d.FanOut = []saga.Group{{Policy: []saga.Policy{saga.All, saga.Majority, saga.Any}[w.r.IntN(3)], Branches: []string{"a", "b"}}}
	}
	return d
}

// One seed is one history: every saga that was acknowledged ends, claims no more than is so, and sends nothing twice that does harm
// twice.
func TestSimulatedSagasEndAndClaimNoMoreThanIsSo(t *testing.T) {
	seeds := uint64(8)
	if *long {
		seeds = 1000
	}
	ends := map[string]int{}
	var crashes, ambiguous, effects int
	for seed := range seeds {
		p := &power{t: t, r: rand.New(rand.NewPCG(seed, 2)), store: newKept(), clock: hypervisortest.NewClock(), boot: seed<<20 + 1,
			sent: map[string]int{}, acked: map[string]string{}, given: map[string]bool{}, eventual: map[string]bool{}}
		w := &sagaWeather{power: p, done: map[string]int{}, sagas: map[string]int{}}
		p.store.break_(p.append)
		for p.hv == nil {
			p.survives(p.start)
		}
		for range 100 {
			p.live(func() {
				p.shuffle()
				w.act()
				p.clock.Advance(time.Duration(p.r.IntN(2000)) * time.Millisecond)
				for range p.r.IntN(12) {
					p.hv.Step(context.Background())
				}
			})
		}
		w.settle(seed, ends)
		crashes, ambiguous, effects = crashes+p.crashes, ambiguous+p.ambiguous, effects+len(w.called)
	}
	t.Logf("%d seeds: %d crashes, %d ambiguous appends, %d effects; sagas: %v", seeds, crashes, ambiguous, effects, ends)
	for _, end := range []string{"completed", "compensated", "escalated"} {
		if ends[end] == 0 {
			t.Errorf("no saga was %s: the weather is not what it should be", end)
		}
	}
}

// settle lets the weather clear, and enough time pass that nothing waits any more.
func (w *sagaWeather) settle(seed uint64, ends map[string]int) {
	ctx := context.Background()
	w.healthy = true
	w.start()
	for _, wait := range slices.Concat(slices.Repeat([]time.Duration{10 * time.Second}, 12), slices.Repeat([]time.Duration{time.Minute}, 45)) {
		for w.hv.Step(ctx) {
		}
		for _, id := range w.ids {
			if s, err := w.hv.Session(ctx, id); err == nil {
				w.equip(s)
			}
		}
		w.clock.Advance(wait)
	}
	for id, number := range w.sagas {
		in, sag, _ := strings.Cut(id, "/")
		s, err := w.hv.Session(ctx, in)
		if err != nil {
			w.t.Fatalf("seed %d: an acknowledged session is gone: %v", seed, err)
		}
		v, err := s.Saga(ctx, sag)
		if err != nil || v.Ended.IsZero() || !v.Rests() { // one that failed rests once it is known who bears it
			w.t.Errorf("seed %d: %s has not ended: %+v (%v)", seed, id, v, err)
			continue
		}
		ends[v.State]++
		w.judge(seed, number, v)
	}
	for call, n := range w.done {
		if n > 1 && !strings.Contains(call, "put") {
			w.t.Errorf("seed %d: %s took effect %d times", seed, call, n)
		}
	}
	verify(w.t, w.store)
}

// judge compares what a saga claims with what happened.
func (w *sagaWeather) judge(seed uint64, number int, v hypervisor.SagaView) {
	for i, step := range v.Steps {
		call := fmt.Sprintf(`%s{"n":%d,"s":%d}`, step.Does, number, i)
		happened, undone := w.done[call] > 0, w.done["un"+call] > 0
		admitted := slices.Contains([]string{"compensation_failed", "compensation_unknown", "unknown"}, step.State) ||
			v.State == "escalated" && slices.Contains([]string{"committed", "executing", "compensating"}, step.State) // its session ended before
		switch {
		case step.State == "committed" && !happened:
			w.t.Errorf("seed %d: %s of %+v is committed and never happened", seed, step.ID, v)
		case v.State != "completed" && happened && !undone && !admitted:
			w.t.Errorf("seed %d: %s of %+v stands, and is said not to", seed, step.ID, v)
		case v.State == "completed" && undone:
			w.t.Errorf("seed %d: %s of %+v is undone, and the saga completed", seed, step.ID, v)
		case undone && !happened:
			w.t.Errorf("seed %d: %s of %+v is undone and never happened", seed, step.ID, v)
		}
	}
}

// A process that dies is followed by another, in which nobody has done anything yet: the saga goes on by itself once its tools are
// there.
func TestSagaGoesOnInTheNextProcess(t *testing.T) {
	ctx := context.Background()
	store, clock := newKept(), hypervisortest.NewClock()
	b := &workbench{}
	first := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, first, nil, map[policy.DID]string{ann: "0.80"})
	b.on(s, "a", "b")
	out, err := s.RunSaga(ctx, admin, sagaOf("a", "b"))
	if err != nil || !out.Allowed {
		t.Fatal(out.Decision, err)
	}
	next := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock, Random: hypervisortest.NewSeeded(2)}) // the first is never stepped again
	for next.Step(ctx) {
	}
	s, err = next.Session(ctx, s.ID())
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.Saga(ctx, out.ID); err != nil || v.State != "waiting" || v.Steps[0].Waits != session.HeldForTool {
		t.Errorf("%+v, %v", v, err)
	}
	b.on(s, "a", "b")
	for next.Step(ctx) {
	}
	if got := stepStates(rests(t, s, out.ID)); got != "completed: a committed b committed" || len(b.calls) != 2 {
		t.Errorf("%s: %v", got, b.calls)
	}
}
