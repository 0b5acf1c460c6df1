package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// dispatch.go: what an admission owes: the call on its way out, what its end means, and the recorded outcome.

// ownDispatch reports whether an effect is a call that whoever asked for it does. The lock is held.
func (s *Session) ownDispatch(e session.Effect) bool {
	d, ok := e.(session.Dispatch)
	return ok && s.calls[d.ID] != nil && s.calls[d.ID].own
}

// owe hands what a record owes to the executor. It is called from the committer once the record is in, or with the lock held.
func (s *Session) owe(effects []session.Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case session.Announce:
			// create waits for it itself; after a crash the next load or start does it.
		case session.Dispatch:
			s.hv.exec.Offer(func(context.Context) { s.dispatch(e.ID) })
		case session.Cancel:
			s.hv.offer(func(context.Context) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.cancelCalls(errGrace) // no other runs: none is admitted any more
			})
		case session.Tell:
			s.tellSoon()
		case session.Try:
			s.hv.offer(s.sendTries)
		case session.Rest:
			s.sagaRested(e)
			if e.Failed {
				s.hv.offer(s.attributeSagas)
			}
		case session.Seal:
			s.hv.offer(s.seal)
		}
	}
}

// dispatch does a call unless it was abandoned.
func (s *Session) dispatch(id string) {
	s.mu.Lock()
	c := s.calls[id]
	s.mu.Unlock()
	s.carryOut(s.do(c))
}

// askProbe asks the action's probe, where it has one, what became of it.
func (s *Session) askProbe(c *call, settle *session.Settle) {
	switch s.probe(context.WithoutCancel(c.ctx), party{c.owner, c.line}, c.tool, action.Scope{Args: c.values, Image: c.before, ID: c.id, Session: s.id}) {
	case action.TookPlace:
		settle.Result, settle.Why = session.Done, ""
	case action.DidNot:
		settle.Result = session.Unsuccessful
	case action.Unsaid:
	}
}

// do is call.do, in which the function's panic is an outcome that nobody knows: what it did before is not known, and the program
// lives on. In a stepped hypervisor it is the simulator's, who means a crash.
func (hv *Hypervisor) do(c *call) (result json.RawMessage, err error) {
	if hv.opts.Stepped {
		return c.do()
	}
	defer func() {
		if v := recover(); v != nil {
			hv.opts.Logger.Error("an action's function panicked", "session", c.session, "action", c.id, "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: its function panicked: %v", action.ErrUnknownOutcome, v)
		}
	}()
	return c.do()
}

// do runs the function, unless the call was cancelled before it went out.
func (c *call) do() (json.RawMessage, error) {
	if err := c.ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", action.ErrNotDispatched, context.Cause(c.ctx))
	}
	return c.tool.Do(c.ctx, c.args)
}

var stateWords = map[session.Result]string{session.Done: "done", session.Unsuccessful: "failed", session.Uncertain: "unknown"}

// classify says what a function's error means for the record.
func classify(ctx context.Context, err error) (session.Result, string) {
	switch {
	case err == nil:
		return session.Done, ""
	case errors.Is(err, action.ErrNotDispatched):
		switch {
		case errors.Is(context.Cause(ctx), errClosing):
			return session.Unsuccessful, session.WhyClosing
		case errors.Is(err, action.ErrUnreachable):
			return session.Unsuccessful, session.Unreachable
		}
		return session.Unsuccessful, "not_sent"
	case errors.As(err, new(*action.Postponed)):
		return session.Unsuccessful, session.Postponed
	case errors.Is(err, errHalfDone):
		return session.Uncertain, "half_done"
	case errors.Is(err, action.ErrUnknownOutcome):
		return session.Uncertain, unlessEnded(ctx, "lost")
	case errors.Is(err, context.DeadlineExceeded):
		return session.Uncertain, "timeout"
	case errors.Is(err, context.Canceled) || (ctx.Err() != nil && errors.Is(err, context.Cause(ctx))):
		return session.Uncertain, unlessEnded(ctx, "cancelled")
	}
	return session.Unsuccessful, "tool_error"
}

// unlessEnded returns why a call was broken off.
func unlessEnded(ctx context.Context, why string) string {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errKilled):
		return "killed"
	case errors.Is(cause, errClosing):
		return session.WhyClosing
	case errors.Is(cause, errTimedOut):
		return "timeout"
	}
	return why
}

// settle records an outcome. While the store is away it is owed: it is tried again, and the caller is told that the outcome
// stands in no record yet. Close tries once more; then the next start records it as unknown. It returns the call of the saga's step
// that follows, as do does.
func (s *Session) settle(c *call, settle session.Settle, became Outcome) (next *call) {
	out, next, err := s.giveBack(c, settle)
	switch {
	case err == nil:
		became.Decision.Seq = max(became.Decision.Seq, out.Seq)
		s.finish(c, became, nil)
		if len(c.line) > 0 {
			s.watched(c.line[0])
		}
	case errors.Is(err, session.ErrImpossible), errors.Is(err, ErrNotFound):
		s.hv.opts.Logger.Warn("an outcome came too late to be recorded", "session", s.id, "action", c.id, "error", err)
		s.finish(c, became, nil)
	default:
		again := func(context.Context) { s.carryOut(s.settle(c, settle, became)) }
		s.mu.Lock()
		s.answer(c, became, err)
		c.owed = again
		s.mu.Unlock()
		s.hv.later(settleRetry, again)
	}
	return next
}

// cancelCalls cancels the calls that still run. The lock is held.
func (s *Session) cancelCalls(why error) {
	for _, c := range s.calls {
		c.cancel(why)
	}
}

// offer gives the executor something owed that needs no place of its own: there is at most one of its kind a session.
func (hv *Hypervisor) offer(task func(context.Context)) {
	if err := hv.exec.Reserve(); err != nil {
		hv.later(settleRetry, task)
		return
	}
	hv.exec.Offer(task)
}

// later does a task after d, unless the function that it returns is called before.
func (hv *Hypervisor) later(d time.Duration, task func(context.Context)) (stop func()) {
	hv.mu.Lock()
	hv.nextLater++
	name := laterPrefix + strconv.FormatUint(hv.nextLater, 10)
	hv.laters[name] = task
	hv.mu.Unlock()
	hv.timers.Set(name, hv.opts.Clock.Now().Add(d))
	return func() {
		hv.timers.Set(name, time.Time{})
		hv.mu.Lock()
		defer hv.mu.Unlock()
		delete(hv.laters, name)
	}
}

// laterPrefix marks the timers of tasks; no session's id has it.
const laterPrefix = "\x00"

// carryOut does a call of which the caller has the executor's place, and those that follow from it; nil: there is none.
func (s *Session) carryOut(c *call) {
	for c != nil {
		c = s.do(c)
		s.hv.exec.Release()
	}
}

// do makes the call to the outside and gives its outcome back as a command. It returns the call of the saga's step that follows, which
// its caller does; nil: there is none, or the executor does it.
func (s *Session) do(c *call) (next *call) {
	if c == nil {
		return nil
	}
	if _, dead := s.hv.kills.ofAny(c.session, c.line); dead { // since it was admitted
		c.cancel(errKilled)
	}
	result, err := s.hv.do(c)
	settle := session.Settle{ID: c.id, Output: result}
	settle.Result, settle.Why = classify(c.ctx, err)
	if p := (*action.Postponed)(nil); errors.As(err, &p) {
		settle.Again = s.hv.Now().Add(p.After)
	}
	s.hv.kills.end(c, stateWords[settle.Result])
	if settle.Result == session.Uncertain {
		s.askProbe(c, &settle)
	}
	if settle.Result == session.Done {
		settle.Left = s.leaving(c.ctx, c, result)
	}
	next = s.settle(c, settle, Outcome{Decision: c.decision, ID: c.id, State: stateWords[settle.Result], Result: result, Err: err})
	if settle.Why == session.Unreachable {
		s.lookLater() // if it was a step, it waits now
	}
	return next
}

// giveBack gives an outcome as a command and waits until it is recorded. It returns the call of the saga's step that stands in the same
// record, which its caller does; nil: there is none, or the executor does it.
func (s *Session) giveBack(c *call, settle session.Settle) (out session.Outcome, next *call, err error) {
	ctx := context.WithoutCancel(c.ctx)
	var e errand
	if c.step && s.hv.enter() == nil {
		defer s.hv.leave()
		e.goesOn = func(c *call) { next = c }
	}
	out, t, err := s.propose(ctx, policy.System.Through("executor"), settle, e)
	if err == nil {
		err = s.hv.wait(ctx, t)
	}
	switch {
	case next != nil && err != nil: // it was never dispatched: the effect follows the record
		s.abandon(next, err)
		next = nil
	case next != nil && !next.own:
		next = nil
	}
	return out, next, err
}
