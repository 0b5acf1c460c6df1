package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// aftermath_test.go: the weather clears, time passes until nothing waits any more, and the history is judged.

// answered notes an answer that is a decision.
func (w *world) answered(what string, d policy.Decision, err error) {
	switch {
	case err != nil:
		w.did(what, "error", err)
	case d.Allowed:
		w.did(what, "ok")
	default:
		w.did(what, string(d.Code), d.Reason)
	}
}

// settle begins a process in good weather, lets it do all that is owed, and judges.
func (w *world) settle() {
	ctx := context.Background()
	w.healthy, w.full, w.gone = true, 0, 0 // and dark, where it is, until a wait for who answers there is ended
	w.logDies()
	w.start()
	w.quieten()
	for range 4 { // what is tried again by itself comes to rest
		w.clock.Advance(lookedForEach)
		w.quieten()
	}
	w.endWaits()
	w.dark = 0
	for _, wait := range slices.Concat(slices.Repeat([]time.Duration{10 * time.Second}, 12), slices.Repeat([]time.Duration{time.Minute}, 100)) {
		w.quieten()
		for _, id := range w.ids {
			if w.equipped[id] == w.boot {
				continue
			}
			s, err := w.hv.Session(ctx, id)
			w.must(acknowledged, err == nil, "the session %s, which was acknowledged, is not to be had: %v", id, err)
			w.equip(s)
		}
		w.quieten()
		w.overdue()
		w.clock.Advance(wait)
	}
	w.quieten()
	w.judgeCalls()
	for i := range w.runs {
		w.judgeSaga(&w.runs[i])
	}
	w.judgeBonds()
	w.judgeMemory()
	w.judgeLog()
}

// judgeBonds holds what agents have set aside against what sessions know of.
func (w *world) judgeBonds() {
	there := map[string]bool{}
	for _, id := range w.ids {
		for bond, b := range w.book.session(id).state.Bonds {
			there[id+"/"+bond] = true
			w.must(bondsHold, b.Status != session.BondRequested, "%s/%s is still asked for", id, bond)
			_, kept := w.book.agent(b.Voucher).bonds[id+"/"+bond]
			w.must(bondsHold, kept, "%s/%s counts, and %s has set nothing aside for it", id, bond, b.Voucher)
		}
	}
	for _, did := range w.agents {
		for key, amount := range w.book.agent(did).bonds {
			w.must(bondsHold, there[key], "%s has %s set aside for %s, which is no more", did, amount, key)
		}
	}
}

// quieten does all that waits, of which there is an end.
func (w *world) quieten() {
	for w.steps = 0; w.hv.Step(context.Background()); {
		w.stats.steps++ // which choose bounds
	}
	w.must(getsQuiet, true, "")
}

// judgeCalls checks that nothing is under way any more.
func (w *world) judgeCalls() {
	for _, id := range slices.Sorted(maps.Keys(w.book.sessions)) {
		s := w.book.sessions[id]
		for _, name := range slices.Sorted(maps.Keys(s.deeds)) {
			w.must(getsQuiet, s.deeds[name].outcome != "", "%s/%s still runs", id, s.deeds[name])
		}
		w.must(getsQuiet, len(s.state.Owed) == 0, "%s still owes %d entries", id, len(s.state.Owed))
		_, summed := w.book.summed[id]
		w.must(getsQuiet, s.archived == summed, "%s is archived: %t, and has a summary: %t", id, s.archived, summed)
	}
}

// tookEffect reports whether a step of a saga happened, or its undo did.
func (w *world) tookEffect(session, saga, step string, undo bool) bool {
	return w.effects[effectOf(session, saga, step, undo)] > 0
}

// judgeSaga compares what a saga claims with what happened.
func (w *world) judgeSaga(r *run) {
	s, err := w.hv.Session(context.Background(), r.session)
	w.must(acknowledged, err == nil, "the session %s is not to be had: %v", r.session, err)
	v, err := s.Saga(context.Background(), r.id)
	w.must(acknowledged, err == nil, "the saga %s/%s, which was acknowledged, is not to be had: %v", r.session, r.id, err)
	w.must(sagasEnd, !v.Ended.IsZero() && v.Rests() && w.book.session(r.session).sagas[r.id].ended == v.State, "%s/%s has not ended: %+v", r.session, r.id, v)
	w.stats.ends[v.State]++
	for _, step := range v.Steps {
		if w.book.session(r.session).sagas[r.id].skips[step.ID] {
			continue // it is another saga's
		}
		happened, undone := w.tookEffect(r.session, r.id, step.ID, false), w.tookEffect(r.session, r.id, step.ID, true)
		admitted := slices.Contains([]string{"compensation_failed", "compensation_unknown", "unknown"}, step.State) ||
			v.State == "escalated" && slices.Contains([]string{"committed", "executing", "compensating"}, step.State) // its session ended before
		say := func(holds bool, what string) {
			w.must(noMoreThanSo, holds, "step %s of %s/%s %s: %+v", step.ID, r.session, r.id, what, v)
		}
		say(step.State != "committed" || happened, "is committed and never happened")
		say(v.State == "completed" || !happened || undone || admitted, "stands, and is said not to")
		name := r.session + "/" + step.Action // somebody may have taken it back since
		say(v.State != "completed" || !undone || step.State == "compensated" || w.book.undone[name] > 0 || w.book.doubted[name], "is undone, and is not said to be")
		say(!undone || happened, "is undone and never happened")
	}
}

// judgeMemory compares the state that the process has with the fold of the records.
func (w *world) judgeMemory() {
	for _, id := range w.ids {
		s, err := w.hv.Session(context.Background(), id)
		w.must(acknowledged, err == nil, "the session %s is not to be had: %v", id, err)
		state, err := s.State(context.Background())
		w.must(memoryIsLog, err == nil, "%s: %v", id, err)
		is, should := encoded(state), encoded(w.book.session(id).state)
		w.must(memoryIsLog, is == should, "%s is in memory %s and in the log %s", id, is, should)
	}
}

func encoded(s *session.State) string {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Sprintf("does not encode: %v", err)
	}
	return string(b)
}

// judgeLog verifies the log from its bytes, as anybody can.
func (w *world) judgeLog() {
	var v audit.Verifier
	for rec, err := range w.log.Tail(context.Background(), 0) {
		w.must(logVerifies, err == nil, "reading the log: %v", err)
		fault := v.Add(audit.Stored{Position: rec.Position, Stream: rec.Stream, Seq: rec.Seq, Hash: rec.Hash, Body: rec.Body, Payload: rec.Payload})
		w.must(logVerifies, fault == nil, "%v", fault)
	}
	_, fault := v.Close()
	w.must(logVerifies, fault == nil, "%v", fault)
}

// present returns the agents that take part, in order.
func (s *sessionBook) present() (in []policy.DID) {
	for did, m := range s.members {
		if m.present {
			in = append(in, did)
		}
	}
	slices.SortFunc(in, func(a, b policy.DID) int { return strings.Compare(string(a), string(b)) })
	return in
}
