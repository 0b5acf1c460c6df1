package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/liability"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// trust.go: what joint liability costs: an agent's ring with what stands behind it, σ_eff when a voucher falls, the division of blame.

func trust(ctx context.Context, r *run) ([]Row, error) {
	few, fewEnv := vouchedFor(3)
	call, admitted := writeCall().Descriptor, 0
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
			if in, _ := few.RingOf(fewEnv, newcomer); allows(in, &call) {
				admitted++
			}
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
	if in != ring.Standard || shares != 12 || admitted == 0 {
		panic(fmt.Sprintf("suite: ring %d, %d shares, %d admitted", in, shares, admitted))
	}
	stamped, err := stamping(ctx, r)
	if err != nil {
		return nil, err
	}
	return []Row{
		Row{Work: "an agent's ring, with an elevation and three bonds behind it", Value: float64(took[0]), Unit: "ns", Reach: "≤ 100 ns"}.atMost(100),
		Row{Work: "the whole ring check of it: that ring, the one its call needs, capabilities", Value: float64(took[1]), Unit: "ns", Reach: "≤ 100 ns"}.atMost(100),
		Row{Work: "an agent's ring, with 999 bonds, after the best voucher's σ has moved", Value: float64(took[2]), Unit: "ns", Reach: "≤ 1,000 ns"}.atMost(1000),
		stamped,
		Row{Work: "blame of 12 agents over 1,000 causal chains, exactly", Value: float64(took[3]) / float64(time.Microsecond), Unit: "µs", Reach: "≤ 1,000 µs"}.atMost(1000),
	}, nil
}

// allows reports whether an agent in the ring may do what the descriptor says, by ring and capability.
func allows(in ring.Ring, d *action.Descriptor) bool {
	l := in.Limits()
	return in <= d.RequiredRing(d.Effective(action.NoImage)) && (!d.Network || l.Network == ring.Full) && (!d.Files || l.Files == ring.Full) && (!d.Subprocess || l.Subprocess == ring.Full)
}

const (
	stampedSessions = 8 // timed at once, each with ten agents
	stampedAgents   = 10
	stampedWarming  = 8 // passes over as many others first, in which the caches get warm and what a new standing sets off ends
)

// stamping compares a command, from the live handle to its decision, behind which a standing has moved somewhere, so that the ten of
// its own session are looked at anew, with one behind which something else was recorded. Nothing of the commands is: what is
// measured is all that a decision costs a caller.
func stamping(ctx context.Context, r *run) (row Row, err error) {
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Clock: newClock(), Program: "bench"})
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, hv.Close(ctx)) }()
	all, err := openSessions(ctx, hv, 2*stampedSessions)
	if err != nil {
		return row, err
	}
	for _, s := range all {
		for i := range stampedAgents - 1 {
			if _, err := s.Join(ctx, admin, session.Join{Agent: policy.DID(fmt.Sprint("did:mesh:other-", i)), Sigma: high}); err != nil {
				return row, err
			}
		}
	}
	warm, timed := all[:stampedSessions], all[stampedSessions:]
	call := session.Act{Action: "write", Args: json.RawMessage(writeArgs)}
	var anew, still []time.Duration
	for began := time.Now(); time.Since(began) < r.Sample; {
		sigma := ring.Sigma(500_000 + len(anew)%2)
		if _, err := hv.RegisterAgent(ctx, admin, newcomer, &sigma); err != nil {
			return row, err
		}
		if err := decideAfter(ctx, warm, timed, call, &anew); err != nil {
			return row, err
		}
		if out, err := warm[0].Act(ctx, ann, call); err != nil || !out.Allowed {
			return row, fmt.Errorf("calling: %+v, %w", out, err)
		}
		if err := decideAfter(ctx, warm, timed, call, &still); err != nil {
			return row, err
		}
	}
	base := micros(percentile(still, 50))
	return Row{Work: "a command decided with ten agents' standings stamped anew", Value: micros(percentile(anew, 50)), Unit: "µs", Reach: "≤ 1.1 × without",
		Beside: "the same, no standing having moved", Baseline: base}.atMost(1.1 * base), nil
}

// decideAfter adds how long a decision takes in each of the timed sessions, after some in the others.
func decideAfter(ctx context.Context, warm, timed []*hypervisor.Session, call session.Act, to *[]time.Duration) error {
	var began time.Time
	for pass := range stampedWarming + 1 {
		sessions := warm
		if pass == stampedWarming {
			sessions, began = timed, time.Now()
		}
		for _, s := range sessions {
			if d, err := s.DryRun(ctx, ann, call); err != nil || !d.Allowed {
				return fmt.Errorf("deciding: %+v, %w", d, err)
			}
		}
	}
	*to = append(*to, time.Since(began)/time.Duration(len(timed)))
	return nil
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
