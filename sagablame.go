package hypervisor

import (
	"context"
	"errors"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// sagablame.go: a saga has failed, and who led to that is found in the log. It is owed until a record says it; if we crash before,
// the next load finds it owed.

// attributeSagas finds out who led to each saga that failed, and records it. It may be called whenever one may be owed.
func (s *Session) attributeSagas(ctx context.Context) {
	s.attributing.Lock()
	defer s.attributing.Unlock()
	failed, err := s.unattributed(ctx)
	for _, f := range failed {
		if err = s.attributeSaga(ctx, f); err != nil {
			break
		}
	}
	if err == nil || s.hv.closing.Load() || errors.Is(err, ErrNotFound) || errors.Is(err, errForgotten) {
		return
	}
	s.hv.opts.Logger.Warn("who bears that a saga failed could not be found out; it is tried again", "session", s.id, "error", err)
	s.hv.later(settleRetry, s.attributeSagas)
}

func (s *Session) unattributed(ctx context.Context) ([]session.FailedSaga, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	return session.Unattributed(s.live.state), nil
}

func (s *Session) attributeSaga(ctx context.Context, f session.FailedSaga) error {
	system := policy.System.Through("executor")
	found, err := s.findOut(ctx, system, f.Action)
	if err != nil {
		return err
	}
	if _, err := s.submit(ctx, system, session.AttributeSaga{Saga: f.ID, Found: found}, nil); err != nil && !errors.Is(err, session.ErrImpossible) {
		return err // somebody who was faster is none
	}
	s.sagaRested(session.Rest{Saga: f.ID})
	return nil
}
