package session

import (
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// tasks.go: what becomes of an agent's part in sagas when it is stopped (SPEC §7).

// A Task is a step of a saga that was an agent's to do.
type Task struct {
	Saga  string
	Step  string
	Agent policy.DID // whose it was
	To    policy.DID // who does it now, or will once it begins; empty: nobody
	State saga.StepState
}

// Tasks returns the steps that an agent, or whom it has brought, was to do and has not done, of sagas that have not ended, or not before
// a time; oldest first. What the saga itself has given up is none.
func Tasks(s *State, env *Env, of policy.DID, since time.Time) (tasks []Task) {
	for _, id := range slices.Concat(s.SagasEnded, s.SagasOpen) {
		g := s.Sagas[id]
		if !g.Ended.IsZero() && g.Ended.Before(since) {
			continue
		}
		w := g.work(s, env, id)
		for i := range g.Steps {
			step, state := &g.Steps[i], g.Run.Steps[i].State
			switch {
			case step.InPlaceOf != "" && slices.Contains(s.Line(step.InPlaceOf), of):
				tasks = append(tasks, Task{id, step.ID, step.InPlaceOf, step.Agent, state})
			case !slices.Contains(s.Line(step.Agent), of):
			case state == saga.Pending && g.Run.State == saga.Running, state == saga.Executing, state == saga.Unknown, state == saga.CompensatingStep && step.Undo != "":
				to, _ := w.substitute(i, state == saga.CompensatingStep)
				tasks = append(tasks, Task{id, step.ID, step.Agent, to, state})
			case state == saga.Failed && g.On == step.ID:
				tasks = append(tasks, Task{id, step.ID, step.Agent, "", state})
			}
		}
	}
	return tasks
}

// Work returns how many calls of each agent that is, or was brought by, another changed something here and stand.
func Work(s *State, of policy.DID) map[policy.DID]int {
	work := map[policy.DID]int{}
	for did, c := range s.Conduct {
		if c.Changed > 0 && slices.Contains(s.Line(did), of) {
			work[did] = c.Changed
		}
	}
	return work
}
