package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Stats count what one or many histories had in them.
type stats struct {
	faults  map[fault]int
	deeds   map[string]int // by kind, and what came of them
	checks  map[invariant]int
	ends    map[string]int // of sagas
	waits   map[string]int // of sagas' steps, by what for
	ended   map[string]int // waits that a command ended in good weather
	seeds   int
	steps   int
	records int
	took    time.Duration // of all, added up
	most    time.Duration
}

func newStats() *stats {
	return &stats{faults: map[fault]int{}, deeds: map[string]int{}, checks: map[invariant]int{}, ends: map[string]int{}, waits: map[string]int{}, ended: map[string]int{}}
}

func addTo[K comparable](to, from map[K]int) {
	for k, n := range from {
		to[k] += n
	}
}

func (s *stats) add(o *stats) {
	addTo(s.faults, o.faults)
	addTo(s.deeds, o.deeds)
	addTo(s.checks, o.checks)
	addTo(s.ends, o.ends)
	addTo(s.waits, o.waits)
	addTo(s.ended, o.ended)
	s.seeds, s.steps, s.records, s.took, s.most = s.seeds+o.seeds, s.steps+o.steps, s.records+o.records, s.took+o.took, max(s.most, o.most)
}

func sortedFaults() []fault { return slices.Sorted(maps.Keys(usual)) }

// String is the summary that is printed.
func (s *stats) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d seeds, %d steps, %d records; time per seed %v, the longest %v\n", s.seeds, s.steps, s.records,
		(s.took / time.Duration(max(s.seeds, 1))).Round(time.Millisecond/10), s.most.Round(time.Millisecond))
	list(&b, "faults injected", s.faults)
	list(&b, "operations", s.deeds)
	list(&b, "sagas", s.ends)
	list(&b, "waits of sagas", s.waits)
	list(&b, "waits ended by their commands when the weather had cleared", s.ended)
	list(&b, "invariants checked", s.checks)
	return strings.TrimSuffix(b.String(), "\n")
}

func list[K ~string](b *strings.Builder, what string, counts map[K]int) {
	total := 0
	for _, n := range counts {
		total += n
	}
	fmt.Fprintf(b, "%s: %d\n", what, total)
	for _, k := range slices.SortedFunc(maps.Keys(counts), func(a, b K) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) }) {
		fmt.Fprintf(b, "  %8d  %s\n", counts[k], k)
	}
}
