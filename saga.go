package hypervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// saga.go: sagas (SPEC §5). A session's records say what is to be tried; here it is tried, as an action of the step's agent, and
// what comes of it goes back as a command. What was to be tried when a process died is simply still owed.

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
	stamp := func(e *session.Env) {
		if asked.Key != "" {
			e.Key = key(e, asked.Key, askedSaga{d, asked.Replays})
		}
	}
	out, t, err := s.propose(ctx, caller, c, errand{stamp: stamp, decided: func(out session.Outcome) {
		if out.Repeats == nil {
			s.keepArgs(out.ID, args)
		}
	}})
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
	args, c.Steps = make([]json.RawMessage, len(d.Steps)), make([]session.SagaStep, 0, len(d.Steps))
	var call session.Call
	for i := range d.Steps {
		step := &d.Steps[i]
		name, undo := cmp.Or(step.Action, actionOf(step.Execute)), actionOf(step.Undo)
		doer, _, err := s.hv.toolFor(ctx, s, step.Agent, name)
		if err != nil {
			return refuse(policy.UnknownAction, "step %s: %v", step.ID, err)
		}
		call = session.Call{}
		switch doer.describe(&call, step.Args); {
		case call.Changed:
			return refuse(policy.ToolChanged, "step %s: the definition of %s is not the one that was pinned", step.ID, name)
		case call.Fault != "":
			return refuse(policy.InvalidArguments, "step %s: the arguments of %s do not fit: %s", step.ID, name, call.Fault)
		}
		done := sagaStep(step, name, &doer.Descriptor)
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
