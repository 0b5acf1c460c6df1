package hypervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// sagasend.go: tries of a saga's steps on their way: as its agents' actions, as undos, and again once a tool that was missed is here.

// errTimedOut ends a step's call when its time is over.
var errTimedOut = fmt.Errorf("the step's time is over: %w", context.DeadlineExceeded)

// sendTries sends each try that is owed and not on its way, the last itself and the others by the executor. It is a task of the
// executor's own, and may be called whenever a try may be owed: to send one twice is harmless, since only one is admitted.
func (s *Session) sendTries(ctx context.Context) {
	s.mu.Lock()
	err := s.load(ctx)
	var tries []session.SagaTry
	if err == nil {
		tries = s.unsentTries()
	}
	for _, t := range tries {
		if s.trying == nil {
			s.trying = map[session.SagaTry]bool{}
		}
		s.trying[t] = true
	}
	s.mu.Unlock()
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, errForgotten) && !s.hv.closing.Load() {
		s.hv.later(settleRetry, s.sendTries)
	}
	for i, t := range tries {
		if i == len(tries)-1 {
			s.carryOut(s.try(ctx, t)) // mostly the only one, and whoever is here has nothing else to do
			return
		}
		s.hv.offer(func(ctx context.Context) { s.carryOut(s.try(ctx, t)) })
	}
}

// try makes one try, as far as to its admission; its outcome comes back as that of any action. It returns the call, which its caller
// does; nil: there is none, or the executor does it.
func (s *Session) try(ctx context.Context, t session.SagaTry) *call {
	started, again, err := s.send(ctx, t)
	s.mu.Lock()
	delete(s.trying, t)
	s.mu.Unlock()
	if (err != nil || again) && !s.hv.closing.Load() {
		if err != nil {
			s.hv.opts.Logger.Warn("a step of a saga could not be tried; it is tried again", "session", s.id, "saga", t.Saga, "step", t.Step, "error", err)
		}
		s.hv.later(settleRetry, s.sendTries)
	}
	return started
}

// send returns the call that whoever sends it does, and whether the try is still owed though nothing is wrong with it: there was no
// room for it.
func (s *Session) send(ctx context.Context, t session.SagaTry) (own *call, again bool, err error) {
	g, err := s.sagaOf(ctx, t.Saga)
	if g == nil || err != nil {
		return nil, false, err
	}
	step := &g.Steps[t.Step]
	if t.Undo && step.Undo == "" {
		again, err := s.sendUndo(ctx, t, g)
		return nil, again, err
	}
	name := step.Action
	if t.Undo {
		name = step.Undo
	}
	args, err := s.sagaArgs(ctx, t.Saga, g)
	if err != nil {
		return nil, false, err
	}
	caller := policy.Agent(step.Agent)
	if t.Undo && s.standsIn(t) {
		caller = policy.System
	}
	_, _, missing := s.hv.toolFor(ctx, s, caller.DID, name) // where it is not to be had the step is refused, which is recorded, and waits
	started, out, err := s.admit(context.WithoutCancel(ctx), caller.Through("saga"), session.Act{Action: name, Args: args[t.Step], Saga: &t}, whoever)
	switch {
	case errors.Is(err, session.ErrImpossible):
		return nil, false, nil // somebody was faster, or it is not wanted any more
	case errors.Is(err, ErrOverloaded):
		return nil, true, nil
	case errors.Is(err, errUnreached):
		return nil, false, s.unreached(ctx, t)
	case err == nil && started != nil:
		s.limit(started, step.Timeout)
		if started.own {
			own = started
		}
	case err == nil && out.Code == policy.ApprovalRequired && step.Undo != "" && !t.Undo:
		s.lookLater() // for what takes it back, if that is why it counts as one that needs an approval
	case err == nil && (out.Code == policy.UnknownAction || out.Code == policy.ToolChanged):
		s.hv.opts.Logger.Info("a step of a saga waits for its tool", "session", s.id, "saga", t.Saga, "step", step.ID, "error", missing)
		s.lookLater()
	}
	return own, false, err
}

// standsIn reports whether the system itself does a step's undo, since the step's agent is away. Should that change before it is
// decided, the undo is refused and its try answered, as any.
func (s *Session) standsIn(t session.SagaTry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		return false
	}
	env, _, err := s.env(policy.System)
	return err == nil && session.StandsIn(s.live.state, env, t)
}

// limit cancels a call that has not ended after d.
func (s *Session) limit(c *call, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limitCall(c, d)
}

// limitCall is limit. The lock is held.
func (s *Session) limitCall(c *call, d time.Duration) {
	if c.answered {
		return
	}
	c.until = s.hv.opts.Clock.Now().Add(d)
	if s.late == nil || c.until.Before(s.lateAt) {
		s.lookForLate(c.until)
	}
}

// sendUndo takes back the action that a step was, with the authority of who runs the saga, or the system's, where that agent cannot.
func (s *Session) sendUndo(ctx context.Context, t session.SagaTry, g *session.Saga) (again bool, err error) {
	caller := policy.Operator(g.By).Through("saga")
	switch {
	case g.Agent && s.standsIn(t):
		caller = policy.System.Through("saga")
	case g.Agent:
		caller = policy.Agent(g.By).Through("saga")
	}
	answer := session.AnswerSaga{SagaTry: t, Result: saga.Refused, Why: "no_action"} // committed because somebody said so
	switch s.undoneAlready(g.Actions[t.Step]) {
	case session.UndoDone: // by somebody else, or by a process that died before it said so
		answer.Result, answer.Why = saga.Succeeded, ""
	case session.UndoRunning:
		return true, nil // somebody else is at it
	default:
		if g.Actions[t.Step] == "" {
			break
		}
		report, err := s.hv.Undo(ctx, caller, UndoRequest{Session: s.id, Action: g.Actions[t.Step], compensates: true, limit: g.Steps[t.Step].Timeout})
		var refused *Refused
		switch {
		case errors.As(err, &refused):
			answer.Why = string(refused.Decision.Code)
		case errors.Is(err, ErrOverloaded):
			return true, nil
		case err != nil:
			return false, err
		case len(report.Steps) > 0 && s.undoneAlready(g.Actions[t.Step]) == session.UndoRunning:
			return true, nil // what it came to is not recorded yet
		case len(report.Steps) > 0:
			answer.Result, answer.Why, answer.Until = s.undoResult(&report.Steps[0])
		}
	}
	_, err = s.submit(ctx, policy.System.Through("executor"), answer, nil)
	if errors.Is(err, session.ErrImpossible) {
		err = nil // it is not wanted any more
	}
	return false, err
}

// undoneAlready returns how far an undo of an action is.
func (s *Session) undoneAlready(id string) session.UndoStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != nil {
		if m := s.live.state.Undos[s.id+"/"+id]; m != nil {
			return m.Status
		}
	}
	return ""
}

// undoResult says what an undo came to.
func (s *Session) undoResult(u *UndoStep) (saga.Result, string, time.Time) {
	now := s.hv.Now()
	switch u.State {
	case StepUndone:
		return saga.Succeeded, "", time.Time{}
	case StepUnknown:
		return saga.NoAnswer, "undo_unknown", time.Time{}
	case StepFailed:
		return saga.Refused, "undo_failed", time.Time{}
	}
	if u.Decision == nil {
		return saga.Refused, string(u.Kind), time.Time{}
	}
	result, why, until := session.RefusedTry(*u.Decision, now)
	return result, why, until
}

// toolRetry is how often is looked whether a tool is here, or can be reached, that a step waits for.
const toolRetry = 10 * time.Second

// A heldStep waits for its tool.
type heldStep struct {
	session.ResolveSaga
	agent  policy.DID
	action string
	there  bool // the tool is, and reached nobody
	undo   bool // the step waits until its undo can be called, or an approver wants it done all the same
}

// heldForTools returns the steps that wait for a tool. The lock is held.
func (s *Session) heldForTools() (held []heldStep) {
	if s.live == nil {
		return nil
	}
	for _, id := range s.live.state.SagasOpen {
		g := s.live.state.Sagas[id]
		for i, r := range g.Run.Steps {
			undo := g.WantsUndo(i)
			if r.Hold != session.HeldForTool && r.Hold != session.Unreachable && undo == "" {
				continue
			}
			h := heldStep{session.ResolveSaga{Saga: id, Step: g.Steps[i].ID, How: "retry"}, g.Steps[i].Agent, cmp.Or(undo, g.Steps[i].Action), r.Hold == session.Unreachable, undo != ""}
			if r.State == saga.CompensatingStep {
				h.action = cmp.Or(g.Steps[i].Undo, h.action)
			}
			held = append(held, h)
		}
	}
	return held
}

// toolsCame lets the steps go on that wait for a tool which is here now, and looks again later for the others.
func (s *Session) toolsCame(ctx context.Context) {
	s.mu.Lock()
	held := s.heldForTools()
	s.mu.Unlock()
	again := false
	for _, h := range held {
		if !s.cameFor(ctx, h) {
			again = true
			continue
		}
		if _, err := s.submit(ctx, policy.System, h.ResolveSaga, nil); err != nil {
			again = true
		}
	}
	if again {
		s.lookLater()
	}
}

// cameFor reports whether what a step waits for is here.
func (s *Session) cameFor(ctx context.Context, h heldStep) bool {
	if h.undo {
		return s.healthOf(ctx, party{owner: h.agent}, h.action) == nil
	}
	t, _, err := s.hv.toolFor(ctx, s, h.agent, h.action)
	return err == nil && !t.Changed && (!h.there || t.unreachable(ctx) == nil)
}

// lookLater looks again for the tools that steps wait for.
func (s *Session) lookLater() {
	if s.hv.closing.Load() || !s.looking.CompareAndSwap(false, true) {
		return
	}
	s.hv.later(toolRetry, func(ctx context.Context) {
		s.looking.Store(false)
		s.toolsCame(ctx)
	})
}

// unsentTries lists the tries that are owed and not on their way. The lock is held.
func (s *Session) unsentTries() []session.SagaTry {
	return slices.DeleteFunc(session.Tries(s.live.state), func(t session.SagaTry) bool { return s.trying[t] })
}

// lookForLate sets the one timer for the session's calls that have an end: mostly they end before, and the next finds it set. The lock
// is held.
func (s *Session) lookForLate(at time.Time) {
	s.forgetLate()
	s.lateAt = at
	s.late = s.hv.later(at.Sub(s.hv.opts.Clock.Now()), s.cancelLate)
}

// forgetLate stops that timer. The lock is held.
func (s *Session) forgetLate() {
	if s.late != nil {
		s.late()
		s.late = nil
	}
}

// cancelLate cancels the calls whose time is over, and looks again for the others.
func (s *Session) cancelLate(context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = nil
	now, next := s.hv.opts.Clock.Now(), time.Time{}
	for _, c := range s.calls {
		switch {
		case c.until.IsZero() || c.answered:
		case !now.Before(c.until):
			c.cancel(errTimedOut)
		case next.IsZero() || c.until.Before(next):
			next = c.until
		}
	}
	if !next.IsZero() {
		s.lookForLate(next)
	}
}
