package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// A drive is a folder as a tool server has it. What is done to it is counted.
type drive struct {
	mu     sync.Mutex
	files  map[string]string
	reads  int
	writes int
	broken func(tool, path string) error // what a call runs into; nil: nothing
}

func newDrive() *drive { return &drive{files: map[string]string{}} }

func (d *drive) put(path, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files[path] = text
}

type driveArgs struct{ Path, Text string }

var errGone = errors.New("ENOENT: no such file")

func (d *drive) do(tool string, change func(a driveArgs) (any, error)) action.Func {
	return func(_ context.Context, raw json.RawMessage) (json.RawMessage, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		var a driveArgs
		if err := json.Unmarshal(raw, &a); err != nil {
			return nil, err
		}
		if d.broken != nil {
			if err := d.broken(tool, a.Path); err != nil {
				return nil, err
			}
		}
		v, err := change(a)
		if err != nil {
			return nil, err
		}
		return json.Marshal(map[string]any{"text": v, "content": []any{map[string]any{"type": "text", "text": v}}}) // as MCP has it, and for short
	}
}

// tools are the drive's: a file is read, written, appended to (which only reading tells the result of), removed, and mailed.
func (d *drive) tools() []hypervisor.Tool {
	path := map[string]any{"path": "{{args.path}}"}
	look := &action.Look{Call: action.Call{Tool: "read", Args: path}, Bytes: "{{result.text}}", Absent: "ENOENT"}
	back := []action.Call{{Tool: "write", Args: map[string]any{"path": "{{args.path}}", "text": "{{image.text}}"}}}
	gone := []action.Call{{Tool: "remove", Args: path}}
	change := action.Descriptor{Reversibility: action.Full, Image: look, Undo: back, UndoAbsent: gone, Resource: "{{args.path}}", UndoWindow: 24 * time.Hour}
	as := func(base action.Descriptor, id string) action.Descriptor { base.ID = id; return base }
	write := as(change, "drive.write")
	write.After = "{{args.text}}"
	return []hypervisor.Tool{
		{Server: "drive", Descriptor: action.Descriptor{ID: "drive.read", ReadOnly: true, Resource: "{{args.path}}"}, Do: d.do("read", func(a driveArgs) (any, error) {
			d.reads++
			text, ok := d.files[a.Path]
			if !ok {
				return nil, errGone
			}
			return text, nil
		})},
		{Server: "drive", Descriptor: write, Do: d.do("write", func(a driveArgs) (any, error) {
			d.writes++
			d.files[a.Path] = a.Text
			return "ok", nil
		})},
		{Server: "drive", Descriptor: as(change, "drive.append"), Do: d.do("append", func(a driveArgs) (any, error) {
			d.writes++
			d.files[a.Path] += a.Text
			return "ok", nil
		})},
		{Server: "drive", Descriptor: action.Descriptor{ID: "drive.remove"}, Do: d.do("remove", func(a driveArgs) (any, error) {
			d.writes++
			delete(d.files, a.Path)
			return "ok", nil
		})},
		{Server: "drive", Descriptor: action.Descriptor{ID: "drive.mail"}, Do: d.do("mail", func(driveArgs) (any, error) { return "sent", nil })},
	}
}

// on puts the drive into a session, for everybody.
func (d *drive) on(t testing.TB, s *hypervisor.Session) {
	t.Helper()
	if err := s.SetTools("", "drive.", d.tools()); err != nil {
		t.Fatal(err)
	}
}

func drives(t testing.TB, s *hypervisor.Session, who policy.Caller, name, path, text string) hypervisor.Outcome {
	t.Helper()
	out, err := s.Act(context.Background(), who, session.Act{Action: name, Args: json.RawMessage(fmt.Sprintf(`{"path":%q,"text":%q}`, path, text))})
	if err != nil || !out.Allowed {
		t.Fatalf("%s %s: %+v, %v", name, path, out, err)
	}
	return out
}

func undone(t testing.TB, hv *hypervisor.Hypervisor, by policy.Caller, req hypervisor.UndoRequest) hypervisor.UndoReport {
	t.Helper()
	r, err := hv.Undo(context.Background(), by, req)
	if err != nil {
		t.Fatalf("undo %+v: %v", req, err)
	}
	return r
}

func states(r hypervisor.UndoReport) string {
	var words []string
	for _, s := range r.Steps {
		words = append(words, s.ID+" "+string(s.Kind)+" "+s.State)
	}
	return strings.Join(words, ", ")
}

// A call reads what it touches once more than it would, before it; after it only where its arguments do not say what it leaves. What
// nothing takes back is not looked at, and neither is what is refused (docs/decisions/044).
func TestAnImageCostsACallOneLookMore(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.55"})
	d := newDrive()
	d.files["/a"] = "old"
	d.on(t, s)
	for _, c := range []struct {
		who   policy.Caller
		name  string
		looks int
	}{
		{policy.Agent(ann), "drive.write", 1},
		{policy.Agent(ann), "drive.append", 2},
		{policy.Agent(bob), "drive.write", 0},
		{admin, "drive.mail", 0},
	} {
		before := d.reads
		if _, err := s.Act(context.Background(), c.who, session.Act{Action: c.name, Args: json.RawMessage(`{"path":"/a","text":"new"}`)}); err != nil {
			t.Fatal(err)
		}
		if looks := d.reads - before; looks != c.looks {
			t.Errorf("%s by %s was looked at %d times, want %d", c.name, c.who.DID, looks, c.looks)
		}
	}
}

// SPEC §4: "`--plan` shows each step as reversible, compensable, expired or impossible, newest first across agents."
func TestWhatWasChangedIsTakenBackNewestFirst(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
	d := newDrive()
	d.files["/a"] = "old"
	d.on(t, s)
	drives(t, s, policy.Agent(ann), "drive.write", "/a", "one")
	drives(t, s, policy.Agent(bob), "drive.append", "/a", " two")
	drives(t, s, admin, "drive.mail", "/a", "")
	drives(t, s, policy.Agent(ann), "drive.write", "/new", "x")
	drives(t, s, policy.Agent(ann), "drive.read", "/new", "")
	plan := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID(), Plan: true})
	if got, want := states(plan), "act-11 compensable planned, act-9 impossible left, act-7 reversible planned, act-5 reversible planned"; got != want {
		t.Errorf("planned: %s\n   want: %s", got, want)
	}
	var told []string
	r := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID(), Told: func(s hypervisor.UndoStep) { told = append(told, s.ID) }})
	if got, want := states(r), "act-11 compensable undone, act-9 impossible left, act-7 reversible undone, act-5 reversible undone"; got != want || r.Undone != 3 || r.Left != 1 || r.Stopped != "" {
		t.Errorf("done: %s\nwant: %s\n%+v", got, want, r)
	}
	if strings.Join(told, " ") != "act-11 act-9 act-7 act-5" {
		t.Errorf("told of %v", told)
	}
	if len(d.files) != 1 || d.files["/a"] != "old" {
		t.Errorf("the drive has %v", d.files)
	}
	if again := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID()}); states(again) != "act-9 impossible left" {
		t.Errorf("once more: %s", states(again))
	}
	verify(t, store)
}

// SPEC §4: a conflict is "a later journaled change of the same resource by anyone, in any session, not undone too".
func TestALaterChangeByAnyoneIsAConflictUntilItIsUndoneToo(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	other := hypervisortest.Session(t, hv, nil, map[policy.DID]string{bob: "0.80"})
	d := newDrive()
	d.on(t, s)
	d.on(t, other)
	for _, path := range []string{"/a", "/dir", "/b/c"} {
		d.files[path] = "old"
		drives(t, s, policy.Agent(ann), "drive.write", path, "new")
	}
	later := []hypervisor.Outcome{
		drives(t, other, policy.Agent(bob), "drive.write", "/a", "newer"),
		drives(t, other, policy.Agent(bob), "drive.write", "/dir/beneath", "x"),
		drives(t, other, policy.Agent(bob), "drive.write", "/b", "above"),
	}
	drives(t, other, policy.Agent(bob), "drive.write", "/dirt", "beside")
	for _, out := range later {
		r := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID(), Plan: true})
		if !strings.Contains(r.Steps[0].Reason+r.Steps[1].Reason+r.Steps[2].Reason, other.ID()+"/"+out.ID) {
			t.Errorf("%s of the other session is no conflict: %+v", out.ID, r.Steps)
		}
	}
	r := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID()})
	if got, want := states(r), "act-8 conflict left, act-6 conflict left, act-4 conflict left"; got != want {
		t.Errorf("%s", got)
	}
	one := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID(), Action: "act-4"})
	if one.Steps[0].Decision == nil || one.Steps[0].Decision.Code != policy.UndoConflict {
		t.Errorf("%+v", one)
	}
	undone(t, hv, admin, hypervisor.UndoRequest{Session: other.ID()})
	if r := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID()}); r.Undone != 3 || r.Left != 0 {
		t.Errorf("after the other's: %+v", r)
	}
	for path, text := range d.files {
		if text != "old" {
			t.Errorf("%s is %q", path, text)
		}
	}
}

// Issue: "A file changed by a human between do and undo: refused with a diff."
func TestAFileThatAHumanChangedIsNotTakenBack(t *testing.T) {
	for _, c := range []struct{ tool, human, diff string }{
		{"drive.write", "one\nTWO\nthree\n", " one\n-two\n+TWO\n three\n"},
		{"drive.append", "old\none\nTWO\nthree\n", " old\n one\n-two\n+TWO\n three\n"},
	} {
		hv := hypervisortest.Open(t, nil)
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		d := newDrive()
		d.on(t, s)
		d.files["/a"] = "old\n"
		out := drives(t, s, policy.Agent(ann), c.tool, "/a", "one\ntwo\nthree\n")
		d.put("/a", c.human)
		r := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID(), Action: out.ID})
		step := r.Steps[0]
		if step.State != hypervisor.StepRefused || step.Decision.Code != policy.UndoConflict || step.Diff != c.diff {
			t.Errorf("%s: %+v\n%s", c.tool, step, step.Diff)
		}
		if d.files["/a"] != c.human {
			t.Errorf("%s: the human's work is gone: %q", c.tool, d.files["/a"])
		}
		delete(d.files, "/a")
		if step := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID(), Action: out.ID}).Steps[0]; step.State != hypervisor.StepRefused || !strings.Contains(step.Diff, "+(nothing is there)") {
			t.Errorf("%s: removed: %+v", c.tool, step)
		}
	}
}

// SPEC §7 "Authority": an agent takes back its own; an operator any, also of who is dead or left, and of a session that has ended.
func TestWhoMayTakeBackWhat(t *testing.T) {
	ctx := context.Background()
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
	d := newDrive()
	d.on(t, s)
	hv.Equip(func(_ context.Context, s *hypervisor.Session, _ policy.DID) error {
		return s.SetTools(policy.System.DID, "drive.", d.tools())
	})
	out := drives(t, s, policy.Agent(ann), "drive.write", "/a", "x")
	step := undone(t, hv, policy.Agent(bob), hypervisor.UndoRequest{Session: s.ID(), Action: out.ID}).Steps[0]
	if step.State != hypervisor.StepRefused || step.Decision.Code != policy.Forbidden {
		t.Errorf("another's: %+v", step)
	}
	var refused *hypervisor.Refused
	if _, err := hv.Undo(ctx, policy.Agent(bob), hypervisor.UndoRequest{Session: s.ID(), Action: out.ID, Plan: true}); !errors.As(err, &refused) || refused.Decision.Code != policy.Forbidden {
		t.Errorf("the plan for another's: %v", err)
	}
	if _, err := hv.Undo(ctx, policy.Agent(bob), hypervisor.UndoRequest{Session: s.ID(), Agent: ann}); !errors.As(err, &refused) || refused.Decision.Code != policy.Forbidden {
		t.Errorf("another's since ever: %v", err)
	}
	if _, err := hv.Undo(ctx, policy.Auditor("did:mesh:eve"), hypervisor.UndoRequest{Session: s.ID()}); !errors.As(err, &refused) {
		t.Errorf("an auditor: %v", err)
	}
	if r := undone(t, hv, policy.Agent(bob), hypervisor.UndoRequest{Session: s.ID()}); len(r.Steps) != 0 {
		t.Errorf("bob did nothing: %+v", r)
	}
	for _, req := range []hypervisor.UndoRequest{{Agent: "did:mesh:nobody", Since: time.Hour}, {Agent: "did:mesh:nobody", Session: s.ID(), Plan: true}} {
		if _, err := hv.Undo(ctx, admin, req); !errors.Is(err, hypervisor.ErrNotFound) {
			t.Errorf("of an agent that nothing is known of: %v", err)
		}
	}
	if _, err := hv.Kill(ctx, admin, policy.Kill{Scope: policy.Scope{Agent: ann}, Reason: policy.Manual}); err != nil {
		t.Fatal(err)
	}
	if r := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID(), Agent: ann}); r.Undone != 1 || len(d.files) != 0 {
		t.Errorf("of a dead agent: %+v, %v", r, d.files)
	}
	drives(t, s, policy.Agent(bob), "drive.write", "/b", "x")
	if _, err := s.Terminate(ctx, admin); err != nil {
		t.Fatal(err)
	}
	r := undone(t, hv, policy.Agent(bob), hypervisor.UndoRequest{Session: s.ID()})
	if r.Undone != 1 || len(d.files) != 0 || r.Steps[0].By != s.ID()+".undo-1/act-4" {
		t.Errorf("of a session that has ended: %+v, %v", r, d.files)
	}
	place, err := hv.Session(ctx, s.ID()+".undo-1")
	if err != nil {
		t.Fatal(err)
	}
	if state, err := place.State(ctx); err != nil || state.Kind != session.KindUndo || state.Of != s.ID() {
		t.Errorf("%+v, %v", state, err)
	}
	if _, err := place.Terminate(ctx, admin); err != nil {
		t.Fatal(err)
	}
	if step := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID(), Action: r.Steps[0].ID}).Steps[0]; step.Decision == nil || step.Decision.Code != policy.UndoConflict {
		t.Errorf("again, in a second session of kind undo: %+v", step)
	}
	verify(t, store)
}

// SPEC §4: "An agent may undo its own actions, an operator any". Who may not is told nothing of what it would have changed, and
// what an agent may not read by a call it does not read by an undo.
func TestAnUndoShowsAnAgentNothingItHasNotRead(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
	d := newDrive()
	d.on(t, s)
	out := drives(t, s, policy.Agent(ann), "drive.write", "/a", "ann's\n")
	d.put("/a", "a human's secret\n")
	reads := d.reads
	if step := undone(t, hv, policy.Agent(bob), hypervisor.UndoRequest{Session: s.ID(), Action: out.ID}).Steps[0]; step.Diff != "" || step.Decision.Code != policy.Forbidden || d.reads != reads {
		t.Errorf("bob, of what ann did: %+v, after %d looks", step, d.reads-reads)
	}
	if step := undone(t, hv, policy.Agent(ann), hypervisor.UndoRequest{Session: s.ID(), Action: out.ID}).Steps[0]; step.Diff != "" || step.Decision.Code != policy.UndoConflict {
		t.Errorf("ann, of what a human wrote since: %+v", step)
	}
}

// Issue: "Two operators undo the same thing at once: once."
func TestTwoOperatorsTakeTheSameBackOnce(t *testing.T) {
	for _, ended := range []bool{false, true} {
		hv, err := hypervisor.Open(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		d := newDrive()
		d.on(t, s)
		hv.Equip(func(_ context.Context, s *hypervisor.Session, _ policy.DID) error {
			return s.SetTools(policy.System.DID, "drive.", d.tools())
		})
		const n = 20
		for i := range n {
			d.put(fmt.Sprint("/", i), "old")
			drives(t, s, policy.Agent(ann), "drive.append", fmt.Sprint("/", i), "x")
		}
		if ended {
			if _, err := s.Terminate(context.Background(), admin); err != nil {
				t.Fatal(err)
			}
		}
		before := d.writes
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				by := policy.Operator(policy.DID(fmt.Sprint("did:mesh:ops", i)))
				for range 2 * n { // the other's turn is a surprise, which ends an undo
					r, err := hv.Undo(context.Background(), by, hypervisor.UndoRequest{Session: s.ID()})
					if err != nil {
						t.Error(err)
						return
					}
					if len(r.Steps) == 0 {
						return
					}
				}
			})
		}
		all.Wait()
		if d.writes-before != n {
			t.Errorf("ended %v: %d calls took back %d actions", ended, d.writes-before, n)
		}
		for path, text := range d.files {
			if text != "old" {
				t.Errorf("%s is %q", path, text)
			}
		}
		if err := hv.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// Issue: "An undo tool that fails half-way through 50."
func TestAnUndoStopsWhereItsToolFailsAndGoesOnFromThere(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	d := newDrive()
	d.on(t, s)
	const n = 50
	for i := range n {
		drives(t, s, admin, "drive.append", fmt.Sprint("/", i), "x")
	}
	d.broken = func(tool, path string) error {
		if tool == "remove" && path == "/24" {
			return errors.New("the disk is write-protected")
		}
		return nil
	}
	r := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID()})
	if r.Undone != 25 || r.Left != 25 || r.Steps[25].State != hypervisor.StepFailed || r.Steps[26].State != hypervisor.StepLeft || !strings.Contains(r.Stopped, "write-protected") {
		t.Errorf("%d undone, %d left, %+v, %q", r.Undone, r.Left, r.Steps[25], r.Stopped)
	}
	d.broken = nil
	removed := d.writes
	if r := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID()}); r.Undone != 25 || r.Left != 0 || len(d.files) != 0 || d.writes-removed != 25 {
		t.Errorf("%+v, %v", r, d.files)
	}
}

// SPEC §4: "if it cannot be taken faithfully the action is non-reversible and is decided as such; so is one whose undo endpoint
// failed its health check."
func TestAnActionWithoutAFaithfulImageIsDecidedAsIrreversible(t *testing.T) {
	ctx := context.Background()
	for name, spoil := range map[string]func(*drive, []hypervisor.Tool) []hypervisor.Tool{
		"no text": func(d *drive, tools []hypervisor.Tool) []hypervisor.Tool { d.files["/a"] = "\ufffd"; return tools },
		"no answer": func(d *drive, tools []hypervisor.Tool) []hypervisor.Tool {
			d.broken = func(tool, _ string) error { return fmt.Errorf("%w: %s", action.ErrNotDispatched, tool) }
			return tools
		},
		"no undo tool":   func(_ *drive, tools []hypervisor.Tool) []hypervisor.Tool { return append(tools[:3:3], tools[4]) },
		"a changed undo": func(_ *drive, tools []hypervisor.Tool) []hypervisor.Tool { tools[3].Changed = true; return tools },
		"a changed look": func(_ *drive, tools []hypervisor.Tool) []hypervisor.Tool { tools[0].Changed = true; return tools },
		"no answer, where nothing is read": func(_ *drive, tools []hypervisor.Tool) []hypervisor.Tool {
			d := &tools[1].Descriptor
			d.Image, d.After, d.Undo, d.UndoAbsent, d.Reversibility = nil, "", d.UndoAbsent, nil, action.Partial
			tools[1].Answers = func(context.Context) error { return errors.New("the server does not answer") }
			return tools
		},
		"arguments that do not fit": func(_ *drive, tools []hypervisor.Tool) []hypervisor.Tool {
			tools[1].Check = func(args map[string]any) error {
				if args["text"] == "old" {
					return errors.New("old is not new")
				}
				return nil
			}
			return tools
		},
	} {
		hv := hypervisortest.Open(t, nil)
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		d := newDrive()
		d.files["/a"] = "old"
		if err := s.SetTools("", "drive.", spoil(d, d.tools())); err != nil {
			t.Fatal(err)
		}
		out, err := s.Act(ctx, policy.Agent(ann), session.Act{Action: "drive.write", Args: json.RawMessage(`{"path":"/a","text":"new"}`)})
		if err != nil || out.Code != policy.ApprovalRequired || *out.RequiredRing != 1 || !strings.Contains(out.Reason, "cannot be taken back") {
			t.Errorf("%s: %+v, %v", name, out.Decision, err)
		}
	}
}

// A counted store counts the records that are read.
type counted struct {
	*kept
	read atomic.Int64
}

func (c *counted) Tail(ctx context.Context, after uint64) iter.Seq2[eventlog.Record, error] {
	return c.count(c.kept.Tail(ctx, after))
}

func (c *counted) Read(ctx context.Context, stream string, from uint64) iter.Seq2[eventlog.Record, error] {
	return c.count(c.kept.Read(ctx, stream, from))
}

func (c *counted) count(records iter.Seq2[eventlog.Record, error]) iter.Seq2[eventlog.Record, error] {
	return func(yield func(eventlog.Record, error) bool) {
		for r, err := range records {
			c.read.Add(1)
			if !yield(r, err) {
				return
			}
		}
	}
}

// Issue: "10,000 actions planned, cost per action flat from 100 to 10,000." What a plan costs in time `hypervisor bench` measures;
// here the records are counted that are read for it, and for each step of an undo.
func TestTheCostOfAnActionInAnUndoDoesNotRiseWithTheirNumber(t *testing.T) {
	per := map[int]float64{}
	for _, n := range []int{100, 10_000} {
		store, clock := &counted{kept: newKept()}, hypervisortest.NewClock()
		hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		d := newDrive()
		d.on(t, s)
		for i := range n {
			clock.Advance(20 * time.Millisecond)
			drives(t, s, admin, "drive.write", fmt.Sprintf("/%d/%d", i%7, i%50), fmt.Sprint(i))
		}
		store.read.Store(0)
		r := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID(), Plan: true})
		if len(r.Steps) != n || r.Steps[0].State != hypervisor.StepPlanned || r.Steps[n-1].State != hypervisor.StepPlanned {
			t.Fatalf("%d steps of %d: %+v, %+v", len(r.Steps), n, r.Steps[0], r.Steps[len(r.Steps)-1])
		}
		per[n] = float64(store.read.Load()) / float64(n)
		const taken = 100
		clock.Advance(time.Minute)
		store.read.Store(0)
		if r := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID(), Since: time.Minute + 20*taken*time.Millisecond}); r.Undone < taken-1 {
			t.Errorf("%d undone of the newest %d: %s", r.Undone, taken, r.Stopped)
		}
		per[-n] = float64(store.read.Load()-int64(2*2*n)) / taken // beyond the log itself, which is read twice
	}
	if per[10_000] > 1.2*per[100] {
		t.Errorf("planned among 10,000 an action costs the reading of %.1f records, among 100 of %.1f", per[10_000], per[100])
	}
	if per[-10_000] > 1.5*per[-100]+5 {
		t.Errorf("taken back among 10,000 an action costs the reading of %.1f records, among 100 of %.1f", per[-10_000], per[-100])
	}
}

func TestAnImageOfAnySizeComesBackByteForByte(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	d := newDrive()
	d.on(t, s)
	for _, text := range []string{"", "\n", "a\r\nb\x00\u2028", strings.Repeat("0123456789abcdef", 16<<10)} {
		d.files["/a"] = text
		drives(t, s, policy.Agent(ann), "drive.append", "/a", "more")
		r := undone(t, hv, policy.Agent(ann), hypervisor.UndoRequest{Session: s.ID()})
		if r.Undone != 1 || r.Steps[0].Kind != session.Reversible || d.files["/a"] != text {
			t.Errorf("%d bytes: %+v", len(text), r)
		}
	}
	verify(t, store)
}
