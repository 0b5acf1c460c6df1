package sim

import (
	"context"
	"slices"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// replay_test.go: steps that another agent does, and sagas that do again what another has not reached.

// replaySaga has what a saga has not reached done again, or says before that something is reached no more.
func (w *world) replaySaga() {
	r, ok := w.anyRun()
	if !ok {
		return
	}
	ctx := context.Background()
	s, err := w.hv.Session(ctx, r.session)
	if err != nil {
		return
	}
	g := w.book.session(r.session).sagas[r.id]
	if step := g.steps[w.deeds.IntN(len(g.steps))]; step.Checkpoint != "" && w.deeds.IntN(3) == 0 {
		d, err := s.InvalidateGoal(ctx, admin, r.id, step.ID)
		w.answered("invalidate", d, err)
		w.must(goalsStand, err != nil || !d.Allowed || g.invalid[step.ID], "the goal of %s of %s/%s is said to be reached no more, and no record says so", step.ID, r.session, r.id)
	}
	w.equip(s)
	out, err := s.ReplaySaga(ctx, admin, r.id)
	w.answered("replay", out.Decision, err)
	if err == nil && out.Allowed {
		w.must(acknowledged, w.book.session(r.session).sagas[out.ID] != nil, "the replay %s/%s is acknowledged and not recorded", r.session, out.ID)
		w.runs = append(w.runs, run{r.session, out.ID})
	}
}

// replays judges what a saga that replays another leaves as it is: what is reached, and what only that needs.
func (b *book) replays(s *sessionBook, g *sagaBook, e session.SagaCreated) {
	for _, id := range e.Skips {
		g.skips[id] = true
		g.settled[id] = saga.Committed
	}
	if e.Replays == "" {
		b.w.must(goalsStand, len(e.Skips) == 0, "%s/%s replays nothing, and leaves out %v", s.id, g.id, e.Skips)
		return
	}
	old := s.sagas[e.Replays]
	for _, step := range old.steps {
		switch {
		case step.Checkpoint != "":
			b.w.must(goalsStand, old.stands(step.ID) == g.skips[step.ID], "%s of %s/%s, which replays %s, is left out: %t; its goal stands: %t",
				step.ID, s.id, g.id, old.id, g.skips[step.ID], old.stands(step.ID))
		default:
			after := old.after(step.ID)
			needed := len(after) == 0 || slices.ContainsFunc(after, func(id string) bool { return !g.skips[id] })
			b.w.must(goalsStand, needed != g.skips[step.ID], "%s of %s/%s, which replays %s, is left out: %t; %v need it", step.ID, s.id, g.id, old.id, g.skips[step.ID], after)
		}
	}
}

// stands reports whether a step was done and is known not to be undone, and nobody has said otherwise (decision 100).
func (g *sagaBook) stands(step string) bool {
	return (g.settled[step] == saga.Committed || g.settled[step] == saga.CompensationFailed) && !g.invalid[step]
}

// after returns the steps that need a step, or the group that it is a branch of.
func (g *sagaBook) after(id string) (ids []string) {
	branches := []string{id}
	for _, group := range g.groups {
		if slices.Contains(group.Branches, id) {
			branches = group.Branches
		}
	}
	for _, step := range g.steps {
		if slices.ContainsFunc(step.Needs, func(need string) bool { return slices.Contains(branches, need) }) {
			ids = append(ids, step.ID)
		}
	}
	return ids
}

// handedOn judges that a step goes to another agent: its own cannot do it, and somebody has named the other.
func (b *book) handedOn(s *sessionBook, step *session.SagaStep, e session.SagaHandedOff) {
	cannot, named := s.members[e.From] == nil || !s.members[e.From].present, slices.Contains(step.Substitutes, e.To)
	cannot = cannot || e.Why == "demoted" // which judgeRing's oracle, that is never below the true ring, cannot tell
	for _, did := range s.line(e.From) {
		cannot = cannot || b.agent(did).state.Quarantine != nil || b.agent(did).state.Killed != nil // by a quarantine's end
		for _, scope := range []policy.Scope{{Agent: did}, {Session: s.id, Agent: did}, {Session: s.id}} {
			named = named || slices.Contains(b.w.pressed[scope], e.To)
			cannot = cannot || len(b.w.pressed[scope]) > 0
		}
	}
	b.w.must(handedOn, step.Agent == e.From && cannot, "%s of %s/%s is handed from %s to %s, and %s could do it", e.Step, s.id, e.Saga, e.From, e.To, step.Agent)
	b.w.must(handedOn, named && s.members[e.To] != nil && s.members[e.To].present, "%s of %s/%s is handed to %s, whom nobody named, or who is not there", e.Step, s.id, e.Saga, e.To)
	step.Agent = e.To
	b.w.stats.deeds["step handed on: "+e.Why]++
}
