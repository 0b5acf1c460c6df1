package saga

import (
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// gate.go: what a saga asks of its agents at the worst, known before it starts (SPEC §5 "Worst-case gate").

// A Worst is what an agent's least reversible step needs. Every step counts: each can be reached, since a step that the others do
// not lead to begins at once.
type Worst struct {
	Agent policy.DID
	Step  string // the first that needs as much
	Ring  ring.Ring
}

// WorstCase returns for each agent, in the order of their first steps, the most privileged ring that a step of its needs.
func (d *Definition) WorstCase(needs func(*Step) ring.Ring) []Worst {
	var out []Worst
	at := map[policy.DID]int{}
	for i := range d.Steps {
		s := &d.Steps[i]
		needed := needs(s)
		n, ok := at[s.Agent]
		switch {
		case !ok:
			at[s.Agent] = len(out)
			out = append(out, Worst{s.Agent, s.ID, needed})
		case needed < out[n].Ring: // a smaller number is more privilege
			out[n].Step, out[n].Ring = s.ID, needed
		}
	}
	return out
}
