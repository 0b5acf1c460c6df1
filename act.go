package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// act.go: a call from the question to the recorded outcome.

var (
	errClosing = errors.New("the hypervisor is closing")
	errGrace   = errors.New("the session's grace time is over")
	// errHalfDone says that some of the calls of an undo were made and the others were not.
	errHalfDone = errors.New("the undo is half done")
)

// An Outcome is what became of an Act.
type Outcome struct {
	policy.Decision
	ID     string          // of the action, once admitted; act-12
	State  string          // done, failed or unknown; empty: not admitted
	Result json.RawMessage // what the action answered; nil: nothing
	Err    error           // why it failed or is unknown, as its function said; nil with done, and in an answer that is repeated
}

// A call is an action under way.
type call struct {
	id       string
	session  string
	line     []policy.DID // who asked, and who brought it, to the root; none: an operator, whom a kill of an agent does not stop
	seq      uint64       // of the admitting record
	decision policy.Decision
	owner    policy.DID // of the tools that it is done with
	tool     *handler
	args     json.RawMessage
	values   map[string]any  // args, decoded
	before   *action.Image   // what was there before; nil: not known
	undoable bool            // it was admitted as one that can be taken back
	own      bool            // whoever asked does it, and the executor does not
	ctx      context.Context // the caller's: its end cancels the call, its values reach the function
	cancel   context.CancelCauseFunc

	ended  chan struct{} // closed once its function has returned, or it is known that it will not be called
	once   sync.Once     // closes ended
	became string        // what its function's return means: done, failed or unknown; valid once ended is closed

	done chan struct{} // closed once it is answered, which is when out and err are final
	out  Outcome
	err  error // the outcome could not be recorded yet

	answered bool                  // guarded by the session's lock
	unlimit  func()                // ends the time that the call has; nil: it has no end; guarded by the session's lock
	owed     func(context.Context) // records the outcome, if the store did not take it; guarded by the session's lock
}

// Act asks to have an action done, and returns once its outcome is recorded. A refusal is in Outcome.Allowed, Code and Reason;
// the error says that nothing could be decided or recorded. When ctx ends the call is cancelled; its outcome is recorded
// and Act returns ctx's error.
func (s *Session) Act(ctx context.Context, caller policy.Caller, c session.Act) (Outcome, error) {
	started, out, err := s.admit(ctx, caller, c, true)
	if started == nil || err != nil {
		return out, err
	}
	if started.own {
		s.dispatch(started.id)
		s.hv.exec.Release()
	}
	return started.wait(ctx, s.hv)
}

// Begin is Act that does not wait for the outcome: it returns once the call is admitted or refused. The end of ctx cancels the
// call, so it is one that outlives whoever asked.
func (s *Session) Begin(ctx context.Context, caller policy.Caller, c session.Act) (Outcome, error) {
	started, out, err := s.admit(ctx, caller, c, false)
	if started == nil || err != nil {
		return out, err
	}
	out.State = "running"
	return out, nil
}

// admit returns the call that was begun, or the answer where none was. waits says that its caller waits for the outcome.
func (s *Session) admit(ctx context.Context, caller policy.Caller, c session.Act, waits bool) (*call, Outcome, error) {
	out, started, err := s.ask(ctx, caller, c, waits)
	switch {
	case err != nil:
		if out.Events != nil && !out.Allowed { // a refusal is answered even when it cannot be recorded (SPEC §2)
			out.Decision.Seq, out.Decision.Approval = 0, nil
			return nil, Outcome{Decision: out.Decision}, nil
		}
		return nil, Outcome{}, err
	case out.Repeats != nil:
		out, err := s.repeat(ctx, out, waits)
		return nil, out, err
	case started == nil:
		return nil, Outcome{Decision: out.Decision}, nil
	}
	return started, Outcome{Decision: out.Decision, ID: out.ID}, nil
}

// ask decides a call and waits until the decision is recorded. It returns the call that has begun; nil: none.
func (s *Session) ask(ctx context.Context, caller policy.Caller, c session.Act, waits bool) (session.Outcome, *call, error) {
	if err := s.hv.enter(); err != nil {
		return session.Outcome{}, nil, err
	}
	defer s.hv.leave()
	if err := s.hv.exec.Reserve(); err != nil {
		return session.Outcome{}, nil, fmt.Errorf("%w: %w", ErrOverloaded, err)
	}
	owner := s.ownerOf(caller, c)
	tool, found := s.prepareCall(owner, c)
	if c.Saga != nil && found != nil {
		if err := s.untriedUndo(ctx, *c.Saga, found); err != nil {
			s.hv.exec.Release()
			return session.Outcome{}, nil, err
		}
	}
	stamp := func(e *session.Env) {
		e.Call = found
		s.live.state.Narrow(caller.DID, found)
		if c.Key != "" {
			e.Key = key(e, c.Key, c)
		}
	}
	var started *call
	begin := func(out session.Outcome) {
		if out.Allowed {
			started = s.begin(withEffect(ctx, s.effectOf(c, out.ID)), caller, out, tool, found)
			started.owner = owner
			started.own = waits && tool.Prompt && !s.hv.opts.Stepped
		}
	}
	out, t, err := s.propose(ctx, caller, c, stamp, begin)
	if errors.Is(err, session.ErrImageWanted) {
		err = s.lookBefore(ctx, party{owner, s.lineOf(caller)}, c.Saga, tool, found)
		if err == nil {
			out, t, err = s.propose(ctx, caller, c, stamp, begin)
		}
	}
	if started == nil {
		s.hv.exec.Release()
	}
	if err == nil {
		err = s.hv.wait(ctx, t)
	}
	if started != nil && err != nil { // it was never dispatched: the effect follows the record
		s.abandon(started, err)
	}
	return out, started, err
}

// lookBefore finds out what is there before a call, and whether what would take it back can be called. The error is ctx's, or that
// the session could not be read.
func (s *Session) lookBefore(ctx context.Context, p party, t *session.SagaTry, tool *handler, found *session.Call) error {
	err := s.takeImage(ctx, p, tool, found)
	if err == nil && t != nil {
		err = s.imageBeforeTries(ctx, *t, tool, found)
	}
	if err == nil && t != nil {
		err = s.checkUndo(ctx, *t, p, tool, found)
	}
	return err
}

// DryRun answers what Act would, and records nothing. It takes no image: an action that wants one is answered as if that were
// there.
func (s *Session) DryRun(ctx context.Context, caller policy.Caller, c session.Act) (policy.Decision, error) {
	_, found := s.prepareCall(caller.DID, c)
	out, err := s.consider(ctx, caller, c, func(e *session.Env) {
		e.Call = found
		s.live.state.Narrow(caller.DID, found)
	})
	if errors.Is(err, session.ErrImageWanted) {
		err = nil
	}
	out.Decision.Seq = 0
	return out.Decision, err
}

// ownerOf returns whose tools a call is done with: the caller's, but a saga's step, whose agent may not be connected, is done with
// the hypervisor's where it must be.
func (s *Session) ownerOf(caller policy.Caller, c session.Act) policy.DID {
	if c.Saga == nil {
		return caller.DID
	}
	_, owner := s.toolOf(caller.DID, c.Action)
	return owner
}

// prepareCall finds out what the rim must know before the decision: the tool, the arguments decoded once, their fault if they
// have one, and what they touch. Without such a tool it returns nil.
func (s *Session) prepareCall(owner policy.DID, c session.Act) (*handler, *session.Call) {
	tool := s.tool(owner, c.Action)
	if tool == nil {
		return nil, nil
	}
	found := tool.call(c.Args)
	tool.untried(found)
	return tool, found
}

// call is what there is to know of a call of the tool before it is decided.
func (t *handler) call(text json.RawMessage) *session.Call {
	found := &session.Call{Descriptor: t.Descriptor, Digest: t.digest, Changed: t.Changed, Server: t.Server}
	args, err := action.DecodeArgs(text)
	if err != nil {
		found.Fault = err.Error()
		return found
	}
	found.Args, found.Values = args.Canonical, args.Values
	if t.Check != nil {
		if err := t.Check(args.Values); err != nil {
			found.Fault = err.Error()
			return found
		}
	}
	resource, err := t.Descriptor.ResourceOf(args.Values)
	if err != nil { // what is touched is not known, so the call is not decided as one that touches nothing
		found.Fault = "resource: " + err.Error()
	}
	found.Resource = resource
	return found
}

// lineOf returns who asks, and who brought it, to the root, whom a kill stops; none: an operator, whom it does not.
func (s *Session) lineOf(caller policy.Caller) []policy.DID {
	if caller.Role != policy.AgentRole {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		return []policy.DID{caller.DID}
	}
	return s.live.state.Line(caller.DID)
}

// begin notes a call that is about to be recorded. The lock is held.
func (s *Session) begin(ctx context.Context, caller policy.Caller, out session.Outcome, tool *handler, found *session.Call) *call {
	c := &call{id: out.ID, session: s.id, owner: caller.DID, seq: out.Seq, decision: out.Decision, tool: tool, args: found.Args, values: found.Values,
		ended: make(chan struct{}), done: make(chan struct{})}
	if caller.Role == policy.AgentRole {
		c.line = s.live.state.Line(caller.DID)
	}
	c.undoable = !found.Descriptor.ReadOnly && found.Descriptor.Effective(found.Image) != action.Irreversible
	if found.Image == action.ImageTaken || found.Image == action.ImageAbsent {
		c.before = &found.Before
	}
	c.ctx, c.cancel = context.WithCancelCause(context.WithValue(ctx, actionKey{}, c.id))
	if s.calls == nil {
		s.calls = map[string]*call{}
	}
	s.calls[c.id] = c // perhaps in the place of one whose admission was lost, and that is about to be abandoned
	s.hv.kills.watch(c)
	s.hv.busy.Add(1)
	if s.hv.cutOff.Load() {
		c.cancel(errClosing)
	}
	return c
}

type actionKey struct{}

// ActionOf returns the id of the action that a function is called for with ctx, for what is asked in its course
// (session.Act.During); empty: ctx is of none.
func ActionOf(ctx context.Context) string {
	id, _ := ctx.Value(actionKey{}).(string)
	return id
}

// abandon forgets a call whose admission could not be recorded. Should its record be there all the same, revive ends it.
func (s *Session) abandon(c *call, err error) {
	s.hv.exec.Release()
	s.finish(c, Outcome{Decision: c.decision, ID: c.id}, err)
	s.reviveLater()
}

// finish ends a call whose outcome is recorded, or never will be.
func (s *Session) finish(c *call, out Outcome, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer(c, out, err)
	if s.calls[c.id] == c {
		delete(s.calls, c.id)
	}
	select {
	case <-s.sealed:
		s.hv.forget(s) // it outlasted its session
	default:
	}
}

// answer tells who waits for the call what became of it; the first answer stays. The lock is held.
func (s *Session) answer(c *call, out Outcome, err error) {
	if c.answered {
		return
	}
	c.answered, c.out, c.err = true, out, err
	if c.unlimit != nil {
		c.unlimit()
	}
	s.hv.kills.end(c, stateWords[session.Unsuccessful]) // if its function never was called
	c.cancel(nil)
	close(c.done)
	s.hv.busy.Done()
}

func (c *call) wait(ctx context.Context, hv *Hypervisor) (Outcome, error) {
	if err := hv.await(ctx, c.done); err != nil {
		return Outcome{Decision: c.decision, ID: c.id}, err
	}
	return c.out, c.err
}

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

// dispatch makes the call to the outside and gives its outcome back as a command.
func (s *Session) dispatch(id string) {
	s.mu.Lock()
	c := s.calls[id]
	s.mu.Unlock()
	if c == nil {
		return // it was abandoned
	}
	if _, dead := s.hv.kills.ofAny(c.session, c.line); dead { // since it was admitted
		c.cancel(errKilled)
	}
	result, err := s.hv.do(c)
	settle := session.Settle{ID: id, Output: result}
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
	s.settle(context.WithoutCancel(c.ctx), c, settle, Outcome{
		Decision: c.decision, ID: c.id, State: stateWords[settle.Result], Result: result, Err: err})
	if settle.Why == session.Unreachable {
		s.lookLater() // if it was a step, it waits now
	}
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
// stands in no record yet. Close tries once more; then the next start records it as unknown.
func (s *Session) settle(ctx context.Context, c *call, settle session.Settle, became Outcome) {
	out, err := s.submit(ctx, policy.System.Through("executor"), settle, nil)
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
		again := func(ctx context.Context) { s.settle(ctx, c, settle, became) }
		s.mu.Lock()
		s.answer(c, became, err)
		c.owed = again
		s.mu.Unlock()
		s.hv.later(settleRetry, again)
	}
}

// cancelCalls cancels the calls that still run. The lock is held.
func (s *Session) cancelCalls(why error) {
	for _, c := range s.calls {
		c.cancel(why)
	}
}

// repeat answers an Act whose idempotency key was used before: from the call if it is under way, else from its records.
func (s *Session) repeat(ctx context.Context, out session.Outcome, waits bool) (Outcome, error) {
	use := out.Repeats
	s.mu.Lock()
	for _, c := range s.calls {
		if c.seq == use.Seq {
			s.mu.Unlock()
			if !waits {
				return Outcome{Decision: out.Decision, ID: c.id, State: "running"}, nil
			}
			return c.wait(ctx, s.hv)
		}
	}
	s.mu.Unlock()
	view, err := s.actionAt(ctx, use.Seq)
	if err != nil {
		return Outcome{}, err
	}
	return Outcome{Decision: out.Decision, ID: view.ID, State: view.Outcome, Result: view.Result}, nil
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
