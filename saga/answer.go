package saga

import (
	"time"
)

// answer.go: what became of a try, and what that means for the step.

// A Result is how a try ended.
type Result uint8

// The results.
const (
	Succeeded   Result = iota
	Refused            // it was done and did not succeed, or will never be allowed
	NotRun             // it is known not to have run: refused by a server in a hurry, never connected
	NoAnswer           // a timeout, or an answer that never came
	Unsent             // it never went out, by no fault of its own: this process died before, or a rate was used up
	Interrupted        // this process died while it was under way
	OnHold             // somebody must do something first
	Unreached          // nothing was sent: nobody answers where it is done
)

// An Answer is what became of the try of a step that is under way.
type Answer struct {
	Step   int
	Result Result
	Why    string    // in a word; of OnHold: what is waited for
	Until  time.Time // of OnHold, and Unreached: how long; of Unsent, and NotRun: not again before
}

// Settle returns what the answer to a try means. random is stamped by the caller and spreads retries.
func (p *Plan) Settle(r *Run, a Answer, now time.Time, random uint64) Event {
	s := &r.Steps[a.Step]
	undo := s.State == CompensatingStep
	again := p.harmless(a.Step, undo) // doing it twice does no harm
	left := s.Tries < p.retries(a.Step, undo)
	retry := Deferred{Step: a.Step, After: now.Add(backoff(s.Tries, random)), Counted: true, Why: a.Why}
	switch a.Result {
	case Succeeded:
		if undo {
			return Settled{Step: a.Step, To: Compensated}
		}
		return Settled{Step: a.Step, To: Committed}
	case OnHold:
		return s.held(a)
	case Unsent:
		return Deferred{Step: a.Step, After: latest(now, a.Until), Why: a.Why}
	case Interrupted:
		if again {
			return Deferred{Step: a.Step, After: now, Maybe: true, Why: a.Why}
		}
		return p.uncertain(a.Step, undo, now, a.Why)
	case NoAnswer:
		switch retry.Maybe = true; {
		case again && left:
			return retry
		case p.natures[a.Step].ReadOnly && !undo:
			return Settled{Step: a.Step, To: Failed, Why: a.Why}
		}
		return p.uncertain(a.Step, undo, now, a.Why)
	case NotRun:
		if left {
			retry.After = latest(retry.After, a.Until)
			return retry
		}
	case Unreached:
		if left {
			return retry
		}
		return s.held(a)
	case Refused:
		if left && again {
			return retry
		}
	}
	return p.conclude(r, a.Step, now, a.Why)
}

// held returns that a step waits for what an answer says: no longer than it would have, had it not seemed to be there meanwhile.
func (s *StepRun) held(a Answer) Event {
	if s.LimitOf == a.Why && s.Limit.Before(a.Until) {
		a.Until = s.Limit
	}
	return Held{a.Step, a.Why, a.Until}
}

// harmless reports whether a step, or its undo, can be tried again though it may have happened.
func (p *Plan) harmless(i int, undo bool) bool {
	n := &p.natures[i]
	if undo {
		return n.UndoIdempotent
	}
	return n.Idempotent || n.ReadOnly
}

func (p *Plan) retries(i int, undo bool) int {
	if undo {
		return undoRetries
	}
	return p.Steps[i].Retries
}

// conclude ends a step, or its undo, that is not tried again and whose last try did not happen.
func (p *Plan) conclude(r *Run, i int, now time.Time, why string) Event {
	s := &r.Steps[i]
	undo := s.State == CompensatingStep
	switch {
	case s.Maybe && (undo || !p.natures[i].ReadOnly):
		return p.uncertain(i, undo, now, why)
	case undo:
		return Settled{Step: i, To: CompensationFailed, Why: why}
	}
	return Settled{Step: i, To: Failed, Why: why}
}

func (p *Plan) uncertain(i int, undo bool, now time.Time, why string) Event {
	to := Unknown
	if undo {
		to = CompensationUnknown
	}
	return Settled{Step: i, To: to, Why: why, Until: now.Add(ResolveWithin)}
}

// Resolve returns what it means that somebody found out whether an unknown step, or undo, happened; nil if it is not unknown, or
// nobody waits for it any more.
func (p *Plan) Resolve(r *Run, i int, happened bool) Event {
	s := &r.Steps[i]
	if r.State.Ended() || s.GaveUp {
		return nil
	}
	switch {
	case s.State == Unknown && happened:
		return Settled{Step: i, To: Committed, Why: "resolved"}
	case s.State == Unknown:
		return Settled{Step: i, To: Failed, Why: "resolved"}
	case s.State == CompensationUnknown && happened:
		return Settled{Step: i, To: Compensated, Why: "resolved"}
	case s.State == CompensationUnknown:
		return Settled{Step: i, To: CompensationFailed, Why: "resolved"}
	}
	return nil
}

// Why a step that was held is tried again.
const (
	released = "released"
	found    = "found"
)

// Release returns what it means that a step need not wait any longer for what it was held for; nil if it waits for nothing. Should it
// have to wait for the same again, that is another wait.
func (p *Plan) Release(r *Run, i int, now time.Time) Event { return r.goesOn(i, now, released) }

// Found is Release by who only looks whether what the step waits for is there: a wait that was not over then goes on.
func (p *Plan) Found(r *Run, i int, now time.Time) Event { return r.goesOn(i, now, found) }

func (r *Run) goesOn(i int, now time.Time, why string) Event {
	if s := &r.Steps[i]; !s.timed() || s.Hold == "" {
		return nil
	}
	return Deferred{Step: i, After: now, Why: why}
}

// Deny returns what it means that what a step is held for will not come; nil if it waits for nothing.
func (p *Plan) Deny(r *Run, i int, now time.Time, why string) Event {
	if s := &r.Steps[i]; !s.timed() || s.Hold == "" {
		return nil
	}
	return p.conclude(r, i, now, why)
}

// Cancel returns what it means that somebody wants the saga undone; nil if it is on that way, or ended.
func (p *Plan) Cancel(r *Run, why string) Event {
	if r.State != Running {
		return nil
	}
	return Turned{-1, why}
}

// Retries: 1 s, doubled each time, to 30 s (SPEC §5).
const (
	firstBackoff = time.Second
	mostBackoff  = 30 * time.Second
)

// backoff returns how long to wait after a number of retries: between half of it and all.
func backoff(tries int, random uint64) time.Duration {
	d := mostBackoff
	if tries < 5 {
		d = min(d, firstBackoff<<tries)
	}
	half := uint64(d / 2)
	return d/2 + time.Duration(random%(half+1)).Truncate(time.Microsecond) // as records tell time
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
