package session

import (
	"fmt"
	"slices"

	"github.com/agenthypervisor/hypervisor/liability"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// sagablame.go: who bears that a saga failed (SPEC §3 "Attribution", §5 "what could not be undone escalates"). What only the saga's
// own state tells stands in the record of its end; what led to the action that failed is found in the log, and recorded then.

// Why nobody bears that a saga failed, beside what is so of incidents.
const (
	cancelledSaga = "cancelled" // somebody wanted it undone, or its session ended
	agentSaga     = "agent_saga"
	refusedStep   = "refused" // a step was not let, or waited too long: nothing was done
)

// Why actions failed, as the executor says it: their tool says so, or nothing was sent.
const (
	toolError  = "tool_error"
	whyNotSent = "not_sent"
)

// doubtful is why outcomes are unknown. A step that only reads has failed by them.
var doubtful = []string{"timeout", "lost", "cancelled", "half_done", whyKilled, whyProcessEnded, whyNoAnswer, WhyClosing}

// AttributeSaga says who led to the action by which a saga failed. The executor has read the log.
type AttributeSaga struct {
	Saga  string
	Found *Finding // nil: the action is not remembered
}

func (AttributeSaga) command() {}

// fault returns the action by which a saga failed, where who led to it bears that; else why nobody does. A tool's error is a fault
// where the saga says so; a timeout, an unreachable tool and a refusal are none; and what an agent runs costs nobody standing, or it
// could charge others with what it fails at (SPEC §3, §7).
func (w *sagaWork) fault() (failed, faultless string) {
	if w.on == "" {
		return "", cancelledSaga
	}
	i := w.saga.step(w.on)
	why, settled := w.whys[i]
	if !settled {
		why = w.saga.Whys[i]
	}
	switch {
	case w.run.Steps[i].State == saga.Unknown:
		return "", unknownOutcome
	case w.saga.Agent:
		return "", agentSaga
	case why == toolError && w.saga.Fault:
		return w.saga.Actions[i], ""
	case why == toolError || why == whyNotSent || why == Postponed:
		return "", failedOutcome
	case slices.Contains(doubtful, why):
		return "", unknownOutcome
	}
	return "", refusedStep
}

// attributing reports whether it is to be found out who bears that the saga failed.
func (g *Saga) attributing() bool { return g.Failed != "" && g.Blame == nil }

// A FailedSaga is a saga of which it is to be found out who bears that it failed.
type FailedSaga struct {
	ID     string
	Action string // by which it failed
}

// Unattributed returns those that there are, in the order in which they failed.
func Unattributed(s *State) (failed []FailedSaga) {
	if s.Attributing == 0 {
		return nil
	}
	for _, id := range s.SagasEnded {
		if g := s.Sagas[id]; g.attributing() {
			failed = append(failed, FailedSaga{id, g.Failed})
		}
	}
	return failed
}

// decideAttributeSaga divides that a saga failed. It only faults: what slashes is an incident, which its escalation can be made.
func decideAttributeSaga(s *State, env *Env, c AttributeSaga) (Outcome, error) {
	g := s.Sagas[c.Saga]
	if env.Caller.Role != policy.SystemRole || g == nil || !g.attributing() {
		return Outcome{}, fmt.Errorf("%w: who bears that %s failed is not to be found out (any more)", ErrImpossible, c.Saga)
	}
	blame := liability.Alone(s.root(g.Steps[g.step(g.On)].Agent))
	if c.Found != nil {
		blame = c.Found.Blame
	}
	return allow(attribution(IncidentRaised{ID: c.Saga, Severity: DefaultSeverity}, blame)), nil
}

// attributed notes who bears that a saga failed, if that is what was attributed.
func (s *State) attributed(e FaultAttributed) {
	if g := s.Sagas[e.ID]; g != nil && g.attributing() {
		g.Blame = &e
		s.Attributing--
	}
}

// A plotSaga is a saga of a story: what its steps need, and the actions that they were.
type plotSaga struct {
	needs [][]int // by step: the steps that it waits for
	acts  []int   // by step: the place of its newest action; -1: it was none
}

func newPlotSaga(e SagaCreated) *plotSaga {
	index := make(map[string]int, len(e.Steps))
	for i := range e.Steps {
		index[e.Steps[i].ID] = i
	}
	group := map[string][]string{} // a need of a branch is one of its whole group
	for _, f := range e.FanOut {
		for _, branch := range f.Branches {
			group[branch] = f.Branches
		}
	}
	g := &plotSaga{needs: make([][]int, len(e.Steps)), acts: make([]int, len(e.Steps))}
	for i := range e.Steps {
		g.acts[i] = -1
		for _, need := range e.Steps[i].Needs {
			branches, many := group[need]
			if !many {
				branches = []string{need}
			}
			for _, branch := range branches {
				if j := index[branch]; !slices.Contains(g.needs[i], j) {
					g.needs[i] = append(g.needs[i], j)
				}
			}
		}
	}
	return g
}

// needed returns what a saga's step needs of what was done, and notes the action that it is.
func (t *Story) needed(e Admitted, place int) (causes []int) {
	if e.Saga == nil || e.Saga.Undo {
		return nil
	}
	g := t.sagas[e.Saga.Saga]
	if g == nil {
		return nil
	}
	for _, j := range g.needs[e.Saga.Step] {
		at := g.acts[j]
		if at < t.base {
			continue // it was none, or is forgotten
		}
		if t.ends[t.nodes[at-t.base].ID].what != "failed" {
			causes = append(causes, at)
		}
	}
	g.acts[e.Saga.Step] = place
	return causes
}
