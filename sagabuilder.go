package hypervisor

import (
	"context"
	"encoding/json"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// sagabuilder.go: a saga of ordinary functions.

// A SagaBuilder puts a saga together of ordinary functions, each step an action of its agent's called SAGA.STEP, and what takes it
// back SAGA.STEP.undo. It is not safe for concurrent use while it is put together. Undo, Needs, Retries, Checkpoint, ReadOnly,
// Idempotent and Substitutes are of the step that was added last; to say them before there is one panics.
type SagaBuilder struct {
	definition saga.Definition
	functions  []Tool
}

// NewSaga begins a saga. The name is part of its actions' ids, which have letters, digits and ._:/- only.
func NewSaga(name string) *SagaBuilder { return &SagaBuilder{definition: saga.Definition{Name: name}} }

// Step adds a step that an agent does. Without Undo or ReadOnly it cannot be taken back, and is admitted as such.
func (b *SagaBuilder) Step(id string, agent policy.DID, do func(context.Context) error) *SagaBuilder {
	name := b.definition.Name + "." + id
	b.definition.Steps = append(b.definition.Steps, saga.Step{ID: id, Agent: agent, Execute: "func:" + name})
	b.functions = append(b.functions, functionTool(name, do))
	return b
}

func functionTool(name string, do func(context.Context) error) Tool {
	return Tool{Descriptor: action.Descriptor{ID: name}, Do: func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) { return nil, do(ctx) }}
}

// last returns the step that was added last, and its function.
func (b *SagaBuilder) last() (*saga.Step, *action.Descriptor) {
	if len(b.definition.Steps) == 0 {
		panic("hypervisor: a saga's step is described before there is one")
	}
	step := &b.definition.Steps[len(b.definition.Steps)-1]
	for i := range b.functions {
		if "func:"+b.functions[i].Descriptor.ID == step.Execute {
			return step, &b.functions[i].Descriptor
		}
	}
	panic("hypervisor: a saga's step without its function")
}

// Undo says what takes the step back. It is called at most once, or again if it is known not to have run.
func (b *SagaBuilder) Undo(undo func(context.Context) error) *SagaBuilder {
	step, d := b.last()
	d.Reversibility = action.Partial
	step.Undo = step.Execute + ".undo"
	tool := functionTool(d.ID+".undo", undo)
	tool.Descriptor.Reversibility = action.Partial
	b.functions = append(b.functions, tool)
	return b
}

// Needs says what must have committed before the step begins.
func (b *SagaBuilder) Needs(ids ...string) *SagaBuilder {
	step, _ := b.last()
	step.Needs = append(step.Needs, ids...)
	return b
}

// Retries says how often the step is tried again where it is known not to have run, or is idempotent.
func (b *SagaBuilder) Retries(n int) *SagaBuilder {
	step, _ := b.last()
	step.Retries = n
	return b
}

// Checkpoint names the goal that is reached when the step has committed.
func (b *SagaBuilder) Checkpoint(goal string) *SagaBuilder {
	step, _ := b.last()
	step.Checkpoint = goal
	return b
}

// ReadOnly says that the step changes nothing.
func (b *SagaBuilder) ReadOnly() *SagaBuilder {
	_, d := b.last()
	d.ReadOnly = true
	return b
}

// Idempotent says that to do the step twice is to do it once.
func (b *SagaBuilder) Idempotent() *SagaBuilder {
	_, d := b.last()
	d.Idempotent = true
	return b
}

// Substitutes says who does the step when its agent is killed, in quarantine or gone.
func (b *SagaBuilder) Substitutes(agents ...policy.DID) *SagaBuilder {
	step, _ := b.last()
	step.Substitutes = append(step.Substitutes, agents...)
	return b
}

// FanOut groups steps that are begun together and judged together.
func (b *SagaBuilder) FanOut(p saga.Policy, branches ...string) *SagaBuilder {
	b.definition.FanOut = append(b.definition.FanOut, saga.Group{Policy: p, Branches: branches})
	return b
}

// Equip brings the saga's functions to a session, in the place of all of its actions that begin with the saga's name and a dot. Run does so itself; a program that was
// started again does it for a saga that goes on. It returns action.ErrDescriptor for names that can be no action's.
func (b *SagaBuilder) Equip(s *Session) error {
	return s.SetTools("", b.definition.Name+".", b.functions)
}

// Run starts the saga in a session. The answer is Session.RunSaga's.
func (b *SagaBuilder) Run(ctx context.Context, s *Session, caller policy.Caller) (Outcome, error) {
	if faults := b.definition.Check(saga.Known{}); faults != nil {
		return Outcome{}, faults
	}
	if err := b.Equip(s); err != nil {
		return Outcome{}, err
	}
	return s.RunSaga(ctx, caller, b.definition)
}
