package session

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// sagawork.go: a decision about a saga in the making. What package saga says happened becomes events of the record.

// A sagaWork is a copy of a saga's run with what is decided already, and the events that say so.
type sagaWork struct {
	state  *State
	env    *Env
	id     string
	saga   *Saga
	plan   *saga.Plan
	run    *saga.Run
	events []Event

	gone    map[policy.DID]bool // who is stopped or leaves in the same record; nil: nobody
	on      string              // the step on whose account it turns
	because string              // what is to be said of a step that is held now; empty: nothing
	whys    map[int]string      // why steps came to where they are, as decided already; nil: none has
}

func (g *Saga) work(s *State, env *Env, id string) *sagaWork {
	return &sagaWork{state: s, env: env.kept(), id: id, saga: g, plan: g.Plan(), run: g.Run.Clone(), on: g.On}
}

// answer takes in what became of a try; action is the one that ended, if one did.
func (w *sagaWork) answer(a saga.Answer, action string) {
	var random uint64
	if a.Result != saga.Succeeded { // which is not tried again
		random = w.spread(a.Step)
	}
	w.add(w.plan.Settle(w.run, a, w.env.Now, random), action)
}

// spread returns what spreads retries. It is derived, so that nothing of what salts derive from comes into a record.
func (w *sagaWork) spread(step int) uint64 {
	sum := sha256.Sum256(fmt.Appendf(w.env.Random[:], "retry of %s %d", w.id, step))
	return binary.LittleEndian.Uint64(sum[:])
}

func (w *sagaWork) cancel(why string) bool {
	e := w.plan.Cancel(w.run, why)
	if e != nil {
		w.add(e, "")
	}
	return e != nil
}

// follow adds what follows by itself, and returns all that was decided.
func (w *sagaWork) follow() []Event {
	for e := w.plan.Next(w.run, w.env.Now); e != nil; e = w.plan.Next(w.run, w.env.Now) {
		if begun, ok := e.(saga.Begun); ok {
			w.handOff(begun)
		}
		w.add(e, "")
	}
	return w.events
}

// abandon ends a saga that cannot be waited for any longer.
func (w *sagaWork) abandon() {
	if !w.run.State.Ended() {
		w.add(saga.Ended{To: saga.Escalated}, "")
	}
}

// settled notes why a step came to its end, for the saga's.
func (w *sagaWork) settled(e saga.Settled) {
	if e.Why == "" {
		return
	}
	if w.whys == nil {
		w.whys = map[int]string{}
	}
	w.whys[e.Step] = e.Why
}

// add applies an event to the copy and says it.
func (w *sagaWork) add(e saga.Event, action string) {
	name := func(i int) string { return w.saga.Steps[i].ID }
	switch e := e.(type) {
	case saga.Begun:
		if g := w.fansOut(e); g >= 0 {
			w.events = append(w.events, SagaFanoutStarted{w.id, g})
		}
		w.events = append(w.events, SagaStepStarted{Saga: w.id, Step: name(e.Step), No: w.run.Steps[e.Step].No + 1, Undo: e.Undo})
	case saga.Deferred:
		w.events = append(w.events, SagaStepRetried{w.id, name(e.Step), e.After, e.Counted, e.Maybe, e.Why})
	case saga.Held:
		w.events = append(w.events, SagaStepHeld{w.id, name(e.Step), e.For, e.Until, w.because})
	case saga.Settled:
		w.settled(e)
		w.events = append(w.events, SagaStepSettled{To: e.To, Saga: w.id, Step: name(e.Step), Action: action, Why: e.Why, Until: e.Until})
		if goal := w.saga.Steps[e.Step].Checkpoint; goal != "" && e.To == saga.Committed {
			w.events = append(w.events, SagaCheckpointSaved{w.id, name(e.Step), goal})
		}
	case saga.GaveUp:
		w.events = append(w.events, SagaStepGivenUp{w.id, name(e.Step)})
	case saga.Invalidated: // a command of its own records it
	case saga.Resolved:
		w.events = append(w.events, SagaFanoutResolved{w.id, e.Group, e.To == saga.Satisfied})
	case saga.Turned:
		t := SagaCompensating{Saga: w.id, Why: e.Why}
		if e.Step >= 0 {
			t.Step = name(e.Step)
			w.on = t.Step
		}
		w.events = append(w.events, t)
	case saga.Waited:
		w.events = append(w.events, SagaWaiting{w.id})
	case saga.Ended:
		end := SagaEnded{To: e.To, Saga: w.id}
		if e.To != saga.AllUndone && e.To != saga.Completed {
			end.Left = w.saga.left(w.run)
		}
		if e.To != saga.Completed {
			end.Failed, end.Faultless = w.fault()
		}
		w.events = append(w.events, end)
	}
	w.run.Apply(e)
}

// fansOut returns the group whose first branch begins; -1: none.
func (w *sagaWork) fansOut(e saga.Begun) int {
	if e.Undo || w.run.Steps[e.Step].No > 0 {
		return -1
	}
	return slices.IndexFunc(w.saga.FanOut, func(g saga.Group) bool {
		return slices.Contains(g.Branches, w.saga.Steps[e.Step].ID) &&
			!slices.ContainsFunc(g.Branches, func(b string) bool { return w.run.Steps[w.saga.step(b)].No > 0 })
	})
}
