package liability

import (
	"fmt"
	"math/big"
	"time"

	"github.com/agenthypervisor/hypervisor/policy"
)

// attribute.go: the Shapley value of the game v(S) = 0.5·D(S) + 0.3·E(S) + 0.2·P(S) (SPEC §3). D says whether the failing
// action's agent is in S; E is the weight of the chains whose agents all lie in S; P is the share of S among the ancestors. Each
// is a sum of unanimity games, and a unanimity game splits evenly among its carriers, so the value is exact in closed form.

// What each part of the game is worth.
const (
	directWorth Portion = 500_000
	chainWorth  Portion = 300_000
	nearWorth   Portion = 200_000
)

// A Share is what one agent bears. Its parts are each rounded down, so they can be up to two millionths less than the whole; what
// rounding leaves is the failing agent's.
type Share struct {
	Agent  policy.DID
	Share  Portion
	Direct Portion // for the failing action, and for the terms that have no chain or no ancestor
	Chain  Portion // for the chains it is on
	Near   Portion // for its actions among the causal ancestors

	OnChains  int // of the chains that were counted
	Ancestors int // actions of its among the causal ancestors

	chains, ancestors int // there are in all
	newest            time.Duration
}

// A Blame says who bears how much. The shares sum to Whole.
type Blame struct {
	Shares []Share // the failing agent's first, then in the order of their first action in the graph
	Chains int     // counted: all there are, or those drawn
	// Drawn says that there are more chains than MaxChains and as many were drawn, by Seed. StandardError is the greatest of any
	// share then.
	Drawn         bool
	Seed          uint64
	StandardError Portion
}

// Attribute returns the blame for g[failing]. The seed counts only where chains must be drawn.
func Attribute(g Graph, failing int, seed uint64) Blame {
	a := g.ancestry(failing)
	b := Blame{}
	counts := a.counts()
	var chains *tally
	if counts[len(counts)-1].many() {
		b.Drawn, b.Seed, chains = true, seed, a.draw(counts, seed)
	} else {
		chains = a.walk()
	}
	b.Chains = chains.chains
	near := a.near()
	left := Whole
	for _, who := range a.order() {
		s := a.share(who, chains, near)
		if s.Share == 0 && who != a.failing {
			continue // too long ago to be a millionth
		}
		left -= s.Share
		b.Shares = append(b.Shares, s)
		if b.Drawn {
			b.StandardError = max(b.StandardError, errorOf(chains, who))
		}
	}
	b.Shares[0].Share += left
	return b
}

// Alone returns the blame of an agent where nothing is known to have led to what it did.
func Alone(agent policy.DID) Blame {
	return Blame{Shares: []Share{{Agent: agent, Share: Whole, Direct: Whole}}}
}

// order returns the agents, the failing one first.
func (a *ancestry) order() []int {
	out := []int{a.failing}
	for i := range a.agents {
		if i != a.failing {
			out = append(out, i)
		}
	}
	return out
}

// A nearness is the ancestors' weights in time, by agent.
type nearness struct {
	weight []uint64
	times  []int           // ancestors
	newest []time.Duration // from the newest of them to the failing action
	all    uint64
	count  int
}

func (a *ancestry) near() nearness {
	n := nearness{weight: make([]uint64, len(a.agents)), times: make([]int, len(a.agents)), newest: make([]time.Duration, len(a.agents))}
	last := len(a.nodes) - 1
	if last == 0 {
		return n
	}
	newest := a.nodes[0].time
	for _, v := range a.nodes[:last] {
		if v.time.After(newest) {
			newest = v.time
		}
	}
	for _, v := range a.nodes[:last] {
		w := fade(newest.Sub(v.time))
		n.weight[v.agent] += w
		n.all += w
		n.times[v.agent]++
		n.newest[v.agent] = a.nodes[last].time.Sub(v.time)
	}
	n.count = last
	return n
}

// share computes one agent's value: exactly, and then rounded down.
func (a *ancestry) share(who int, chains *tally, near nearness) Share {
	s := Share{Agent: a.agents[who], OnChains: chains.on[who], Ancestors: near.times[who], chains: chains.chains, ancestors: near.count, newest: near.newest[who]}
	direct := directWorth
	sum := new(big.Rat)
	if chains.all == 0 {
		direct += chainWorth
	} else {
		part := scaled(chains.part(who), chainWorth)
		s.Chain = floor(part)
		sum.Add(sum, part)
	}
	if near.all == 0 {
		direct += nearWorth
	} else {
		part := scaled(new(big.Rat).SetFrac(new(big.Int).SetUint64(near.weight[who]), new(big.Int).SetUint64(near.all)), nearWorth)
		s.Near = floor(part)
		sum.Add(sum, part)
	}
	if who == a.failing {
		s.Direct = direct
		sum.Add(sum, big.NewRat(int64(direct), 1))
	}
	s.Share = floor(sum)
	return s
}

func scaled(part *big.Rat, worth Portion) *big.Rat {
	return part.Mul(part, big.NewRat(int64(worth), 1))
}

// floor rounds millionths down to whole ones.
func floor(r *big.Rat) Portion { return Portion(new(big.Int).Quo(r.Num(), r.Denom()).Uint64()) }

// errorOf returns the standard error of an agent's share, rounded up to a millionth.
func errorOf(chains *tally, who int) Portion {
	square := scaled(scaled(chains.squareError(who), chainWorth), chainWorth)
	root := new(big.Int).Sqrt(new(big.Int).Quo(square.Num(), square.Denom()))
	return Portion(root.Uint64()) + 1
}

// Reasons say what a share is made of, in words.
func (s Share) Reasons() []string {
	var why []string
	if s.Direct > 0 {
		text := "its action is the one the incident is about"
		switch {
		case s.Direct == Whole && s.OnChains == 0:
			text = "the incident is about it, and about no single action"
		case s.Direct == Whole || s.Direct == Whole-chainWorth:
			text += ", and no other action led to it"
		}
		why = append(why, fmt.Sprintf("%s: %s", text, s.Direct))
	}
	if s.Chain > 0 {
		why = append(why, fmt.Sprintf("on %d of %d causal chains: %s", s.OnChains, s.chains, s.Chain))
	}
	if s.Near > 0 {
		why = append(why, fmt.Sprintf("%d of the %d actions that led to it, the newest %s before: %s", s.Ancestors, s.ancestors, s.newest.Round(time.Second), s.Near))
	}
	return why
}
