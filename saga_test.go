package hypervisor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// A bench is where steps are done: it keeps what was called, in order, and says what becomes of a call.
type workbench struct {
	calls []string
	fails map[string]func(context.Context) error // by action; nil: it succeeds
}

func (b *workbench) does(name string) action.Func {
	return func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
		b.calls = append(b.calls, name+string(args))
		if f := b.fails[name]; f != nil {
			return nil, f(ctx)
		}
		return json.RawMessage(`"ok"`), nil
	}
}

// on registers a step that changes something, and its compensation, under each name.
func (b *workbench) on(s *hypervisor.Session, names ...string) {
	for _, name := range names {
		s.Register(action.Descriptor{ID: name, Reversibility: action.Partial, Idempotent: strings.HasPrefix(name, "put")}, b.does(name))
		s.Register(action.Descriptor{ID: "un" + name, Reversibility: action.Partial, Idempotent: strings.HasPrefix(name, "put")}, b.does("un"+name))
	}
}

// sagaOf makes steps of ann's, each needing the one before: what it does, and un…, which takes it back.
func sagaOf(names ...string) (d saga.Definition) {
	d.Name = "test"
	for i, name := range names {
		s := saga.Step{ID: name, Agent: ann, Execute: "func:" + name, Undo: "func:un" + name, Args: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))}
		if i > 0 {
			s.Needs = []string{names[i-1]}
		}
		d.Steps = append(d.Steps, s)
	}
	return d
}

// runs starts a saga and waits until it rests.
func runs(t *testing.T, s *hypervisor.Session, d saga.Definition) hypervisor.SagaView {
	t.Helper()
	out, err := s.RunSaga(context.Background(), admin, d)
	if err != nil || !out.Allowed {
		t.Fatalf("%+v, %v", out.Decision, err)
	}
	return rests(t, s, out.ID)
}

func rests(t *testing.T, s *hypervisor.Session, id string) hypervisor.SagaView {
	t.Helper()
	v, err := s.AwaitSaga(context.Background(), id)
	if err != nil {
		t.Fatalf("%v\n%+v", err, v)
	}
	return v
}

func stepStates(v hypervisor.SagaView) string {
	words := []string{v.State + ":"}
	for _, s := range v.Steps {
		words = append(words, s.ID+" "+s.State)
	}
	return strings.Join(words, " ")
}

func TestSagaGoesThroughOrIsUndoneInReverse(t *testing.T) {
	refuse := func(context.Context) error { return errors.New("no") }
	for _, c := range []struct {
		name  string
		fails map[string]func(context.Context) error
		want  string
		calls []string
	}{
		{"through", nil, "completed: a committed b committed c committed", []string{`a{"n":0}`, `b{"n":1}`, `c{"n":2}`}},
		{"the last fails", map[string]func(context.Context) error{"c": refuse}, "compensated: a compensated b compensated c failed",
			[]string{`a{"n":0}`, `b{"n":1}`, `c{"n":2}`, `unb{"n":1}`, `una{"n":0}`}},
		{"an undo fails", map[string]func(context.Context) error{"c": refuse, "unb": refuse}, "escalated: a compensated b compensation_failed c failed",
			[]string{`a{"n":0}`, `b{"n":1}`, `c{"n":2}`, `unb{"n":1}`, `una{"n":0}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			hv := hypervisortest.Open(t, nil)
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
			b := &workbench{fails: c.fails}
			b.on(s, "a", "b", "c")
			if got := stepStates(runs(t, s, sagaOf("a", "b", "c"))); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if !slices.Equal(b.calls, c.calls) {
				t.Errorf("called %v, want %v", b.calls, c.calls)
			}
		})
	}
}

// SPEC §5: "a panic, timeout or error in one never stops the rest".
func TestCompensatorThatPanicsStopsNobody(t *testing.T) {
	hv, err := hypervisor.Open(context.Background(), &hypervisor.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := hv.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	b := &workbench{fails: map[string]func(context.Context) error{
		"c": func(context.Context) error { return errors.New("no") }, "unb": func(context.Context) error { panic("compensator") }}}
	b.on(s, "a", "b", "c")
	v := runs(t, s, sagaOf("a", "b", "c"))
	if got := stepStates(v); got != "waiting: a compensated b compensation_unknown c failed" || v.Steps[1].Waits != "outcome" {
		t.Error(got)
	}
}

func TestStepIsUndoneAsItsDescriptorSays(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
	d := newDrive()
	d.files["/a"] = "old"
	d.on(t, s)
	s.Register(action.Descriptor{ID: "publish", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, errors.New("no") })
	v := runs(t, s, saga.Definition{Name: "files", Steps: []saga.Step{
		{ID: "write", Agent: ann, Action: "drive.write", Args: json.RawMessage(`{"path":"/a","text":"new"}`)},
		{ID: "make", Agent: bob, Action: "drive.write", Args: json.RawMessage(`{"path":"/b","text":"made"}`), Needs: []string{"write"}},
		{ID: "publish", Agent: bob, Action: "publish", Needs: []string{"make"}},
	}})
	if got := stepStates(v); got != "compensated: write compensated make compensated publish failed" {
		t.Error(got)
	}
	if len(d.files) != 1 || d.files["/a"] != "old" {
		t.Errorf("%v", d.files)
	}
}

// SPEC §4: "Undo is an operation on … a saga": what its steps did, whosoever they were, and nothing else; an agent's own of it. One that goes on,
// or has taken back what it did, is refused.
func TestASagaThatIsCompletedIsUndone(t *testing.T) {
	ctx := context.Background()
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
	d := newDrive()
	d.on(t, s)
	write := func(id string, agent policy.DID, path string) saga.Step {
		return saga.Step{ID: id, Agent: agent, Action: "drive.write", Args: json.RawMessage(`{"path":"` + path + `","text":"new"}`)}
	}
	act(t, s, ann, "drive.write", `{"path":"/kept","text":"kept"}`)
	req := hypervisor.UndoRequest{Session: s.ID()}
	s.Register(action.Descriptor{ID: "look", ReadOnly: true}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		views, err := s.Sagas(ctx)
		if err != nil || len(views) != 1 {
			t.Errorf("%+v, %v", views, err)
			return nil, err
		}
		req.Saga = views[0].ID
		if r, err := s.Undo(ctx, admin, req); !refusedAs(err, policy.SagaInvalid) {
			t.Errorf("of one that goes on: %+v, %v", r, err)
		}
		return nil, nil
	})
	last := saga.Step{ID: "look", Agent: ann, Action: "look", Needs: []string{"a", "b"}}
	v := runs(t, s, saga.Definition{Name: "two", Steps: []saga.Step{write("a", ann, "/a"), write("b", bob, "/b"), last}})
	if v.ID != req.Saga || v.State != "completed" || len(d.files) != 3 {
		t.Fatalf("%+v, %v", v, d.files)
	}
	if r, err := s.Undo(ctx, policy.Agent(bob), req); err != nil || r.Undone != 1 || len(d.files) != 2 {
		t.Errorf("an agent's own: %+v, %v, %v", r, err, d.files)
	}
	if r, err := s.Undo(ctx, admin, req); err != nil || r.Undone != 1 || len(d.files) != 1 || d.files["/kept"] != "kept" {
		t.Errorf("%+v, %v, %v", r, err, d.files)
	}
	req.Saga = "sag-999"
	if r, err := s.Undo(ctx, admin, req); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("of one that is not: %+v, %v", r, err)
	}
	if r, err := hv.Undo(ctx, admin, hypervisor.UndoRequest{Saga: v.ID}); !refusedAs(err, policy.InvalidArguments) {
		t.Errorf("of no session's: %+v, %v", r, err)
	}
	s.Register(action.Descriptor{ID: "publish", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, errors.New("no") })
	undone := runs(t, s, saga.Definition{Name: "undone", Steps: []saga.Step{write("a", ann, "/a"), {ID: "publish", Agent: ann, Action: "publish", Needs: []string{"a"}}}})
	req.Saga = undone.ID
	if r, err := s.Undo(ctx, admin, req); !refusedAs(err, policy.SagaInvalid) {
		t.Errorf("of one that is undone: %+v, %v", r, err)
	}
}

func refusedAs(err error, code policy.Code) bool {
	var refused *hypervisor.Refused
	return errors.As(err, &refused) && refused.Decision.Code == code
}

// A step may be undone before the saga comes to it: by an operator, or by a process that died before it could say so.
func TestStepThatIsUndoneAlreadyIsUndone(t *testing.T) {
	ctx := context.Background()
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	d := newDrive()
	d.on(t, s)
	s.Register(action.Descriptor{ID: "publish", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		actions, err := s.Actions(ctx, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := s.Undo(ctx, admin, hypervisor.UndoRequest{Action: actions[0].ID}); err != nil || r.Undone != 1 {
			t.Errorf("%+v, %v", r, err)
		}
		return nil, errors.New("no")
	})
	v := runs(t, s, saga.Definition{Name: "files", Steps: []saga.Step{
		{ID: "write", Agent: ann, Action: "drive.write", Args: json.RawMessage(`{"path":"/a","text":"new"}`)},
		{ID: "publish", Agent: ann, Action: "publish", Needs: []string{"write"}},
	}})
	if got := stepStates(v); got != "compensated: write compensated publish failed" || len(d.files) != 0 {
		t.Errorf("%s, %v", got, d.files)
	}
}

func TestStepThatTakesTooLongIsCancelledAndItsOutcomeNotGuessed(t *testing.T) {
	clock := hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	hang := func(ctx context.Context) error {
		clock.Advance(time.Minute)
		for ctx.Err() == nil && hv.Step(context.Background()) {
		}
		<-ctx.Done()
		return ctx.Err()
	}
	b := &workbench{fails: map[string]func(context.Context) error{"a": hang, "put": hang}}
	b.on(s, "a", "put")
	d := sagaOf("a")
	d.Steps[0].Timeout, d.Steps[0].Retries = time.Minute, 3
	v := runs(t, s, d)
	if got := stepStates(v); got != "waiting: a unknown" || v.Steps[0].Why != "timeout" || v.Steps[0].Waits != "outcome" || len(b.calls) != 1 {
		t.Errorf("%s, %+v, %v", got, v.Steps[0], b.calls)
	}
	if d, err := s.ResolveSaga(context.Background(), admin, v.ID, "a", "happened"); err != nil || !d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
	if got := stepStates(rests(t, s, v.ID)); got != "completed: a committed" {
		t.Error(got)
	}
	// What is idempotent is tried again.
	d = sagaOf("put")
	d.Steps[0].Timeout, d.Steps[0].Retries = time.Minute, 1
	v = hypervisor.SagaView{}
	out, err := s.RunSaga(context.Background(), admin, d)
	if err != nil || !out.Allowed {
		t.Fatal(out.Decision, err)
	}
	for range 100 {
		for hv.Step(context.Background()) {
		}
		clock.Advance(time.Second)
	}
	if v, err = s.Saga(context.Background(), out.ID); err != nil || stepStates(v) != "waiting: put unknown" || len(b.calls) != 3 {
		t.Errorf("%s, %v, %v", stepStates(v), b.calls, err)
	}
}

// SPEC §5 "timeout (300 s)": a step that names none has that.
func TestAStepWithoutATimeoutHasFiveMinutes(t *testing.T) {
	clock := hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	var early error
	b := &workbench{fails: map[string]func(context.Context) error{"a": func(ctx context.Context) error {
		pass := func(d time.Duration) {
			clock.Advance(d)
			for ctx.Err() == nil && hv.Step(context.Background()) {
			}
		}
		pass(5*time.Minute - time.Millisecond)
		early = ctx.Err()
		pass(time.Millisecond)
		<-ctx.Done()
		return ctx.Err()
	}}}
	b.on(s, "a")
	if got := stepStates(runs(t, s, sagaOf("a"))); got != "waiting: a unknown" || early != nil {
		t.Errorf("%s; a millisecond before the call was at %v", got, early)
	}
}

func TestStepWaitsForItsApproval(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name, want string
		end        func(*hypervisor.Session, *hypervisortest.Clock, string)
	}{
		{"granted", "completed: a committed erase committed", func(s *hypervisor.Session, _ *hypervisortest.Clock, id string) {
			if d, err := s.Grant(ctx, policy.Approver("did:mesh:app"), session.Grant{Approval: id, Digest: digestOf(t, s, id)}); err != nil || !d.Allowed {
				t.Errorf("%+v, %v", d, err)
			}
		}},
		{"denied", "compensated: a compensated erase failed", func(s *hypervisor.Session, _ *hypervisortest.Clock, id string) {
			if d, err := s.Deny(ctx, policy.Approver("did:mesh:app"), session.Deny{Approval: id, Digest: digestOf(t, s, id)}); err != nil || !d.Allowed {
				t.Errorf("%+v, %v", d, err)
			}
		}},
		{"expired", "compensated: a compensated erase failed", func(_ *hypervisor.Session, clock *hypervisortest.Clock, _ string) { clock.Advance(15 * time.Minute) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := hypervisortest.NewClock()
			hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock})
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
			b := &workbench{}
			b.on(s, "a")
			s.Register(action.Descriptor{ID: "erase"}, b.does("erase"))
			d := sagaOf("a")
			d.Steps = append(d.Steps, saga.Step{ID: "erase", Agent: ann, Execute: "func:erase", Needs: []string{"a"}})
			v := runs(t, s, d)
			approval, ok := strings.CutPrefix(v.Steps[1].Waits, "approval ")
			if v.State != "waiting" || !ok {
				t.Fatalf("%+v", v)
			}
			c.end(s, clock, approval)
			for hv.Step(ctx) {
			}
			if v, err := s.Saga(ctx, v.ID); err != nil || stepStates(v) != c.want {
				t.Errorf("got %s, want %s (%v)", stepStates(v), c.want, err)
			}
		})
	}
}

func digestOf(t *testing.T, s *hypervisor.Session, id string) string {
	t.Helper()
	views, err := s.Approvals(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range views {
		if v.ID == id {
			return v.Digest.String()
		}
	}
	t.Fatalf("no approval %s in %+v", id, views)
	return ""
}

// A process that dies is followed by another, in which nobody has done anything yet: the saga goes on by itself once its tools are
// there.
func TestSagaGoesOnInTheNextProcess(t *testing.T) {
	ctx := context.Background()
	store, clock := newKept(), hypervisortest.NewClock()
	b := &workbench{}
	first := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, first, nil, map[policy.DID]string{ann: "0.80"})
	b.on(s, "a", "b")
	out, err := s.RunSaga(ctx, admin, sagaOf("a", "b"))
	if err != nil || !out.Allowed {
		t.Fatal(out.Decision, err)
	}
	next := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock, Random: hypervisortest.NewSeeded(2)}) // the first is never stepped again
	for next.Step(ctx) {
	}
	s, err = next.Session(ctx, s.ID())
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.Saga(ctx, out.ID); err != nil || v.State != "waiting" || v.Steps[0].Waits != session.HeldForTool {
		t.Errorf("%+v, %v", v, err)
	}
	b.on(s, "a", "b")
	for next.Step(ctx) {
	}
	if got := stepStates(rests(t, s, out.ID)); got != "completed: a committed b committed" || len(b.calls) != 2 {
		t.Errorf("%s: %v", got, b.calls)
	}
}

// A step that still waited when its session ended waits for nothing any more: no record follows a session's last.
func TestASagaThatHasEndedIsNotResolved(t *testing.T) {
	ctx, clock, store := context.Background(), hypervisortest.NewClock(), newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock, Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	b := &workbench{fails: map[string]func(context.Context) error{}}
	b.fails["b"] = func(context.Context) error { // and what takes a back is gone
		return errors.Join(errors.New("no"), s.SetTools("", "una", nil))
	}
	b.on(s, "a", "b")
	v := runs(t, s, sagaOf("a", "b"))
	if v.State != "waiting" || v.Steps[0].Waits != session.HeldForTool {
		t.Fatalf("%+v", v)
	}
	if _, err := s.Terminate(ctx, admin); err == nil {
		t.Fatal("the session has ended, and its saga has not")
	}
	for range 8 {
		clock.Advance(time.Minute)
		for hv.Step(ctx) {
		}
	}
	s, err := hv.Session(ctx, s.ID())
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.Saga(ctx, v.ID); err != nil || v.State != "escalated" {
		t.Fatalf("%+v, %v", v, err)
	}
	records := len(types(t, s))
	if d, err := s.ResolveSaga(ctx, admin, v.ID, "a", "retry"); err != nil || d.Code != policy.SagaInvalid || len(types(t, s)) != records {
		t.Errorf("%+v, %v; %d records, and then %d", d, err, records, len(types(t, s)))
	}
	verify(t, store)
}

// A step's end and the next one's admission are one record, both where an executor runs and where it is stepped; what they say is found
// again when the log is read, and the log verifies.
func TestTheNextStepIsAdmittedWithTheOutcomeBeforeIt(t *testing.T) {
	for _, stepped := range []bool{true, false} {
		t.Run(fmt.Sprint("stepped ", stepped), func(t *testing.T) {
			ctx, store := context.Background(), newKept()
			hv := open(t, &hypervisor.Options{Store: store, Stepped: stepped})
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
			b := &workbench{}
			b.on(s, "a", "b", "c")
			v := runs(t, s, sagaOf("a", "b", "c"))
			if want := "completed: a committed b committed c committed"; stepStates(v) != want {
				t.Fatalf("got %s", stepStates(v))
			}
			if want := []string{`a{"n":0}`, `b{"n":1}`, `c{"n":2}`}; !slices.Equal(b.calls, want) {
				t.Errorf("called %v, want %v", b.calls, want)
			}
			if v.AsOf != v.Seq+4 {
				t.Errorf("records %d to %d", v.Seq, v.AsOf)
			}
			for i, want := range []uint64{v.Seq + 1, v.Seq + 2, v.Seq + 3} {
				a, err := s.Action(ctx, v.Steps[i].Action)
				if err != nil || a.Seq != want || a.OutcomeSeq != want+1 || a.Outcome != "done" || string(a.Args) != fmt.Sprintf(`{"n":%d}`, i) || string(a.Result) != `"ok"` {
					t.Errorf("%s, admitted by record %d: %+v, %v", v.Steps[i].ID, want, a, err)
				}
			}
			if all, err := s.Actions(ctx, 0, 10); err != nil || len(all) != 3 {
				t.Errorf("%d actions, %v", len(all), err)
			}
			live, err := s.State(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := hv.Close(ctx); err != nil {
				t.Fatal(err)
			}
			verify(t, store)
			hv = open(t, &hypervisor.Options{Store: store, Stepped: stepped})
			defer closeAll(t, hv)
			again, err := hv.Session(ctx, s.ID())
			if err != nil {
				t.Fatal(err)
			}
			read, err := again.State(ctx)
			if err != nil {
				t.Fatal(err)
			}
			one, bad := json.Marshal(live.Sagas)
			other, worse := json.Marshal(read.Sagas)
			if !bytes.Equal(one, other) || bad != nil || worse != nil {
				t.Errorf("lived\n%s\nread\n%s, %v, %v", one, other, bad, worse)
			}
		})
	}
}

// The record that holds an outcome and the next admission is reported lost, and is lost or is not: what was done is not done again, what
// was to follow is done once, and the saga comes to its end.
func TestLostRecordOfAnOutcomeAndTheNextAdmission(t *testing.T) {
	for _, there := range []bool{false, true} {
		t.Run(fmt.Sprint("there ", there), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, store := context.Background(), newKept()
				hv := open(t, &hypervisor.Options{Store: store})
				defer closeAll(t, hv)
				s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
				b := &workbench{}
				b.on(s, "a", "b", "c")
				fails := store.failing(`"saga.step_committed"`, eventlog.ErrUnknown, there)
				store.break_(func(recs []eventlog.Append) []error {
					errs := fails(recs)
					if slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
						store.break_(nil)
					}
					return errs
				})
				out, err := s.RunSaga(ctx, admin, sagaOf("a", "b", "c"))
				if err != nil || !out.Allowed {
					t.Fatalf("%+v, %v", out.Decision, err)
				}
				synctest.Wait()
				if want := []string{`a{"n":0}`}; !slices.Equal(b.calls, want) {
					t.Errorf("before the record is in: called %v, want %v", b.calls, want)
				}
				if got := stepStates(rests(t, s, out.ID)); got != "completed: a committed b committed c committed" {
					t.Errorf("got %s", got)
				}
				if want := []string{`a{"n":0}`, `b{"n":1}`, `c{"n":2}`}; !slices.Equal(b.calls, want) {
					t.Errorf("called %v, want %v", b.calls, want)
				}
				verify(t, store)
			})
		})
	}
}
