package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	step     bool            // it is a try of a saga's step, or of its undo
	ctx      context.Context // the caller's: its end cancels the call, its values reach the function
	cancel   context.CancelCauseFunc

	ended  chan struct{} // of a call that was killed: closed once its function has returned, or it is known that it will not be called
	became string        // what its function's return means: done, failed or unknown; valid once ended is closed

	done chan struct{} // closed once it is answered, which is when out and err are final
	out  Outcome
	err  error // the outcome could not be recorded yet

	answered bool                  // guarded by the session's lock
	until    time.Time             // when the time that the call has ends; zero: never; guarded by the session's lock
	owed     func(context.Context) // records the outcome, if the store did not take it; guarded by the session's lock
}

// Act asks to have an action done, and returns once its outcome is recorded. A refusal is in Outcome.Allowed, Code and Reason;
// the error says that nothing could be decided or recorded. When ctx ends the call is cancelled; its outcome is recorded
// and Act returns ctx's error.
func (s *Session) Act(ctx context.Context, caller policy.Caller, c session.Act) (Outcome, error) {
	started, out, err := s.admit(ctx, caller, c, ifPrompt)
	if started == nil || err != nil {
		return out, err
	}
	if started.own {
		s.carryOut(started)
	}
	return started.wait(ctx, s.hv)
}

// Begin is Act that does not wait for the outcome: it returns once the call is admitted or refused. The end of ctx cancels the
// call, so it is one that outlives whoever asked.
func (s *Session) Begin(ctx context.Context, caller policy.Caller, c session.Act) (Outcome, error) {
	started, out, err := s.admit(ctx, caller, c, theExecutor)
	if started == nil || err != nil {
		return out, err
	}
	out.State = "running"
	return out, nil
}

// A doer says who does a call once it is admitted.
type doer uint8

const (
	theExecutor doer = iota
	ifPrompt         // who asks, since it waits for the outcome, if the tool is Prompt
	whoever          // who asks, which is a goroutine of the executor's
)

// admit returns the call that was begun, or the answer where none was.
func (s *Session) admit(ctx context.Context, caller policy.Caller, c session.Act, by doer) (*call, Outcome, error) {
	out, started, err := s.ask(ctx, caller, c, by)
	switch {
	case err != nil:
		if out.Events != nil && !out.Allowed { // a refusal is answered even when it cannot be recorded (SPEC §2)
			out.Decision.Seq, out.Decision.Approval = 0, nil
			return nil, Outcome{Decision: out.Decision}, nil
		}
		return nil, Outcome{}, err
	case out.Repeats != nil:
		out, err := s.repeat(ctx, out, by == ifPrompt)
		return nil, out, err
	case started == nil:
		return nil, Outcome{Decision: out.Decision}, nil
	}
	return started, Outcome{Decision: out.Decision, ID: out.ID}, nil
}

// ask decides a call and waits until the decision is recorded. It returns the call that has begun; nil: none.
func (s *Session) ask(ctx context.Context, caller policy.Caller, c session.Act, by doer) (session.Outcome, *call, error) {
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
			started = s.begin(ctx, s.effectOf(c, out.ID), caller, out, tool, found)
			started.owner = owner
			started.own = (by == whoever || by == ifPrompt && tool.Prompt) && !s.hv.opts.Stepped
			started.step = c.Saga != nil
		}
	}
	e := errand{stamp: stamp, decided: begin}
	out, t, err := s.propose(ctx, caller, c, e)
	if errors.Is(err, session.ErrImageWanted) {
		err = s.lookBefore(ctx, party{owner, s.lineOf(caller)}, c.Saga, tool, found)
		if err == nil {
			out, t, err = s.propose(ctx, caller, c, e)
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
	found := &session.Call{}
	t.describe(found, text)
	return found
}

// describe is call into an empty Call.
func (t *handler) describe(found *session.Call, text json.RawMessage) {
	found.Descriptor, found.Digest, found.Changed, found.Server = t.Descriptor, t.digest, t.Changed, t.Server
	args, err := action.DecodeArgs(text)
	if err != nil {
		found.Fault = err.Error()
		return
	}
	found.Args, found.Values = args.Canonical, args.Values
	if t.Check != nil {
		if err := t.Check(args.Values); err != nil {
			found.Fault = err.Error()
			return
		}
	}
	resource, err := t.Descriptor.ResourceOf(args.Values)
	if err != nil { // what is touched is not known, so the call is not decided as one that touches nothing
		found.Fault = "resource: " + err.Error()
	}
	found.Resource = resource
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
func (s *Session) begin(ctx context.Context, effect string, caller policy.Caller, out session.Outcome, tool *handler, found *session.Call) *call {
	c := &call{id: out.ID, session: s.id, owner: caller.DID, seq: out.Seq, decision: out.Decision, tool: tool, args: found.Args, values: found.Values,
		done: make(chan struct{})}
	if caller.Role == policy.AgentRole {
		c.line = s.live.state.Line(caller.DID)
	}
	c.undoable = !found.Descriptor.ReadOnly && found.Descriptor.Effective(found.Image) != action.Irreversible
	if found.Image == action.ImageTaken || found.Image == action.ImageAbsent {
		c.before = &found.Before
	}
	c.ctx, c.cancel = context.WithCancelCause(&actionContext{ctx, c.id, effect})
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

// An actionContext is the context of an action.
type actionContext struct {
	context.Context
	action string // its id; empty: none
	effect string // EffectOf
}

type actionKey struct{}

// Value returns the context itself for actionKey.
func (c *actionContext) Value(key any) any {
	if key == (actionKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// ActionOf returns the id of the action that a function is called for with ctx, for what is asked in its course
// (session.Act.During); empty: ctx is of none.
func ActionOf(ctx context.Context) string {
	if c, ok := ctx.Value(actionKey{}).(*actionContext); ok {
		return c.action
	}
	return ""
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
