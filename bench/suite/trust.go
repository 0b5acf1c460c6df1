package suite

import (
	"context"
	"fmt"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/liability"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// trust.go: what joint liability costs: an agent's ring with what stands behind it, σ_eff when a voucher falls, the division of blame.

func trust(_ context.Context, r *run) ([]Row, error) {
	few, fewEnv := vouchedFor(3)
	many, manyEnv := vouchedFor(999)
	best, moved := policy.DID("did:mesh:voucher-998"), ring.Sigma(0)
	graph := blamed()
	var in ring.Ring
	var shares int
	took := inTurns(r.Sample, func(n int) {
		for range n {
			in, _ = few.RingOf(fewEnv, newcomer)
		}
	}, func(n int) {
		for range n {
			moved ^= 90_000
			manyEnv.Scores.Stand(many, best, agent.Standing{Sigma: 700_998 - moved})
			in, _ = many.RingOf(manyEnv, newcomer)
		}
	}, func(n int) {
		for range n {
			shares = len(liability.Attribute(graph, len(graph)-1, 0).Shares)
		}
	})
	if in != ring.Standard || shares != 12 {
		panic(fmt.Sprintf("suite: ring %d, %d shares", in, shares))
	}
	return []Row{
		Row{Work: "an agent's ring, with an elevation and three bonds behind it", Value: float64(took[0]), Unit: "ns", Reach: "≤ 100 ns"}.atMost(100),
		Row{Work: "… with 999 bonds, after the best voucher's σ has moved", Value: float64(took[1]), Unit: "ns", Reach: "≤ 1,000 ns"}.atMost(1000),
		Row{Work: "blame of 12 agents over 1,000 causal chains, exactly", Value: float64(took[2]) / float64(time.Microsecond), Unit: "µs", Reach: "≤ 1,000 µs"}.atMost(1000),
	}, nil
}

const newcomer = policy.DID("did:mesh:new")

// vouchedFor returns a session in which an agent is elevated and has so many bonds behind it.
func vouchedFor(bonds int) (*session.State, *session.Env) {
	cfg, err := session.Config{MaxParticipants: session.MaxParticipants}.Resolved()
	if err != nil {
		panic(err)
	}
	s := session.NewState("ses-bench")
	s.Lifecycle, s.Config, s.Ends = session.Active, cfg, lately().Add(time.Hour)
	s.Participants[newcomer] = &session.Participant{Ring: ring.Standard}
	s.Elevations = map[policy.DID]*session.Elevation{newcomer: {ID: "elv-1", Ring: ring.Standard, Until: s.Ends, By: ann.DID}}
	s.Bonds = map[string]*session.Bond{}
	standings := map[policy.DID]agent.Standing{newcomer: {Sigma: 550_000}}
	for i := range bonds {
		id, voucher := fmt.Sprint("vch-", i), policy.DID(fmt.Sprint("did:mesh:voucher-", i))
		s.Participants[voucher] = &session.Participant{Ring: ring.Standard}
		standings[voucher] = agent.Standing{Sigma: ring.Sigma(700_000 + i)}
		s.Bonds[id] = &session.Bond{ID: id, Voucher: voucher, Vouchee: newcomer, Amount: ring.Sigma(300_000 / bonds), Status: session.BondActive}
	}
	env := &session.Env{Now: lately(), Caller: policy.Agent(newcomer), Standings: standings}
	env.Scores = session.NewScores(s, standings)
	return s, env
}

// blamed returns 31 actions of 12 agents: thrice ten, each led to by all ten before, and the failing one.
func blamed() (g liability.Graph) {
	var before []int
	for l := range 3 {
		var here []int
		for i := range 10 {
			here = append(here, len(g))
			g = append(g, liability.Action{Agent: policy.DID(fmt.Sprint("did:mesh:agent-", (10*l+i)%11)), Weight: action.Omega(200_000 + 10_000*i),
				Time: lately().Add(time.Duration(l) * 7 * time.Second), Causes: before})
		}
		before = here
	}
	return append(g, liability.Action{Agent: "did:mesh:agent-11", Weight: 950_000, Time: lately().Add(time.Minute), Causes: before})
}
