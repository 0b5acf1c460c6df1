package hypervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// saga.go: sagas (SPEC §5). A session's records say what is to be tried; here it is tried, as an action of the step's agent, and
// what comes of it goes back as a command. What was to be tried when a process died is simply still owed.

// errTimedOut ends a step's call when its time is over.
var errTimedOut = fmt.Errorf("the step's time is over: %w", context.DeadlineExceeded)

// RunSaga starts a saga and returns once it is recorded; it goes on by itself, also after a crash. An operator runs sagas of any
// participants, an agent of its own steps. The answer's ID is the saga's; a refusal says which step it is about, and then nothing
// was begun. The error is document.Faults for a definition that is not sound, else that nothing could be decided or recorded.
func (s *Session) RunSaga(ctx context.Context, caller policy.Caller, d saga.Definition) (Outcome, error) {
	return s.RunSagaOnce(ctx, caller, "", d)
}

// RunSagaOnce is RunSaga with an idempotency key: the same caller, key and definition answer with the saga that was begun, and begin no
// other. An empty key is none.
func (s *Session) RunSagaOnce(ctx context.Context, caller policy.Caller, key string, d saga.Definition) (Outcome, error) {
	if err := s.hv.enter(); err != nil {
		return Outcome{}, err
	}
	defer s.hv.leave()
	if faults := d.Check(saga.Known{}); faults != nil {
		return Outcome{}, faults
	}
	return s.startSaga(ctx, caller, d, sagaAsked{Key: key})
}

// A sagaAsked is how a saga was asked for, beside its definition.
type sagaAsked struct {
	Key     string // idempotency key; empty: none
	Replays string // the saga of which what stands is not done again; empty: none
}

// startSaga starts a saga of a sound definition.
func (s *Session) startSaga(ctx context.Context, caller policy.Caller, d saga.Definition, asked sagaAsked) (Outcome, error) {
	c, args, refusal, err := s.prepareSaga(ctx, d)
	switch {
	case err != nil:
		return Outcome{}, err
	case refusal != nil:
		return Outcome{Decision: *refusal}, nil
	}
	c.Replays = asked.Replays
	stamp := func(e *session.Env) { e.Key = key(e, asked.Key, askedSaga{d, asked.Replays}) }
	out, t, err := s.propose(ctx, caller, c, stamp, func(out session.Outcome) {
		if out.Repeats == nil {
			s.keepArgs(out.ID, args)
		}
	})
	if err == nil {
		err = s.hv.wait(ctx, t)
	}
	if err == nil && out.Repeats != nil {
		out.ID, err = s.begunIn(ctx, out.Repeats.Seq)
	}
	if err != nil {
		s.sagaRested(session.Rest{Saga: out.ID})
	}
	return Outcome{Decision: out.Decision, ID: out.ID}, err
}

// An askedSaga is what an idempotency key stands on.
type askedSaga struct {
	Definition saga.Definition
	Replays    string
}

// begunIn returns the saga that begins with a record.
func (s *Session) begunIn(ctx context.Context, seq uint64) (string, error) {
	for r, err := range s.hv.read(ctx, audit.SessionPrefix+s.id, seq) {
		if err != nil {
			return "", err
		}
		events, err := session.ParseEvents(r.Events)
		if err != nil {
			return "", fmt.Errorf("record %d: %w", r.Seq, err)
		}
		for _, e := range events {
			if created, ok := e.(session.SagaCreated); ok {
				return created.ID, nil
			}
		}
		break
	}
	return "", fmt.Errorf("the saga of record %d: %w", seq, ErrNotFound)
}

// prepareSaga finds out what the rim must know before a saga is decided: of each step the action as it is described now. It returns a
// refusal for a step that could not be begun whoever asks.
func (s *Session) prepareSaga(ctx context.Context, d saga.Definition) (c session.RunSaga, args []json.RawMessage, refusal *policy.Decision, err error) {
	refuse := func(code policy.Code, format string, args ...any) (session.RunSaga, []json.RawMessage, *policy.Decision, error) {
		d := policy.Refuse(code, format, args...)
		return c, nil, &d, nil
	}
	if d.Isolation != "" {
		return refuse(policy.SagaInvalid, "isolation %s is of a session's own files, which there are none of yet; leave it out", d.Isolation)
	}
	c = session.RunSaga{Name: d.Name, FanOut: d.FanOut, Fault: d.Fault}
	args = make([]json.RawMessage, len(d.Steps))
	for i, step := range d.Steps {
		name, undo := cmp.Or(step.Action, actionOf(step.Execute)), actionOf(step.Undo)
		doer, _, err := s.hv.toolFor(ctx, s, step.Agent, name)
		if err != nil {
			return refuse(policy.UnknownAction, "step %s: %v", step.ID, err)
		}
		call := doer.call(step.Args)
		switch {
		case call.Changed:
			return refuse(policy.ToolChanged, "step %s: the definition of %s is not the one that was pinned", step.ID, name)
		case call.Fault != "":
			return refuse(policy.InvalidArguments, "step %s: the arguments of %s do not fit: %s", step.ID, name, call.Fault)
		}
		done := sagaStep(&step, name, &doer.Descriptor)
		if undo != "" {
			undoer, _, err := s.hv.toolFor(ctx, s, step.Agent, undo)
			if err != nil {
				return refuse(policy.UnknownAction, "the undo of step %s: %v", step.ID, err)
			}
			u := &undoer.Descriptor
			done.Undo, done.Undoable, done.UndoIdempotent = undo, true, u.Idempotent || u.ReadOnly
			done.Requires = min(done.Requires, u.RequiredRing(u.Effective(action.ImageTaken))) // a smaller number is more privilege
		}
		args[i] = call.Args
		c.Steps = append(c.Steps, done)
	}
	c.Args = list(args)
	return c, args, nil, nil
}

// list makes one JSON list of what is JSON already.
func list(values []json.RawMessage) []byte {
	out := append(make([]byte, 0, 256), '[')
	for i, v := range values {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, v...)
	}
	return append(out, ']')
}

// actionOf returns the action that a target is.
func actionOf(target string) string {
	kind, rest, _ := strings.Cut(target, ":")
	switch kind {
	case "mcp":
		return strings.Replace(rest, "/", ".", 1)
	case "func":
		return rest
	}
	return target // an address is its own
}

// sagaStep is what a record says of a step.
func sagaStep(step *saga.Step, name string, d *action.Descriptor) session.SagaStep {
	effective := d.Effective(action.ImageTaken)
	out := session.SagaStep{ID: step.ID, Agent: step.Agent, Action: name, Needs: step.Needs, Timeout: step.Timeout, Retries: step.Retries, Checkpoint: step.Checkpoint,
		ReadOnly: d.ReadOnly, Idempotent: d.Idempotent, Undoable: !d.ReadOnly && effective != action.Irreversible && (d.Undo != nil || d.UndoAbsent != nil),
		UndoIdempotent: true, // an undo is done once, and one that is not known to be done looks first
		Requires:       d.RequiredRing(effective), Substitutes: step.Substitutes}
	if out.Timeout == 0 {
		out.Timeout = saga.DefaultTimeout
	}
	return out
}

// ResolveSaga ends what a step of a saga waits for. how is happened or not, of an unknown outcome, or retry, of a step that is held.
func (s *Session) ResolveSaga(ctx context.Context, caller policy.Caller, id, step, how string) (policy.Decision, error) {
	out, err := s.command(ctx, caller, session.ResolveSaga{Saga: id, Step: step, How: how}, nil)
	return out.Decision, err
}

// CancelSaga has a saga undone: nothing new begins, what is under way ends, and what was done is taken back.
func (s *Session) CancelSaga(ctx context.Context, caller policy.Caller, id string) (policy.Decision, error) {
	out, err := s.command(ctx, caller, session.CancelSaga{Saga: id}, nil)
	return out.Decision, err
}

// sendTries sends each try that is owed and not on its way, the last itself and the others by the executor. It is a task of the
// executor's own, and may be called whenever a try may be owed: to send one twice is harmless, since only one is admitted.
func (s *Session) sendTries(ctx context.Context) {
	s.mu.Lock()
	err := s.load(ctx)
	var tries []session.SagaTry
	if err == nil {
		tries = slices.DeleteFunc(session.Tries(s.live.state), func(t session.SagaTry) bool { return s.trying[t] })
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
			s.try(ctx, t) // mostly the only one, and whoever is here has nothing else to do
			return
		}
		s.hv.offer(func(ctx context.Context) { s.try(ctx, t) })
	}
}

// forward reports whether tries of a saga's steps have begun, and none of an undo's. These need not wait until the record that says
// so is durable: what admits them stands behind it, so that it is lost with it, and nothing goes out before that is durable. An
// undo reads what was done from the log, and a saga's first tries may read their arguments there, so these wait.
func forward(events []session.Event) (some bool) {
	for _, e := range events {
		switch e := e.(type) {
		case session.SagaCreated:
			return false
		case session.SagaStepStarted:
			if e.Undo {
				return false
			}
			some = true
		default: // says nothing of a try
		}
	}
	return some
}

// try makes one try, as far as to its admission; its outcome comes back as that of any action.
func (s *Session) try(ctx context.Context, t session.SagaTry) {
	again, err := s.send(ctx, t)
	s.mu.Lock()
	delete(s.trying, t)
	s.mu.Unlock()
	if (err != nil || again) && !s.hv.closing.Load() {
		if err != nil {
			s.hv.opts.Logger.Warn("a step of a saga could not be tried; it is tried again", "session", s.id, "saga", t.Saga, "step", t.Step, "error", err)
		}
		s.hv.later(settleRetry, s.sendTries)
	}
}

// send returns whether the try is still owed though nothing is wrong with it: there was no room for it.
func (s *Session) send(ctx context.Context, t session.SagaTry) (again bool, err error) {
	g, err := s.sagaOf(ctx, t.Saga)
	if g == nil || err != nil {
		return false, err
	}
	step := &g.Steps[t.Step]
	if t.Undo && step.Undo == "" {
		return s.sendUndo(ctx, t, g)
	}
	name := step.Action
	if t.Undo {
		name = step.Undo
	}
	args, err := s.sagaArgs(ctx, t.Saga, g)
	if err != nil {
		return false, err
	}
	caller := policy.Agent(step.Agent)
	if t.Undo && s.standsIn(t) {
		caller = policy.System
	}
	_, _, missing := s.hv.toolFor(ctx, s, caller.DID, name) // where it is not to be had the step is refused, which is recorded, and waits
	started, out, err := s.admit(context.WithoutCancel(ctx), caller.Through("saga"), session.Act{Action: name, Args: args[t.Step], Saga: &t}, false)
	switch {
	case errors.Is(err, session.ErrImpossible):
		return false, nil // somebody was faster, or it is not wanted any more
	case errors.Is(err, ErrOverloaded):
		return true, nil
	case errors.Is(err, errUnreached):
		return false, s.unreached(ctx, t)
	case err == nil && started != nil:
		s.limit(started, step.Timeout)
	case err == nil && out.Code == policy.ApprovalRequired && step.Undo != "" && !t.Undo:
		s.lookLater() // for what takes it back, if that is why it counts as one that needs an approval
	case err == nil && (out.Code == policy.UnknownAction || out.Code == policy.ToolChanged):
		s.hv.opts.Logger.Info("a step of a saga waits for its tool", "session", s.id, "saga", t.Saga, "step", step.ID, "error", missing)
		s.lookLater()
	}
	return false, err
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
	return err == nil && session.StandsIn(s.live.state, &env, t)
}

// limit cancels a call that has not ended after d.
func (s *Session) limit(c *call, d time.Duration) {
	stop := s.hv.later(d, func(context.Context) { c.cancel(errTimedOut) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.answered {
		stop()
		return
	}
	c.unlimit = stop
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

// sagaOf returns what a try needs to know of a saga of the session, which is all but its run; nil: it is not remembered.
func (s *Session) sagaOf(ctx context.Context, id string) (*session.Saga, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	g := s.live.state.Sagas[id]
	if g == nil {
		return nil, nil
	}
	c := *g // what its steps are does not change
	c.Run, c.Actions, c.Whys = nil, slices.Clone(g.Actions), nil
	return &c, nil
}

// sagaArgs returns what the steps of a saga are called with: from memory, or from beside its record.
func (s *Session) sagaArgs(ctx context.Context, id string, g *session.Saga) (args []json.RawMessage, err error) {
	s.sagaMu.Lock()
	args = s.sagaKept[id]
	s.sagaMu.Unlock()
	if args != nil {
		return args, nil
	}
	raw, err := s.hv.partAt(ctx, audit.SessionPrefix+s.id, g.Seq, "args")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &args); err != nil || len(args) != len(g.Steps) {
		return nil, fmt.Errorf("the arguments of a saga in record %d: %w", g.Seq, errors.Join(err, errNoArgs))
	}
	s.keepArgs(id, args)
	return args, nil
}

// maxKeptArgs is of how many sagas of a session the arguments are kept in memory; those of others are read when they are wanted.
const maxKeptArgs = 16

// keepArgs keeps what the steps of a saga are called with until it has ended.
func (s *Session) keepArgs(id string, args []json.RawMessage) {
	s.sagaMu.Lock()
	defer s.sagaMu.Unlock()
	if s.sagaKept == nil {
		s.sagaKept = map[string][]json.RawMessage{}
	}
	if len(s.sagaKept) < maxKeptArgs {
		s.sagaKept[id] = args
	}
}

var errNoArgs = errors.New("there is not one for each step")

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
