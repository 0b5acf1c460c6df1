package hypervisor

import (
	"context"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// reputation.go: a service that rates agents is asked when one joins (SPEC §9 "Reputation").

// A Reputation says how an agent is rated elsewhere. An error means that this is not known, which raises and lowers nobody.
// Implementations bound how long they take, and are safe for concurrent use.
type Reputation interface {
	Score(ctx context.Context, did policy.DID) (ring.Sigma, error)
}

// reputationService is in whose name a score that was asked for is recorded.
var reputationService = policy.Caller{DID: "did:mesh:reputation", Role: policy.ServiceRole}

// SetReputation has a service asked at every join from now on: its score is an entry in the agent's ledger, the start of one that has
// none (0.90 at most), later the lower of ours and theirs. Nil: none is asked.
func (hv *Hypervisor) SetReputation(r Reputation) { hv.reputation.Store(&r) }

// rate asks how an agent that joins is rated, and enters it. What the service does not say moves nothing.
func (hv *Hypervisor) rate(ctx context.Context, did policy.DID) error {
	r := hv.reputation.Load()
	if r == nil || *r == nil {
		return nil
	}
	sigma, err := (*r).Score(ctx, did)
	if err != nil {
		hv.opts.Logger.Warn("an agent joins on its standing here; how it is rated elsewhere is not known", "agent", did, "error", err)
		return nil
	}
	_, err = hv.agents.submit(ctx, reputationService, did, agent.Report{Sigma: sigma, Cause: "asked at a join"})
	return err
}
