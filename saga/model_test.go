package saga_test

import (
	"bytes"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/saga"
)

// model_test.go: every saga of up to four steps, against a world that knows what really happened.

var long = flag.Bool("long", false, "explore every combination instead of a choice of them")

// A variant is a saga to explore, and what may befall it.
type variant struct {
	def     saga.Definition
	natures []saga.Nature
	crashes uint8 // at most
	holds   uint8
	cancel  bool
}

func (v *variant) String() string {
	var b strings.Builder
	for i, s := range v.def.Steps {
		fmt.Fprintf(&b, "%s(%s %+v) ", s.ID, strings.Join(s.Needs, ","), v.natures[i])
	}
	return fmt.Sprintf("%s%v", b.String(), v.def.FanOut)
}

// A world is a run, and the truth about it.
type world struct {
	run     *saga.Run
	did     [4]uint8 // how often each step's effect took place
	undid   [4]uint8
	crashes uint8 // left
	holds   uint8
	cancel  bool
}

func (w world) clone() world {
	w.run = w.run.Clone()
	return w
}

// A key identifies a world: what is not in it makes no difference to what can follow.
type key [16]byte

// key returns the world's key with its steps called by other names: step i is called names[i].
func (w *world) key(names []int) (k key) {
	flag := func(bit uint8, is bool) uint8 {
		if is {
			return 1 << bit
		}
		return 0
	}
	k[0], k[1] = byte(w.run.State)|flag(4, w.run.Waits)|flag(5, w.cancel), w.crashes<<4|w.holds
	for i := range w.run.Steps {
		s := &w.run.Steps[i]
		at := k[2+2*names[i]:]
		at[0] = byte(s.State) | flag(4, s.Flying) | flag(5, s.Maybe) | flag(6, s.GaveUp) | flag(7, s.Hold != "")
		at[1] = byte(s.Tries)<<4 | w.did[i]<<2 | w.undid[i]
	}
	for n, i := range w.run.Done {
		k[10+n] = 1 + byte(names[i])
	}
	for g, v := range w.run.Groups {
		k[14+g] = byte(v)
	}
	return k
}

// key returns the least of the keys of the worlds that differ in the names of steps alone.
func (x *explorer) key(w *world) key {
	least := w.key(x.names[0])
	for _, names := range x.names[1:] {
		if k := w.key(names); bytes.Compare(k[:], least[:]) < 0 {
			least = k
		}
	}
	return least
}

// renamings returns the permutations of a variant's steps that change nothing but names; the first changes none.
func (v *variant) renamings() (found [][]int) {
	index := func(id string) int { return int(id[0] - 'a') }
	permutations(len(v.def.Steps), func(names []int) {
		for i, s := range v.def.Steps {
			other := v.def.Steps[names[i]]
			needs := slices.Collect(func(yield func(string) bool) {
				for _, n := range s.Needs {
					if !yield(v.def.Steps[names[index(n)]].ID) {
						return
					}
				}
			})
			slices.Sort(needs)
			if !slices.Equal(needs, other.Needs) || v.natures[i] != v.natures[names[i]] {
				return
			}
		}
		for _, g := range v.def.FanOut {
			for _, b := range g.Branches {
				if !slices.Contains(g.Branches, v.def.Steps[names[index(b)]].ID) {
					return
				}
			}
		}
		found = append(found, slices.Clone(names))
	})
	return found
}

// An explorer walks all that can become of one variant.
type explorer struct {
	t     *testing.T
	v     *variant
	plan  *saga.Plan
	seen  map[key]bool // true: all that follows is explored
	names [][]int      // renamings of the variant
	path  []string

	waiting, ended int // states
}

// now is always the same: what is due later is due at some point, which the explorer chooses.
var (
	now   = epoch
	later = epoch.Add(time.Hour)
)

func explore(t *testing.T, v *variant) *explorer {
	x := &explorer{t: t, v: v, plan: saga.NewPlan(&v.def, v.natures), seen: map[key]bool{}, names: v.renamings()}
	x.visit(world{run: x.plan.Start(), crashes: v.crashes, holds: v.holds, cancel: v.cancel})
	return x
}

func (x *explorer) fail(w *world, format string, args ...any) {
	x.t.Fatalf("%s\nafter %s\n%+v did %v undid %v: %s", x.v, strings.Join(x.path, ", "), *w.run, w.did, w.undid, fmt.Sprintf(format, args...))
}

// visit lets everything follow that follows by itself, and then tries all that can happen next.
func (x *explorer) visit(w world) {
	x.follow(&w)
	key := x.key(&w)
	if done, ok := x.seen[key]; ok {
		if !done {
			x.fail(&w, "comes round to where it was: it need never end")
		}
		return
	}
	x.seen[key] = false
	x.check(&w)
	if !w.run.State.Ended() && x.happen(w) == 0 {
		x.fail(&w, "nothing can happen any more, and it has not ended")
	}
	x.seen[key] = true
}

// follow applies what follows by itself, and watches what begins.
func (x *explorer) follow(w *world) {
	for e := x.plan.Next(w.run, now); e != nil; e = x.plan.Next(w.run, now) {
		if b, ok := e.(saga.Begun); ok {
			x.mayBegin(w, b)
		}
		w.run.Apply(e)
	}
	for i := range w.run.Steps {
		if s := &w.run.Steps[i]; !s.After.IsZero() {
			s.After = later
		}
	}
}

// mayBegin holds what begins to SPEC §5.
func (x *explorer) mayBegin(w *world, b saga.Begun) {
	i, n := b.Step, x.v.natures[b.Step]
	s := &w.run.Steps[i]
	switch {
	case s.Flying:
		x.fail(w, "%d begins twice at once", i)
	case !b.Undo && s.State == saga.Pending && w.run.State != saga.Running:
		x.fail(w, "%d begins though the saga is %s", i, w.run.State)
	case !b.Undo && w.did[i] > 0 && !n.Idempotent && !n.ReadOnly:
		x.fail(w, "%d, which is not idempotent, is sent again after it happened", i)
	case b.Undo && w.undid[i] > 0 && !n.UndoIdempotent:
		x.fail(w, "the undo of %d, which is not idempotent, is sent again after it happened", i)
	}
	if !b.Undo {
		return
	}
	for j := range w.run.Steps {
		if f := &w.run.Steps[j]; f.Flying || f.State == saga.Unknown && !f.GaveUp {
			x.fail(w, "the undo of %d begins while %d is %s", i, j, f.State)
		}
	}
	for _, j := range w.run.Done[slices.Index(w.run.Done, i)+1:] { // reverse completion order
		if w.run.Steps[j].State == saga.Committed && !x.v.natures[j].ReadOnly {
			x.fail(w, "%d is undone before %d, which completed later", i, j)
		}
	}
}

// check holds a quiet world to SPEC §5.
func (x *explorer) check(w *world) {
	flying, waits := 0, 0
	for i, s := range w.run.Steps {
		if s.Flying {
			flying++
		}
		unknown := (s.State == saga.Unknown || s.State == saga.CompensationUnknown) && !s.GaveUp
		if unknown || s.Hold != "" {
			waits++
		}
		if w.did[i] > 1 || w.undid[i] > 1 {
			x.fail(w, "%d happened or was undone more than once", i)
		}
		if w.undid[i] > 0 && w.did[i] == 0 {
			x.fail(w, "%d is undone and never happened", i)
		}
	}
	if w.run.Waits {
		x.waiting++
		if waits == 0 || flying > 0 {
			x.fail(w, "waits for nothing, or while a try is under way")
		}
	}
	if w.run.State.Ended() {
		x.ended++
		x.checkEnd(w, flying+waits)
	}
}

// checkEnd compares what the saga claims with what is true.
func (x *explorer) checkEnd(w *world, open int) {
	if open > 0 {
		x.fail(w, "ended with something under way or waited for")
	}
	standing := func(i int) bool { return w.did[i] > 0 && w.undid[i] == 0 && !x.v.natures[i].ReadOnly }
	for i, s := range w.run.Steps {
		admitted := s.State == saga.CompensationFailed || s.State == saga.CompensationUnknown || s.State == saga.Unknown
		switch {
		case w.run.State == saga.AllUndone && standing(i):
			x.fail(w, "compensated, and %d still stands", i)
		case w.run.State == saga.Escalated && standing(i) && !admitted:
			x.fail(w, "escalated without saying that %d still stands", i)
		case w.run.State == saga.Completed && w.undid[i] > 0:
			x.fail(w, "completed, and %d is undone", i)
		case s.State == saga.Committed && w.did[i] == 0:
			x.fail(w, "%d is said to be committed and never happened", i)
		}
	}
	if w.run.State == saga.Completed {
		x.checkCompleted(w)
	}
}

func (x *explorer) checkCompleted(w *world) {
	grouped := map[string]bool{}
	for _, g := range x.v.def.FanOut {
		done := 0
		for _, id := range g.Branches {
			grouped[id] = true
			if i := int(id[0] - 'a'); w.run.Steps[i].State == saga.Committed && w.did[i] > 0 {
				done++
			}
		}
		if least := map[saga.Policy]int{saga.All: len(g.Branches), saga.Majority: len(g.Branches)/2 + 1, saga.Any: 1}[g.Policy]; done < least {
			x.fail(w, "completed with %d of %v", done, g)
		}
	}
	for i, s := range x.v.def.Steps {
		if !grouped[s.ID] && w.did[i] == 0 {
			x.fail(w, "completed without %s", s.ID)
		}
	}
}

// happen tries all that can happen next, and returns how much that is.
func (x *explorer) happen(w world) (n int) {
	try := func(what string, change func(*world) saga.Event) {
		next := w.clone()
		e := change(&next)
		if e == nil {
			x.fail(&w, "%s means nothing", what)
		}
		n++
		x.path = append(x.path, what)
		next.run.Apply(e)
		x.visit(next)
		x.path = x.path[:len(x.path)-1]
	}
	for i := range w.run.Steps {
		s := &w.run.Steps[i]
		switch {
		case s.Flying:
			x.answers(&w, i, try)
		case s.State == saga.Unknown, s.State == saga.CompensationUnknown:
			if !s.GaveUp {
				truth := s.State == saga.Unknown && w.did[i] > 0 || s.State == saga.CompensationUnknown && w.undid[i] > 0
				try(fmt.Sprintf("resolve %d", i), func(next *world) saga.Event { return x.plan.Resolve(next.run, i, truth) })
				n += x.elapse(w, i)
			}
		case s.Hold != "":
			try(fmt.Sprintf("release %d", i), func(next *world) saga.Event { return x.plan.Release(next.run, i, now) })
			try(fmt.Sprintf("deny %d", i), func(next *world) saga.Event { return x.plan.Deny(next.run, i, now, "denied") })
			n += x.elapse(w, i)
		case !s.After.IsZero():
			n += x.elapse(w, i)
		}
	}
	if w.cancel && w.run.State == saga.Running {
		try("cancel", func(next *world) saga.Event { next.cancel = false; return x.plan.Cancel(next.run, "wanted") })
	}
	if w.crashes > 0 {
		n += x.crash(w, 0, 0)
	}
	return n
}

// elapse lets what a step waits for come due.
func (x *explorer) elapse(w world, i int) int {
	next := w.clone()
	next.run.Steps[i].After = now
	x.path = append(x.path, fmt.Sprintf("%d is due", i))
	x.visit(next)
	x.path = x.path[:len(x.path)-1]
	return 1
}

// happens makes the effect of the try of a step true.
func (w *world) happens(v *variant, i int) {
	count, again := &w.did[i], v.natures[i].Idempotent || v.natures[i].ReadOnly
	if w.run.Steps[i].State == saga.CompensatingStep {
		count, again = &w.undid[i], v.natures[i].UndoIdempotent
	}
	if *count == 0 || !again {
		*count++
	}
}

// answers tries all that can become of a try.
func (x *explorer) answers(w *world, i int, try func(string, func(*world) saga.Event)) {
	for _, c := range []struct {
		name    string
		result  saga.Result
		happens bool
	}{
		{"ok", saga.Succeeded, true}, {"refused", saga.Refused, false}, {"not run", saga.NotRun, false},
		{"answer lost", saga.NoAnswer, true}, {"timeout", saga.NoAnswer, false},
	} {
		try(fmt.Sprintf("%s %d", c.name, i), func(next *world) saga.Event {
			if c.happens {
				next.happens(x.v, i)
			}
			return x.plan.Settle(next.run, saga.Answer{Step: i, Result: c.result}, now, 0)
		})
	}
	if w.holds > 0 {
		try(fmt.Sprintf("hold %d", i), func(next *world) saga.Event {
			next.holds--
			return x.plan.Settle(next.run, saga.Answer{Step: i, Result: saga.OnHold, Why: "approval", Until: later}, now, 0)
		})
		try(fmt.Sprintf("unreached %d", i), func(next *world) saga.Event {
			next.holds--
			return x.plan.Settle(next.run, saga.Answer{Step: i, Result: saga.Unreached, Why: "unreachable", Until: later}, now, 0)
		})
	}
}

// crash kills the process: each try under way was not sent, or was, and then it happened or did not. from is the first step that
// is not looked at yet, tries how many were under way.
func (x *explorer) crash(w world, from, tries int) int {
	for i := from; i < len(w.run.Steps); i++ {
		if !w.run.Steps[i].Flying {
			continue
		}
		total := 0
		for _, c := range []struct {
			name    string
			result  saga.Result
			happens bool
		}{{"before", saga.Unsent, false}, {"during", saga.Interrupted, false}, {"after", saga.Interrupted, true}} {
			next := w.clone()
			if c.happens {
				next.happens(x.v, i)
			}
			next.run.Apply(x.plan.Settle(next.run, saga.Answer{Step: i, Result: c.result}, now, 0))
			x.path = append(x.path, fmt.Sprintf("crash %s %d", c.name, i))
			total += x.crash(next, i+1, tries+1)
			x.path = x.path[:len(x.path)-1]
		}
		return total
	}
	if tries == 0 {
		return 0 // nothing was under way: what is in the log is all there is, and nothing is lost
	}
	w.crashes--
	x.visit(w)
	return 1
}

// graphs returns every directed acyclic graph of n steps, each once whatever its steps are called, as what each needs.
func graphs(n int) (found [][]uint8) {
	pairs := [][2]int{}
	for i := range n {
		for j := range i {
			pairs = append(pairs, [2]int{i, j})
		}
	}
	seen := map[string]bool{}
	for bits := range 1 << len(pairs) {
		needs := make([]uint8, n)
		for k, p := range pairs {
			if bits>>k&1 == 1 {
				needs[p[0]] |= 1 << p[1]
			}
		}
		if seen[fmt.Sprint(needs)] {
			continue
		}
		found = append(found, needs)
		permutations(n, func(order []int) {
			other := make([]uint8, n)
			for i, set := range needs {
				for j := range n {
					if set>>j&1 == 1 {
						other[order[i]] |= 1 << order[j]
					}
				}
			}
			seen[fmt.Sprint(other)] = true
		})
	}
	return found
}

func permutations(n int, each func([]int)) {
	order := make([]int, 0, n)
	var extend func()
	extend = func() {
		if len(order) == n {
			each(order)
			return
		}
		for i := range n {
			if !slices.Contains(order, i) {
				order = append(order, i)
				extend()
				order = order[:len(order)-1]
			}
		}
	}
	extend()
}

// define makes the definition of a graph with one group, or none. The error is a fault that only some groups have: a cycle.
func define(needs []uint8, group uint8, p saga.Policy, retries int) (saga.Definition, bool) {
	d := saga.Definition{Name: "model"}
	g := saga.Group{Policy: p}
	for i, set := range needs {
		s := saga.Step{ID: string(rune('a' + i)), Agent: "did:mesh:a", Action: "files.write", Retries: retries}
		for j := range needs {
			if set>>j&1 == 1 {
				s.Needs = append(s.Needs, string(rune('a'+j)))
			}
		}
		d.Steps = append(d.Steps, s)
		if group>>i&1 == 1 {
			g.Branches = append(g.Branches, s.ID)
		}
	}
	if len(g.Branches) > 0 {
		d.FanOut = []saga.Group{g}
	}
	return d, d.Check(saga.Known{}) == nil
}

// The natures of steps that are explored.
var (
	plain      = saga.Nature{Undo: true}
	idempotent = saga.Nature{Undo: true, Idempotent: true, UndoIdempotent: true}
	forGood    = saga.Nature{}
	reading    = saga.Nature{ReadOnly: true}
)

// TestExploredSagasEndOrWait explores every graph of up to four steps, alone and with one group of every policy over every
// set of branches; every answer, a timeout with and without effect, a crash before, during and after what is sent, and an undo
// that meets the same. Every path must end, or wait for what somebody can end, and claim no more than is so. Graphs of four steps
// are explored without retries, approvals and cancelling, and without -long without groups; those of three without -long without
// approvals and cancelling.
func TestExploredSagasEndOrWait(t *testing.T) {
	shapes, variants, states, waiting, ended := map[int]int{}, 0, 0, 0, 0
	run := func(v *variant) {
		x := explore(t, v)
		variants, states, waiting, ended = variants+1, states+len(x.seen), waiting+x.waiting, ended+x.ended
	}
	for n := 1; n <= 4; n++ {
		for _, needs := range graphs(n) {
			shapes[n]++
			if raced && n > 2 {
				continue // CI explores all of them in a step of its own
			}
			for group := range uint8(1 << n) {
				for _, p := range []saga.Policy{saga.All, saga.Majority, saga.Any} {
					exploreShape(run, needs, group, p)
				}
			}
		}
	}
	if shapes[1] != 1 || shapes[2] != 2 || shapes[3] != 6 || shapes[4] != 31 {
		t.Fatalf("graphs by steps: %v", shapes)
	}
	t.Logf("sagas explored: %d graphs of up to four steps, %d variants of them, %d states, of which %d wait for somebody and %d are ends",
		1+2+6+31, variants, states, waiting, ended)
}

// exploreShape explores the variants of one graph and group.
func exploreShape(run func(*variant), needs []uint8, group uint8, p saga.Policy) {
	alone := group == 0
	if alone && p != saga.All || group&(group-1) == 0 && !alone { // one branch is no group
		return
	}
	large := len(needs) == 4
	if large && !alone && !*long {
		return // some 200 variants and 3 million states
	}
	d, ok := define(needs, group, p, map[bool]int{true: 0, false: 1}[large])
	if !ok {
		return
	}
	mixed := []saga.Nature{plain, idempotent, forGood, reading}
	for k, natures := range [][]saga.Nature{{plain, plain, plain, plain}, {idempotent, idempotent, idempotent, idempotent}, mixed} {
		v := &variant{def: d, natures: natures[:len(needs)], crashes: 1}
		switch {
		case len(needs) < 3 || *long && !large:
			v.holds, v.cancel = 1, true
		case large && k > 0 && !(*long && alone):
			continue
		}
		run(v)
	}
}
