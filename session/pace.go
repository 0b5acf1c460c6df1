package session

import (
	"slices"

	"github.com/agenthypervisor/hypervisor/policy"
)

// pace.go: what an agent asks for beside calls is paid for out of the same bucket (SPEC §7 "Rate").

// pace takes a token for what an agent asked for and got: to come back, bring another, vouch or withdraw, be elevated, vote, report.
// Each is a record, or several in other streams, so none goes faster than calls do. Calls and sagas pay in admission's own order,
// refused or not; of the rest a refusal is no record, and free. Out.Tallies are what the decision itself made of tallies.
func (s *State) pace(env *Env, c Command, out Outcome) Outcome {
	agent, member := s.payer(env, c)
	if member == nil || len(out.Events) == 0 {
		return out
	}
	mine := func(t TallyOf) bool { return t.Agent == agent }
	tally := env.Tallies[agent]
	if i := slices.IndexFunc(out.Tallies, mine); i >= 0 {
		tally = out.Tallies[i].Tally
	}
	if tally.Bucket.At.IsZero() {
		tally.Bucket = member.Bucket
	}
	bucket, wait, ok := tally.Bucket.Refill(member.Ring, env.Now).Take()
	if !ok {
		return Outcome{Decision: tooSoon(agent, member.Ring, wait)}
	}
	tally.Bucket = bucket
	out.Tallies = append(slices.DeleteFunc(slices.Clone(out.Tallies), mine), TallyOf{agent, tally})
	return out
}

// payer returns the agent that pays for a command here, and what the session knows of it; nil: nobody does. To leave is free, so that
// nobody is held; whoever comes back by its token pays.
func (s *State) payer(env *Env, c Command) (policy.DID, *Participant) {
	switch c := c.(type) {
	case Act, UndoStep, NoteUndone, RunSaga, Leave:
		return "", nil
	case Join:
		if env.Caller.Role == policy.SystemRole {
			return c.Agent, s.Left[c.Agent]
		}
	default: // who asks for it pays, if an agent may
	}
	if env.Caller.Role != policy.AgentRole {
		return "", nil
	}
	return env.Caller.DID, s.Participants[env.Caller.DID]
}
