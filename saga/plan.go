package saga

import (
	"fmt"
	"time"
)

// plan.go: what follows from where a saga stands.

// Bounds of a run.
const (
	MaxParallel   = 8                // tries of one saga under way at once
	ResolveWithin = 15 * time.Minute // how long somebody has to find out about an unknown outcome before it escalates
	undoRetries   = 3                // of a compensation that is known not to have run
)

// A Nature is what is known of a step's action. The zero Nature changes something for good.
type Nature struct {
	ReadOnly       bool // it leaves nothing to take back, and doing it twice does no harm
	Idempotent     bool // doing it twice, with the same key, is doing it once
	Undo           bool // there is something that takes it back
	UndoIdempotent bool
}

// A Plan is a sound definition with what is known of its actions. It is not changed and may be used by anybody.
type Plan struct {
	*Definition
	natures []Nature
	graph   *graph
}

// NewPlan returns the plan of a definition that Check has found sound; natures has an entry for each step.
func NewPlan(d *Definition, natures []Nature) *Plan {
	if len(natures) != len(d.Steps) {
		panic(fmt.Sprintf("saga: %d natures of %d steps", len(natures), len(d.Steps)))
	}
	index := make(map[string]int, len(d.Steps))
	for i := range d.Steps {
		index[d.Steps[i].ID] = i
	}
	return &Plan{d, natures, newGraph(d, index)}
}

// Start returns a run of which nothing has happened yet.
func (p *Plan) Start() *Run {
	return &Run{Steps: make([]StepRun, len(p.Steps)), Groups: make([]Verdict, len(p.FanOut))}
}

// Next returns what follows by itself, one event at a time: nil if nothing does until a try is answered, somebody acts or r.Due.
func (p *Plan) Next(r *Run, now time.Time) Event {
	if r.State.Ended() {
		return nil
	}
	for _, follows := range [...]func(*Run, time.Time) Event{p.late, p.judged, p.turned, p.unneeded, p.begun} {
		if e := follows(r, now); e != nil {
			return e
		}
	}
	if r.flying() > 0 {
		return nil
	}
	if e := p.rested(r, now); e != nil {
		return e
	}
	if !r.Waits && r.stuck() {
		return Waited{}
	}
	return nil
}

func (r *Run) flying() (n int) {
	for i := range r.Steps {
		if r.Steps[i].Flying {
			n++
		}
	}
	return n
}

// stuck reports whether only somebody, or the end of a wait, moves the saga on.
func (r *Run) stuck() bool {
	for i := range r.Steps {
		if s := &r.Steps[i]; s.timed() && s.Hold == "" && (s.State == Executing || s.State == CompensatingStep) {
			return false // a retry is due by itself
		}
	}
	return true
}

// late ends the waits whose time is over.
func (p *Plan) late(r *Run, now time.Time) Event {
	for i := range r.Steps {
		s := &r.Steps[i]
		switch {
		case !s.timed() || now.Before(s.After):
		case s.State == Unknown || s.State == CompensationUnknown:
			return GaveUp{i}
		case s.Hold != "":
			return p.conclude(r, i, now, "waited too long for "+s.Hold)
		}
	}
	return nil
}

// judged resolves groups.
func (p *Plan) judged(r *Run, _ time.Time) Event {
	for g := range p.FanOut {
		if r.Groups[g] != Open {
			continue
		}
		branches := p.graph.needs[len(p.Steps)+g]
		wanted, committed, out := p.FanOut[g].Policy.wanted(len(branches)), 0, 0
		for _, i := range branches {
			switch s := &r.Steps[i]; {
			case s.State == Committed:
				committed++
			case s.State == Failed, s.GaveUp:
				out++
			}
		}
		switch {
		case committed >= wanted:
			return Resolved{g, Satisfied}
		case len(branches)-out < wanted:
			return Resolved{g, Lost}
		}
	}
	return nil
}

// excused reports whether a step's group is satisfied, so that it does not matter what becomes of it.
func (p *Plan) excused(r *Run, i int) bool {
	g := p.graph.group[i] - len(p.Steps)
	return g >= 0 && r.Groups[g] == Satisfied
}

// turned turns a running saga that cannot be completed.
func (p *Plan) turned(r *Run, _ time.Time) Event {
	if r.State != Running {
		return nil
	}
	for i := range r.Steps {
		s, g := &r.Steps[i], p.graph.group[i]-len(p.Steps)
		out := s.State == Failed || s.GaveUp
		switch {
		case !out || g >= 0 && r.Groups[g] != Lost:
		case g >= 0:
			return Turned{i, fmt.Sprintf("fan_out[%d] is lost", g)}
		default:
			return Turned{i, fmt.Sprintf("%s is %s", p.Steps[i].ID, s.State)}
		}
	}
	return nil
}

// unneeded ends steps between two tries that nobody needs any more. One that may have happened goes on, to find out.
func (p *Plan) unneeded(r *Run, _ time.Time) Event {
	for i := range r.Steps {
		s := &r.Steps[i]
		between := s.State == Executing && !s.Flying && (!s.Maybe || p.natures[i].ReadOnly)
		if between && (r.State == Compensating || p.excused(r, i)) {
			return Settled{Step: i, To: Failed, Why: "no longer needed"}
		}
	}
	return nil
}

// begun begins tries: retries that are due, and steps whose needs are met.
func (p *Plan) begun(r *Run, now time.Time) Event {
	if r.flying() >= MaxParallel {
		return nil
	}
	held := r.State != Running
	for i := range r.Steps {
		s := &r.Steps[i]
		if s.State == Executing && !s.Flying && s.Hold == "" && !now.Before(s.After) {
			return Begun{Step: i}
		}
		// While nobody knows whether a step happened that the rest may rest on, nothing new begins: it might all have to be undone.
		held = held || s.State == Unknown && !s.GaveUp && !p.excused(r, i)
	}
	for i := range r.Steps {
		if !held && r.Steps[i].State == Pending && !p.excused(r, i) && p.met(r, i) {
			return Begun{Step: i}
		}
	}
	return nil
}

// met reports whether everything that a step needs is there.
func (p *Plan) met(r *Run, i int) bool {
	for _, n := range p.graph.needs[i] {
		if n < len(p.Steps) && r.Steps[n].State != Committed || n >= len(p.Steps) && r.Groups[n-len(p.Steps)] != Satisfied {
			return false
		}
	}
	return true
}

// rested is what follows when no try is under way: the next compensation, or the end.
func (p *Plan) rested(r *Run, now time.Time) Event {
	for i := range r.Steps {
		if s := &r.Steps[i]; s.State == Executing || s.State == Unknown && !s.GaveUp {
			return nil // whether it is to be undone, and when in the order, is not known yet
		}
	}
	if r.State == Compensating {
		return p.compensated(r, now)
	}
	for i := range r.Steps {
		if r.Steps[i].State != Committed && !p.excused(r, i) {
			return nil
		}
	}
	return Ended{Completed}
}

// compensated undoes what was done, the last first, one at a time; an undo that fails does not stop the others (SPEC §5).
func (p *Plan) compensated(r *Run, now time.Time) Event {
	for i := range r.Steps {
		if s := &r.Steps[i]; s.State == CompensatingStep {
			if s.Hold != "" || now.Before(s.After) {
				return nil
			}
			return Begun{i, true}
		}
	}
	for n := len(r.Done) - 1; n >= 0; n-- {
		i := r.Done[n]
		switch {
		case r.Steps[i].State != Committed || p.natures[i].ReadOnly:
		case !p.natures[i].Undo:
			return Settled{Step: i, To: CompensationFailed, Why: "nothing takes it back"}
		default:
			return Begun{i, true}
		}
	}
	end := AllUndone
	for i := range r.Steps {
		switch s := &r.Steps[i]; {
		case s.State == CompensationUnknown && !s.GaveUp:
			return nil
		case s.State == CompensationUnknown, s.State == CompensationFailed, s.State == Unknown:
			end = Escalated
		}
	}
	return Ended{end}
}
