package liability

import (
	"math/big"
	"math/bits"
)

// chain.go: the causal chains, that is, the paths from an action without cause to the failing one, and what each agent bears of
// them (SPEC §3: a chain weighs its greatest ω, and its weight splits evenly among its distinct agents).

// MaxChains is how many chains are walked one by one; of more, as many are drawn (SPEC §3).
const MaxChains = 10_000

// A tally sums over chains: of the chains with k distinct agents on which an agent is, their weights and the squares of them.
type tally struct {
	agents  int
	weight  []uint64 // by agent·(agents+1)+k
	squares []uint64
	on      []int  // by agent: chains it is on
	all     uint64 // weights of all chains
	square  uint64 // and the squares of them
	chains  int
}

func newTally(agents int) *tally {
	return &tally{agents: agents, weight: make([]uint64, agents*(agents+1)), squares: make([]uint64, agents*(agents+1)), on: make([]int, agents)}
}

// add counts a chain by its distinct agents and its weight.
func (t *tally) add(agents []int, weight uint64) {
	for _, i := range agents {
		at := i*(t.agents+1) + len(agents)
		t.weight[at] += weight
		t.squares[at] += weight * weight
		t.on[i]++
	}
	t.all += weight
	t.square += weight * weight
	t.chains++
}

// part returns what an agent bears of all chains, from 0 to 1.
func (t *tally) part(agent int) *big.Rat {
	sum := t.over(t.weight, agent, 1)
	return sum.Quo(sum, new(big.Rat).SetUint64(t.all))
}

// over returns the sum of an agent's entries, each divided by k to the power.
func (t *tally) over(entries []uint64, agent, power int) *big.Rat {
	sum, term := new(big.Rat), new(big.Rat)
	for k := 1; k <= t.agents; k++ {
		v := entries[agent*(t.agents+1)+k]
		if v == 0 {
			continue
		}
		term.SetFrac(new(big.Int).SetUint64(v), new(big.Int).Exp(big.NewInt(int64(k)), big.NewInt(int64(power)), nil))
		sum.Add(sum, term)
	}
	return sum
}

// squareError returns the square of the standard error of part, where the chains were drawn: that of a ratio of two means,
// Σ(x−R·w)² / (Σw)² · n/(n−1), where x is what the agent bears of a drawn chain and w is the chain's weight.
func (t *tally) squareError(agent int) *big.Rat {
	ratio := t.part(agent)
	sum := t.over(t.squares, agent, 2)
	cross := t.over(t.squares, agent, 1)
	cross.Mul(cross, ratio)
	sum.Sub(sum, cross.Add(cross, cross))
	ratio.Mul(ratio, ratio)
	sum.Add(sum, ratio.Mul(ratio, new(big.Rat).SetUint64(t.square)))
	all := new(big.Rat).SetUint64(t.all)
	sum.Quo(sum, all.Mul(all, all))
	return sum.Mul(sum, big.NewRat(int64(t.chains), int64(t.chains-1)))
}

// A path is a way back from the failing action, with the distinct agents on it in the order they were met.
type path struct {
	a      *ancestry
	times  []int // by agent: actions of it on the path
	agents []int
}

// step goes to a node and returns whether its agent is new on the path.
func (p *path) step(n int) bool {
	who := p.a.nodes[n].agent
	p.times[who]++
	if p.times[who] > 1 {
		return false
	}
	p.agents = append(p.agents, who)
	return true
}

// back undoes the newest step, which was to n.
func (p *path) back(n int) {
	who := p.a.nodes[n].agent
	p.times[who]--
	if p.times[who] == 0 {
		p.agents = p.agents[:len(p.agents)-1]
	}
}

// walk counts every chain.
func (a *ancestry) walk() *tally {
	t := newTally(len(a.agents))
	p := path{a: a, times: make([]int, len(a.agents))}
	type visit struct {
		node, next int
		weight     uint64 // the greatest on the path so far
	}
	last := len(a.nodes) - 1
	p.step(last)
	stack := []visit{{last, 0, a.nodes[last].weight}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		n := &a.nodes[top.node]
		switch {
		case len(n.causes) == 0:
			t.add(p.agents, top.weight)
		case top.next < len(n.causes):
			c := n.causes[top.next]
			top.next++
			p.step(c)
			stack = append(stack, visit{c, 0, max(top.weight, a.nodes[c].weight)})
			continue
		}
		p.back(top.node)
		stack = stack[:len(stack)-1]
	}
	return t
}

// draw counts MaxChains chains drawn at random, each as likely as any other.
func (a *ancestry) draw(counts []count, seed uint64) *tally {
	t := newTally(len(a.agents))
	p := path{a: a, times: make([]int, len(a.agents))}
	rng := splitMix(seed)
	for range MaxChains {
		clear(p.times)
		p.agents = p.agents[:0]
		at := len(a.nodes) - 1
		p.step(at)
		weight := a.nodes[at].weight
		for causes := a.nodes[at].causes; len(causes) > 0; causes = a.nodes[at].causes {
			at = pick(causes, counts, &rng)
			p.step(at)
			weight = max(weight, a.nodes[at].weight)
		}
		t.add(p.agents, weight)
	}
	return t
}

// pick chooses a cause with a probability in the ratio of the chains that lead to it.
func pick(causes []int, counts []count, rng *splitMix) int {
	var scale uint
	for _, c := range causes {
		scale = max(scale, counts[c].shift)
	}
	var sum uint64
	for _, c := range causes {
		sum += counts[c].at(scale)
	}
	chosen := rng.below(sum)
	for _, c := range causes {
		part := counts[c].at(scale)
		if chosen < part {
			return c
		}
		chosen -= part
	}
	panic("liability: drew beyond the sum")
}

// A count is a number of chains, to 40 bits: mantissa << shift. There can be more chains than a machine's number holds.
type count struct {
	mantissa uint64
	shift    uint
}

const countBits = 40

// at returns the count in units of 1 << scale, rounded down.
func (c count) at(scale uint) uint64 { return c.mantissa >> min(scale-c.shift, 63) }

// counts returns how many chains lead to each node.
func (a *ancestry) counts() []count {
	out := make([]count, len(a.nodes))
	for i, n := range a.nodes {
		if len(n.causes) == 0 {
			out[i] = count{mantissa: 1}
			continue
		}
		var sum count
		for _, c := range n.causes {
			sum = sum.plus(out[c])
		}
		out[i] = sum
	}
	return out
}

func (c count) plus(d count) count {
	scale := max(c.shift, d.shift)
	sum := count{c.at(scale) + d.at(scale), scale}
	if over := bits.Len64(sum.mantissa) - countBits; over > 0 {
		sum.mantissa >>= uint(over)
		sum.shift += uint(over)
	}
	return sum
}

// many reports whether there are more than MaxChains.
func (c count) many() bool { return c.shift > 0 || c.mantissa > MaxChains }

// A splitMix is the generator of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): a drawn
// attribution can be drawn again from its seed.
type splitMix uint64

func (s *splitMix) next() uint64 {
	*s += 0x9e3779b97f4a7c15
	z := uint64(*s)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below returns a number under n.
func (s *splitMix) below(n uint64) uint64 {
	hi, _ := bits.Mul64(s.next(), n)
	return hi
}
