package hypervisor

import (
	"cmp"
	"context"
	"slices"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// killedwork.go: what an agent that is killed leaves behind: its part in sagas, and what it did that stands.

// A KilledTask is a step of a saga that was a killed agent's to do.
type KilledTask struct {
	Session string
	Saga    string
	Step    string
	Agent   policy.DID // whose it was: the killed agent's, or of one that it brought
	To      policy.DID // who does it now, or will once it begins; empty: nobody, and the saga is undone if it needs the step
	State   string     // of the step, as the saga says it
}

// KilledWork is what a killed agent, or one that it brought, has done in a session.
type KilledWork struct {
	Session string
	Agent   policy.DID
	Stands  int // calls that changed something and are not undone
}

// leaves finds out what a killed agent leaves behind, in the sessions that are in memory: the others hold no call of its, and are not
// waited for. What cannot be found out before ctx ends is left out.
func (hv *Hypervisor) leaves(ctx context.Context, k policy.Kill, calls []*call, report *KillReport) {
	if k.Agent == "" {
		return
	}
	for _, c := range calls {
		if c.tool != nil && hv.mayPassOn(c.session) {
			hv.closes(ctx, c.done) // whoever does its step is told in the record of how it ended
		}
	}
	var tasks []KilledTask
	var work []KilledWork
	over := make(chan struct{})
	hv.exec.Insist()                      // it stands behind no call
	hv.exec.Offer(func(context.Context) { // a session's lock may be held by one who waits for the store
		tasks, work = hv.leftBy(k)
		close(over)
	})
	if hv.closes(ctx, over) {
		report.Tasks, report.Work = tasks, work
	}
}

// mayPassOn reports whether a session that is in memory may hand steps on.
func (hv *Hypervisor) mayPassOn(id string) bool {
	hv.mu.Lock()
	s := hv.sessions[id]
	hv.mu.Unlock()
	if s == nil || !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	return s.live != nil && len(s.live.state.SagasOpen) > 0
}

func (hv *Hypervisor) leftBy(k policy.Kill) (tasks []KilledTask, work []KilledWork) {
	for _, s := range hv.inMemory(func(s *Session) bool { return k.Session == "" || k.Session == s.id }) {
		t, w := s.leftBy(k)
		for _, t := range t {
			tasks = append(tasks, KilledTask{s.id, t.Saga, t.Step, t.Agent, t.To, t.State.String()})
		}
		for did, n := range w {
			work = append(work, KilledWork{s.id, did, n})
		}
	}
	slices.SortFunc(work, func(a, b KilledWork) int {
		return cmp.Or(cmp.Compare(a.Session, b.Session), cmp.Compare(a.Agent, b.Agent))
	})
	return tasks, work
}

func (s *Session) leftBy(k policy.Kill) ([]session.Task, map[policy.DID]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		return nil, nil
	}
	work := session.Work(s.live.state, k.Agent)
	if len(s.live.state.Sagas) == 0 {
		return nil, work
	}
	env, _, err := s.env(policy.System)
	if err != nil {
		s.hv.opts.Logger.Warn("what a killed agent was to do in sagas could not be found out", "session", s.id, "error", err)
		return nil, work
	}
	return session.Tasks(s.live.state, env, k.Agent, k.At), work
}
