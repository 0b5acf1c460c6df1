package sim

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
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
	var mu sync.Mutex
	total := newStats()
	var failed []*plan
	each(seeds, func(seed int) bool {
		p := planned(t, uint64(seed))
		w := newWorld(p, false)
		w.history()
		mu.Lock()
		defer mu.Unlock()
		total.add(w.stats)
		if w.wrong != nil {
			t.Logf("seed %d: %s", seed, w.wrong)
			failed = append(failed, p)
			if *firstFlag && len(failed) == 1 {
				fmt.Printf("FOUND seed %d: %s\n", seed, w.wrong)
			}
		}
		return len(failed) < mostFailures && (!*firstFlag || len(failed) == 0)
	})
	if *firstFlag {
		if len(failed) > 0 {
			t.Fail()
		}
		return
	}
	t.Logf("%s", total)
	for _, p := range failed {
		t.Error(explain(p))
	}
	if seeds >= 500 {
		rich(t, total)
	}
}

const mostFailures = 5 // seeds that are shown

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
		before := runtime.NumGoroutine()
		first, second := newWorld(p, true), newWorld(p, true)
		if a, b := first.history(), second.history(); a != b {
			t.Errorf("seed %d gives %s, and then %s; they part at\n%s", seed, a, b, parting(first.trace, second.trace))
		}
		if n := runtime.NumGoroutine(); n != before {
			t.Errorf("seed %d: %d goroutines before it, and %d behind it", seed, before, n)
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
