package saga_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/internal/scenario"
	"github.com/agenthypervisor/hypervisor/saga"
)

// What can become of a step and of its undo, for the table of pairs. The zero value is that all goes well.
var pairFaults = []struct {
	name string
	do   []saga.Result // of the step's tries; the last one again and again
	undo []saga.Result
}{
	{"ok", []saga.Result{saga.Succeeded}, []saga.Result{saga.Succeeded}},
	{"transient", []saga.Result{saga.NotRun, saga.Succeeded}, []saga.Result{saga.NotRun, saga.Succeeded}},
	{"definite", []saga.Result{saga.Refused}, []saga.Result{saga.Succeeded}},
	{"timeout", []saga.Result{saga.NoAnswer}, []saga.Result{saga.Succeeded}},
	{"crash before", []saga.Result{saga.Unsent, saga.Succeeded}, []saga.Result{saga.Unsent, saga.Succeeded}},
	{"crash after", []saga.Result{saga.Interrupted, saga.Succeeded}, []saga.Result{saga.Succeeded}},
	{"unreachable", []saga.Result{saga.Unreached}, []saga.Result{saga.Unreached}},
	{"held", []saga.Result{saga.OnHold}, []saga.Result{saga.OnHold}},
	{"undo fails", []saga.Result{saga.Succeeded}, []saga.Result{saga.Refused}},
	{"undo lost", []saga.Result{saga.Succeeded}, []saga.Result{saga.NoAnswer}},
}

// pair runs two steps with a fault each, and tells what became of them when nobody helps. group makes them branches; else the second
// needs the first.
func pair(a, b int, group saga.Policy) string {
	d := &saga.Definition{Name: "s", Steps: []saga.Step{{ID: "a", Retries: 1}, {ID: "b", Retries: 1}, {ID: "end"}}}
	if group == "" {
		d.Steps[1].Needs, d.Steps[2].Needs = []string{"a"}, []string{"b"}
	} else {
		d.FanOut, d.Steps[2].Needs = []saga.Group{{group, []string{"a", "b"}}}, []string{"a"}
	}
	p := saga.NewPlan(d, slices.Repeat([]saga.Nature{{Undo: true}}, 3))
	r, now := p.Start(), time.Unix(0, 0)
	faults := [][2][]saga.Result{{pairFaults[a].do, pairFaults[a].undo}, {pairFaults[b].do, pairFaults[b].undo}, {{saga.Refused}, nil}} // the last fails, so that all is undone
	tries, waited := map[string]int{}, false
	for range 1_000 {
		e := p.Next(r, now)
		if i := slices.IndexFunc(r.Steps, func(s saga.StepRun) bool { return s.Flying }); e == nil && i >= 0 {
			way := 0
			if r.Steps[i].State == saga.CompensatingStep {
				way = 1
			}
			key := fmt.Sprint(i, way)
			results := faults[i][way]
			result := results[min(tries[key], len(results)-1)]
			tries[key]++
			e = p.Settle(r, saga.Answer{Step: i, Result: result, Why: "somebody", Until: now.Add(saga.ResolveWithin)}, now, 0)
		}
		switch {
		case e != nil:
			r.Apply(e)
			waited = waited || r.Waits
		case r.State.Ended():
			text := fmt.Sprintf("%s: a %s, b %s", r.State, r.Steps[0].State, r.Steps[1].State)
			if waited {
				text += ", waited"
			}
			return text
		default:
			now = r.Due()
		}
	}
	return "no end: " + r.State.String()
}

// Every pair of faults of two steps, one after the other and side by side in each kind of group, ends; the table says how.
func TestEveryPairOfFaultsEndsAsTheTableSays(t *testing.T) {
	var b strings.Builder
	for _, group := range []saga.Policy{"", saga.All, saga.Majority, saga.Any} {
		for i := range pairFaults {
			for j := range pairFaults {
				how := string(group)
				if group == "" {
					how = "b needs a"
				}
				fmt.Fprintf(&b, "%-9s  a %-12s b %-12s  %s\n", how, pairFaults[i].name, pairFaults[j].name, pair(i, j, group))
			}
		}
	}
	got := b.String()
	if strings.Contains(got, "no end") {
		t.Error("a pair has no end")
	}
	const file = "testdata/pairs.txt"
	if *scenario.Update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
