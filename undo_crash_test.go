package hypervisor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
)

// undo_crash_test.go: what is not known of a do or an undo, and what becomes of it.

// An action that was in flight when its process ended is found out when it is to be taken back.
func TestAnUnknownOutcomeIsFoundOutByTheResourceOrAProbe(t *testing.T) {
	for name, c := range map[string]struct {
		took  bool
		probe bool
		want  string
	}{
		"it took place":                {true, false, "undone"},
		"it did not":                   {false, false, "refused"},
		"a probe says that it did":     {true, true, "undone"},
		"a probe says that it did not": {false, true, "refused"},
	} {
		store := newKept()
		hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		d := newDrive()
		d.files["/a"] = "old"
		tools := d.tools()
		const tool = 1
		if c.probe {
			tools[1].Descriptor.Image = nil
			tools[1].Descriptor.After = ""
			tools[1].Descriptor.UndoAbsent = nil
			tools[1].Descriptor.Reversibility = action.Partial
			tools[1].Descriptor.Undo = []action.Call{{Tool: "remove", Args: map[string]any{"path": "{{args.path}}"}}}
			tools[1].Descriptor.Probe = &action.Probe{Call: action.Call{Tool: "read", Args: map[string]any{"path": "{{args.path}}"}}, Done: "new", Undone: "old"}
		}
		do, lost := tools[tool].Do, false
		tools[tool].Do = func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
			if lost {
				return do(ctx, args)
			}
			lost = true
			if c.took {
				if _, err := do(ctx, args); err != nil {
					return nil, err
				}
			}
			d.broken = func(string, string) error { return fmt.Errorf("%w: gone", action.ErrNotDispatched) }
			return nil, fmt.Errorf("%w: the line is dead", action.ErrUnknownOutcome)
		}
		if err := s.SetTools("", "drive.", tools); err != nil {
			t.Fatal(err)
		}
		out := drives(t, s, policy.Agent(ann), tools[tool].Descriptor.ID, "/a", "new")
		if out.State != "unknown" {
			t.Fatalf("%s: %+v", name, out)
		}
		d.broken = nil
		step := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID(), Action: out.ID}).Steps[0]
		if step.State != c.want {
			t.Errorf("%s: %+v, %v", name, step, d.files)
		}
		view, err := s.Action(context.Background(), out.ID)
		if err != nil || view.Outcome != map[bool]string{true: "done", false: "failed"}[c.took] {
			t.Errorf("%s: shown as %+v, %v", name, view, err)
		}
		verify(t, store)
	}
}

// What is lost while the process lives is asked for at once: the record says what became of it.
func TestALostAnswerIsAskedForBeforeItIsRecorded(t *testing.T) {
	for _, took := range []bool{true, false} {
		hv := hypervisortest.Open(t, nil)
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		d := newDrive()
		d.files["/a"] = "old"
		tools := d.tools()
		tools[1].Descriptor.Probe = &action.Probe{Call: action.Call{Tool: "read", Args: map[string]any{"path": "{{args.path}}"}}, Done: "new", Undone: "old"}
		do := tools[1].Do
		tools[1].Do = func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
			if took {
				if _, err := do(ctx, args); err != nil {
					return nil, err
				}
			}
			return nil, fmt.Errorf("%w: the line is dead", action.ErrUnknownOutcome)
		}
		if err := s.SetTools("", "drive.", tools); err != nil {
			t.Fatal(err)
		}
		out := drives(t, s, policy.Agent(ann), "drive.write", "/a", "new")
		view, err := s.Action(context.Background(), out.ID)
		if want := map[bool]string{true: "done", false: "failed"}[took]; err != nil || out.State != want || view.Outcome != want {
			t.Errorf("took place %v: answered %s, recorded %s, %v", took, out.State, view.Outcome, err)
		}
		plan := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID(), Plan: true})
		if len(plan.Steps) != map[bool]int{true: 1}[took] {
			t.Errorf("took place %v: %+v", took, plan)
		}
	}
}

// An undo that was done, and whose outcome the store did not take, stands in no record: it is not said to be done until it does.
func TestAnUndoWhoseOutcomeIsNotRecordedIsNotSaidToBeDone(t *testing.T) {
	store, clock := newKept(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	d := newDrive()
	tools := d.tools()
	for i, tool := range tools {
		tools[i].Do = func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
			if tool.Descriptor.ID == "drive.remove" {
				store.break_(full)
			}
			return tool.Do(ctx, args)
		}
	}
	if err := s.SetTools("", "drive.", tools); err != nil {
		t.Fatal(err)
	}
	out := drives(t, s, policy.Agent(ann), "drive.write", "/a", "new")
	req := hypervisor.UndoRequest{Session: s.ID(), Action: out.ID}
	if r, _ := hv.Undo(context.Background(), admin, req); len(r.Steps) != 1 || r.Steps[0].State != hypervisor.StepUnknown || r.Undone != 0 {
		t.Errorf("%+v", r)
	}
	store.break_(nil)
	clock.Advance(time.Minute)
	for hv.Step(context.Background()) {
	}
	if view, err := s.Action(context.Background(), out.ID); err != nil || len(d.files) != 0 {
		t.Errorf("%+v, %v, %v", view, d.files, err)
	}
	if r := undone(t, hv, admin, req); r.Steps[0].State == hypervisor.StepFailed {
		t.Errorf("asked again: %+v", r)
	}
	verify(t, store)
}

// A crash ends the hypervisor at one point: before or after a record is stored, or a call is made.
type crash struct{}

// Issue: "Undo after SIGKILL at any point of do or undo: once, or `unknown` and said."
func TestUndoIsOnceOrSaidWhereverTheProcessEnds(t *testing.T) {
	for _, tool := range []string{"drive.write", "drive.append"} {
		ended := false
		for point := 1; !ended; point++ {
			if point > 200 {
				t.Fatal("there is no end of points")
			}
			ended = crashAt(t, tool, point)
		}
	}
}

// crashAt plays do and undo, with the end of the process at the given point, and what comes after. It returns true if the point
// was not reached.
func crashAt(t *testing.T, tool string, point int) (past bool) {
	t.Helper()
	store, clock, d := newKept(), hypervisortest.NewClock(), newDrive()
	d.files["/a"] = "old"
	reached := 0
	tick := func() {
		if reached++; reached == point {
			panic(crash{})
		}
	}
	counting := false
	store.break_(func(recs []eventlog.Append) []error {
		if counting {
			tick()
		}
		errs := store.Store.Append(context.Background(), recs)
		if counting {
			tick()
		}
		return errs
	})
	mortal := func(tools []hypervisor.Tool) []hypervisor.Tool {
		for i := range tools {
			do := tools[i].Do
			tools[i].Do = func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
				if !counting {
					return do(ctx, args)
				}
				tick()
				out, err := do(ctx, args)
				tick()
				return out, err
			}
		}
		return tools
	}
	var id string
	play := func() {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(crash); !ok {
					panic(r)
				}
			}
		}()
		hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		id = s.ID()
		if err := s.SetTools("", "drive.", mortal(d.tools())); err != nil {
			t.Fatal(err)
		}
		counting = true
		drives(t, s, policy.Agent(ann), tool, "/a", "+new")
		r := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID()})
		if r.Undone != 1 {
			t.Fatalf("point %d: %+v", point, r)
		}
	}
	play()
	past = reached < point
	counting = false
	said := ""
	for run := range 2 { // and then in two more processes
		hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock, Random: hypervisortest.NewSeeded(uint64(run + 2))})
		s, err := hv.Session(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		d.on(t, s)
		r, err := hv.Undo(context.Background(), admin, hypervisor.UndoRequest{Session: id})
		if err != nil {
			t.Fatalf("%s, point %d: %v", tool, point, err)
		}
		for _, step := range r.Steps {
			if step.State != hypervisor.StepUndone && step.State != hypervisor.StepRefused && step.State != hypervisor.StepLeft {
				t.Errorf("%s, point %d: %+v", tool, point, step)
			}
			said = step.Reason
		}
	}
	if d.files["/a"] != "old" && !strings.Contains(said, "not known") { // what appending left is said nowhere but in the file
		t.Errorf("%s, point %d: the file reads %q", tool, point, d.files["/a"])
	}
	if n := d.writes; n > 2 {
		t.Errorf("%s, point %d: %d writes for one do and one undo", tool, point, n)
	}
	verify(t, store)
	return past
}
