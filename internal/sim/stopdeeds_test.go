package sim

import (
	"context"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/policy"
)

// stopdeeds_test.go: kills and quarantines, and what they promise.

// A stop is a kill that was acknowledged.
type stop struct {
	id   string
	boot uint64 // of the process that acknowledged it
	kept bool   // it outlives that process: it is recorded, or in the kill file
}

func (w *world) kill() {
	var k policy.Kill
	switch n := w.deeds.IntN(12); {
	case n == 0:
		k.All = true
	case n == 1 && len(w.ids) > 2:
		k.Session = w.ids[w.deeds.IntN(len(w.ids))]
	default:
		k.Agent = w.agents[w.deeds.IntN(len(w.agents))]
		if s := w.anySession(); s != nil {
			k.Agent = w.anyone(s)
			if n < 6 {
				k.Session = s.ID()
			}
		}
	}
	w.kills(k.Scope)
	if k.All && w.deeds.IntN(3) > 0 { // it would be a dull history
		w.lift(k.Scope)
	}
}

// kills stops a scope, and holds the answer against the log.
func (w *world) kills(scope policy.Scope) {
	k := policy.Kill{Scope: scope, Reason: policy.Manual}
	if other := w.agents[w.deeds.IntN(len(w.agents))]; scope.Agent != "" && other != scope.Agent && w.deeds.IntN(2) == 0 {
		k.Substitute = other
		if in := w.book.session(scope.Session).present(); scope.Session != "" && len(in) > 0 && in[0] != scope.Agent {
			k.Substitute = in[0]
		}
	}
	w.pressed[scope] = append(w.pressed[scope], k.Substitute)
	if w.hits(fullAtKill) {
		w.full = 2 + w.faults.IntN(20)
	}
	report, err := w.hv.Kill(context.Background(), admin, k)
	if err != nil {
		w.did("kill", refusal(err), err)
		return
	}
	if old := w.stops[k.Scope]; !old.kept {
		w.stops[k.Scope] = stop{report.Kill.ID, w.boot, report.Recorded || w.dir != ""}
	}
	w.must(acknowledged, !report.Recorded || w.book.killed(k.Scope, report.Kill.ID), "the kill of %s is said to be recorded, and is not", k.Scope)
	w.did("kill", "ok", k.Scope, report.Recorded)
	w.mayCrash(crashKilled)
}

func (w *world) liftAny() {
	kills := w.hv.Kills()
	if len(kills) == 0 {
		return
	}
	w.lift(kills[w.deeds.IntN(len(kills))].Scope)
}

// lift ends a kill. From the moment it is asked for nothing is promised any more.
func (w *world) lift(scope policy.Scope) {
	if scope.Agent != "" || scope.All {
		delete(w.stops, scope)
	}
	d, err := w.hv.LiftKill(context.Background(), admin, scope)
	w.answered("lift", d, err)
}

func (w *world) quarantine() {
	s := w.anySession()
	if s == nil {
		return
	}
	w.quarantines(s.ID(), w.anyone(s))
}

// quarantines lets an agent only read, and holds the answer against the log.
func (w *world) quarantines(session string, did policy.DID) {
	c := agent.EnterQuarantine{Reason: policy.Manual, For: time.Duration(1+w.deeds.IntN(600)) * time.Second, Session: session}
	d, err := w.hv.Quarantine(context.Background(), admin, did, c)
	w.answered("quarantine", d, err)
	if err == nil && d.Allowed {
		w.must(acknowledged, w.book.agent(did).state.Quarantine != nil, "%s is said to be in quarantine, and no record says so", did)
		w.apart[did] = w.book.records
	}
}

func (w *world) release() {
	for _, did := range w.agents {
		if w.book.agent(did).state.Quarantine != nil {
			d, err := w.hv.Release(context.Background(), admin, did, agent.EndQuarantine{Note: "enough"})
			w.answered("release", d, err)
			return
		}
	}
}

// still judges a call that has come out: it is of nobody who was stopped before.
func (w *world) still(s *sessionBook, d *deed) {
	line := s.line(d.agent)
	inForce := func(scope policy.Scope) bool {
		k, there := w.stops[scope]
		return there && (k.kept || k.boot == w.boot)
	}
	killed := inForce(policy.Scope{All: true}) ||
		slices.ContainsFunc(line, func(did policy.DID) bool {
			return inForce(policy.Scope{Agent: did}) || inForce(policy.Scope{Session: s.id, Agent: did})
		})
	w.must(stillStands, !killed, "%s/%s goes out after an acknowledged kill", s.id, d)
	if !d.readOnly && !d.operator {
		for _, did := range line {
			since, there := w.apart[did]
			w.must(stillStands, !there || w.book.agent(did).state.Quarantine == nil || d.position <= since, "%s/%s goes out after the quarantine of %s was acknowledged", s.id, d, did)
		}
	}
	if !d.undo && inForce(policy.Scope{Session: s.id}) {
		w.must(stillStands, false, "%s/%s goes out after an acknowledged kill of the session", s.id, d)
	}
}

// undo takes back an action, or what an agent or a session did.
func (w *world) undo() {
	s := w.anySession()
	if s == nil {
		return
	}
	ctx := context.Background()
	w.equip(s)
	by := admin
	req := hypervisor.UndoRequest{Session: s.ID(), Plan: w.deeds.IntN(4) == 0}
	switch w.deeds.IntN(3) {
	case 0:
		by = policy.Agent(w.anyone(s))
		req.Agent = by.DID
	case 1:
		if views, err := s.Actions(ctx, 0, 100); err == nil && len(views) > 0 {
			req.Action = views[w.deeds.IntN(len(views))].ID
		}
	}
	w.undoes(by, req)
}

// undoes asks for an undo, and holds the report against the log.
func (w *world) undoes(by policy.Caller, req hypervisor.UndoRequest) {
	report, err := w.hv.Undo(context.Background(), by, req)
	if err != nil {
		w.did("undo", refusal(err), err)
		return
	}
	for _, step := range report.Steps {
		if step.State == hypervisor.StepUndone {
			name := step.Session + "/" + step.ID
			w.must(acknowledged, w.book.undone[name] > 0, "%s is said to be undone, and no record says so: %+v", name, step)
		}
	}
	w.did("undo", "ok", report.Undone, report.Left)
}
