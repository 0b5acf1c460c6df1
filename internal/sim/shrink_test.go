package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// shrink_test.go: a plan that fails is made smaller as long as it fails by the same invariant.

const mostTries = 400 // histories that a shrinking may take

// A shrinking makes a plan smaller.
type shrinking struct {
	of    invariant
	tries int
	over  time.Time  // there is no time for more; zero: there is
	wrong *violation // the newest, of the smallest plan
}

// fails reports whether a plan still shows what is looked for.
func (s *shrinking) fails(p *plan) bool {
	if s.tries++; s.tries > mostTries || past(s.over) {
		return false
	}
	w := newWorld(p, false)
	w.history()
	if w.wrong == nil || w.wrong.of != s.of {
		return false
	}
	s.wrong = w.wrong
	return true
}

// shrink returns a smaller plan that fails alike, and how.
func shrink(p *plan, over time.Time) (*plan, *violation) {
	w := newWorld(p, false)
	w.history()
	if w.wrong == nil {
		return p, nil
	}
	s := &shrinking{of: w.wrong.of, wrong: w.wrong, over: over}
	small := *p
	turns := set(p.turns)
	if p.only != nil {
		turns = p.only
	}
	maps.DeleteFunc(turns, func(turn int, _ bool) bool { return turn > w.wrong.turn && w.wrong.turn < p.turns })
	small.only = s.least(turns, func(keep map[int]bool) *plan {
		try := small
		try.only = keep
		return &try
	})
	rough := maps.Clone(small.only)
	maps.DeleteFunc(rough, func(turn int, _ bool) bool { return p.calm[turn] })
	rough = s.least(rough, func(keep map[int]bool) *plan {
		try := small
		try.calm = without(small.only, keep)
		return &try
	})
	small.calm = without(small.only, rough)
	for _, f := range sortedFaults() {
		if small.odds()[f] == 0 || small.mute[f] {
			continue
		}
		try := small
		try.mute = maps.Clone(small.mute)
		if try.mute == nil {
			try.mute = map[fault]bool{}
		}
		try.mute[f] = true
		if s.fails(&try) {
			small = try
		}
	}
	return &small, s.wrong
}

func (p *plan) odds() map[fault]int { return weather(p.dice(wholeSeed)) }

func set(n int) map[int]bool {
	all := map[int]bool{}
	for i := range n {
		all[i] = true
	}
	return all
}

func without(all, some map[int]bool) map[int]bool {
	rest := maps.Clone(all)
	maps.DeleteFunc(rest, func(i int, _ bool) bool { return some[i] })
	return rest
}

// least leaves out ever smaller parts of a set as long as the plan that is made of the rest fails (Zeller's ddmin).
func (s *shrinking) least(all map[int]bool, of func(map[int]bool) *plan) map[int]bool {
	keep := slices.Sorted(maps.Keys(all))
	for size := (len(keep) + 1) / 2; size >= 1 && len(keep) > 0; {
		smaller := false
		for at := 0; at < len(keep); {
			rest := slices.Concat(keep[:at], keep[min(at+size, len(keep)):])
			if s.fails(of(setOf(rest))) {
				keep, smaller = rest, true
				continue
			}
			at += size
		}
		if !smaller || size > len(keep) {
			size /= 2
		}
	}
	return setOf(keep)
}

func setOf(list []int) map[int]bool {
	out := map[int]bool{}
	for _, i := range list {
		out[i] = true
	}
	return out
}

// explain shrinks a plan that fails, as far as there is time, and says how to see it.
func explain(p *plan, over time.Time) string {
	if past(over) {
		return fmt.Sprintf("seed %d\n\tto replay: %s -v", p.seed, p.command())
	}
	small, wrong := shrink(p, over)
	if wrong == nil {
		return fmt.Sprintf("seed %d failed, and does not fail again: it does not repeat", p.seed)
	}
	return fmt.Sprintf("seed %d: %s\n\tto replay: %s -v", p.seed, wrong, small.command())
}
