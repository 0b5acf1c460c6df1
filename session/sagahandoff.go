package session

import (
	"slices"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// sagahandoff.go: a step whose agent cannot do it any more goes to a substitute (SPEC §7 "hands in-flight saga steps to a registered
// substitute (first whose ring suffices)"): the kill's, then those that the definition names.

const handoffType = "security.saga_handoff"

// Why an agent does not do its steps, beside whyKilled.
const (
	whyQuarantined = "quarantined"
	whyGone        = "left"
	whyLowered     = "demoted" // of an undo alone: its ring does not suffice for it any more
)

// SagaHandedOff is recorded when another agent does a step from now on.
type SagaHandedOff struct {
	Saga string     `json:"saga"`
	Step string     `json:"step"`
	From policy.DID `json:"from"`
	To   policy.DID `json:"to"`
	Why  string     `json:"why"` // killed, quarantined, left; of an undo also demoted
}

// away says why an agent does none of its steps: killed, quarantined or left; empty: it does. A kill of everything stops every other
// one too, and is waited for.
func (s *State) away(env *Env, did policy.DID, readOnly bool) string {
	switch k, killed := s.killed(env, did); {
	case killed && k.All:
		return ""
	case killed:
		return whyKilled
	case s.Participants[did] == nil:
		return whyGone
	case !readOnly && s.quarantined(env, did) != nil:
		return whyQuarantined
	}
	return ""
}

// unable says why an agent takes back none of what it did in a saga: it is away, or its ring does not suffice any more. Empty: it does.
func (s *State) unable(env *Env, step *SagaStep) string {
	if why := s.away(env, step.Agent, false); why != "" {
		return why
	}
	p := s.Participants[step.Agent]
	if p == nil { // a kill of everything: who is here is not asked
		return ""
	}
	if _, suffices := s.suffices(env, step.Agent, p, step.Requires); !suffices {
		return whyLowered
	}
	return ""
}

// StandsIn reports whether the system itself takes a step back that its agent, or who runs the saga, was to: that agent is not able
// to, and nobody stands in for it (SPEC §7 "or compensates under the system's authority").
func StandsIn(s *State, env *Env, t SagaTry) bool {
	g := s.Sagas[t.Saga]
	return g != nil && t.Undo && s.unable(env, &g.Steps[t.Step]) != ""
}

// standingIn returns with what authority the system does an undo that is an action of its own. An operator's saga says what takes a
// step back, and so it is done as an operator's. What an agent's saga says is that agent's word, in whose place it is done: with ring
// 2, its policies, and an approver's grant where it cannot be taken back.
func (s *State) standingIn(t *SagaTry) (operator bool, instead policy.DID) {
	if g := s.Sagas[t.Saga]; g.Agent {
		return false, g.By
	}
	return true, ""
}

// leavers returns who is stopped here, or leaves, by these events.
func leavers(events []Event) (gone map[policy.DID]bool) {
	note := func(did policy.DID) {
		if gone == nil {
			gone = map[policy.DID]bool{}
		}
		gone[did] = true
	}
	for _, e := range events {
		switch e := e.(type) {
		case AgentKilled:
			note(e.Agent)
		case Left:
			note(e.Agent)
		default: // by no other event
		}
	}
	return gone
}

// substitute returns who does a step, or its undo, in its agent's place, and why; an empty to: nobody does, or nobody has to. What an
// agent runs is handed to nobody: it would act in others' names.
func (w *sagaWork) substitute(i int, undo bool) (to policy.DID, why string) {
	step := &w.saga.Steps[i]
	if w.saga.Agent {
		return "", ""
	}
	if why = w.away(step.Agent, step.ReadOnly); why == "" && undo {
		why = w.state.unable(w.env, step)
	}
	if why == "" {
		return "", ""
	}
	named := step.Substitutes
	if k, killed := w.state.killed(w.env, step.Agent); killed && k.Substitute != "" {
		named = append([]policy.DID{k.Substitute}, named...)
	}
	for _, did := range named {
		p := w.state.Participants[did]
		if p == nil || did == step.Agent || w.away(did, step.ReadOnly) != "" {
			continue
		}
		if _, suffices := w.state.suffices(w.env, did, p, step.Requires); suffices {
			return did, why
		}
	}
	return "", why
}

func (w *sagaWork) away(did policy.DID, readOnly bool) string {
	if why := w.state.away(w.env, did, readOnly); why != "" || !w.gone[did] {
		return why
	}
	return whyGone
}

// handOff gives a step that begins to a substitute, where its agent is away and there is one. An undo that is none of the step's
// agent's stays with who runs the saga.
func (w *sagaWork) handOff(e saga.Begun) {
	step := &w.saga.Steps[e.Step]
	if e.Undo && step.Undo == "" {
		return
	}
	if to, why := w.substitute(e.Step, e.Undo); to != "" {
		w.events = append(w.events, SagaHandedOff{w.id, step.ID, step.Agent, to, why})
	}
}

// inPlace is what became of a try of an agent's that is away, where another is to do it: what did not run is begun anew, and
// uses up no retry. What may have run is not, unless that does no harm. An undo that the agent was refused is the system's next.
func (w *sagaWork) inPlace(a saga.Answer) saga.Answer {
	undo := w.run.Steps[a.Step].State == saga.CompensatingStep
	refused := slices.Contains([]string{string(policy.AgentKilled), string(policy.NotAParticipant), holdQuarantine}, a.Why) ||
		undo && a.Why == string(policy.RingInsufficient)
	if !refused && a.Result != saga.NotRun && a.Result != saga.NoAnswer {
		return a
	}
	to, _ := w.substitute(a.Step, undo)
	systems := undo && refused && w.env.Caller.Role == policy.AgentRole && w.state.unable(w.env, &w.saga.Steps[a.Step]) != ""
	if to == "" && !systems {
		return a
	}
	if a.Result == saga.NoAnswer {
		return saga.Answer{Step: a.Step, Result: saga.Interrupted, Why: a.Why}
	}
	return saga.Answer{Step: a.Step, Result: saga.Unsent, Why: a.Why}
}

// Append appends the event's JSON.
func (e SagaHandedOff) Append(dst []byte) []byte {
	return audit.Event(dst, handoffType).Str("saga", e.Saga).Str("step", e.Step).Str("from", string(e.From)).Str("to", string(e.To)).Str("why", e.Why).End()
}

// apply changes a copy: who was given the steps before reads them without the lock.
func (e SagaHandedOff) apply(s *State, _ Stamp) {
	g := s.Sagas[e.Saga]
	g.Steps = slices.Clone(g.Steps)
	step := &g.Steps[g.step(e.Step)]
	step.Agent, step.InPlaceOf = e.To, e.From
}
