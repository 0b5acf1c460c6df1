package liability

import (
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
)

// An Action is a node of a Graph.
type Action struct {
	ID     string       // as records say it
	Agent  policy.DID   // who answers for it: of a spawned agent, the one at the root of its descent
	Weight action.Omega // ω as it was decided
	Time   time.Time    // when it was admitted
	Causes []int        // what led to it: places in the Graph, each before its own; one said twice counts once
}

// A Graph holds the actions of one story in the order they were admitted. A cause stands before its effect, so there is no cycle.
type Graph []Action

// An ancestry is a graph cut down to the failing action and what led to it, its agents numbered in order of appearance.
type ancestry struct {
	nodes   []node // in order, causes first; the failing one is the last
	agents  []policy.DID
	failing int // the failing action's agent
}

type node struct {
	agent  int
	weight uint64
	time   time.Time
	causes []int
}

// ancestry panics if a cause does not stand before its effect: who built the graph has broken its promise.
func (g Graph) ancestry(failing int) ancestry {
	in := make([]bool, failing+1)
	in[failing] = true
	for i := failing; i >= 0; i-- {
		if !in[i] {
			continue
		}
		for _, c := range g[i].Causes {
			if c < 0 || c >= i {
				panic("liability: a cause does not stand before its effect")
			}
			in[c] = true
		}
	}
	a := ancestry{}
	place, number := make([]int, failing+1), map[policy.DID]int{}
	for i := range in {
		if !in[i] {
			continue
		}
		who, known := number[g[i].Agent]
		if !known {
			who = len(a.agents)
			number[g[i].Agent], a.agents = who, append(a.agents, g[i].Agent)
		}
		n := node{agent: who, weight: uint64(g[i].Weight), time: g[i].Time}
		for _, c := range g[i].Causes {
			n.causes = append(n.causes, place[c])
		}
		slices.Sort(n.causes)
		n.causes = slices.Compact(n.causes)
		place[i], a.nodes, a.failing = len(a.nodes), append(a.nodes, n), who
	}
	return a
}
