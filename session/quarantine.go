package session

import (
	"github.com/agenthypervisor/hypervisor/policy"
)

// quarantine.go: an agent in quarantine reads, and does nothing else (SPEC §3 "Quarantine"). It is in its own stream, and so in
// force in every session at the next command.

// quarantined refuses an agent that is in quarantine, or was brought by one that is.
func (s *State) quarantined(env *Env, did policy.DID) *policy.Decision {
	for who := range s.line(did) {
		if q := env.Standings[who].Quarantine; q != nil {
			d := q.Refusal(who)
			return &d
		}
	}
	return nil
}

// setApart refuses what is not read-only.
func (a *admission) setApart() *policy.Decision {
	if a.operator || a.env.Call.Descriptor.ReadOnly {
		return nil
	}
	return a.s.quarantined(a.env, a.agent)
}
