package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

// owed.go: what one stream must tell another, and deadlines. All of it is idempotent at its target, so after a crash it is
// simply still owed.

// arm sets the timer of a session that an earlier process left, without opening it.
func (hv *Hypervisor) arm(head eventlog.Head) {
	id, ok := strings.CutPrefix(head.Stream, audit.SessionPrefix)
	switch {
	case !ok:
	case head.Owes:
		// Archived sessions owe until their summary stands in the system stream; most have it.
		if head.Deadline.IsZero() && !hv.system.isOpen(id) {
			return
		}
		hv.timers.Set(id, hv.opts.Clock.Now())
	default:
		hv.timers.Set(id, head.Deadline)
	}
}

// tick lets time do what is due in a session. It is called by the timers.
func (hv *Hypervisor) tick(ctx context.Context, id string) {
	if strings.HasPrefix(id, laterPrefix) {
		hv.mu.Lock()
		task := hv.laters[id]
		delete(hv.laters, id)
		hv.mu.Unlock()
		hv.offer(task)
		return
	}
	s := hv.handle(id)
	s.mu.Lock()
	if s.live != nil {
		s.live.armed = time.Time{} // the timer has fired
	}
	s.mu.Unlock()
	_, _, err := s.propose(ctx, policy.System, session.Tick{}, nil, nil)
	if err == nil {
		hv.offerSeal(ctx, s)
		return
	}
	if hv.closing.Load() || errors.Is(err, ErrNotFound) {
		return
	}
	hv.opts.Logger.Warn("a deadline could not be recorded; it is tried again", "session", id, "error", err)
	hv.timers.Set(id, hv.opts.Clock.Now().Add(settleRetry))
}

// offerSeal seals an archived session that an earlier process left unsealed: its Seal effect was owed to that process.
func (hv *Hypervisor) offerSeal(ctx context.Context, s *Session) {
	s.mu.Lock()
	archived := s.live != nil && s.live.state.Lifecycle == session.Archived && s.live.st.newest == nil
	s.mu.Unlock()
	if archived {
		s.seal(ctx)
	}
}

// announce records a session's opening in the system stream.
func (hv *Hypervisor) announce(ctx context.Context, id string) error {
	_, err := hv.system.submit(ctx, policy.System, system.Open{Session: id})
	if err != nil {
		return fmt.Errorf("recording the opening of %s: %w", id, err)
	}
	return nil
}

// seal records an archived session's summary in the system stream and lets the session go.
func (s *Session) seal(ctx context.Context) {
	s.mu.Lock()
	err := s.load(ctx)
	var sum Summary
	if err == nil {
		sum = Summary{Hash: s.live.st.tree.Root(), Records: s.live.st.tree.Size}
	}
	s.mu.Unlock()
	if err == nil {
		_, err = s.hv.system.submit(ctx, policy.System, system.Commit{Session: s.id, Records: sum.Records, Summary: sum.Hash})
	}
	if err != nil {
		s.hv.opts.Logger.Warn("a session's summary could not be recorded; it is tried again", "session", s.id, "error", err)
		s.hv.later(settleRetry, s.seal)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.sealed:
	default:
		s.sum = sum
		close(s.sealed)
	}
	s.hv.forget(s)
}
