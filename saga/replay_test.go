package saga

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// chainOf makes a plan: a names a goal, b needs a, c needs b and names one, d needs c.
func chainOf() *Plan {
	d := &Definition{Name: "s", Steps: []Step{{ID: "a", Checkpoint: "A"}, {ID: "b", Needs: []string{"a"}}, {ID: "c", Needs: []string{"b"}, Checkpoint: "C"}, {ID: "d", Needs: []string{"c"}}}}
	return NewPlan(d, make([]Nature, 4))
}

func ended(p *Plan, committed ...int) *Run {
	r := p.Start()
	for _, i := range committed {
		r.Apply(Begun{Step: i})
		r.Apply(Settled{Step: i, To: Committed})
	}
	r.Apply(Ended{Escalated})
	return r
}

// SPEC §5: "a replay skips achieved goals; invalidating one invalidates what depends on it".
func TestReplaySkipsAchievedGoalsAndWhatOnlyTheyNeed(t *testing.T) {
	p := chainOf()
	for _, c := range []struct {
		committed  []int
		invalidate int
		skips      []int
	}{
		{[]int{0, 1, 2}, -1, []int{0, 1, 2}}, // b names no goal, and only c needs it
		{[]int{0, 1}, -1, []int{0}},
		{nil, -1, nil},
		{[]int{0, 1, 2, 3}, 2, []int{0}},
		{[]int{0, 1, 2, 3}, 0, nil}, // c depends on a through b
	} {
		r := ended(p, c.committed...)
		if c.invalidate >= 0 {
			r.Apply(p.Invalidate(r, c.invalidate))
		}
		if got := p.Skips(r); !slices.Equal(got, c.skips) {
			t.Errorf("%v with %d invalidated: skips %v, want %v", c.committed, c.invalidate, got, c.skips)
		}
	}
	for name, i := range map[string]int{"names no goal": 1, "was not done": 2} {
		if e := p.Invalidate(ended(p, 0, 1), i); e != nil {
			t.Errorf("a step that %s is invalidated: %v", name, e)
		}
	}
	if e := p.Invalidate(p.Start(), 0); e != nil {
		t.Errorf("a goal of a saga that runs is invalidated: %v", e)
	}
}

// What somebody has taken back stands no more, nor what depends on it, whether it names a goal or not, and whether the saga has ended or not.
func TestAStepThatIsTakenBackIsDoneAgain(t *testing.T) {
	p := chainOf()
	r := ended(p, 0, 1, 2, 3)
	r.Apply(p.Undone(r, 1))
	if got := p.Skips(r); !slices.Equal(got, []int{0}) {
		t.Errorf("skips %v", got)
	}
	if e := p.Undone(r, 1); e != nil {
		t.Errorf("taken back twice: %v", e)
	}
	r = p.Start()
	if e := p.Undone(r, 0); e != nil {
		t.Errorf("taken back, and it was not done: %v", e)
	}
	r.Apply(Begun{Step: 0})
	r.Apply(Settled{Step: 0, To: Committed})
	r.Apply(p.Undone(r, 0))
	for _, i := range []int{1, 2, 3} {
		r.Apply(Begun{Step: i})
		r.Apply(Settled{Step: i, To: Committed})
	}
	r.Apply(Ended{Completed})
	if got := p.Skips(r); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("of one that had not ended: skips %v", got)
	}
}

// Whatever stands of a run, its replay comes to its end by doing exactly what it does not skip, each after what it needs; and undoes
// nothing of what it skipped.
func TestReplayDoesTheRestInOrder(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 9))
		d := &Definition{Name: "s"}
		for i := range 2 + rng.IntN(7) {
			s := Step{ID: fmt.Sprint("s", i)}
			if rng.IntN(2) == 0 {
				s.Checkpoint = "goal"
			}
			for j := range i {
				if rng.IntN(3) == 0 {
					s.Needs = append(s.Needs, fmt.Sprint("s", j))
				}
			}
			d.Steps = append(d.Steps, s)
		}
		natures := slices.Repeat([]Nature{{Undo: true}}, len(d.Steps))
		p := NewPlan(d, natures)
		var committed []int
		for i := range d.Steps {
			if rng.IntN(2) == 0 {
				committed = append(committed, i)
			}
		}
		before := ended(p, committed...)
		skips := p.Skips(before)
		for _, i := range skips {
			for _, j := range p.dependents()[i] {
				if d.Steps[i].Checkpoint == "" && !slices.Contains(skips, j) {
					t.Fatalf("seed %d: %d is skipped, and %d that is done needs it", seed, i, j)
				}
			}
			if d.Steps[i].Checkpoint != "" && before.Steps[i].State != Committed {
				t.Fatalf("seed %d: the goal of %d was not reached, and is skipped", seed, i)
			}
		}
		r, now, did := p.Replay(skips), time.Unix(0, 0), []int{}
		fails := rng.IntN(2) == 0
		for !r.State.Ended() {
			e := p.Next(r, now)
			if e == nil {
				i := slices.IndexFunc(r.Steps, func(s StepRun) bool { return s.Flying })
				result := Succeeded
				if fails && r.State == Running && len(did) > 2 {
					result = Refused
				}
				e = p.Settle(r, Answer{Step: i, Result: result}, now, 0)
			}
			if b, ok := e.(Begun); ok {
				did = append(did, b.Step)
				if slices.Contains(skips, b.Step) {
					t.Fatalf("seed %d: %d is skipped, and done or undone: %v", seed, b.Step, b)
				}
			}
			r.Apply(e)
		}
		if !fails && (r.State != Completed || len(did)+len(skips) != len(d.Steps)) {
			t.Fatalf("seed %d: %s; did %v, skipped %v of %d", seed, r.State, did, skips, len(d.Steps))
		}
	}
}
