package saga

// replay.go: doing again what a saga has not reached (SPEC §5 "Checkpoints name the goal reached; a replay skips achieved goals;
// invalidating one invalidates what depends on it").

// Invalidated: goals are reached no more, of the steps that name them or depend on one that does.
type Invalidated struct{ Steps []int }

func (e Invalidated) apply(r *Run) {
	for _, i := range e.Steps {
		r.Steps[i].Invalid = true
	}
}

// stands reports whether a step was done and is known not to be undone, and nobody has said otherwise.
func (s *StepRun) stands() bool {
	return (s.State == Committed || s.State == CompensationFailed) && !s.Invalid
}

// achieved reports whether a step's goal is reached: it names one, and stands.
func (p *Plan) achieved(r *Run, i int) bool {
	return p.Steps[i].Checkpoint != "" && r.Steps[i].stands()
}

// Invalidate returns what it means that the goal of a step of a saga that has ended is reached no more: neither is that of any step
// that depends on it. Nil if it is not reached, or the saga has not ended.
func (p *Plan) Invalidate(r *Run, i int) Event {
	if !r.State.Ended() || !p.achieved(r, i) {
		return nil
	}
	return p.invalidated(r, i)
}

// Undone returns what it means that somebody else has taken back what a step did: it stands no more, nor does what depends on it,
// whether that names a goal or not. Nil if it does not stand.
func (p *Plan) Undone(r *Run, i int) Event {
	if !r.Steps[i].stands() {
		return nil
	}
	return p.invalidated(r, i)
}

// invalidated is that a step stands no more, nor what depends on it.
func (p *Plan) invalidated(r *Run, i int) Event {
	after := p.dependents()
	reached := make([]bool, len(p.Steps))
	reached[i] = true
	for todo := []int{i}; len(todo) > 0; todo = todo[1:] {
		for _, j := range after[todo[0]] {
			if !reached[j] {
				reached[j] = true
				todo = append(todo, j)
			}
		}
	}
	var e Invalidated
	for j := range p.Steps {
		if reached[j] && r.Steps[j].stands() {
			e.Steps = append(e.Steps, j)
		}
	}
	return e
}

// Skips returns the steps that a replay of a run does not do again, in order: those whose goals are reached, and those that name
// none and that only such steps need. All others are done, also those that were done and name no goal.
func (p *Plan) Skips(r *Run) (skips []int) {
	const unknown, skipped, done = 0, 1, 2
	after := p.dependents()
	fate := make([]uint8, len(p.Steps))
	var decide func(i int) uint8
	decide = func(i int) uint8 { // as deep as the longest chain of needs, which MaxSteps bounds
		if fate[i] != unknown {
			return fate[i]
		}
		fate[i] = done
		if p.achieved(r, i) {
			fate[i] = skipped
		} else if p.Steps[i].Checkpoint == "" && len(after[i]) > 0 {
			fate[i] = skipped
			for _, j := range after[i] {
				if decide(j) == done {
					fate[i] = done
				}
			}
		}
		return fate[i]
	}
	for i := range p.Steps {
		if decide(i) == skipped {
			skips = append(skips, i)
		}
	}
	return skips
}

// dependents returns of each step those that need it, or the group that it is a branch of.
func (p *Plan) dependents() [][]int {
	n := len(p.Steps)
	after := make([][]int, n)
	for j := range n {
		for _, need := range p.graph.needs[j] {
			if need < n {
				after[need] = append(after[need], j)
				continue
			}
			for _, branch := range p.graph.needs[need] {
				after[branch] = append(after[branch], j)
			}
		}
	}
	return after
}

// Replay returns a run of which the skipped steps stand as they are: they are not done, and not undone should it turn.
func (p *Plan) Replay(skips []int) *Run {
	r := p.Start()
	for _, i := range skips {
		r.Steps[i] = StepRun{State: Committed, Skipped: true}
	}
	return r
}
