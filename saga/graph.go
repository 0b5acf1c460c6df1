package saga

// graph.go: who waits for whom.

// A graph has a node for each step and, behind them, one for each group. A node's needs are nodes too: a step that needs a branch
// needs that branch's group, and a group needs its branches.
type graph struct {
	needs [][]int
	steps int
	index map[string]int // of steps, by id
	group []int          // the node of a step's group; its own where it is in none
}

// newGraph leaves out what refers to nothing.
func newGraph(d *Definition, index map[string]int) *graph {
	n, edges := len(d.Steps), 0
	for k := range d.FanOut {
		edges += len(d.FanOut[k].Branches)
	}
	for i := range d.Steps {
		edges += len(d.Steps[i].Needs)
	}
	room := make([]int, n, n+edges) // for group and all needs
	g := &graph{needs: make([][]int, n+len(d.FanOut)), steps: n, index: index, group: room}
	for i := range g.group {
		g.group[i] = i
	}
	rest := room[n:]
	for k := range d.FanOut {
		for _, branch := range d.FanOut[k].Branches {
			if i, ok := index[branch]; ok && g.group[i] == i {
				g.group[i] = n + k
				rest = append(rest, i)
			}
		}
		g.needs[n+k], rest = rest[:len(rest):len(rest)], rest[len(rest):]
	}
	for i := range d.Steps {
		for _, need := range d.Steps[i].Needs {
			if j := g.stands(need); j >= 0 && d.Steps[i].ID != need {
				rest = append(rest, j)
			}
		}
		g.needs[i], rest = rest[:len(rest):len(rest)], rest[len(rest):]
	}
	return g
}

// stands returns the node that a need of a step's id is a need of; -1: there is no such step.
func (g *graph) stands(id string) int {
	i, ok := g.index[id]
	if !ok {
		return -1
	}
	return g.group[i]
}

// cycles returns a shortest cycle of each knot, in the order of the first steps; each begins with a step.
func (g *graph) cycles() [][]int {
	knot := g.knots()
	seen := map[int]bool{}
	var found [][]int
	for i := range g.steps {
		if seen[knot[i]] {
			continue
		}
		if cycle := g.shortest(i, knot); cycle != nil {
			found = append(found, cycle)
			seen[knot[i]] = true
		}
	}
	return found
}

// shortest returns a shortest way from a node along needs of the same knot back to it; nil: there is none.
func (g *graph) shortest(from int, knot []int) []int {
	before := map[int]int{}
	for queue := []int{from}; len(queue) > 0; queue = queue[1:] {
		for _, n := range g.needs[queue[0]] {
			if knot[n] != knot[from] {
				continue
			}
			if n == from {
				cycle := []int{}
				for at := queue[0]; at != from; at = before[at] {
					cycle = append([]int{at}, cycle...)
				}
				return append([]int{from}, cycle...)
			}
			if _, ok := before[n]; !ok {
				before[n] = queue[0]
				queue = append(queue, n)
			}
		}
	}
	return nil
}

// knots numbers the strongly connected components (Tarjan 1972), without recursion: a chain may be as long as a saga.
func (g *graph) knots() []int {
	const unseen = 0
	n := len(g.needs)
	number, low, knot := make([]int, n), make([]int, n), make([]int, n)
	on := make([]bool, n)
	var stack []int
	type frame struct{ node, next int }
	count, knots := 0, 0
	for root := range n {
		if number[root] != unseen {
			continue
		}
		for path := []frame{{root, 0}}; len(path) > 0; {
			f := &path[len(path)-1]
			v := f.node
			if f.next == 0 {
				count++
				number[v], low[v], on[v] = count, count, true
				stack = append(stack, v)
			}
			if f.next < len(g.needs[v]) {
				w := g.needs[v][f.next]
				f.next++
				if number[w] == unseen {
					path = append(path, frame{w, 0})
				} else if on[w] {
					low[v] = min(low[v], number[w])
				}
				continue
			}
			if low[v] == number[v] {
				for w := -1; w != v; {
					w = stack[len(stack)-1]
					stack, on[w], knot[w] = stack[:len(stack)-1], false, knots
				}
				knots++
			}
			path = path[:len(path)-1]
			if len(path) > 0 {
				parent := path[len(path)-1].node
				low[parent] = min(low[parent], low[v])
			}
		}
	}
	return knot
}
