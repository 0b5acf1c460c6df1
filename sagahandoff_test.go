package hypervisor_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
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

// SPEC §7: a kill "cancels running ones …, hands in-flight saga steps to a registered substitute … or compensates". ann is killed while
// her step runs; the step does no harm twice, so the substitute that the definition, or the kill, names does it again. Without one it
// is not known whether it was done, and the operator who finds out that it was not has the saga undone.
func TestAnAgentIsKilledDuringItsStep(t *testing.T) {
	for _, c := range []struct {
		name                string
		defined, killedWith policy.DID
		want                string
		calls               []string
	}{
		{"the definition's substitute", bob, "", "completed: put committed last committed", []string{"put", "put", "last"}},
		{"the kill's substitute", "", bob, "completed: put committed last committed", []string{"put", "put", "last"}},
		{"none", "", "", "compensated: put failed last pending", []string{"put"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := context.Background()
			hv, err := hypervisor.Open(ctx, &hypervisor.Options{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := hv.Close(ctx); err != nil {
					t.Error(err)
				}
			})
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
			began := make(chan struct{}, 1)
			var calls []string
			register := func(name string, do func(context.Context) error) {
				s.Register(action.Descriptor{ID: name, Reversibility: action.Partial, Idempotent: true}, func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
					calls = append(calls, name)
					return nil, do(ctx)
				})
			}
			register("put", func(ctx context.Context) error {
				if len(calls) > 1 {
					return nil
				}
				began <- struct{}{}
				<-ctx.Done()
				return ctx.Err()
			})
			register("last", func(context.Context) error { return nil })
			s.Register(action.Descriptor{ID: "note", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil })
			for _, note := range []string{`{"n":1}`, `{"n":2}`} {
				act(t, s, ann, "note", note)
			}
			d := saga.Definition{Name: "s", Steps: []saga.Step{{ID: "put", Agent: ann, Action: "put"}, {ID: "last", Agent: bob, Action: "last", Needs: []string{"put"}}}}
			if c.defined != "" {
				d.Steps[0].Substitutes = []policy.DID{c.defined}
			}
			out, err := s.RunSaga(ctx, admin, d)
			if err != nil || !out.Allowed {
				t.Fatal(out.Decision, err)
			}
			<-began
			report, err := hv.Kill(ctx, admin, policy.Kill{Scope: policy.Scope{Session: s.ID(), Agent: ann}, Reason: policy.Manual, Substitute: c.killedWith})
			if err != nil {
				t.Fatal(err)
			}
			// "and reports": who does what she was to do, and what she did that stands.
			if len(report.Tasks) != 1 || report.Tasks[0].Step != "put" || report.Tasks[0].Agent != ann || report.Tasks[0].To != cmp.Or(c.defined, c.killedWith) ||
				report.Tasks[0].Saga != out.ID || len(report.Tasks[0].State) == 0 {
				t.Errorf("%+v", report.Tasks)
			}
			if want := []hypervisor.KilledWork{{Session: s.ID(), Agent: ann, Stands: 2}}; !slices.Equal(report.Work, want) {
				t.Errorf("%+v", report.Work)
			}
			v := rests(t, s, out.ID)
			if v.State == "waiting" && v.Steps[0].Waits == "outcome" {
				if d, err := s.ResolveSaga(ctx, admin, out.ID, "put", "not"); err != nil || !d.Allowed {
					t.Fatal(d, err)
				}
				v = rests(t, s, out.ID)
			}
			if got := stepStates(v); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if !slices.Equal(calls, c.calls) {
				t.Errorf("called %v, want %v", calls, c.calls)
			}
		})
	}
}

// An undo of an agent that is killed, or has left, is done under the system's authority, in the records' own words.
func TestWhatAKilledAgentDidIsUndoneByTheSystem(t *testing.T) {
	ctx := context.Background()
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
	b := &workbench{fails: map[string]func(context.Context) error{"b": func(context.Context) error {
		_, err := hv.Kill(ctx, admin, policy.Kill{Scope: policy.Scope{Agent: ann}, Reason: policy.Manual})
		if err != nil {
			t.Error(err)
		}
		return context.Canceled
	}}}
	b.on(s, "a", "b")
	d := sagaOf("a", "b")
	d.Steps[1].Agent = bob
	v := runs(t, s, d)
	if v.State == "waiting" {
		if d, err := s.CancelSaga(ctx, admin, v.ID); err != nil || !d.Allowed {
			t.Fatal(d, err)
		}
		if d, err := s.ResolveSaga(ctx, admin, v.ID, "b", "not"); err != nil || !d.Allowed {
			t.Fatal(d, err)
		}
		v = rests(t, s, v.ID)
	}
	if got := stepStates(v); got != "compensated: a compensated b failed" {
		t.Errorf("%s: %v", got, b.calls)
	}
	actions, err := s.Actions(ctx, 0, hypervisor.MaxPage)
	if err != nil {
		t.Fatal(err)
	}
	if last := actions[len(actions)-1]; last.Agent != policy.System.DID || last.Action != "una" {
		t.Errorf("%+v", last)
	}
}

// SPEC §7: an agent that is killed, or has left, does not keep what its own saga has done: the system takes it back, as its tool's
// descriptor says. What the agent itself named as an undo is not done with more than the agent had: an action that cannot be taken
// back waits for an approver.
func TestWhatAnAgentsOwnSagaDidIsUndoneThoughItIsGone(t *testing.T) {
	ctx := context.Background()
	for name, goes := range map[string]func(*testing.T, *hypervisor.Hypervisor, *hypervisor.Session){
		"killed": func(t *testing.T, hv *hypervisor.Hypervisor, _ *hypervisor.Session) {
			if _, err := hv.Kill(ctx, admin, policy.Kill{Scope: policy.Scope{Agent: ann}, Reason: policy.Manual}); err != nil {
				t.Error(err)
			}
		},
		"left": func(t *testing.T, _ *hypervisor.Hypervisor, s *hypervisor.Session) {
			if err := s.Leave(ctx, policy.Agent(ann), session.Leave{}); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			hv := hypervisortest.Open(t, nil)
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
			d := newDrive()
			d.put("a", "before")
			d.on(t, s)
			b := &workbench{fails: map[string]func(context.Context) error{"last": func(context.Context) error {
				goes(t, hv, s)
				return errors.New("no")
			}}}
			b.on(s, "put", "last")
			s.Register(action.Descriptor{ID: "wipe"}, b.does("wipe"))
			out, err := s.RunSaga(ctx, policy.Agent(ann), saga.Definition{Name: "own", Steps: []saga.Step{
				{ID: "write", Agent: ann, Action: "drive.write", Args: json.RawMessage(`{"path":"a","text":"ann's"}`)},
				{ID: "put", Agent: ann, Execute: "func:put", Undo: "func:wipe", Needs: []string{"write"}},
				{ID: "last", Agent: ann, Action: "last", Needs: []string{"put"}},
			}})
			if err != nil || !out.Allowed {
				t.Fatal(out.Decision, err)
			}
			v := rests(t, s, out.ID)
			if v.Steps[2].State == "unknown" { // killed while it was under way
				if d, err := s.ResolveSaga(ctx, admin, out.ID, "last", "not"); err != nil || !d.Allowed {
					t.Fatal(d, err)
				}
				v = rests(t, s, out.ID)
			}
			if v.State != "waiting" || !strings.HasPrefix(v.Steps[1].Waits, "approval apr-") || slices.Contains(b.calls, "wipe{}") {
				t.Fatalf("%s, it waits for %q: %v", stepStates(v), v.Steps[1].Waits, b.calls)
			}
			id := strings.TrimPrefix(v.Steps[1].Waits, "approval ")
			open, err := s.Approvals(ctx)
			if err != nil || len(open) != 1 {
				t.Fatal(open, err)
			}
			if d, err := s.Deny(ctx, admin, session.Deny{Approval: id, Digest: open[0].Digest.String()}); err != nil || !d.Allowed {
				t.Fatal(d, err)
			}
			if got := stepStates(rests(t, s, out.ID)); got != "escalated: write compensated put compensation_failed last failed" || d.files["a"] != "before" {
				t.Errorf("%s, and a is %q", got, d.files["a"])
			}
		})
	}
}

// A kill's report says of the steps that have not begun too who will do them; of what is done, or of others, it says nothing.
func TestAKillTellsWhoDoesTheStepsThatAreToCome(t *testing.T) {
	ctx := context.Background()
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
	var report hypervisor.KillReport
	b := &workbench{fails: map[string]func(context.Context) error{"b": func(context.Context) (err error) {
		report, err = hv.Kill(ctx, admin, policy.Kill{Scope: policy.Scope{Agent: ann}, Reason: policy.Manual})
		return err
	}}}
	b.on(s, "a", "b", "c", "d")
	d := sagaOf("a", "b", "c", "d")
	d.Steps[1].Agent, d.Steps[2].Substitutes = bob, []policy.DID{"did:mesh:nobody", bob}
	v := runs(t, s, d)
	var told []string
	for _, task := range report.Tasks {
		told = append(told, strings.Join([]string{task.Saga, task.Step, string(task.Agent), string(task.To), task.State}, " "))
	}
	if want := []string{v.ID + " c did:mesh:ann did:mesh:bob pending", v.ID + " d did:mesh:ann  pending"}; !slices.Equal(told, want) {
		t.Errorf("%q, want %q", told, want)
	}
	if got := stepStates(v); v.Steps[2].Agent != bob || v.Steps[2].InPlaceOf != ann || !strings.HasPrefix(got, "compensated: a compensated b compensated c compensated d failed") {
		t.Errorf("%s: %+v", got, v.Steps)
	}
}
