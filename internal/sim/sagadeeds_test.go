package sim

import (
	"context"
	"slices"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// runSaga has an operator run a saga of some of a session's agents.
func (w *world) runSaga() {
	s := w.anySession()
	if s == nil {
		return
	}
	w.number++
	in := w.book.session(s.ID()).present()
	if len(in) == 0 {
		return
	}
	by, definition := admin, w.define(func() int { return w.deeds.IntN(len(in)) }, s.ID())
	if w.deeds.IntN(5) == 0 { // an agent, of its own steps
		by = policy.Agent(in[w.deeds.IntN(len(in))])
		for i := range definition.Steps {
			definition.Steps[i].Agent, definition.Steps[i].Substitutes = by.DID, nil
		}
	}
	out, err := s.RunSaga(context.Background(), by, definition)
	switch {
	case err != nil:
		w.did("saga", "error", err)
		return
	case !out.Allowed:
		w.did("saga", string(out.Code), out.Reason)
		return
	}
	w.must(acknowledged, w.book.session(s.ID()).sagas[out.ID] != nil, "the saga %s/%s is acknowledged and not recorded", s.ID(), out.ID)
	w.runs = append(w.runs, run{s.ID(), out.ID})
	w.did("saga", "runs", out.ID)
	w.stopsSaga(s.ID(), out.ID)
}

// stopsSaga has something come between a saga's beginning and its steps, now and then.
func (w *world) stopsSaga(session, id string) {
	steps := w.book.session(session).sagas[id].steps
	switch w.deeds.IntN(12) {
	case 0, 1:
		w.quarantines(session, steps[w.deeds.IntN(len(steps))].Agent)
	case 2:
		w.kills(policy.Scope{All: true})
	case 3:
		w.dark = 40
	case 4, 5:
		w.kills(policy.Scope{Session: session, Agent: steps[w.deeds.IntN(len(steps))].Agent})
	}
}

// define makes a saga of up to four steps, each needing some before it, perhaps with a group.
func (w *world) define(draw func() int, session string) saga.Definition {
	in := w.book.session(session).present()
	d := saga.Definition{Name: "weather", Fault: w.deeds.IntN(2) == 0}
	for i := range 1 + w.deeds.IntN(4) {
		s := saga.Step{ID: string(rune('a' + i)), Agent: in[draw()], Retries: w.deeds.IntN(3), Args: argsOf(w.number, i)}
		switch n := w.deeds.IntN(8); n {
		case 0:
			s.Execute = "func:destroy" // which somebody must approve, and nothing takes back
		case 1, 2:
			s.Execute, s.Undo = plain+"write", plain+"unwrite"
		case 3, 4:
			s.Execute, s.Undo = keyed+"put", keyed+"unput"
		default:
			name := []string{"write", "put"}[n%2]
			s.Execute, s.Undo = "func:"+name, "func:un"+name
		}
		if w.deeds.IntN(3) == 0 {
			s.Checkpoint = "goal " + s.ID
		}
		for range w.deeds.IntN(6) - 3 {
			if did := in[draw()]; did != s.Agent && !slices.Contains(s.Substitutes, did) {
				s.Substitutes = append(s.Substitutes, did)
			}
		}
		for j := range i {
			if w.deeds.IntN(3) == 0 {
				s.Needs = append(s.Needs, string(rune('a'+j)))
			}
		}
		d.Steps = append(d.Steps, s)
	}
	if len(d.Steps) > 2 && len(d.Steps[1].Needs) == 0 && w.deeds.IntN(3) == 0 {
		d.FanOut = []saga.Group{{Policy: []saga.Policy{saga.All, saga.Majority, saga.Any}[w.deeds.IntN(3)], Branches: []string{"a", "b"}}}
	}
	return d
}

// anyRun draws a saga that was acknowledged.
func (w *world) anyRun() (run, bool) {
	if len(w.runs) == 0 {
		return run{}, false
	}
	return w.runs[w.deeds.IntN(len(w.runs))], true
}

func (w *world) cancelSaga() {
	r, ok := w.anyRun()
	if !ok {
		return
	}
	ctx := context.Background()
	s, err := w.hv.Session(ctx, r.session)
	if err != nil {
		return
	}
	d, err := s.CancelSaga(ctx, admin, r.id)
	w.answered("cancel saga", d, err)
}
