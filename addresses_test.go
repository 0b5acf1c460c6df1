package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// places are addresses of one host, each of which can be out of reach, or have no time.
type places struct {
	away   bool
	sick   string        // the path that nobody answers at; empty: none
	flaps  bool          // somebody answers, and no call reaches anybody
	tried  int           // calls that reached nobody
	busy   int           // so many calls are postponed
	after  time.Duration // for so long
	called []string      // PATH and the effect's name
	looks  int
	answer error
}

const host = "https://deploy.example/"

func (p *places) Address(at string) (hypervisor.Tool, error) {
	path, ok := strings.CutPrefix(at, host)
	if !ok {
		return hypervisor.Tool{}, errors.New("not under " + host)
	}
	return hypervisor.Tool{Descriptor: action.Descriptor{ID: at, Reversibility: action.Partial},
		Do: func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
			switch {
			case p.away, p.flaps:
				p.tried++
				return nil, action.ErrUnreachable
			case p.busy > 0:
				p.busy--
				return nil, &action.Postponed{After: p.after, Err: errors.New("no time")}
			}
			p.called = append(p.called, path+" "+hypervisor.EffectOf(ctx))
			return nil, p.answer
		},
		Reaches: func(context.Context) error {
			p.looks++
			if p.away || path == p.sick {
				return errors.New("nobody")
			}
			return nil
		}}, nil
}

// addressed is a session in which ann may call the places, and a saga of two of them.
func addressed(t *testing.T, p *places) (*hypervisor.Hypervisor, *hypervisor.Session, *hypervisortest.Clock, saga.Definition) {
	t.Helper()
	clock := hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock})
	hv.SetAddresses(p)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	return hv, s, clock, saga.Definition{Name: "release", Steps: []saga.Step{
		{ID: "east", Agent: ann, Execute: host + "east", Undo: host + "east/back"},
		{ID: "west", Agent: ann, Execute: host + "west", Needs: []string{"east"}},
	}}
}

// passes lets time pass, a second at a time.
func passes(hv *hypervisor.Hypervisor, clock *hypervisortest.Clock, d time.Duration) {
	for range d / time.Second {
		clock.Advance(time.Second)
		for hv.Step(context.Background()) {
		}
	}
}

// Issue 6: waiting for an "unreachable endpoint" ends by itself once somebody answers there, by a command, and by its deadline.
func TestAStepWaitsForWhoDoesNotAnswer(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name, want string
		retries    int
		ends       func(*hypervisor.Hypervisor, *hypervisor.Session, *hypervisortest.Clock, *places, string)
	}{
		{"somebody answers", "completed: east committed west committed", 0, func(hv *hypervisor.Hypervisor, _ *hypervisor.Session, clock *hypervisortest.Clock, p *places, _ string) {
			passes(hv, clock, 30*time.Second)
			p.away = false
			passes(hv, clock, 10*time.Second)
		}},
		{"an operator knows", "completed: east committed west committed", 2, func(_ *hypervisor.Hypervisor, s *hypervisor.Session, _ *hypervisortest.Clock, p *places, id string) {
			p.away = false
			if d, err := s.ResolveSaga(ctx, admin, id, "east", "retry"); err != nil || !d.Allowed {
				t.Errorf("%+v %v", d, err)
			}
		}},
		{"an operator gives up", "compensated: east failed west pending", 0, func(_ *hypervisor.Hypervisor, s *hypervisor.Session, _ *hypervisortest.Clock, _ *places, id string) {
			if d, err := s.CancelSaga(ctx, admin, id); err != nil || !d.Allowed {
				t.Errorf("%+v %v", d, err)
			}
		}},
		{"nobody ever does", "compensated: east failed west pending", 0, func(hv *hypervisor.Hypervisor, _ *hypervisor.Session, clock *hypervisortest.Clock, p *places, _ string) {
			passes(hv, clock, 15*time.Minute)
			if p.looks < 80 || p.looks > 91 {
				t.Errorf("looked %d times in 15 minutes", p.looks)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &places{away: true}
			hv, s, clock, d := addressed(t, p)
			d.Steps[0].Retries = c.retries
			out, err := s.RunSaga(ctx, admin, d)
			if err != nil || !out.Allowed {
				t.Fatal(out.Decision, err)
			}
			for hv.Step(ctx) {
			}
			passes(hv, clock, 5*time.Second) // its retries
			v := rests(t, s, out.ID)
			if got := stepStates(v); got != "waiting: east executing west pending" || v.Steps[0].Waits != "unreachable" || v.Steps[0].Tries != 1+c.retries || v.Steps[0].Until.IsZero() {
				t.Fatalf("%s: %+v", got, v.Steps[0])
			}
			c.ends(hv, s, clock, p, out.ID)
			if got := stepStates(rests(t, s, out.ID)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// Whoever takes connections and does not keep them holds up a saga no longer than who takes none: the deadline is of the wait as a
// whole, unless a person says that it is worth another.
func TestAnEndpointThatFlapsIsWaitedForAsLongAsOneThatDoesNotAnswer(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name string
		says time.Duration // when an operator has it retried; zero: never
		ends time.Duration
	}{{"nobody says anything", 0, 15 * time.Minute}, {"an operator has it retried", 10 * time.Minute, 25 * time.Minute}} {
		t.Run(c.name, func(t *testing.T) {
			p := &places{flaps: true}
			hv, s, clock, d := addressed(t, p)
			v := runs(t, s, d)
			began := hv.Now()
			for v.Ended.IsZero() && hv.Now().Sub(began) < time.Hour {
				passes(hv, clock, 5*time.Second)
				if c.says != 0 && hv.Now().Sub(began) == c.says {
					if decision, err := s.ResolveSaga(ctx, admin, v.ID, "east", "retry"); err != nil || !decision.Allowed {
						t.Errorf("%+v %v", decision, err)
					}
				}
				v = rests(t, s, v.ID)
			}
			if got, took := stepStates(v), v.Ended.Sub(began); got != "compensated: east failed west pending" || took < c.ends || took > c.ends+10*time.Second || p.tried < 80 {
				t.Errorf("%s after %v and %d tries, want it after %v", got, took, p.tried, c.ends)
			}
		})
	}
}

// An undo waits for who does not answer too, and escalates if nobody ever does.
func TestAnUndoWaitsForWhoDoesNotAnswer(t *testing.T) {
	p := &places{}
	hv, s, clock, d := addressed(t, p)
	s.Register(action.Descriptor{ID: "fail", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		p.away = true
		return nil, errors.New("no")
	})
	d.Steps[1].Execute = "func:fail"
	out, err := s.RunSaga(context.Background(), admin, d)
	if err != nil || !out.Allowed {
		t.Fatal(out.Decision, err)
	}
	passes(hv, clock, time.Minute)
	if v := rests(t, s, out.ID); stepStates(v) != "waiting: east compensating west failed" || v.Steps[0].Waits != "unreachable" {
		t.Fatalf("%s: %+v", stepStates(v), v.Steps[0])
	}
	passes(hv, clock, 15*time.Minute)
	if got := stepStates(rests(t, s, out.ID)); got != "escalated: east compensation_failed west failed" {
		t.Error(got)
	}
}

// SPEC §5: what is refused for now is tried again, if the step says so, and not before the server wants it.
func TestAPostponedStepWaitsAsLongAsItsServerSays(t *testing.T) {
	p := &places{busy: 2, after: time.Minute}
	hv, s, clock, d := addressed(t, p)
	d.Steps[0].Retries = 2
	out, err := s.RunSaga(context.Background(), admin, d)
	if err != nil || !out.Allowed {
		t.Fatal(out.Decision, err)
	}
	for hv.Step(context.Background()) {
	}
	if passes(hv, clock, 119*time.Second); len(p.called) != 0 {
		t.Errorf("called %v before it was time", p.called)
	}
	passes(hv, clock, 2*time.Second)
	if got := stepStates(rests(t, s, out.ID)); got != "completed: east committed west committed" {
		t.Error(got)
	}
	p.busy, d.Steps[0].Retries = 1, 0
	if got := stepStates(runs(t, s, d)); got != "compensated: east failed west pending" {
		t.Errorf("without retries: %s", got)
	}
}

// What a server recognises a repeated call by is the same for every try of a step, and another's for anything else.
func TestAnEffectHasOneName(t *testing.T) {
	p := &places{}
	_, s, _, d := addressed(t, p)
	d.Steps[1].Execute = host + "nowhere"
	p.answer = nil
	d.Steps[1] = saga.Step{ID: "west", Agent: ann, Execute: host + "west", Undo: host + "west/back", Needs: []string{"east"}}
	d.Steps = append(d.Steps, saga.Step{ID: "fail", Agent: ann, Execute: "func:fail", Needs: []string{"west"}})
	s.Register(action.Descriptor{ID: "fail", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, errors.New("no") })
	v := runs(t, s, d)
	at := s.ID() + "/" + v.ID + "/"
	if want := []string{"east " + at + "east", "west " + at + "west", "west/back " + at + "west/undo", "east/back " + at + "east/undo"}; !slices.Equal(p.called, want) {
		t.Errorf("called %v, want %v", p.called, want)
	}
	p.called = nil
	out, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: host + "east"}) // an address is an action by itself
	if err != nil || !out.Allowed || !slices.Equal(p.called, []string{"east " + s.ID() + "/" + out.ID}) {
		t.Errorf("%+v %v, called %v", out, err, p.called)
	}
	for _, astray := range []string{"https://elsewhere.example/", "http://deploy.example/east"} {
		if out, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: astray}); err != nil || out.Code != policy.UnknownAction {
			t.Errorf("%s: %+v %v", astray, out.Decision, err)
		}
		d.Steps[0].Undo = astray
		if out, err := s.RunSaga(context.Background(), admin, d); err != nil || out.Code != policy.UnknownAction || !strings.Contains(out.Reason, "not under") {
			t.Errorf("%s: %+v %v", astray, out.Decision, err)
		}
	}
}

// A compensator that answers 500 leaves open what it did, and one that panics: neither stops the others (SPEC §5).
func TestACompensatorAtAnAddressThatFailsStopsNobody(t *testing.T) {
	for _, answer := range []error{fmt.Errorf("%w: it answers 500", action.ErrUnknownOutcome), context.DeadlineExceeded} {
		p := &places{}
		_, s, _, d := addressed(t, p)
		s.Register(action.Descriptor{ID: "fail", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
			p.answer = answer
			return nil, errors.New("no")
		})
		undone := 0
		s.Register(action.Descriptor{ID: "do", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil })
		s.Register(action.Descriptor{ID: "undo", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) { undone++; return nil, nil })
		d.Steps = []saga.Step{{ID: "local", Agent: ann, Execute: "func:do", Undo: "func:undo"}, {ID: "east", Agent: ann, Execute: host + "east", Undo: host + "east/back", Needs: []string{"local"}},
			{ID: "fail", Agent: ann, Execute: "func:fail", Needs: []string{"east"}}}
		v := runs(t, s, d)
		if got := stepStates(v); got != "waiting: local compensated east compensation_unknown fail failed" || undone != 1 || v.Steps[1].Waits != "outcome" {
			t.Errorf("%v: %s, undone %d times", answer, got, undone)
		}
	}
}

// A step that is tried again may have happened before: what takes it back brings what was there before the first try, not what that
// left.
func TestARetriedStepIsTakenBackToWhatWasBeforeItsFirstTry(t *testing.T) {
	for _, c := range []struct {
		name, before, between, want string
		happens                     bool
	}{
		{"a new file", "", "", "", true}, {"a file", "old", "", "old", true}, {"it had not happened", "old", "", "old", false},
		{"it had half happened", "old", "ne", "old", false}, {"somebody wrote it meanwhile", "old", "other", "other", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := hypervisortest.NewClock()
			hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock})
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
			d := newDrive()
			if c.before != "" {
				d.put("/a", c.before)
			}
			tools := d.tools()
			first := true
			for i := range tools {
				if tools[i].Descriptor.ID != "drive.write" {
					continue
				}
				tools[i].Descriptor.Idempotent = true
				write := tools[i].Do
				tools[i].Do = func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
					if !first {
						return write(ctx, args)
					}
					if first = false; c.happens {
						if _, err := write(ctx, args); err != nil {
							t.Error(err)
						}
					}
					if c.between != "" {
						d.put("/a", c.between)
					}
					return nil, action.ErrUnknownOutcome
				}
			}
			if err := s.SetTools("", "drive.", tools); err != nil {
				t.Fatal(err)
			}
			s.Register(action.Descriptor{ID: "fail", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
				if d.files["/a"] != "new" {
					t.Errorf("it was not written again: %v", d.files)
				}
				return nil, errors.New("no")
			})
			out, err := s.RunSaga(context.Background(), admin, saga.Definition{Name: "files", Steps: []saga.Step{
				{ID: "write", Agent: ann, Action: "drive.write", Args: json.RawMessage(`{"path":"/a","text":"new"}`), Retries: 1},
				{ID: "fail", Agent: ann, Action: "fail", Needs: []string{"write"}},
			}})
			if err != nil || !out.Allowed {
				t.Fatal(out.Decision, err)
			}
			for hv.Step(context.Background()) {
			}
			passes(hv, clock, 5*time.Second)
			if got := stepStates(rests(t, s, out.ID)); got != "compensated: write compensated fail failed" || d.files["/a"] != c.want {
				t.Errorf("%s, and the file reads %q, want %q", got, d.files["/a"], c.want)
			}
		})
	}
}

// SPEC §4: an action "whose undo endpoint failed its health check" is non-reversible, and decided as such: a ring-2 agent's step waits for
// an approver, who knows what is asked; or until its undo can be called again. Either way it is not called before.
func TestAStepWhoseUndoCannotBeCalledIsDecidedAsOneThatCannotBeTakenBack(t *testing.T) {
	ctx := context.Background()
	var hv *hypervisor.Hypervisor
	var clock *hypervisortest.Clock
	grants := func(s *hypervisor.Session, approval string) {
		id := strings.TrimPrefix(approval, "approval ")
		if d, err := s.Grant(ctx, policy.Approver("did:mesh:boss"), session.Grant{Approval: id, Digest: digestOf(t, s, id)}); err != nil || !d.Allowed {
			t.Errorf("%+v %v", d, err)
		}
	}
	for _, c := range []struct {
		name, want, admitted string
		ends                 func(*hypervisor.Session, *places, hypervisor.SagaView)
	}{
		{"an approver grants it", "completed: east committed west committed", "none", func(s *hypervisor.Session, _ *places, v hypervisor.SagaView) {
			grants(s, v.Steps[0].Waits)
		}},
		{"its undo answers again", "completed: east committed west committed", "partial", func(s *hypervisor.Session, p *places, v hypervisor.SagaView) {
			p.sick = ""
			if d, err := s.ResolveSaga(ctx, admin, v.ID, "east", "retry"); err != nil || !d.Allowed {
				t.Errorf("%+v %v", d, err)
			}
		}},
		{"its undo answers again, and nobody says so", "completed: east committed west committed", "partial", func(_ *hypervisor.Session, p *places, _ hypervisor.SagaView) {
			passes(hv, clock, 30*time.Second)
			p.sick = ""
			passes(hv, clock, 10*time.Second)
		}},
		{"it answers again when it is granted", "completed: east committed west committed", "partial", func(s *hypervisor.Session, p *places, v hypervisor.SagaView) {
			p.sick = ""
			grants(s, v.Steps[0].Waits)
		}},
		{"it is denied", "compensated: east failed west pending", "", func(s *hypervisor.Session, _ *places, v hypervisor.SagaView) {
			id := strings.TrimPrefix(v.Steps[0].Waits, "approval ")
			if d, err := s.Deny(ctx, policy.Approver("did:mesh:boss"), session.Deny{Approval: id, Digest: digestOf(t, s, id)}); err != nil || !d.Allowed {
				t.Errorf("%+v %v", d, err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &places{sick: "east/back"}
			var d saga.Definition
			var s *hypervisor.Session
			hv, s, clock, d = addressed(t, p)
			v := runs(t, s, d)
			if got := stepStates(v); got != "waiting: east executing west pending" || !strings.HasPrefix(v.Steps[0].Waits, "approval ") || v.Steps[0].Why != "irreversible" || len(p.called) != 0 {
				t.Fatalf("%s: %+v, called %v", got, v.Steps[0], p.called)
			}
			c.ends(s, p, v)
			v = rests(t, s, v.ID)
			if got := stepStates(v); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if c.admitted == "" {
				return
			}
			if a, err := s.Action(ctx, v.Steps[0].Action); err != nil || a.Reversibility.String() != c.admitted {
				t.Errorf("admitted as %s, want %s; %v", a.Reversibility, c.admitted, err)
			}
		})
	}
}

// What only reads leaves nothing to take back, and of what takes a step back that is no address its server is asked; what the
// embedding program brings with its functions is waited for, as before.
func TestWhoIsAskedWhetherAnUndoCanBeCalled(t *testing.T) {
	asked := 0
	_, s, _, d := addressed(t, &places{})
	done := func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil }
	tools := []hypervisor.Tool{
		{Descriptor: action.Descriptor{ID: "up.do", Reversibility: action.Partial}, Do: done},
		{Descriptor: action.Descriptor{ID: "up.read", ReadOnly: true}, Do: done},
		{Descriptor: action.Descriptor{ID: "up.undo", Reversibility: action.Partial}, Do: done, Answers: func(context.Context) error { asked++; return errors.New("its server is down") }},
	}
	if err := s.SetTools("", "up.", tools); err != nil {
		t.Fatal(err)
	}
	step := func(execute, undo string) string {
		d.Steps = []saga.Step{{ID: "one", Agent: ann, Execute: execute, Undo: undo}}
		v := runs(t, s, d)
		return v.State + " " + v.Steps[0].Why
	}
	if got := step("mcp:up/read", "mcp:up/undo"); got != "completed " || asked != 0 {
		t.Errorf("a step that only reads: %s, asked %d times", got, asked)
	}
	if got := step("mcp:up/do", "mcp:up/undo"); got != "waiting irreversible" || asked != 1 {
		t.Errorf("a server that is down: %s, asked %d times", got, asked)
	}
	tools[2].Answers, tools[2].Changed = nil, true
	if err := s.SetTools("", "up.", tools); err != nil {
		t.Fatal(err)
	}
	d.Steps[0].Args = json.RawMessage(`{"again":true}`)
	if got := step("mcp:up/do", "mcp:up/undo"); got != "waiting irreversible" {
		t.Errorf("an undo that is not the one that was pinned: %s", got)
	}
	s.Register(action.Descriptor{ID: "undo", Reversibility: action.Partial}, done)
	if got := step("mcp:up/do", "func:undo"); got != "completed " {
		t.Errorf("a function: %s", got)
	}
}
