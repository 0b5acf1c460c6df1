package hypervisor

import (
	"context"
	"fmt"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// sagareplay.go: doing again what a saga has not reached (SPEC §5 "Checkpoints").

// ReplaySaga starts a saga that does again what another, which has ended, has not reached: steps whose goals stand are skipped, and
// those that only such steps need. The answer is RunSaga's. The error is ErrNotFound where the session does not remember the saga.
func (s *Session) ReplaySaga(ctx context.Context, caller policy.Caller, id string) (Outcome, error) {
	return s.ReplaySagaOnce(ctx, caller, "", id)
}

// ReplaySagaOnce is ReplaySaga with an idempotency key, as RunSagaOnce has it.
func (s *Session) ReplaySagaOnce(ctx context.Context, caller policy.Caller, key, id string) (Outcome, error) {
	if err := s.hv.enter(); err != nil {
		return Outcome{}, err
	}
	defer s.hv.leave()
	g, err := s.sagaOf(ctx, id)
	switch {
	case err != nil:
		return Outcome{}, err
	case g == nil:
		return Outcome{}, fmt.Errorf("saga %s of session %s: %w", id, s.id, ErrNotFound)
	}
	args, err := s.sagaArgs(ctx, id, g)
	if err != nil {
		return Outcome{}, err
	}
	d := saga.Definition{Name: g.Name, FanOut: g.FanOut, Fault: g.Fault}
	for i, step := range g.Steps {
		d.Steps = append(d.Steps, saga.Step{ID: step.ID, Agent: step.Agent, Action: step.Action, Undo: step.Undo, Args: args[i], Needs: step.Needs,
			Timeout: step.Timeout, Retries: step.Retries, Checkpoint: step.Checkpoint, Substitutes: step.Substitutes})
	}
	return s.startSaga(ctx, caller, d, sagaAsked{key, id})
}

// InvalidateGoal says that the goal of a step of a saga that has ended is reached no more, nor what depends on it: a replay does
// that again.
func (s *Session) InvalidateGoal(ctx context.Context, caller policy.Caller, id, step string) (policy.Decision, error) {
	out, err := s.command(ctx, caller, session.InvalidateGoal{Saga: id, Step: step}, nil)
	return out.Decision, err
}
