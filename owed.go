package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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
		hv.armAgent(head)
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
		if task != nil { // it was stopped while it fired
			hv.offer(task)
		}
		return
	}
	if did, ok := strings.CutPrefix(id, audit.AgentPrefix); ok {
		hv.offer(func(ctx context.Context) { hv.tickAgent(ctx, policy.DID(did)) })
		return
	}
	hv.mu.Lock()
	s := hv.sessions[id]
	_, loaded := hv.loaded[s]
	hv.mu.Unlock()
	if loaded {
		s.tick(ctx)
		return
	}
	hv.rouse(id)
}

// maxRousing bounds the sessions that are loaded at once because something is due in them: enough for a store to commit many
// records at once, few enough to leave the executor to calls.
const maxRousing = 256

// rouse has a session loaded because something is due in it. That may wait for the store, and after a crash there may be very
// many, so it does not keep the timers waiting.
func (hv *Hypervisor) rouse(id string) {
	hv.mu.Lock()
	hv.asleep = append(hv.asleep, id)
	more := hv.rousing < maxRousing
	if more {
		hv.rousing++
	}
	hv.mu.Unlock()
	if more {
		hv.offer(hv.rouseAll)
	}
}

// rouseAll lets time do what is due in the sessions that are to be loaded, one after the other. At the end of ctx what is left is
// owed at the next start.
func (hv *Hypervisor) rouseAll(ctx context.Context) {
	for {
		hv.mu.Lock()
		if len(hv.asleep) == 0 || ctx.Err() != nil {
			hv.rousing--
			hv.mu.Unlock()
			return
		}
		id := hv.asleep[0]
		hv.asleep = hv.asleep[1:]
		hv.mu.Unlock()
		hv.handle(id).tick(ctx)
	}
}

// tick lets time do what is due, and seals a session that was found archived and unsealed: its Seal effect was owed to another
// process, or its last record was reported lost and is there all the same.
func (s *Session) tick(ctx context.Context) {
	s.mu.Lock()
	if s.live != nil {
		s.live.armed = time.Time{} // the timer has fired
	}
	s.mu.Unlock()
	unsealed, owing := false, false
	_, _, err := s.propose(ctx, policy.System, session.Tick{}, errand{stamp: func(*session.Env) {
		owing = len(s.live.state.Owed) > 0
		unsealed = s.live.state.Lifecycle == session.Archived && s.live.st.newest == nil // else the record's own effect does it
	}})
	if owing {
		s.tellSoon()
	}
	switch {
	case err == nil && unsealed:
		s.seal(ctx)
	case err == nil || s.hv.closing.Load() || errors.Is(err, ErrNotFound):
	case errors.Is(err, errForgotten):
		s.hv.timers.Set(s.id, s.hv.opts.Clock.Now()) // for the handle that stands for the session now
	default:
		s.hv.opts.Logger.Warn("a deadline could not be recorded; it is tried again", "session", s.id, "error", err)
		s.reviveLater()
	}
}

// reviveLater lets revive look at the session soon, once. It may be called with or without the lock.
func (s *Session) reviveLater() {
	if s.reviving.CompareAndSwap(false, true) {
		s.hv.later(settleRetry, s.revive)
	}
}

// revive brings the session up to date after records of it were lost: deadlines were set by what they said, and effects that
// they owed may not have been done. An action whose admission was reported lost and is there all the same was never dispatched.
func (s *Session) revive(ctx context.Context) {
	s.reviving.Store(false)
	if err := s.settleUnsent(ctx); err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, errForgotten) {
		if !s.hv.closing.Load() {
			s.hv.opts.Logger.Warn("a session could not be read after records of it were lost; it is tried again", "session", s.id, "error", err)
			s.reviveLater()
		}
		return
	}
	s.tick(ctx)
	s.mu.Lock()
	owed := s.live != nil && len(session.Tries(s.live.state)) > 0
	attributing := s.live != nil && s.live.state.Attributing > 0
	s.mu.Unlock()
	if owed {
		s.sendTries(ctx)
	}
	if attributing {
		s.attributeSagas(ctx)
	}
}

// settleUnsent records the outcome of actions that this process started and no call stands behind.
func (s *Session) settleUnsent(ctx context.Context) error {
	s.mu.Lock()
	err := s.load(ctx)
	var unsent []session.Settle
	running := s.running()
	for _, id := range slices.Sorted(maps.Keys(running)) {
		switch r := running[id]; {
		case r.Incarnation != s.hv.incarnation || s.calls[id] != nil:
		case r.ReadOnly && s.live.state.Config.Consistency == session.Eventual: // it went out at once, and its outcome was lost
			unsent = append(unsent, session.Settle{ID: id, Result: session.Uncertain, Why: "lost"})
		case r.Saga != nil: // it uses up no retry
			unsent = append(unsent, session.Settle{ID: id, Result: session.Unsuccessful, Why: session.WhyLost})
		default:
			unsent = append(unsent, session.Settle{ID: id, Result: session.Unsuccessful, Why: "not_sent"})
		}
	}
	s.mu.Unlock()
	for _, settle := range unsent {
		if err == nil {
			_, err = s.submit(ctx, policy.System.Through("executor"), settle, nil)
		}
		if errors.Is(err, session.ErrImpossible) {
			err = nil // somebody was faster
		}
	}
	return err
}

// running returns the actions without a recorded outcome, none if the session is not loaded. The lock is held.
func (s *Session) running() map[string]*session.Running {
	if s.live == nil {
		return nil
	}
	return s.live.state.Running
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
	s.hv.kills.drop(func(k policy.Kill) bool { return k.Session == s.id }) // nothing can happen in it any more
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
