package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// undoes takes an action back and returns what became of it.
func undoes(t *testing.T, s *hypervisor.Session, caller policy.Caller, id string) hypervisor.UndoStep {
	t.Helper()
	r, err := s.Undo(context.Background(), caller, hypervisor.UndoRequest{Action: id})
	if err != nil || len(r.Steps) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	return r.Steps[0]
}

// SPEC §4: "Undo is an operation on one action, …, a saga": what a step names for its undo is called by who asks for that once the saga has
// ended, as the saga itself would have called it, once; also after the session's end, and by the agent whose action it was.
func TestAnUndoCallsWhatAStepNamesForIt(t *testing.T) {
	ctx := context.Background()
	p := &places{}
	hv, s, _, d := addressed(t, p)
	d.Steps[1].Undo = host + "west/back"
	v := runs(t, s, d)
	east, west := v.Steps[0].Action, v.Steps[1].Action
	at := s.ID() + "/" + v.ID + "/"
	plan, err := s.Undo(ctx, admin, hypervisor.UndoRequest{Saga: v.ID, Plan: true})
	if err != nil || len(plan.Steps) != 2 || plan.Steps[0].ID != west || plan.Steps[0].Kind != session.Compensable || plan.Steps[1].State != hypervisor.StepPlanned {
		t.Fatalf("%+v, %v", plan, err)
	}
	p.called, p.answer = nil, errors.New("it answers 422")
	if u := undoes(t, s, policy.Agent(ann), west); u.State != hypervisor.StepFailed {
		t.Errorf("%+v", u)
	}
	p.called, p.answer = nil, nil
	if u := undoes(t, s, policy.Agent(ann), west); u.State != hypervisor.StepUndone || !slices.Equal(p.called, []string{"west/back " + at + "west/undo"}) {
		t.Errorf("%+v, called %v", u, p.called)
	}
	if u := undoes(t, s, admin, west); u.State != hypervisor.StepRefused || u.Decision.Code != policy.UndoConflict || len(p.called) != 1 {
		t.Errorf("a second time: %+v, called %v", u, p.called)
	}
	if _, err := s.Terminate(ctx, admin); err != nil {
		t.Fatal(err)
	}
	p.answer = action.ErrUnknownOutcome
	u := undoes(t, s, admin, east)
	if u.State != hypervisor.StepUnknown || !strings.HasPrefix(u.By, s.ID()+".undo-1/") || p.called[1] != "east/back "+at+"east/undo" {
		t.Errorf("after the session's end: %+v, called %v", u, p.called)
	}
	if u := undoes(t, s, admin, east); u.State != hypervisor.StepRefused || u.Decision.Code != policy.UndoUnavailable || len(p.called) != 2 {
		t.Errorf("whether it happened is not known: %+v, called %v", u, p.called)
	}
	if r, err := hv.Undo(ctx, admin, hypervisor.UndoRequest{Session: s.ID(), Saga: v.ID, Plan: true}); err != nil || len(r.Steps) != 1 || r.Steps[0].Reason == "" {
		t.Errorf("%+v, %v", r, err)
	}
}

// What the saga takes back by calling what a step names is recorded as taken back, and not done again; while the saga goes on, it alone
// calls that.
func TestWhatASagaTakesBackIsNotTakenBackAgain(t *testing.T) {
	ctx := context.Background()
	p := &places{}
	_, s, _, d := addressed(t, p)
	var during []hypervisor.UndoStep
	s.Register(action.Descriptor{ID: "fail", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		sagas, err := s.Sagas(ctx)
		if err != nil {
			t.Error(err)
		}
		during = append(during, undoes(t, s, admin, sagas[0].Steps[0].Action))
		r, err := s.Undo(ctx, admin, hypervisor.UndoRequest{})
		if err != nil || r.Stopped != "" || r.Undone != 0 {
			t.Errorf("all of the session's: %+v, %v", r, err)
		}
		return nil, errors.New("no")
	})
	d.Steps[1] = saga.Step{ID: "fail", Agent: ann, Action: "fail", Needs: []string{"east"}}
	v := runs(t, s, d)
	if len(during) != 1 || during[0].State != hypervisor.StepRefused || !strings.Contains(during[0].Reason, v.ID+", which has not ended") {
		t.Errorf("%+v", during)
	}
	if got := stepStates(v); got != "compensated: east compensated fail failed" || len(p.called) != 2 {
		t.Fatalf("%s, called %v", got, p.called)
	}
	if u := undoes(t, s, admin, v.Steps[0].Action); u.State != hypervisor.StepRefused || !strings.Contains(u.Reason, "undone already") || len(p.called) != 2 {
		t.Errorf("%+v, called %v", u, p.called)
	}
	actions, err := s.Actions(ctx, 0, 10)
	if last := actions[len(actions)-1]; err != nil || last.Undoes != s.ID()+"/"+v.Steps[0].Action {
		t.Errorf("the undo is said to undo %q, %v", last.Undoes, err)
	}
}

// An undo of which nobody knew whether it had happened has, once a person says so: for the saga, and for who would do it again.
func TestAnUndoThatAPersonVouchesForIsOne(t *testing.T) {
	ctx := context.Background()
	p := &places{}
	_, s, _, d := addressed(t, p)
	s.Register(action.Descriptor{ID: "fail", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		p.answer = action.ErrUnknownOutcome
		return nil, errors.New("no")
	})
	d.Steps[1] = saga.Step{ID: "fail", Agent: ann, Action: "fail", Needs: []string{"east"}}
	v := runs(t, s, d)
	if got := stepStates(v); got != "waiting: east compensation_unknown fail failed" {
		t.Fatal(got)
	}
	if d, err := s.ResolveSaga(ctx, admin, v.ID, "east", "happened"); err != nil || !d.Allowed {
		t.Errorf("%+v %v", d, err)
	}
	if got := stepStates(rests(t, s, v.ID)); got != "compensated: east compensated fail failed" {
		t.Error(got)
	}
	if u := undoes(t, s, admin, v.Steps[0].Action); u.State != hypervisor.StepRefused || !strings.Contains(u.Reason, "undone already") {
		t.Errorf("%+v", u)
	}
}

// SPEC §5 "Checkpoints": who takes back a step from outside takes back its goal, and what rests on it; a replay does that again.
func TestAnUndoFromOutsideInvalidatesGoals(t *testing.T) {
	p := &places{}
	_, s, _, d := addressed(t, p)
	d.Steps[1].Undo, d.Steps[1].Checkpoint = host+"west/back", "west is on 7" // it needs east, which names no goal
	d.Steps = append(d.Steps, saga.Step{ID: "north", Agent: ann, Execute: host + "north", Undo: host + "north/back", Checkpoint: "north is on 7"})
	v := runs(t, s, d)
	replays := func() hypervisor.SagaView {
		t.Helper()
		p.called = nil
		out, err := s.ReplaySaga(context.Background(), admin, v.ID)
		if err != nil || !out.Allowed {
			t.Fatal(out.Decision, err)
		}
		v := rests(t, s, out.ID)
		return v
	}
	if first := replays(); len(p.called) != 0 || first.State != "completed" {
		t.Fatalf("all goals stand, and called were %v", p.called)
	}
	if u := undoes(t, s, admin, v.Steps[0].Action); u.State != hypervisor.StepUndone {
		t.Fatalf("%+v", u)
	}
	sagas, err := s.Sagas(context.Background())
	if err != nil || sagas[0].Steps[1].Why != "invalidated" || sagas[1].Steps[0].Why != "invalidated" || sagas[0].Steps[2].Why != "" {
		t.Errorf("%+v, %v", sagas, err)
	}
	again := replays()
	if len(p.called) != 2 || !strings.HasPrefix(p.called[0], "east ") || !strings.HasPrefix(p.called[1], "west ") {
		t.Errorf("called %v", p.called)
	}
	if u := undoes(t, s, admin, v.Steps[1].Action); u.State != hypervisor.StepUndone {
		t.Fatalf("%+v", u)
	}
	if now, err := s.Saga(context.Background(), again.ID); err != nil || now.Steps[1].Why == "invalidated" {
		t.Errorf("what the replay did itself stands: %+v, %v", now, err)
	}
}

// What a look finds out about a step that nobody knew the outcome of ends the saga's wait for it. It is not taken back then: the saga,
// which waited, goes on with it.
func TestAnOutcomeThatALookFindsOutEndsASagasWait(t *testing.T) {
	for _, c := range []struct {
		name, want, state string
		happens           bool
	}{
		{"it took place", "completed: write committed after committed", hypervisor.StepLeft, true},
		{"it did not", "compensated: write failed after pending", hypervisor.StepRefused, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			hv := hypervisortest.Open(t, nil)
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
			d := newDrive()
			tools := d.tools()
			for i := range tools {
				if tools[i].Descriptor.ID != "drive.write" {
					continue
				}
				write := tools[i].Do
				tools[i].Do = func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
					if c.happens {
						if _, err := write(ctx, args); err != nil {
							t.Error(err)
						}
					}
					return nil, action.ErrUnknownOutcome
				}
			}
			if err := s.SetTools("", "drive.", tools); err != nil {
				t.Fatal(err)
			}
			s.Register(action.Descriptor{ID: "after", ReadOnly: true}, func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil })
			v := runs(t, s, saga.Definition{Name: "files", Steps: []saga.Step{
				{ID: "write", Agent: ann, Action: "drive.write", Args: json.RawMessage(`{"path":"/a","text":"new"}`)},
				{ID: "after", Agent: ann, Action: "after", Needs: []string{"write"}},
			}})
			if got := stepStates(v); got != "waiting: write unknown after pending" {
				t.Fatal(got)
			}
			u := undoes(t, s, admin, v.Steps[0].Action)
			if u.State != c.state || c.happens && !strings.Contains(u.Reason, v.ID) {
				t.Errorf("%+v", u)
			}
			if got := stepStates(rests(t, s, v.ID)); got != c.want || (len(d.files) == 1) != c.happens {
				t.Errorf("%s, %v, want %s", got, d.files, c.want)
			}
		})
	}
}

// What an agent names for an undo is its word: it gets no more done by it than by asking itself, neither when it undoes nor when an
// operator takes back its work.
func TestAnUndoThatAnAgentHasNamedIsNoWayAroundAnApproval(t *testing.T) {
	ctx := context.Background()
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	burnt := 0
	done := func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil }
	s.Register(action.Descriptor{ID: "note", Reversibility: action.Partial}, done)
	s.Register(action.Descriptor{ID: "burn"}, func(context.Context, json.RawMessage) (json.RawMessage, error) { burnt++; return nil, nil })
	run := func(by policy.Caller) string {
		t.Helper()
		out, err := s.RunSaga(ctx, by, saga.Definition{Name: "trick", Steps: []saga.Step{{ID: "note", Agent: ann, Execute: "func:note", Undo: "func:burn"}}})
		if err != nil || !out.Allowed {
			t.Fatal(out.Decision, err)
		}
		return rests(t, s, out.ID).Steps[0].Action
	}
	act := run(policy.Agent(ann))
	if u := undoes(t, s, policy.Agent(ann), act); u.State != hypervisor.StepRefused || u.Decision.Code != policy.ApprovalRequired || burnt != 0 {
		t.Errorf("the agent: %+v", u)
	}
	if u := undoes(t, s, admin, act); u.State != hypervisor.StepRefused || u.Decision.Code != policy.UndoUnavailable || !strings.Contains(u.Reason, "has named burn") || burnt != 0 {
		t.Errorf("an operator: %+v", u)
	}
	if u := undoes(t, s, admin, run(admin)); u.State != hypervisor.StepUndone || burnt != 1 {
		t.Errorf("an operator, of what an operator has named: %+v", u)
	}
}
