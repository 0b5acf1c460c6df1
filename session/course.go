package session

import "github.com/agenthypervisor/hypervisor/policy"

// course.go: what a server asks of the agent's side in the course of a call: its user's input, its model, its roots. It is the
// agent's action, as the call is, and decided by the same order; but the call has paid for it, with its token and its place,
// since a server could use up an agent's rate otherwise.

// MaxAsked bounds the actions asked for in the course of one.
const MaxAsked = 32

// inCourse reports whether the action is asked for in the course of one that is running, and may be.
func (a *admission) inCourse() bool {
	r := a.course()
	return r != nil && r.Asked < MaxAsked
}

// course returns the action in whose course this one is asked for; nil: none that is running, or could ask.
func (a *admission) course() *Running {
	if r := a.s.Running[a.act.During]; r != nil && r.Agent == a.agent && r.During == "" {
		return r
	}
	return nil
}

func (a *admission) outOfCourse() *policy.Decision {
	switch {
	case a.act.During == "" || a.inCourse():
		return nil
	case a.course() == nil:
		return deny(policy.NotFound, "%s has no call %s running in whose course %s could be asked for", a.agent, a.act.During, a.act.Action)
	}
	return deny(policy.QuotaExceeded, "%s was asked for in the course of %s, in which %d actions were asked for before; that is all one call may", a.act.Action, a.act.During, MaxAsked)
}
