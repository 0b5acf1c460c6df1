package session

import (
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

// SagaInvalidated is recorded when goals are reached no more.
type SagaInvalidated struct {
	Saga  string   `json:"saga"`
	Steps []string `json:"steps"` // the one that was named, and those that depend on it
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
