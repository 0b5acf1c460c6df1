package sim

import (
	"flag"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var (
	seedsFlag   = flag.Int("seeds", 0, "how many seeds are tried; 0: 500, and 20 with the race detector")
	seedFlag    = flag.Int64("seed", -1, "replay this seed alone")
	turnsFlag   = flag.Int("turns", defaultTurns, "how many turns a history has")
	onlyFlag    = flag.String("only", "", "take these turns alone: 3,5-9")
	calmFlag    = flag.String("calm", "", "let nothing fail in these turns")
	firstFlag   = flag.Bool("first", false, "stop at the first seed that fails, and do not make it smaller")
	withoutFlag = flag.String("without", "", "leave these faults out, by name")
)

// TestMain lets garbage lie longer: the histories are short, and live on little.
func TestMain(m *testing.M) {
	debug.SetGCPercent(800)
	m.Run()
}

// planned is the plan that the flags say.
func planned(t *testing.T, seed uint64) *plan {
	t.Helper()
	p := &plan{seed: seed, turns: *turnsFlag}
	var err error
	if p.only, err = parseRanges(*onlyFlag); err != nil {
		t.Fatal(err)
	}
	if p.calm, err = parseRanges(*calmFlag); err != nil {
		t.Fatal(err)
	}
	if *withoutFlag != "" {
		p.mute = map[fault]bool{}
		for name := range strings.SplitSeq(*withoutFlag, ",") {
			if usual[fault(name)] == 0 {
				t.Fatalf("there is no fault %q", name)
			}
			p.mute[fault(name)] = true
		}
	}
	return p
}

// TestSimulatedHistoriesHold tries seeds, or replays one. It prints what was in them; a seed that fails is made smaller, and
// printed with the command that replays it.
func TestSimulatedHistoriesHold(t *testing.T) {
	if *seedFlag >= 0 {
		replay(t, planned(t, uint64(*seedFlag)))
		return
	}
	seeds := *seedsFlag
	if seeds == 0 {
		seeds = 500
		if raced {
			seeds = 20
			t.Log("20 seeds: one goroutine each, in which the race detector finds nothing; without it there are 500")
		}
	}
	r := &round{t: t, total: newStats(), begun: map[int]bool{}}
	r.try(seeds)
	if *firstFlag {
		return
	}
	t.Logf("%s", r.total)
	for _, p := range r.failed {
		t.Log(explain(p, r.over()))
	}
	if r.total.seeds >= 500 && len(r.failed) == 0 {
		rich(t, r.total)
	}
}

const (
	mostFailures = 5                // seeds that are shown
	lastWords    = 20 * time.Second // before the test's time is over: what was found is said
)

// A round is many seeds. What it finds it prints at once: what a test logs is lost when it does not end.
type round struct {
	t *testing.T

	mu     sync.Mutex
	total  *stats
	failed []*plan
	begun  map[int]bool // seeds that are under way
}

// over returns when there is no time left but for last words; zero: never.
func (r *round) over() time.Time {
	if d, ok := r.t.Deadline(); ok {
		return d.Add(-lastWords)
	}
	return time.Time{}
}

// past reports whether a time, which is not zero, is over.
func past(t time.Time) bool { return !t.IsZero() && time.Now().After(t) }

// try tries seeds as long as there is time.
func (r *round) try(seeds int) {
	if over := r.over(); !over.IsZero() {
		defer time.AfterFunc(time.Until(over)+lastWords/2, func() { // one does not come to an end
			r.mu.Lock()
			defer r.mu.Unlock()
			fmt.Printf("the time is over, and seeds %v are under way\n%s\n", slices.Sorted(maps.Keys(r.begun)), r.total)
		}).Stop()
	}
	each(seeds, func(seed int) bool {
		if past(r.over()) {
			r.t.Errorf("the time is over before seed %d", seed)
			return false
		}
		r.mu.Lock()
		r.begun[seed] = true
		r.mu.Unlock()
		p := planned(r.t, uint64(seed))
		w := newWorld(p, false)
		w.history()
		return r.ended(seed, p, w)
	})
}

// ended notes what came of a seed, and reports whether others are to be tried.
func (r *round) ended(seed int, p *plan, w *world) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.begun, seed)
	r.total.add(w.stats)
	if w.wrong != nil {
		r.t.Fail()
		r.failed = append(r.failed, p)
		fmt.Printf("FOUND seed %d: %s\n", seed, w.wrong)
	}
	return len(r.failed) < mostFailures && (!*firstFlag || len(r.failed) == 0)
}

// each runs f for 0 to n-1, each in one goroutine, until one says that it is enough.
func each(n int, f func(int) bool) {
	var next atomic.Int64
	var wait sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	if *firstFlag {
		workers = 1 // or another might be the first
	}
	for range workers {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if !f(i) {
					next.Store(int64(n))
				}
			}
		})
	}
	wait.Wait()
}

// rich checks that the histories had in them what they are for.
func rich(t *testing.T, s *stats) {
	for _, f := range sortedFaults() {
		if s.faults[f] == 0 {
			t.Errorf("no history had a fault %s", f)
		}
	}
	for _, end := range []string{"completed", "compensated", "escalated"} {
		if s.ends[end] == 0 {
			t.Errorf("no saga was %s", end)
		}
	}
}

// replay shows a plan's history whole.
func replay(t *testing.T, p *plan) {
	w := newWorld(p, true)
	sum := w.history()
	if testing.Verbose() {
		for _, line := range w.trace {
			fmt.Println(line)
		}
	}
	t.Logf("%s\nhash %s", w.stats, sum)
	if w.wrong != nil {
		t.Errorf("seed %d: %s", p.seed, w.wrong)
	}
}

// The same seed gives the same history, to the last byte of every record.
func TestSimulatedHistoryRepeats(t *testing.T) {
	for seed := range uint64(20) {
		p := &plan{seed: seed, turns: defaultTurns}
		before := goleak.IgnoreCurrent()
		first, second := newWorld(p, true), newWorld(p, true)
		if a, b := first.history(), second.history(); a != b {
			t.Errorf("seed %d gives %s, and then %s; they part at\n%s", seed, a, b, parting(first.trace, second.trace))
		}
		if err := goleak.Find(before); err != nil {
			t.Errorf("seed %d leaves a goroutine behind: %v", seed, err)
		}
	}
}

// parting shows where two traces part.
func parting(a, b []string) string {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	at := func(lines []string) string {
		return strings.Join(lines[min(max(i-3, 0), len(lines)):min(i+1, len(lines))], "\n")
	}
	return at(a) + "\nand\n" + at(b)
}
