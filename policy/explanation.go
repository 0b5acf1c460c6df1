package policy

import "github.com/agenthypervisor/hypervisor/ring"

// An Explanation says why a call was decided as it was: what the action needs, what the agent has, and what would have to be true
// for a refused call to pass. It is for people and models; nothing is decided on it.
type Explanation struct {
	Requires  string     `json:"requires,omitempty"`   // why the action needs the ring it needs; empty: the question did not come up
	ByScore   *ring.Ring `json:"by_score,omitempty"`   // what σ_eff alone gives; nil: the caller has no ring here
	Elevated  *ring.Ring `json:"elevated,omitempty"`   // the ring an elevation gives for a while; nil: none
	Ceilings  []Ceiling  `json:"ceilings,omitempty"`   // what holds the agent whatever its score, the strictest first
	RefusedBy string     `json:"refused_by,omitempty"` // the question of the admission that refused; empty: none did
	ToPass    []string   `json:"to_pass,omitempty"`    // each alone, or as it says, would let the call pass; empty: nothing the agent can see to
}

// A Ceiling is a ring above which an agent is not let.
type Ceiling struct {
	Ring ring.Ring `json:"ring"`
	Why  string    `json:"why"`
}
