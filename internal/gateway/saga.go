package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// saga.go: an agent runs several calls of its own that end either all done or undone.

// sagaTool is the hypervisor's own tool.
const sagaTool = ownPrefix + "saga_run"

var sagaDefinition = json.RawMessage(`{"name":"` + sagaTool + `","title":"Run a saga",` +
	`"description":"Make several calls of yours that end either all done or undone: when a step fails, what the steps before it did is taken back, newest first. ` +
	`Each step is governed as your call of its tool. You are answered once the saga has ended or waits for somebody; it goes on by itself if you do not wait. ` +
	`Say saga and steps; or replay alone, to do again what a saga of yours that has ended has not reached.",` +
	`"inputSchema":{"type":"object","properties":{"saga":{"type":"string","description":"a name for it"},"steps":{"type":"array","minItems":1,"items":{"type":"object","properties":{` +
	`"id":{"type":"string","description":"a name in this saga, such as draft"},"tool":{"type":"string","description":"the tool to call, as it is listed to you, or an http(s) address"},` +
	`"args":{"type":"object"},"undo":{"type":"string","description":"the tool, or the address, that takes it back, called with the same args; leave out for what the tool itself has"},` +
	`"needs":{"type":"array","items":{"type":"string"},"description":"steps that must be done before; steps without are begun at once"},` +
	`"timeout":{"type":"string","description":"of one try, such as 30s"},"retries":{"type":"integer","minimum":0,"maximum":10},` +
	`"checkpoint":{"type":"string","description":"the goal that is reached when the step is done; a replay does not do it again"},` +
	`"substitutes":{"type":"array","items":{"type":"string"},"description":"agents that do it in your place; for sagas that an operator runs: yours names none"}},` +
	`"required":["id","tool"],"additionalProperties":false}},` +
	`"fan_out":{"type":"array","items":{"type":"object","properties":{"policy":{"type":"string","enum":["all","majority","any"]},` +
	`"branches":{"type":"array","items":{"type":"string"}}},"required":["policy","branches"],"additionalProperties":false},"description":"steps of which so many must be done"},` +
	`"fault":{"type":"boolean","description":"a tool's error is somebody's fault; of a saga of yours nobody bears it"},` +
	`"replay":{"type":"string","description":"a saga of yours that has ended, such as sag-7"}},` +
	`"additionalProperties":false},"annotations":{"readOnlyHint":false,"destructiveHint":true,"openWorldHint":true}}`)

// A SagaCall is what an agent asks for: a definition, whose actions are named as its tools are, or the saga that is to be replayed.
type SagaCall struct {
	Definition saga.Definition
	Replay     string // sag-7; empty: none, and the Definition is meant
}

// A SagaRunner is what a Server needs of who runs sagas. Implementations are safe for concurrent use.
type SagaRunner interface {
	// RunSaga runs a saga of the agent's own steps and returns it once it rests: it has ended, or waits for somebody. The error is
	// *hypervisor.Refused where nothing was begun because the rules say no, and ErrNotFound for a replay of one that is not there.
	RunSaga(ctx context.Context, c SagaCall) (hypervisor.SagaView, error)
}

// A SagaAnswer is what the tool answers a program.
type SagaAnswer struct {
	ID    string           `json:"id"`
	State string           `json:"state"` // completed, compensated, escalated, waiting
	Why   string           `json:"why,omitempty"`
	Steps []SagaAnswerStep `json:"steps"`
}

// A SagaAnswerStep is one step, and what became of it.
type SagaAnswerStep struct {
	ID     string `json:"id"`
	State  string `json:"state"`
	Action string `json:"action,omitempty"` // the newest that it was, such as act-12; left out: none
	Waits  string `json:"waits,omitempty"`  // for what
	Why    string `json:"why,omitempty"`
}

// runSaga does a call of the saga tool.
func (s *Server) runSaga(ctx context.Context, args json.RawMessage, modern bool) (mcp.Result, error) {
	c, err := sagaRequest(args)
	if err != nil {
		return nil, err
	}
	v, err := s.session.RunSaga(ctx, c)
	var refused *hypervisor.Refused
	switch {
	case errors.As(err, &refused):
		return refusal(refused.Decision, modern)
	case errors.Is(err, hypervisor.ErrNotFound):
		return refusal(policy.Refuse(policy.NotFound, "there is no saga %s in this session, or it ended so long ago that only the log tells of it", clip(c.Replay)), modern)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, hypervisor.ErrOverloaded):
		return refusal(policy.Refuse(policy.Overloaded, "the hypervisor has too much to do; no saga was begun, try again in a moment"), modern)
	case errors.Is(err, hypervisor.ErrStoreUnavailable):
		return refusal(policy.Refuse(policy.StoreUnavailable, "the hypervisor cannot record at present, and whether the saga is begun is not known yet"), modern)
	case err != nil:
		return nil, fmt.Errorf("running a saga: %w", err)
	}
	answer := sagaAnswer(&v)
	structured, err := encode(answer)
	if err != nil {
		return nil, fmt.Errorf("encoding a saga: %w", err)
	}
	return said(answer.text(), structured, v.State != "completed" && v.State != "waiting", modern)
}

// A sagaInput is the tool's arguments.
type sagaInput struct {
	Saga   string          `json:"saga"`
	Steps  []sagaInputStep `json:"steps"`
	FanOut []struct {
		Policy   saga.Policy `json:"policy"`
		Branches []string    `json:"branches"`
	} `json:"fan_out"`
	Fault  bool   `json:"fault"`
	Replay string `json:"replay"`
}

type sagaInputStep struct {
	ID          string          `json:"id"`
	Tool        string          `json:"tool"`
	Undo        string          `json:"undo"`
	Args        json.RawMessage `json:"args"`
	Needs       []string        `json:"needs"`
	Timeout     string          `json:"timeout"`
	Retries     int             `json:"retries"`
	Checkpoint  string          `json:"checkpoint"`
	Substitutes []policy.DID    `json:"substitutes"`
}

func sagaRequest(args json.RawMessage) (c SagaCall, err error) {
	var in sagaInput
	if err := arguments(sagaTool, args, &in); err != nil {
		return c, err
	}
	if in.Replay != "" {
		if in.Saga != "" || in.Steps != nil || in.FanOut != nil || in.Fault {
			return c, misfit(sagaTool, "replay stands alone: what it does is what that saga was")
		}
		return SagaCall{Replay: in.Replay}, nil
	}
	d := saga.Definition{Name: in.Saga, Fault: in.Fault}
	for _, s := range in.Steps {
		step := saga.Step{ID: s.ID, Action: s.Tool, Undo: s.Undo, Args: s.Args, Needs: s.Needs, Retries: s.Retries, Checkpoint: s.Checkpoint, Substitutes: s.Substitutes}
		if s.Timeout != "" {
			if step.Timeout, err = time.ParseDuration(s.Timeout); err != nil || step.Timeout <= 0 {
				return c, misfit(sagaTool, fmt.Errorf("timeout of step %q: want a time such as 30s, got %q", clip(s.ID), clip(s.Timeout)))
			}
		}
		d.Steps = append(d.Steps, step)
	}
	for _, g := range in.FanOut {
		d.FanOut = append(d.FanOut, saga.Group{Policy: g.Policy, Branches: g.Branches})
	}
	return SagaCall{Definition: d}, nil
}

func sagaAnswer(v *hypervisor.SagaView) *SagaAnswer {
	a := &SagaAnswer{ID: v.ID, State: v.State, Why: neutralText(v.Why), Steps: []SagaAnswerStep{}}
	for _, s := range v.Steps {
		a.Steps = append(a.Steps, SagaAnswerStep{s.ID, s.State, s.Action, s.Waits, neutralText(s.Why)})
	}
	return a
}

// text is the answer for a model.
func (a *SagaAnswer) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is %s", a.ID, a.State)
	if a.Why != "" {
		fmt.Fprintf(&b, ": %s", a.Why)
	}
	b.WriteByte('\n')
	for _, s := range a.Steps {
		fmt.Fprintf(&b, "%s: %s", s.ID, s.State)
		if s.Action != "" {
			fmt.Fprintf(&b, " %s", s.Action)
		}
		if s.Waits != "" {
			fmt.Fprintf(&b, ", waits for %s", s.Waits)
		}
		if s.Why != "" {
			fmt.Fprintf(&b, " (%s)", s.Why)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// RunSaga runs a saga of the agent's own steps, and returns it once it rests.
func (f *Front) RunSaga(ctx context.Context, c SagaCall) (hypervisor.SagaView, error) {
	run := func() (hypervisor.Outcome, error) { return f.session.ReplaySaga(ctx, f.agent, c.Replay) }
	if c.Replay == "" {
		d := f.ownSteps(c.Definition)
		if faults := d.Check(saga.Known{}); faults != nil {
			return hypervisor.SagaView{}, &hypervisor.Refused{Decision: policy.Refuse(policy.SagaInvalid, "%s", neutralText(faults.Error()))}
		}
		run = func() (hypervisor.Outcome, error) { return f.session.RunSaga(ctx, f.agent, d) }
	}
	out, err := run()
	switch {
	case err != nil:
		return hypervisor.SagaView{}, err
	case !out.Allowed:
		return hypervisor.SagaView{}, &hypervisor.Refused{Decision: out.Decision}
	}
	return f.session.AwaitSaga(ctx, out.ID)
}

// ownSteps makes a definition in which tools are named as they are shown to the agent one of its own actions.
func (f *Front) ownSteps(d saga.Definition) saga.Definition {
	for i := range d.Steps {
		step := &d.Steps[i]
		step.Agent = f.agent.DID
		switch {
		case step.Action == "": // it is said to be missing
		case step.Undo != "" || action.IsAddress(step.Action):
			step.Action, step.Execute = "", f.target(step.Action)
		default:
			step.Action = f.actionID(step.Action)
		}
		if step.Undo != "" {
			step.Undo = f.target(step.Undo)
		}
	}
	return d
}

// target returns what a definition calls a tool, or an address.
func (f *Front) target(name string) string {
	if action.IsAddress(name) {
		return name
	}
	server, tool, _ := strings.Cut(f.actionID(name), ".")
	return "mcp:" + server + "/" + tool
}

// RunSaga runs a saga of the agent's own steps, and returns it once it rests.
func (s *seat) RunSaga(ctx context.Context, c SagaCall) (hypervisor.SagaView, error) {
	s.prepare(ctx)
	return s.front.RunSaga(ctx, c)
}
