package hypervisor

import (
	"context"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// sagastep.go: from a saga's step to the next. What ends one mostly begins another, and the admission of that stands in the record of
// the outcome that began it: a record less, and no crash comes between.

// forward reports whether tries of a saga's steps have begun, and none of an undo's. These need not wait until the record that says
// so is durable: what admits them stands in it or behind it, so that it is lost with it, and nothing goes out before that is durable.
// An undo reads what was done from the log, and a saga's first tries may read their arguments there, so these wait.
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

// goOn decides one of the tries that out has begun, the last, and adds what that brings to out, whose events are applied and not written
// yet, and to what is owed. It returns how many tries are left to sendTries: those that want more than is in memory, and all others.
// The lock is held; who is here has entered.
func (s *Session) goOn(ctx context.Context, env *session.Env, out *session.Outcome, owed *[]session.Effect, e errand) (left int) {
	state, tries := s.live.state, s.unsentTries()
	left = len(tries)
	if left == 0 || tries[left-1].Undo || e.goesOn == nil {
		return left
	}
	t := tries[left-1]
	step := &state.Sagas[t.Saga].Steps[t.Step]
	tool, owner, args := s.atHand(t, step)
	if tool == nil || s.hv.exec.Reserve() != nil {
		return left
	}
	act := session.Act{Action: step.Action, Args: args, Saga: &t}
	defer func(was session.Env) { *env = was }(*env)
	env.Caller, env.Call, env.Within = policy.Agent(step.Agent).Through("saga"), tool.call(args), true
	state.Narrow(step.Agent, env.Call)
	then, err := session.Decide(state, env, act)
	if err == nil {
		err = s.hv.putOutside(ctx, then.Parts)
	}
	if err != nil { // it wants to be looked at first, or asked for again
		s.hv.exec.Release()
		return left
	}
	if then.Allowed {
		c := s.begin(context.Background(), s.effectOf(act, then.ID), env.Caller, then, tool, env.Call)
		c.owner, c.own, c.step = owner, !s.hv.opts.Stepped, true
		s.limitCall(c, step.Timeout)
		e.goesOn(c)
	} else {
		s.hv.exec.Release()
	}
	s.tally(then.Tallies)
	out.Events, out.Parts = append(out.Events, then.Events...), append(out.Parts, then.Parts...)
	*owed = append(*owed, session.Apply(state, session.Stamp{Seq: state.Seq, Time: env.Now, Caller: env.Caller.DID, Within: true}, then.Events)...)
	if !then.Allowed {
		return len(s.unsentTries()) // a refusal may have begun others
	}
	return left - 1
}

// atHand returns a step's tool, whose it is, and the step's arguments; nil if the step cannot be asked for with what is in memory: its
// arguments are not, or its server, or that of its undo, must be asked before it can be decided. The lock is held.
func (s *Session) atHand(t session.SagaTry, step *session.SagaStep) (tool *handler, owner policy.DID, args []byte) {
	s.sagaMu.Lock()
	kept := s.sagaKept[t.Saga]
	s.sagaMu.Unlock()
	tool, owner = s.toolHere(step.Agent, step.Action)
	if kept == nil || tool == nil || tool.Changed || tool.Descriptor.Undo != nil || tool.Descriptor.UndoAbsent != nil {
		return nil, "", nil
	}
	if step.Undo != "" {
		if undo, _ := s.toolHere(step.Agent, step.Undo); undo == nil || undo.Changed || undo.Answers != nil || undo.Reaches != nil {
			return nil, "", nil
		}
	}
	return tool, owner, kept[t.Step]
}

// toolHere returns an agent's tool that is in memory, and whose it is; nil: there is none. The lock is held.
func (s *Session) toolHere(agent policy.DID, id string) (*handler, policy.DID) {
	for _, owner := range [...]policy.DID{agent, policy.System.DID, ""} {
		if t := s.tools[owner][id]; t != nil {
			return t, owner
		}
	}
	return nil, ""
}
