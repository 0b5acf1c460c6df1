package session

import (
	"fmt"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// sagatry.go: a step's try as an action of its agent's: which are wanted, and what a refusal or an outcome means for the step (SPEC §5).

// A SagaTry is one try of a step, or of its undo.
type SagaTry struct {
	Saga string `json:"saga"`
	Step int    `json:"step"`
	No   int    `json:"no"` // of the step's tries, from 1
	Undo bool   `json:"undo,omitempty"`
}

// AnswerSaga says what became of a try for which no action runs. The executor gives it.
type AnswerSaga struct {
	SagaTry
	Result saga.Result
	Why    string
	Until  time.Time // of Unsent, and NotRun: not again before. How long is waited is decided here, by the session's own time
}

func (AnswerSaga) command() {}

// Tries returns the tries that have begun and for which no action runs: what a process that has just read the session, or does
// not know whether it has done so, sends on their way. To send one twice is harmless: only one is admitted.
func Tries(s *State) (tries []SagaTry) {
	for _, id := range s.openSagas() {
		g := s.Sagas[id]
		for i := range g.Run.Steps {
			if t := g.try(id, i); g.Run.Steps[i].Flying && !s.tried(t) {
				tries = append(tries, t)
			}
		}
	}
	return tries
}

// try returns the newest try of a step.
func (g *Saga) try(id string, i int) SagaTry {
	r := &g.Run.Steps[i]
	return SagaTry{id, i, r.No, r.State == saga.CompensatingStep}
}

// tried reports whether an action runs for a try.
func (s *State) tried(t SagaTry) bool {
	for _, r := range s.Running {
		if r.Saga != nil && *r.Saga == t {
			return true
		}
	}
	return false
}

// isTry returns ErrImpossible unless a try is under way and no action runs for it: it was answered, or somebody was faster.
func (s *State) isTry(t SagaTry) error {
	g := s.Sagas[t.Saga]
	if g == nil || g.Run.State.Ended() || t.Step < 0 || t.Step >= len(g.Steps) || !g.Run.Steps[t.Step].Flying || g.try(t.Saga, t.Step) != t || s.tried(t) {
		return fmt.Errorf("%w: try %d of step %d of %s is not wanted (any more)", ErrImpossible, t.No, t.Step, t.Saga)
	}
	return nil
}

func decideAnswerSaga(s *State, env *Env, c AnswerSaga) (Outcome, error) {
	if env.Caller.Role != policy.SystemRole {
		return refuse(policy.Forbidden, "only the hypervisor knows what became of a try"), nil
	}
	if err := s.isTry(c.SagaTry); err != nil {
		return Outcome{}, err
	}
	if c.Result == saga.Unreached || c.Result == saga.OnHold {
		c.Until = env.Now.Add(saga.ResolveWithin)
	}
	w := s.Sagas[c.Saga].work(s, env, c.Saga)
	w.answer(saga.Answer{Step: c.Step, Result: c.Result, Why: c.Why, Until: c.Until}, "")
	return allow(w.follow()...), nil
}

// The holds of a step, as its records say them.
const (
	HeldForTool    = "tool"      // its action is not here just now, or is not the one that was pinned
	holdApproval   = "approval " // and its id
	holdKill       = "kill"      // of everything
	holdQuarantine = "quarantine"
)

// whyIrreversible is why a step waits for an approval that it would not need if it could be taken back.
const whyIrreversible = "irreversible"

// WantsUndo returns the action of its own that a step waits for, in the approval's stead: as long as it cannot be called, the step
// counts as one that cannot be taken back. Empty: it does not wait for that.
func (g *Saga) WantsUndo(i int) string {
	if r := &g.Run.Steps[i]; r.State != saga.Executing || !strings.HasPrefix(r.Hold, holdApproval) || g.Whys[i] != whyIrreversible {
		return ""
	}
	return g.Steps[i].Undo
}

// shortly is how long a try waits that found no room.
const shortly = time.Second

// RefusedTry says what a refusal means for the step that was refused: whether it was not sent for now, waits, or has failed; why, or
// for what it waits; and until when.
func RefusedTry(d policy.Decision, now time.Time) (saga.Result, string, time.Time) {
	wait := now.Add(saga.ResolveWithin)
	switch d.Code {
	case policy.ApprovalRequired, policy.WitnessRequired:
		if d.Approval != nil {
			return saga.OnHold, holdApproval + d.Approval.ID, wait
		}
	case policy.RateLimited, policy.BreakerOpen:
		return saga.Unsent, string(d.Code), now.Add(time.Duration(d.RetryAfterMS) * time.Millisecond)
	case policy.ConcurrencyExceeded:
		return saga.Unsent, string(d.Code), now.Add(shortly)
	case policy.KilledAll:
		return saga.OnHold, holdKill, wait
	case policy.AgentQuarantined:
		return saga.OnHold, holdQuarantine, wait
	case policy.UnknownAction, policy.ToolChanged:
		return saga.OnHold, HeldForTool, wait
	}
	return saga.Refused, string(d.Code), time.Time{}
}

// refusedTry is RefusedTry with the approval's own time.
func (s *State) refusedTry(step int, env *Env, out *Outcome) saga.Answer {
	a := saga.Answer{Step: step}
	a.Result, a.Why, a.Until = RefusedTry(out.Decision, env.Now)
	if a.Result != saga.OnHold || out.Approval == nil {
		return a
	}
	if p := s.Approvals[out.Approval.ID]; p != nil {
		a.Until = p.Expires
	}
	for _, e := range out.Events {
		if e, ok := e.(ApprovalOpened); ok {
			a.Until = e.Expires
		}
	}
	return a
}

// Why a call that failed is known not to have run, beside not_sent.
const (
	Unreachable = "unreachable" // nobody answers there; what a step is held for whose retries are used up
	Postponed   = "postponed"   // its server has no time for it
)

// failure says whether an action that failed is known not to have run, and when it can be tried again.
func failure(env *Env, c Command, why string) saga.Answer {
	a := saga.Answer{Result: saga.Refused, Why: why}
	switch why {
	case whyNotSent:
		a.Result = saga.NotRun
	case Postponed:
		a.Result = saga.NotRun
		if settle, ok := c.(Settle); ok {
			a.Until = settle.Again
		}
	case Unreachable:
		a.Result, a.Until = saga.Unreached, env.Now.Add(saga.ResolveWithin)
	case WhyClosing, WhyLost:
		a.Result = saga.Unsent
	}
	return a
}

// doubt says whether an unknown outcome is the tool's, or of this process's end.
func doubt(why string) saga.Result {
	if why == WhyClosing || why == whyProcessEnded {
		return saga.Interrupted
	}
	return saga.NoAnswer
}

// endedTry answers the try that an action was.
func (s *State) endedTry(of func(string) *sagaWork, id string, a saga.Answer) {
	r := s.Running[id]
	if r == nil || r.Saga == nil {
		return
	}
	g := s.Sagas[r.Saga.Saga]
	if g == nil || g.Run.State.Ended() || g.try(r.Saga.Saga, r.Saga.Step) != *r.Saga {
		return
	}
	a.Step = r.Saga.Step
	w := of(r.Saga.Saga)
	w.answer(w.inPlace(a), id)
}

// released lets the steps go on that wait for something which has come; or fails them, with the code that says why it never will.
func (s *State) released(of func(string) *sagaWork, hold string, never policy.Code) {
	for _, id := range s.openSagas() {
		for i := range s.Sagas[id].Run.Steps {
			if s.Sagas[id].Run.Steps[i].Hold == hold {
				w := of(id)
				e := w.plan.Release(w.run, i, w.env.Now)
				if to, _ := w.substitute(i, w.run.Steps[i].State == saga.CompensatingStep); never != "" && to == "" {
					e = w.plan.Deny(w.run, i, w.env.Now, string(never))
				}
				if e != nil {
					w.add(e, "")
				}
			}
		}
	}
}
