package hypervisor_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
)

// SPEC §5: "Checkpoints name the goal reached; a replay skips achieved goals; invalidating one invalidates what depends on it", also in
// the next process, which has nothing but the log.
func TestAReplayDoesWhatIsNotReachedAlsoInTheNextProcess(t *testing.T) {
	ctx := context.Background()
	store, clock := newKept(), hypervisortest.NewClock()
	first := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, first, nil, map[policy.DID]string{ann: "0.80"})
	refuse := func(context.Context) error { return errors.New("no") }
	b := &workbench{fails: map[string]func(context.Context) error{"c": refuse, "una": refuse}}
	b.on(s, "a", "b", "c")
	d := sagaOf("a", "b", "c")
	d.Steps[0].Checkpoint, d.Steps[1].Checkpoint = "a is done", "b is done"
	v := runs(t, s, d)
	if got := stepStates(v); got != "escalated: a compensation_failed b compensated c failed" {
		t.Fatal(got)
	}
	if _, err := s.ReplaySaga(ctx, admin, "sag-99"); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("a saga that is not there is replayed: %v", err)
	}
	next := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock, Random: hypervisortest.NewSeeded(2)}) // the first is never stepped again
	s, err := next.Session(ctx, s.ID())
	if err != nil {
		t.Fatal(err)
	}
	replay := func(want string, calls ...string) {
		t.Helper()
		b.calls = nil
		out, err := s.ReplaySaga(ctx, admin, v.ID)
		if err != nil || !out.Allowed {
			t.Fatal(out.Decision, err)
		}
		again := rests(t, s, out.ID)
		if got := stepStates(again); got != want || again.Replays != v.ID || !slices.Equal(b.calls, calls) {
			t.Errorf("got %s, want %s; called %v, want %v", got, want, b.calls, calls)
		}
	}
	b.fails = nil
	b.on(s, "a", "b", "c")
	replay("completed: a committed b committed c committed", `b{"n":1}`, `c{"n":2}`)
	if d, err := s.InvalidateGoal(ctx, admin, v.ID, "a"); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	b.fails = map[string]func(context.Context) error{"c": refuse}
	replay("compensated: a compensated b compensated c failed", `a{"n":0}`, `b{"n":1}`, `c{"n":2}`, `unb{"n":1}`, `una{"n":0}`)
}
