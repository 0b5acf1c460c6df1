package saga

import (
	"slices"
	"time"
)

// run.go: where a saga stands, and what can happen to it.

// A StepState is where one step stands (SPEC §5). The zero StepState is Pending.
type StepState uint8

// The states of a step. It is Executing through all its tries, and Compensating through all those of its undo.
const (
	Pending StepState = iota
	Executing
	Committed
	Failed
	Unknown // it may have happened; somebody must find out
	CompensatingStep
	Compensated
	CompensationFailed
	CompensationUnknown
)

var stepStates = [...]string{"pending", "executing", "committed", "failed", "unknown", "compensating", "compensated", "compensation_failed", "compensation_unknown"}

// String returns SPEC's word.
func (s StepState) String() string { return stepStates[s] }

// A State is where a saga is going, or how it ended. The zero State is Running. That it waits is told by Run.Waits.
type State uint8

// The states of a saga.
const (
	Running State = iota
	Compensating
	Completed // everything that was wanted is done
	AllUndone // compensated: everything that was done is undone
	Escalated // something could not be undone, or nobody knows whether it happened
)

var states = [...]string{"running", "compensating", "completed", "compensated", "escalated"}

// String returns SPEC's word.
func (s State) String() string { return states[s] }

// Ended reports whether nothing more will happen.
func (s State) Ended() bool { return s >= Completed }

// A Verdict is what became of a group. The zero Verdict is Open.
type Verdict uint8

// The verdicts.
const (
	Open Verdict = iota
	Satisfied
	Lost
)

// String returns open, satisfied or lost.
func (v Verdict) String() string { return [...]string{"open", "satisfied", "lost"}[v] }

// A Run is where one saga stands. Plan.Start makes one; Apply alone changes it.
type Run struct {
	State  State
	Waits  bool // nothing moves until somebody ends one of its waits, or a deadline does
	Steps  []StepRun
	Groups []Verdict
	Done   []int // steps that committed, in the order in which they did
}

// A StepRun is where one step stands.
type StepRun struct {
	State  StepState
	Flying bool // a try is under way
	Maybe  bool // an earlier try may have happened
	GaveUp bool // unknown, and nobody found out in time
	// Skipped says that an earlier run has committed it, or did not have to: it stands, and this one does nothing about it.
	Skipped bool
	Invalid bool      // committed, and its goal is reached no more
	No      int       // of the newest try, from 1, through both directions
	Tries   int       // retries used up, in this direction
	Hold    string    // what the next try waits for, in a word; empty: nothing
	After   time.Time // the next try is not before; with a Hold, or unknown: how long is waited
	// Limit is the end of a wait for LimitOf that is not over, though a try was begun meanwhile: what was waited for seemed to be there.
	Limit   time.Time `json:",omitzero"`
	LimitOf string    `json:",omitempty"`
}

// Clone returns a copy that shares nothing with r.
func (r *Run) Clone() *Run {
	c := *r
	c.Steps, c.Groups = slices.Clone(r.Steps), slices.Clone(r.Groups)
	if r.Done != nil {
		c.Done = append(make([]int, 0, len(r.Done)+1), r.Done...) // with room for the step that mostly commits next
	}
	return &c
}

// Due returns when time alone changes something: a retry, or the end of a wait. Zero: never.
func (r *Run) Due() (due time.Time) {
	if r.State.Ended() {
		return due
	}
	for i := range r.Steps {
		if s := &r.Steps[i]; s.timed() && (due.IsZero() || s.After.Before(due)) {
			due = s.After
		}
	}
	return due
}

// timed reports whether After means something.
func (s *StepRun) timed() bool {
	switch s.State {
	case Executing, CompensatingStep:
		return !s.Flying
	case Unknown, CompensationUnknown:
		return !s.GaveUp
	}
	return false
}

// An Event is what happened to a saga, in the past tense.
//
//sumtype:decl
type Event interface{ apply(r *Run) }

// Begun: a try of a step begins, or of its undo. It is durable before anything is sent.
type Begun struct {
	Step int
	Undo bool
}

// Deferred: the try came to nothing and another follows, not before After.
type Deferred struct {
	Step    int
	After   time.Time
	Counted bool // it uses up a retry
	Maybe   bool // it may have happened; doing it again does no harm
	Why     string
}

// Held: the try could not begin, and waits for somebody: an approval, the end of a quarantine.
type Held struct {
	Step  int
	For   string    // in a word
	Until time.Time // how long
}

// Settled: the step, or its undo, came to an end. Unknown and CompensationUnknown are ends that somebody may still correct.
type Settled struct {
	Step  int
	To    StepState
	Why   string
	Until time.Time // of an unknown: how long that is waited for
}

// GaveUp: nobody found out in time whether the step happened.
type GaveUp struct{ Step int }

// Resolved: enough branches of a group have committed, or not enough can any more.
type Resolved struct {
	Group int
	To    Verdict
}

// Turned: the saga cannot be completed, and what was done is undone from now on.
type Turned struct {
	Step int // on whose account; -1: somebody wanted it so
	Why  string
}

// Waited: nothing moves until somebody ends a wait.
type Waited struct{}

// Ended: nothing more will happen.
type Ended struct{ To State }

func (e Begun) apply(r *Run) {
	s := &r.Steps[e.Step]
	switch {
	case e.Undo && s.State != CompensatingStep:
		*s = StepRun{State: CompensatingStep, No: s.No}
	case s.State == Pending:
		s.State = Executing
	}
	s.Flying, s.Hold, s.After = true, "", time.Time{}
	s.No++
	r.Waits = false
}

func (e Deferred) apply(r *Run) {
	s := &r.Steps[e.Step]
	s.Flying, s.Hold, s.After, s.Maybe = false, "", e.After, s.Maybe || e.Maybe
	if e.Counted {
		s.Tries++
	}
	if e.Counted || e.Maybe || e.Why == released {
		s.Limit, s.LimitOf = time.Time{}, ""
	}
	r.Waits = false
}

func (e Held) apply(r *Run) {
	s := &r.Steps[e.Step]
	s.Flying, s.Hold, s.After = false, e.For, e.Until
	s.Limit, s.LimitOf = e.Until, e.For
	r.Waits = false
}

func (e Settled) apply(r *Run) {
	r.Steps[e.Step] = StepRun{State: e.To, After: e.Until, No: r.Steps[e.Step].No}
	if e.To == Committed {
		r.Done = append(r.Done, e.Step)
	}
	r.Waits = false
}

func (e GaveUp) apply(r *Run) { r.Steps[e.Step].GaveUp, r.Waits = true, false }

func (e Resolved) apply(r *Run) { r.Groups[e.Group] = e.To }

func (Turned) apply(r *Run) { r.State, r.Waits = Compensating, false }

func (Waited) apply(r *Run) { r.Waits = true }

func (e Ended) apply(r *Run) { r.State, r.Waits = e.To, false }

// Apply changes a run by what happened. It cannot fail and decides nothing.
func (r *Run) Apply(e Event) { e.apply(r) }
