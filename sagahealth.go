package hypervisor

import (
	"context"
	"errors"
	"fmt"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// sagahealth.go: whether what takes a step back can be called, asked before the step is decided (SPEC §4 "so is one whose undo
// endpoint failed its health check").

// ownUndo returns the action that a saga's step names for its undo, and whose it is; empty: it names none, or the try is that undo.
func (s *Session) ownUndo(ctx context.Context, t session.SagaTry) (undo string, agent policy.DID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return "", "", err
	}
	g := s.live.state.Sagas[t.Saga]
	if g == nil || t.Undo {
		return "", "", nil
	}
	return g.Steps[t.Step].Undo, g.Steps[t.Step].Agent, nil
}

// untriedUndo has a step's undo looked at before the step is admitted, where that could change what the step counts as.
func (s *Session) untriedUndo(ctx context.Context, t session.SagaTry, found *session.Call) error {
	if found.Descriptor.ReadOnly || found.Descriptor.Effective(found.Image) == action.Irreversible {
		return nil
	}
	undo, agent, err := s.ownUndo(ctx, t)
	if undo == "" || err != nil {
		return err
	}
	tool := s.tool(agent, undo)
	if tool == nil || tool.Changed || tool.Answers != nil || tool.Reaches != nil { // else there is nobody to ask: it is a function
		found.Untried = true
	}
	return nil
}

// errUnreached is returned for a step that would reach nobody just now, as would its undo: it waits, and is not decided.
var errUnreached = errors.New("nobody answers there")

// checkUndo makes a step whose undo cannot be called one that cannot be taken back; unless nobody answers where the step itself is
// done, which is errUnreached.
func (s *Session) checkUndo(ctx context.Context, t session.SagaTry, p party, tool *handler, found *session.Call) error {
	undo, agent, err := s.ownUndo(ctx, t)
	if undo == "" || err != nil {
		return err
	}
	fault := s.healthOf(ctx, party{agent, p.line}, undo)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case fault != nil && tool.unreachable(ctx) != nil:
		return errUnreached
	case fault != nil:
		found.Image, found.ImageFault = action.ImageFailed, fmt.Sprintf("its undo, %s, cannot be called: %v", undo, fault)
		s.hv.opts.Logger.Info("a saga's step counts as one that cannot be taken back", "session", s.id, "saga", t.Saga, "step", t.Step, "error", found.ImageFault)
	}
	return nil
}

// healthOf returns why an action cannot be called now; nil: it can, or only calling it would tell. A function that the embedding
// program has not brought yet is waited for when it is to be called.
func (s *Session) healthOf(ctx context.Context, p party, id string) error {
	tool, _, err := s.hv.toolFor(ctx, s, p.owner, id)
	switch {
	case err != nil && !action.IsAddress(id) && s.hv.equipper.Load() == nil:
		return nil
	case err != nil:
		return err
	case tool.Changed:
		return fmt.Errorf("the definition of %s is not the one that was pinned", id)
	}
	ctx, cancel := s.inSystemsName(ctx, p)
	defer cancel()
	for _, ask := range [...]func(context.Context) error{tool.Answers, tool.Reaches} {
		if ask == nil {
			continue
		}
		if err := ask(ctx); err != nil {
			return err
		}
	}
	return nil
}

// unreached answers a try that was not decided since it would reach nobody.
func (s *Session) unreached(ctx context.Context, t session.SagaTry) error {
	answer := session.AnswerSaga{SagaTry: t, Result: saga.Unreached, Why: session.Unreachable}
	_, err := s.submit(ctx, policy.System.Through("executor"), answer, nil)
	if errors.Is(err, session.ErrImpossible) {
		err = nil // it is not wanted any more
	}
	s.lookLater()
	return err
}
