package session

import (
	"slices"
	"strings"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// sagareplay.go: goals that were reached, and are not any more (SPEC §5 "Checkpoints").

const sagaInvalidatedType = "saga.checkpoint_invalidated"

// InvalidateGoal says that the goal of a step of a saga that has ended is reached no more: a replay does it again, and what depends
// on it.
type InvalidateGoal struct {
	Saga string
	Step string
}

func (InvalidateGoal) command() {}

// SagaInvalidated is recorded when goals are reached no more, also where a step that one rested on is taken back.
type SagaInvalidated struct {
	Saga  string   `json:"saga"`
	Steps []string `json:"steps"` // the one that was named, or was taken back, and those that depend on it
}

func decideInvalidateGoal(s *State, env *Env, c InvalidateGoal) Outcome {
	g := s.Sagas[c.Saga]
	switch {
	case g == nil || g.step(c.Step) < 0:
		return refuse(policy.NotFound, "there is no step %s of a saga %s in session %s", c.Step, c.Saga, s.ID)
	case !env.Caller.Runs() && env.Caller.DID != g.By:
		return refuse(policy.Forbidden, "%s is of %s; only an operator invalidates what another runs", c.Saga, g.By)
	case s.Lifecycle != Active:
		return refuse(policy.SessionNotActive, "session %s is %s", s.ID, s.Lifecycle)
	}
	e, ok := g.Plan().Invalidate(g.Run, g.step(c.Step)).(saga.Invalidated)
	if !ok {
		return refuse(policy.SagaInvalid, "step %s of %s has reached no goal that stands, or the saga has not ended", c.Step, c.Saga)
	}
	return allow(SagaInvalidated{c.Saga, g.names(e.Steps)})
}

// stepOf returns the saga, and the step, whose newest action has a name, SESSION/act-12; nil: there is none that is remembered.
func (s *State) stepOf(name string) (id string, g *Saga, step int) {
	action, ours := strings.CutPrefix(name, s.ID+"/")
	if !ours {
		return "", nil, 0
	}
	for id, g := range s.Sagas { // an action is of one
		if i := slices.Index(g.Actions, action); i >= 0 {
			return id, g, i
		}
	}
	return "", nil, 0
}

// foundOut ends the wait of a saga's step, in some state, for what became of an action: somebody has looked.
func (s *State) foundOut(of func(string) *sagaWork, name string, waits saga.StepState, happened bool) {
	id, g, i := s.stepOf(name)
	if g == nil || g.Run.Steps[i].State != waits {
		return
	}
	w := of(id)
	if e := w.plan.Resolve(w.run, i, happened); e != nil {
		w.add(e, "")
	}
}

// unreached adds to an outcome the goals that are reached no more, since what was taken back in it was what reached them.
func (s *State) unreached(out *Outcome) {
	if len(s.Sagas) == 0 {
		return
	}
	for _, e := range out.Events {
		e, ok := e.(Undone)
		if !ok {
			continue
		}
		id, _, i := s.stepOf(e.ID)
		for _, id := range s.withReplays(id, i) {
			g := s.Sagas[id]
			if e, ok := g.Plan().Undone(g.Run, i).(saga.Invalidated); ok {
				out.Events = append(out.Events, SagaInvalidated{id, g.names(e.Steps)})
			}
		}
	}
}

// withReplays returns a saga and those that rest on what a step of it did, oldest first; none for the empty id.
func (s *State) withReplays(id string, step int) (ids []string) {
	if id == "" {
		return nil
	}
	ids = []string{id}
	for _, other := range slices.Concat(s.SagasEnded, s.SagasOpen) {
		// A saga replays one that has ended before it began.
		if g := s.Sagas[other]; slices.Contains(ids, g.Replays) && g.Run.Steps[step].Skipped {
			ids = append(ids, other)
		}
	}
	return ids
}

// replayed returns the saga that another replays, and the refusal where it cannot be; nil and nil: it replays none.
func (s *State) replayed(env *Env, id string) (*Saga, *policy.Decision) {
	g := s.Sagas[id]
	switch {
	case id == "":
		return nil, nil
	case g == nil:
		return nil, deny(policy.NotFound, "there is no saga %s in session %s, or it ended so long ago that only the log tells of it", id, s.ID)
	case !g.Run.State.Ended():
		return nil, deny(policy.SagaInvalid, "%s has not ended; what it has not reached it still does, or undoes", id)
	case env.Caller.Role == policy.AgentRole && env.Caller.DID != g.By:
		return nil, deny(policy.Forbidden, "%s is of %s; only an operator replays what another runs", id, g.By)
	}
	return g, nil
}

// names returns the ids of steps.
func (g *Saga) names(steps []int) (ids []string) {
	for _, i := range steps {
		ids = append(ids, g.Steps[i].ID)
	}
	return ids
}

// places is the inverse of names.
func (g *Saga) places(ids []string) (steps []int) {
	for _, id := range ids {
		steps = append(steps, g.step(id))
	}
	return steps
}

// Append appends the event's JSON.
func (e SagaInvalidated) Append(dst []byte) []byte {
	return audit.Event(dst, sagaInvalidatedType).Str("saga", e.Saga).Strs("steps", e.Steps).End()
}

// apply does nothing to a saga that was forgotten between the decision and an older snapshot's reading: it cannot be replayed.
func (e SagaInvalidated) apply(s *State, _ Stamp) {
	s.happened(e.Saga, func(g *Saga) saga.Event { return saga.Invalidated{Steps: g.places(e.Steps)} })
}
