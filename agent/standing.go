package agent

import "github.com/agenthypervisor/hypervisor/ring"

// A Standing is what every session may know of an agent: its state at the durable head of its stream, as a value that does not
// change. The zero Standing is no trust; an agent without a stream has Newcomer.
type Standing struct {
	Sigma       ring.Sigma // σ_raw
	Risk        ring.Sigma
	Blacklisted bool                  // slashed and not reinstated
	Quarantine  *Quarantined          // nil: it is in none
	Bonded      ring.Sigma            // put up for others, in all sessions together
	Cut         map[string]ring.Sigma // what is left of the bonds that were cut, by BondKey; nil: none was
	Version     uint64                // the number of the newest record it follows from; 0: none
}

// Newcomer is the standing of an agent nobody has spoken of (SPEC §3).
var Newcomer = Standing{Sigma: ring.Newcomer}

// Standing returns what sessions may know.
func (s *State) Standing() Standing {
	return Standing{Sigma: s.Sigma(), Risk: s.Risk, Blacklisted: s.Blacklisted, Quarantine: s.Quarantine, Bonded: s.bonded(), Cut: s.cutBonds(), Version: s.Seq}
}
