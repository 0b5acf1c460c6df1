package liability_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/liability"
	"github.com/agenthypervisor/hypervisor/policy"
)

var start = time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)

func did(i int) policy.DID { return policy.DID(fmt.Sprintf("did:mesh:a%d", i)) }

// The oracle, from SPEC §3's words: "v(S) = 0.5·D(S) + 0.3·E(S) + 0.2·P(S). D: the failing action's agent is in S. E: weight of
// the causal chains (paths from an action without cause to the failing one) whose agents all lie in S; a chain weighs its
// greatest ω; weights sum to 1. P: share of S among the causal ancestors, a weight halving every 60 s. Where there is no chain or
// no ancestor that term goes to D." The value is the mean, over all orders in which the agents can come, of what each adds.
type game struct {
	agents    []policy.DID
	failing   policy.DID
	chains    []chain
	ancestors []liability.Action
	at        time.Time
}

type chain struct {
	agents map[policy.DID]bool
	weight int64
}

func newGame(g liability.Graph, failing int) *game {
	v := &game{failing: g[failing].Agent, at: g[failing].Time}
	var back func(i int, agents []policy.DID, weight int64)
	back = func(i int, agents []policy.DID, weight int64) {
		agents, weight = append(slices.Clone(agents), g[i].Agent), max(weight, int64(g[i].Weight))
		if len(g[i].Causes) == 0 {
			c := chain{map[policy.DID]bool{}, weight}
			for _, a := range agents {
				c.agents[a] = true
			}
			v.chains = append(v.chains, c)
		}
		for _, c := range slices.Compact(slices.Sorted(slices.Values(g[i].Causes))) {
			back(c, agents, weight)
		}
	}
	back(failing, nil, 0)
	led := map[int]bool{}
	var mark func(i int)
	mark = func(i int) {
		for _, c := range g[i].Causes {
			led[c] = true
			mark(c)
		}
	}
	mark(failing)
	for i := range g {
		if led[i] {
			v.ancestors = append(v.ancestors, g[i])
		}
		if (led[i] || i == failing) && !slices.Contains(v.agents, g[i].Agent) {
			v.agents = append(v.agents, g[i].Agent)
		}
	}
	return v
}

func (v *game) worth(s map[policy.DID]bool) float64 {
	var d, e, all, p, sum float64
	if s[v.failing] {
		d = 1
	}
	for _, c := range v.chains {
		in := true
		for a := range c.agents {
			in = in && s[a]
		}
		all += float64(c.weight)
		if in {
			e += float64(c.weight)
		}
	}
	for _, a := range v.ancestors {
		w := math.Exp2(-v.at.Sub(a.Time).Seconds() / 60)
		sum += w
		if s[a.Agent] {
			p += w
		}
	}
	if all == 0 {
		e, all = d, 1
	}
	if len(v.ancestors) == 0 {
		p, sum = d, 1
	}
	return 0.5*d + 0.3*e/all + 0.2*p/sum
}

func (v *game) shapley() map[policy.DID]float64 {
	value := map[policy.DID]float64{}
	orders := 0.0
	var permute func(left []policy.DID, in map[policy.DID]bool)
	permute = func(left []policy.DID, in map[policy.DID]bool) {
		if len(left) == 0 {
			orders++
			return
		}
		before := v.worth(in)
		ways := 1.0
		for i := 2; i < len(left); i++ {
			ways *= float64(i) // of the orders of the others behind it
		}
		for i, a := range left {
			in[a] = true
			value[a] += (v.worth(in) - before) * ways
			permute(append(slices.Clone(left[:i]), left[i+1:]...), in)
			delete(in, a)
		}
	}
	permute(v.agents, map[policy.DID]bool{})
	for a := range value {
		value[a] /= orders
	}
	return value
}

// graph draws a graph of up to so many agents; the newest action is the failing one.
func graph(t *rapid.T, agents, actions int) liability.Graph {
	n := rapid.IntRange(1, actions).Draw(t, "actions")
	who := rapid.IntRange(0, agents-1)
	weight := rapid.SampledFrom([]action.Omega{200_000, 650_000, 950_000})
	g := make(liability.Graph, n)
	at := start
	for i := range g {
		at = at.Add(time.Duration(rapid.IntRange(0, 90_000_000).Draw(t, "later")) * time.Microsecond)
		g[i] = liability.Action{ID: fmt.Sprint("act-", i), Agent: did(who.Draw(t, "agent")), Weight: weight.Draw(t, "ω"), Time: at}
		if i > 0 {
			g[i].Causes = rapid.SliceOfN(rapid.IntRange(0, i-1), 0, 3).Draw(t, "causes")
		}
	}
	return g
}

func TestTheShareIsTheShapleyValueOfSpecsGame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := graph(t, 6, 10) // of 8 agents there are 40,320 orders: see the test below
		checkAgainstOracle(t, g)
	})
}

func TestTheShareIsTheShapleyValueOfSpecsGameForEightAgents(t *testing.T) {
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		if n++; n > 4 {
			return // 100,000 coalitions each
		}
		g := make(liability.Graph, 12)
		for i := range g {
			g[i] = liability.Action{Agent: did(i % 8), Weight: 650_000, Time: start.Add(time.Duration(i) * 17 * time.Second)}
			if i > 0 {
				g[i].Causes = append(rapid.SliceOfN(rapid.IntRange(0, i-1), 0, 2).Draw(t, "causes"), i-1)
			}
		}
		checkAgainstOracle(t, g)
	})
}

// checkAgainstOracle allows for what rounding down takes, and for the failing agent what it leaves.
func checkAgainstOracle(t *rapid.T, g liability.Graph) {
	failing := len(g) - 1
	want := newGame(g, failing).shapley()
	b := liability.Attribute(g, failing, 0)
	for _, s := range b.Shares {
		exact := want[s.Agent] * 1e6
		slack := 1.01
		if s.Agent == g[failing].Agent {
			slack += float64(len(want))
		}
		if got := float64(s.Share); got > exact+slack || got < exact-1.01 {
			t.Fatalf("%s bears %s, and by the permutations %.6f of %+v", s.Agent, s.Share, want[s.Agent], g)
		}
		delete(want, s.Agent)
	}
	for agent, v := range want {
		if v*1e6 >= 1.01 {
			t.Fatalf("%s bears nothing, and by the permutations %.6f", agent, v)
		}
	}
}

// SPEC §3: "Efficient (Σ = 1), symmetric, 0 for an agent without a causal path."
func TestTheAxiomsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := graph(t, 5, 30)
		failing := len(g) - 1
		b := liability.Attribute(g, failing, 1)
		var sum liability.Portion
		for i, s := range b.Shares {
			sum += s.Share
			if i == 0 && s.Agent != g[failing].Agent {
				t.Fatalf("the first share is %s's and the failing agent is %s", s.Agent, g[failing].Agent)
			}
			if s.OnChains == 0 && s.Ancestors == 0 {
				t.Fatalf("%s has no causal path and bears %s", s.Agent, s.Share)
			}
			if s.Agent != g[failing].Agent && s.Share > 500_000 {
				t.Fatalf("%s bears %s and did not do it", s.Agent, s.Share)
			}
		}
		if sum != liability.Whole {
			t.Fatalf("the shares sum to %s", sum)
		}
		renamed := slices.Clone(g) // a twin does what another did, at the same time with the same causes and effects
		for i := range renamed {
			renamed[i].Agent += "x"
		}
		again := liability.Attribute(renamed, failing, 1)
		for i := range b.Shares {
			if b.Shares[i].Share != again.Shares[i].Share || b.Shares[i].Agent+"x" != again.Shares[i].Agent {
				t.Fatalf("under other names: %+v, and then %+v", b.Shares[i], again.Shares[i])
			}
		}
	})
}

// SPEC §3 "symmetric": who did the same bears the same.
func TestTwinsBearTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		twins := rapid.IntRange(2, 7).Draw(t, "twins")
		g := liability.Graph{{Agent: did(0), Weight: 650_000, Time: start}}
		var all []int
		for i := range twins {
			g = append(g, liability.Action{Agent: did(1 + i), Weight: 650_000, Time: start.Add(time.Minute), Causes: []int{0}})
			all = append(all, 1+i)
		}
		g = append(g, liability.Action{Agent: did(0), Weight: 950_000, Time: start.Add(time.Hour), Causes: all})
		b := liability.Attribute(g, len(g)-1, 0)
		for _, s := range b.Shares[1:] {
			if s.Share != b.Shares[1].Share || s.Share == 0 {
				t.Fatalf("twins bear %s and %s", s.Share, b.Shares[1].Share)
			}
		}
	})
}

// An agent that splits what it did among names that answer to it bears what it bore (SPEC §2: "for blame a child is its parent");
// who builds the graph names the root, so nine children are one agent here.
func TestSharesByHand(t *testing.T) {
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	for name, c := range map[string]struct {
		graph liability.Graph
		want  string
	}{
		"alone":     {liability.Graph{{Agent: did(0), Weight: 950_000, Time: at(0)}}, "a0 1.00"},
		"bystander": {liability.Graph{{Agent: did(1), Weight: 950_000, Time: at(0)}, {Agent: did(0), Weight: 950_000, Time: at(1)}}, "a0 1.00"},
		// D 0.5 and half of the chain's 0.3 to the failing one; the rest of the chain and all of the ancestors' 0.2 to the other.
		"one before": {liability.Graph{{Agent: did(1), Weight: 650_000, Time: at(0)}, {Agent: did(0), Weight: 950_000, Time: at(1), Causes: []int{0}}}, "a0 0.65, a1 0.35"},
		// The same agent before: its own chain, its own ancestor.
		"itself before": {liability.Graph{{Agent: did(0), Weight: 650_000, Time: at(0)}, {Agent: did(0), Weight: 950_000, Time: at(1), Causes: []int{0}}}, "a0 1.00"},
		// Two before, one 60 s earlier: ancestors 1 : 2 of 0.2; chains of a third each: [a1 a2 a0].
		"three in a row": {liability.Graph{{Agent: did(1), Weight: 650_000, Time: at(0)}, {Agent: did(2), Weight: 650_000, Time: at(60), Causes: []int{0}},
			{Agent: did(0), Weight: 650_000, Time: at(90), Causes: []int{1}}}, "a0 0.600001, a1 0.166666, a2 0.233333"},
		// Two chains of ω 0.95 and 0.65 (the failing one's ω is 0.20): 0.3·(0.95/1.6)/2 and 0.3·(0.65/1.6)/2, ancestors equal.
		"the riskier chain weighs more": {liability.Graph{{Agent: did(1), Weight: 950_000, Time: at(0)}, {Agent: did(2), Weight: 650_000, Time: at(0)},
			{Agent: did(0), Weight: 200_000, Time: at(9), Causes: []int{0, 1, 1}}}, "a0 0.650001, a1 0.189062, a2 0.160937"},
		"no weight": {liability.Graph{{Agent: did(1), Time: at(0)}, {Agent: did(0), Time: at(9), Causes: []int{0}}}, "a0 0.80, a1 0.20"},
		// 64 half-lives ago is nothing, but on the chain all the same.
		"long ago": {liability.Graph{{Agent: did(1), Weight: 650_000, Time: at(0)}, {Agent: did(2), Weight: 650_000, Time: at(86400), Causes: []int{0}},
			{Agent: did(0), Weight: 650_000, Time: at(86401), Causes: []int{1}}}, "a0 0.60, a1 0.10, a2 0.30"},
	} {
		var got []string
		for _, s := range liability.Attribute(c.graph, len(c.graph)-1, 0).Shares {
			got = append(got, strings.TrimPrefix(string(s.Agent), "did:mesh:")+" "+s.Share.String())
			if len(s.Reasons()) == 0 {
				t.Errorf("%s: %s bears %s for no reason", name, s.Agent, s.Share)
			}
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("%s: %s, want %s", name, text, c.want)
		}
	}
}

func TestReasonsAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for _, s := range liability.Attribute(graph(t, 5, 20), 0, 0).Shares {
			if parts := s.Direct + s.Chain + s.Near; parts > s.Share || s.Share-parts > 8 {
				t.Fatalf("%s bears %s, made of %s, %s and %s", s.Agent, s.Share, s.Direct, s.Chain, s.Near)
			}
		}
	})
}

// layers is a graph of d layers of three actions, each led to by all of the layer before: 3^d chains.
func layers(d int) liability.Graph {
	var g liability.Graph
	var before []int
	for l := range d {
		var here []int
		for i := range 3 {
			here = append(here, len(g))
			g = append(g, liability.Action{Agent: did(i + 3*(l%4)), Weight: action.Omega(200_000 + 50_000*i), Time: start.Add(time.Duration(l) * time.Second), Causes: before})
		}
		before = here
	}
	return append(g, liability.Action{Agent: did(99), Weight: 200_000, Time: start.Add(time.Minute), Causes: before})
}

// SPEC §3: "Over 10,000 chains: sampled, with a recorded seed and a reported standard error."
func TestManyChainsAreDrawnAndTheErrorIsTrue(t *testing.T) {
	exact := liability.Attribute(layers(8), 24, 7) // 6,561
	if exact.Drawn || exact.Chains != 6561 {
		t.Fatalf("%d chains, drawn %v", exact.Chains, exact.Drawn)
	}
	for _, d := range []int{9, 60, 500} { // 19,683 chains, and more than any number of a machine
		g := layers(d)
		a, again, other := liability.Attribute(g, len(g)-1, 7), liability.Attribute(g, len(g)-1, 7), liability.Attribute(g, len(g)-1, 8)
		if !a.Drawn || a.Chains != liability.MaxChains || a.Seed != 7 || a.StandardError == 0 || a.StandardError > 10_000 {
			t.Fatalf("%d layers: %+v", d, a)
		}
		if !slices.Equal(a.Shares, again.Shares) {
			t.Errorf("%d layers: the same seed gave other shares", d)
		}
		var sum liability.Portion
		for i, s := range a.Shares {
			sum += s.Share
			diff := max(s.Share, other.Shares[i].Share) - min(s.Share, other.Shares[i].Share)
			if diff > 6*a.StandardError+20 {
				t.Errorf("%d layers: %s bears %s by one seed and %s by another; the error is said to be %s", d, s.Agent, s.Share, other.Shares[i].Share, a.StandardError)
			}
		}
		if sum != liability.Whole {
			t.Errorf("%d layers: the shares sum to %s", d, sum)
		}
	}
}

// The drawn shares are near what all chains would give: 3 agents in 10 layers are 59,049 chains, and by symmetry each agent of a
// layer bears the same, since all have one ω here.
func TestDrawnSharesAreNearTheExactOnes(t *testing.T) {
	g := layers(10)
	for i := range g {
		g[i].Weight, g[i].Agent = 650_000, did(i%3)
	}
	g[len(g)-1].Agent = did(9)
	b := liability.Attribute(g, len(g)-1, 3)
	for _, s := range b.Shares[1:] {
		mean := (b.Shares[1].Chain + b.Shares[2].Chain + b.Shares[3].Chain) / 3
		if diff := max(s.Chain, mean) - min(s.Chain, mean); diff > 5*b.StandardError {
			t.Errorf("%s bears %s for its chains, the mean is %s and the error %s", s.Agent, s.Chain, mean, b.StandardError)
		}
	}
}

// The fixed point halves every 60 s: P alone decides between two ancestors.
func TestNearnessHalvesEverySixtySeconds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gap := time.Duration(rapid.Int64Range(0, int64(40*time.Minute/time.Microsecond)).Draw(t, "µs")) * time.Microsecond
		g := liability.Graph{{Agent: did(1), Time: start}, {Agent: did(2), Time: start.Add(gap)}, {Agent: did(0), Time: start.Add(gap + time.Hour), Causes: []int{0, 1}}}
		shares := liability.Attribute(g, 2, 0).Shares // without ω there is no chain
		w := math.Exp2(-gap.Seconds() / 60)
		var older float64
		for _, s := range shares {
			if s.Agent == did(1) {
				older = float64(s.Near)
			}
		}
		if want := 200_000 * w / (1 + w); math.Abs(older-want) > 1.001 {
			t.Fatalf("%v earlier bears %.0f millionths, want %.3f", gap, older, want)
		}
	})
}

func TestAPortionIsADecimal(t *testing.T) {
	b, err := json.Marshal(struct{ P liability.Portion }{333_333})
	var back struct{ P liability.Portion }
	if err != nil || string(b) != `{"P":0.333333}` || json.Unmarshal(b, &back) != nil || back.P != 333_333 {
		t.Errorf("%s, %v, read as %s", b, err, back.P)
	}
	if liability.Alone(did(0)).Shares[0].Share.String() != "1.00" {
		t.Error("alone is not the whole")
	}
}

func TestACauseBehindItsEffectIsAFaultOfTheBuilder(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it was taken")
		}
	}()
	liability.Attribute(liability.Graph{{Agent: did(0), Causes: []int{0}}}, 0, 0)
}

var sink liability.Blame

// docs/design.md asks for 12 agents and 1,000 chains in 1 ms.
func BenchmarkAttribute12Agents1000Chains(b *testing.B) {
	var g liability.Graph
	var before []int
	for l := range 3 { // ten, each led to by all ten before: 1,000 chains
		var here []int
		for i := range 10 {
			here = append(here, len(g))
			g = append(g, liability.Action{Agent: did((10*l + i) % 11), Weight: action.Omega(200_000 + 10_000*i), Time: start.Add(time.Duration(l) * 7 * time.Second), Causes: before})
		}
		before = here
	}
	g = append(g, liability.Action{Agent: did(11), Weight: 950_000, Time: start.Add(time.Minute), Causes: before})
	for b.Loop() {
		sink = liability.Attribute(g, len(g)-1, 0)
	}
	if sink.Chains != 1000 || len(sink.Shares) != 12 {
		b.Fatalf("%d chains, %d agents", sink.Chains, len(sink.Shares))
	}
}
