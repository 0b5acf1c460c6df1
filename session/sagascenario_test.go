package session_test

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// saga reads what a saga is, and finds out of its actions what the rim would.
func (p *player) saga(words []string) (c session.RunSaga, err error) {
	for _, word := range words {
		if kind, branches, ok := strings.Cut(strings.TrimSuffix(word, ")"), "("); ok {
			c.FanOut = append(c.FanOut, saga.Group{Policy: saga.Policy(kind), Branches: strings.Split(branches, "+")})
			continue
		}
		if strings.HasPrefix(word, "by=") {
			continue
		}
		if id, replays := strings.CutPrefix(word, "replays="); replays {
			c.Replays = p.named(id)
			continue
		}
		if word == "fault=true" {
			c.Fault = true
			continue
		}
		parts := strings.Split(word, ":")
		if len(parts) == 1 {
			if !strings.Contains(word, "=") {
				c.Name = word
			}
			continue
		}
		s := session.SagaStep{ID: parts[0], Agent: did(parts[1]), Action: parts[2], Timeout: time.Minute}
		for _, more := range parts[3:] {
			name, value, _ := strings.Cut(more, "=")
			switch name {
			case "needs":
				s.Needs = strings.Split(value, "+")
			case "retries":
				s.Retries, err = strconv.Atoi(value)
			case "undo":
				s.Undo = value
			case "goal":
				s.Checkpoint = value
			case "sub":
				for _, name := range strings.Split(value, "+") {
					s.Substitutes = append(s.Substitutes, did(name))
				}
			default:
				return c, fmt.Errorf("a step has no %q", name)
			}
		}
		d := p.tools[s.Action].Descriptor
		s.ReadOnly, s.Idempotent, s.Undoable = d.ReadOnly, d.Idempotent, d.Undo != nil || s.Undo != ""
		s.UndoIdempotent = s.Undo == "" || p.tools[s.Undo].Descriptor.Idempotent
		s.Requires = d.RequiredRing(d.Effective(action.ImageTaken))
		c.Steps = append(c.Steps, s)
	}
	c.Args = []byte("[" + strings.Repeat("{},", len(c.Steps)-1) + "{}]")
	return c, err
}

// named returns what a word with an @ stands for: @saga the newest saga, @approval the newest approval, @a the running action that is
// step a.
func (p *player) named(word string) string {
	name, ok := strings.CutPrefix(word, "@")
	if !ok {
		return word
	}
	found := func(ids iter.Seq[string]) string {
		return slices.MaxFunc(append(slices.Collect(ids), ""), func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	}
	switch name {
	case "saga":
		return found(maps.Keys(p.live.Sagas))
	case "approval":
		return found(maps.Keys(p.live.Approvals))
	}
	for id, r := range p.live.Running {
		if r.Saga != nil && p.live.Sagas[r.Saga.Saga].Steps[r.Saga.Step].ID == name {
			return id
		}
	}
	return word
}

// try does what is owed for a step: the action that it is. Of an undo that is no action of its own it takes the answer.
func (p *player) try(l line) (by policy.Caller, c session.Command, err error) {
	tries := session.Tries(p.live)
	i := slices.IndexFunc(tries, func(t session.SagaTry) bool {
		return t.Saga == l.word(1) && p.live.Sagas[t.Saga].Steps[t.Step].ID == l.word(2)
	})
	if i < 0 {
		return by, nil, fmt.Errorf("no try of %s is owed; there are %v", l.word(2), tries)
	}
	t := tries[i]
	s := p.live.Sagas[t.Saga].Steps[t.Step]
	if answer := l.word(3); answer != "" {
		result := map[string]saga.Result{"ok": saga.Succeeded, "refused": saga.Refused, "notrun": saga.NotRun, "noanswer": saga.NoAnswer, "unsent": saga.Unsent}[answer]
		return policy.System, session.AnswerSaga{SagaTry: t, Result: result, Why: l.named["why"]}, nil
	}
	name := s.Action
	if t.Undo {
		name = s.Undo
	}
	c = session.Act{Action: name, Args: []byte("{}"), Saga: &t}
	if by := l.named["by"]; by != "" { // as it was asked for before what has happened since
		return policy.Agent(did(by)).Through("saga"), c, nil
	}
	if env := p.env(policy.System, c, ""); session.StandsIn(p.live, &env, t) {
		return policy.System.Through("saga"), c, nil
	}
	return policy.Agent(s.Agent).Through("saga"), c, nil
}

// A try may be sent any number of times, and is admitted once: not again while it runs, not once it is answered, and never under
// another's number.
func TestTryIsAdmittedOnce(t *testing.T) {
	w := newWorld()
	p := &player{world: w}
	for _, line := range []string{"action put partial idempotent", "active ann=0.97"} {
		if _, err := p.perform(line); err != nil {
			t.Fatal(err)
		}
	}
	c, err := p.saga(strings.Fields("s a:ann:put:retries=1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.do(policy.Operator(did("ops")), c, ""); err != nil {
		t.Fatal(err)
	}
	send := func(try session.SagaTry) (session.Outcome, error) {
		return w.do(policy.Agent(did("ann")), session.Act{Action: "put", Args: []byte("{}"), Saga: &try}, "")
	}
	first := session.Tries(w.live)[0]
	for name, other := range map[string]session.SagaTry{"another saga": {Saga: "sag-9", No: 1}, "another step": {Saga: first.Saga, Step: 1, No: 1},
		"a later number": {Saga: first.Saga, No: 2}, "its undo": {Saga: first.Saga, No: 1, Undo: true}} {
		if out, err := send(other); !errors.Is(err, session.ErrImpossible) {
			t.Errorf("%s: %+v, %v", name, out.Decision, err)
		}
	}
	out, err := send(first)
	if err != nil || !out.Allowed {
		t.Fatal(out.Decision, err)
	}
	if again, err := send(first); !errors.Is(err, session.ErrImpossible) {
		t.Errorf("while it runs: %+v, %v", again.Decision, err)
	}
	if _, err := w.do(policy.System, session.Settle{ID: out.ID, Result: session.Uncertain, Why: "timeout"}, ""); err != nil {
		t.Fatal(err)
	}
	if again, err := send(first); !errors.Is(err, session.ErrImpossible) || len(session.Tries(w.live)) != 0 {
		t.Errorf("once it is answered: %+v, %v", again.Decision, err)
	}
	w.now = w.now.Add(time.Second)
	if _, err := w.do(policy.System, session.Tick{}, ""); err != nil {
		t.Fatal(err)
	}
	if second := session.Tries(w.live); len(second) != 1 || second[0].No != 2 {
		t.Errorf("%+v", second)
	}
	if again, err := send(first); !errors.Is(err, session.ErrImpossible) {
		t.Errorf("after the next try began: %+v, %v", again.Decision, err)
	}
	if _, err := w.do(policy.System, session.AnswerSaga{SagaTry: first, Result: saga.Succeeded}, ""); !errors.Is(err, session.ErrImpossible) {
		t.Errorf("an answer to the first try: %v", err)
	}
}

// What became of a try that is no action, and who bears that a saga failed, only the hypervisor says: whoever could say it would have what
// was not done count as done, or charge others.
func TestOnlyTheHypervisorAnswersATry(t *testing.T) {
	w := newWorld()
	p := &player{world: w}
	for _, line := range []string{"action put partial undo", "active ann=0.97", "saga s a:ann:put"} {
		if _, err := p.perform(line); err != nil {
			t.Fatal(err)
		}
	}
	try := session.Tries(w.live)[0]
	for _, by := range []policy.Caller{policy.Agent(did("ann")), policy.Operator(did("ops")), policy.Approver(did("app"))} {
		if out, err := w.do(by, session.AnswerSaga{SagaTry: try, Result: saga.Succeeded}, ""); err != nil || out.Code != policy.Forbidden || len(session.Tries(w.live)) != 1 {
			t.Errorf("%s: %+v, %v", by.Role, out.Decision, err)
		}
	}
	for _, line := range []string{"saga s fault=true a:ann:put", "try @saga a", "settle @a failed why=tool_error"} {
		if _, err := p.perform(line); err != nil {
			t.Fatal(err)
		}
	}
	failed := session.Unattributed(w.live)[0]
	for _, by := range []policy.Caller{policy.Agent(did("ann")), policy.Operator(did("ops"))} {
		if _, err := w.do(by, session.AttributeSaga{Saga: failed.ID}, ""); !errors.Is(err, session.ErrImpossible) || len(session.Unattributed(w.live)) != 1 {
			t.Errorf("%s says who bears that it failed: %v", by.Role, err)
		}
	}
}

// The admission of a saga's step can stand in the record of the outcome that began it: one fold of that record is the live state, the
// action's id is that record's, and so is the id of no other.
func TestTheNextStepStandsInTheOutcomesRecord(t *testing.T) {
	for _, c := range []struct{ name, fault, want string }{
		{"admitted", "", "action.completed saga.step_committed saga.step_started action.admitted action.started"},
		{"refused", "no", "action.completed saga.step_committed saga.step_started action.denied saga.step_failed saga.compensating saga.step_compensation_failed saga.escalated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			p := &player{world: w}
			for _, line := range []string{"action put partial idempotent", "active ann=0.97"} {
				if _, err := p.perform(line); err != nil {
					t.Fatal(err)
				}
			}
			g, err := p.saga(strings.Fields("s a:ann:put b:ann:put:needs=a"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.do(policy.Operator(did("ops")), g, ""); err != nil {
				t.Fatal(err)
			}
			first := session.Tries(w.live)[0]
			a, err := w.do(policy.Agent(did("ann")), session.Act{Action: "put", Args: []byte("{}"), Saga: &first}, "")
			if err != nil {
				t.Fatal(err)
			}
			by := policy.System.Through("executor")
			settle := session.Settle{ID: a.ID, Result: session.Done}
			env := w.env(by, settle, "")
			done, err := session.Decide(w.live, &env, settle)
			if err != nil {
				t.Fatal(err)
			}
			at := session.Stamp{Seq: done.Seq, Time: w.now, Caller: by.DID}
			session.Apply(w.live, at, done.Events)
			tries := session.Tries(w.live)
			if len(tries) != 1 || tries[0].Step != 1 {
				t.Fatalf("owed are %+v", tries)
			}
			act := session.Act{Action: "put", Args: []byte("{}"), Saga: &tries[0]}
			env = w.env(policy.Agent(did("ann")), act, "")
			env.Within, env.Call.Fault = true, c.fault
			then, err := session.Decide(w.live, &env, act)
			if err != nil || then.Seq != done.Seq {
				t.Fatalf("in record %d: %+v, %v", done.Seq, then.Decision, err)
			}
			for _, tally := range then.Tallies {
				w.tallies[tally.Agent] = tally.Tally
			}
			at.Within = true
			session.Apply(w.live, at, then.Events)
			w.events = append(done.Events, then.Events...)
			w.log = append(w.log, w.record(at, by, w.events))
			if err := w.check(); err != nil {
				t.Fatal(err)
			}
			var kinds []string
			for _, e := range w.events {
				kinds = append(kinds, kindOf(e))
			}
			if got := strings.Join(kinds, " "); got != c.want {
				t.Errorf("the record says %s, want %s", got, c.want)
			}
			if c.fault != "" {
				return
			}
			if want := fmt.Sprint("act-", done.Seq); then.ID != want {
				t.Errorf("the action is %s, want %s", then.ID, want)
			}
			if other, err := w.do(policy.Agent(did("ann")), session.Act{Action: "put", Args: []byte("{}")}, ""); err != nil || other.ID == then.ID {
				t.Errorf("the next is %s, %v", other.ID, err)
			}
		})
	}
}

// kindOf returns an event's published name.
func kindOf(e session.Event) string {
	rest, _ := strings.CutPrefix(string(e.Append(nil)), `{"type":"`)
	kind, _, _ := strings.Cut(rest, `"`)
	return kind
}
