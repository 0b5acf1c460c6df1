package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/memlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

const ann, bob = policy.DID("did:mesh:ann"), policy.DID("did:mesh:bob")

var admin = hypervisortest.Admin

// kept is a store that outlives its hypervisors: a crash is a hypervisor that is forgotten, and its records stay.
type kept struct {
	*memlog.Store
	mu     sync.Mutex
	append func(recs []eventlog.Append) []error // nil: the store's own
}

func newKept() *kept { return &kept{Store: memlog.New()} }

func (k *kept) Close() error { return nil }

func (k *kept) Append(ctx context.Context, recs []eventlog.Append) []error {
	k.mu.Lock()
	fault := k.append
	k.mu.Unlock()
	if fault != nil {
		return fault(recs)
	}
	return k.Store.Append(ctx, recs)
}

func (k *kept) break_(fault func([]eventlog.Append) []error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.append = fault
}

// full answers like a full disk.
func full(recs []eventlog.Append) []error {
	errs := make([]error, len(recs))
	for i := range errs {
		errs[i] = errors.New("disk full")
	}
	return errs
}

// echo answers with its arguments and counts its calls.
type echo struct {
	mu    sync.Mutex
	calls []string
}

func (e *echo) do(_ context.Context, args json.RawMessage) (json.RawMessage, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls = append(e.calls, string(args))
	return args, nil
}

func (e *echo) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.calls)
}

func register(s *hypervisor.Session, do action.Func) {
	s.Register(action.Descriptor{ID: "read", ReadOnly: true}, do)
	s.Register(action.Descriptor{ID: "write", Reversibility: action.Partial}, do)
	s.Register(action.Descriptor{ID: "destroy"}, do)
}

func act(t testing.TB, s *hypervisor.Session, agent policy.DID, name, args string) hypervisor.Outcome {
	t.Helper()
	out, err := s.Act(context.Background(), policy.Agent(agent), session.Act{Action: name, Args: json.RawMessage(args)})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out
}

// verify reads the whole log from bytes and fails the test on any fault.
func verify(t testing.TB, log eventlog.Log) audit.Summary {
	t.Helper()
	var v audit.Verifier
	for rec, err := range log.Tail(context.Background(), 0) {
		if err != nil {
			t.Fatalf("reading the log: %v", err)
		}
		if fault := v.Add(audit.Stored{Position: rec.Position, Stream: rec.Stream, Seq: rec.Seq, Hash: rec.Hash, Body: rec.Body, Payload: rec.Payload}); fault != nil {
			t.Fatalf("the log does not verify: %v", fault)
		}
	}
	sum, fault := v.Close()
	if fault != nil {
		t.Fatalf("the log does not verify: %v", fault)
	}
	return sum
}

func types(t testing.TB, s *hypervisor.Session) []string {
	t.Helper()
	var names []string
	for r, err := range s.Records(context.Background(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		var rec struct{ Events []struct{ Type string } }
		if err := json.Unmarshal(r.Body, &rec); err != nil {
			t.Fatal(err)
		}
		for _, e := range rec.Events {
			names = append(names, e.Type)
		}
	}
	return names
}

func take[T any](seq iter.Seq2[T, error], n int) (out []T) {
	for v, err := range seq {
		if err != nil || len(out) == n {
			break
		}
		if out = append(out, v); len(out) == n {
			break
		}
	}
	return out
}

// SPEC §4: intent before dispatch, outcome after, both durable before they are acknowledged.
func TestCallIsRecordedBeforeItIsDispatchedAndItsOutcomeAfter(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	var seen []string
	s.Register(action.Descriptor{ID: "write", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		seen = types(t, s)
		return json.RawMessage(`"done"`), nil
	})
	out := act(t, s, ann, "write", `{"b":1,"a":2}`)
	if !out.Allowed || out.State != "done" || string(out.Result) != `"done"` {
		t.Fatalf("%+v", out)
	}
	if !slices.Contains(seen, "action.admitted") || !slices.Contains(seen, "action.started") || slices.Contains(seen, "action.completed") {
		t.Errorf("at dispatch the log had %v", seen)
	}
	if after := types(t, s); after[len(after)-1] != "action.completed" {
		t.Errorf("at the answer the log had %v", after)
	}
	view, err := s.Action(context.Background(), out.ID)
	if err != nil || string(view.Args) != `{"a":2,"b":1}` || string(view.Result) != `"done"` || view.Outcome != "done" {
		t.Errorf("%+v, %v", view, err)
	}
	verify(t, store)
}

func TestRefusalChangesNothingAndSaysWhy(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.60"})
	var tool echo
	register(s, tool.do)
	out := act(t, s, ann, "write", `{}`)
	if out.Allowed || out.Code != policy.RingInsufficient || out.Seq == 0 || !strings.Contains(out.Reason, "needs ring 2") {
		t.Errorf("%+v", out.Decision)
	}
	if tool.count() != 0 {
		t.Error("a refused call was dispatched")
	}
}

// SPEC §2: an admission that cannot be recorded is none; a refusal is answered even when it cannot be recorded.
func TestFullStoreAdmitsNothingAndRefusesStill(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	var tool echo
	register(s, tool.do)
	store.break_(full)
	if _, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "write"}); !errors.Is(err, hypervisor.ErrStoreUnavailable) {
		t.Errorf("admitted with a full store: %v", err)
	}
	out := act(t, s, ann, "nothing", `{}`)
	if out.Code != policy.UnknownAction || out.Seq != 0 {
		t.Errorf("refusal with a full store: %+v", out.Decision)
	}
	if tool.count() != 0 {
		t.Error("a call that was not recorded was dispatched")
	}
	store.break_(nil)
	if out := act(t, s, ann, "write", `{}`); !out.Allowed {
		t.Errorf("after there is room: %+v", out.Decision)
	}
	verify(t, store)
}

// An outcome the store did not take is owed, and recorded as soon as there is room.
func TestOutcomeWaitsForTheStore(t *testing.T) {
	store, clock := newKept(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	s.Register(action.Descriptor{ID: "write", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		store.break_(full)
		return nil, nil
	})
	if _, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "write"}); !errors.Is(err, hypervisor.ErrStoreUnavailable) {
		t.Fatalf("an outcome that is not recorded was acknowledged: %v", err)
	}
	store.break_(nil)
	clock.Advance(2 * time.Second)
	for hv.Step(context.Background()) {
	}
	if all := types(t, s); all[len(all)-1] != "action.completed" {
		t.Errorf("the log has %v", all)
	}
}

// A crash between dispatch and outcome leaves unknown, and nothing is dispatched twice (docs/design.md "Entities").
func TestCallUnderWayInACrashIsUnknownAndNotRepeated(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	dispatched := 0
	s.Register(action.Descriptor{ID: "write", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		dispatched++
		store.break_(full) // from here on the process is as good as dead
		return nil, nil
	})
	if _, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "write"}); err == nil {
		t.Fatal("acknowledged")
	}
	store.break_(nil)

	again := hypervisortest.Open(t, &hypervisor.Options{Store: store, Random: hypervisortest.NewSeeded(2)})
	for again.Step(context.Background()) {
	}
	s2, err := again.Session(context.Background(), s.ID())
	if err != nil {
		t.Fatal(err)
	}
	views, err := s2.Actions(context.Background(), 0, 10)
	if err != nil || len(views) != 1 || views[0].Outcome != "unknown" || views[0].Why != "process ended" {
		t.Errorf("%+v, %v", views, err)
	}
	register(s2, func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil })
	out := act(t, s2, ann, "write", `{}`)
	if !strings.HasPrefix(out.ID, "act-2.") {
		t.Errorf("after an unclean stop an id is %s; it must carry the new epoch", out.ID)
	}
	if dispatched != 1 {
		t.Errorf("dispatched %d times", dispatched)
	}
	verify(t, store)
}

func TestCleanStopOpensNoEpoch(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	if err := hv.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	again := hypervisortest.Open(t, &hypervisor.Options{Store: store, Random: hypervisortest.NewSeeded(2)})
	s2, err := again.Session(context.Background(), s.ID())
	if err != nil {
		t.Fatal(err)
	}
	register(s2, func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil })
	if out := act(t, s2, ann, "write", `{}`); !strings.HasPrefix(out.ID, "act-") || strings.Contains(out.ID, ".") {
		t.Errorf("after a clean stop an id is %s", out.ID)
	}
}

// SPEC §1 "End": the summary covers every record, archived included, and stands in the system stream.
func TestTerminatedSessionIsArchivedSealedAndVerifies(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	sum, err := s.Terminate(context.Background(), admin)
	if err != nil {
		t.Fatal(err)
	}
	all := types(t, s)
	if all[len(all)-1] != "session.archived" {
		t.Errorf("the last event is %s", all[len(all)-1])
	}
	var tree audit.Tree
	for r := range s.Records(context.Background(), 1) {
		tree.Add(audit.Leaf(r.Body))
	}
	if sum.Hash != tree.Root() || sum.Records != tree.Size {
		t.Errorf("summary %v of %d, and the records give %v of %d", sum.Hash, sum.Records, tree.Root(), tree.Size)
	}
	verify(t, store)
	if _, err := s.Terminate(context.Background(), admin); err != nil {
		t.Errorf("ending twice: %v", err)
	}
}

// What a crash leaves owed between two streams is done by the next start.
func TestOpeningAndSummaryLostInACrashAreRecordedByTheNextStart(t *testing.T) {
	onlySessions := func(store *kept) func([]eventlog.Append) []error {
		return func(recs []eventlog.Append) []error {
			errs := make([]error, len(recs))
			for i, r := range recs {
				if r.Stream == audit.SystemStream {
					errs[i] = errors.New("disk full")
				} else if e := store.Store.Append(context.Background(), recs[i:i+1]); e != nil {
					errs[i] = e[0]
				}
			}
			return errs
		}
	}
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	store.break_(onlySessions(store))
	if _, err := hv.CreateSession(context.Background(), admin, nil); err == nil {
		t.Fatal("created without an opening in the system stream")
	}
	store.break_(nil)
	again := hypervisortest.Open(t, &hypervisor.Options{Store: store, Random: hypervisortest.NewSeeded(2)})
	for again.Step(context.Background()) {
	}
	verify(t, store)

	s := hypervisortest.Session(t, again, nil, map[policy.DID]string{ann: "0.80"})
	store.break_(onlySessions(store))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Terminate(ctx, admin); err == nil {
		t.Fatal("terminated without a summary")
	}
	store.break_(nil)
	third := hypervisortest.Open(t, &hypervisor.Options{Store: store, Random: hypervisortest.NewSeeded(3)})
	for third.Step(context.Background()) {
	}
	committed := 0
	for e := range third.Follow(context.Background(), 0) {
		if c, ok := e.Value.(system.Committed); ok && c.Session == s.ID() {
			committed++
			break
		}
	}
	if committed != 1 {
		t.Error("the summary was not recorded")
	}
	verify(t, store)
}

// SPEC §1: "eventual" acknowledges read-only calls before they are durable; what changes something never.
func TestEventualAcknowledgesOnlyReadsEarly(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, &session.Config{Consistency: session.Eventual}, map[policy.DID]string{ann: "0.80"})
	var tool echo
	register(s, tool.do)
	var durable []bool
	store.break_(func(recs []eventlog.Append) []error {
		for _, r := range recs {
			durable = append(durable, r.Durable)
		}
		return store.Store.Append(context.Background(), recs)
	})
	act(t, s, ann, "read", `{}`)
	act(t, s, ann, "write", `{}`)
	for hv.Step(context.Background()) {
	}
	if want := []bool{false, false, true, true}; !slices.Equal(durable, want) {
		t.Errorf("durable: %v, want %v", durable, want)
	}
}

func TestIdempotencyKeyAnswersFromTheRecord(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	var tool echo
	register(s, tool.do)
	once := session.Act{Action: "write", Args: json.RawMessage(`{"n":1}`), Key: "k"}
	first, err := s.Act(context.Background(), policy.Agent(ann), once)
	if err != nil || first.State != "done" {
		t.Fatal(first, err)
	}
	second, err := s.Act(context.Background(), policy.Agent(ann), once)
	if err != nil || second.ID != first.ID || string(second.Result) != string(first.Result) || second.State != "done" {
		t.Errorf("%+v, %v; want %+v", second, err, first)
	}
	once.Args = json.RawMessage(`{"n":2}`)
	if third, err := s.Act(context.Background(), policy.Agent(ann), once); err != nil || third.Code != policy.IdempotencyConflict {
		t.Errorf("another command with the same key: %+v, %v", third, err)
	}
	if tool.count() != 1 {
		t.Errorf("dispatched %d times", tool.count())
	}
}

// SPEC §2: an approval survives a restart, is used once, and is bound to the arguments.
func TestApprovalSurvivesARestartAndIsUsedOnce(t *testing.T) {
	ctx, store := context.Background(), newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	register(s, (&echo{}).do)
	asked := act(t, s, ann, "destroy", `{"what":"x"}`)
	if asked.Code != policy.ApprovalRequired || asked.Approval == nil {
		t.Fatalf("%+v", asked.Decision)
	}
	again := hypervisortest.Open(t, &hypervisor.Options{Store: store, Random: hypervisortest.NewSeeded(2)})
	s, err := again.Session(ctx, s.ID())
	if err != nil {
		t.Fatal(err)
	}
	var tool echo
	register(s, tool.do)
	views, err := s.Approvals(ctx)
	if err != nil || len(views) != 1 || string(views[0].Args) != `{"what":"x"}` {
		t.Fatalf("%+v, %v", views, err)
	}
	d, err := s.Grant(ctx, policy.Approver("did:mesh:eve"), session.Grant{Approval: asked.Approval.ID, Digest: asked.Approval.Digest})
	if err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	if out := act(t, s, ann, "destroy", `{"what":"y"}`); out.Code != policy.ApprovalRequired {
		t.Errorf("changed arguments: %+v", out.Decision)
	}
	if out := act(t, s, ann, "destroy", `{"what":"x"}`); !out.Allowed {
		t.Errorf("granted: %+v", out.Decision)
	}
	if out := act(t, s, ann, "destroy", `{"what":"x"}`); out.Code != policy.ApprovalRequired {
		t.Errorf("used twice: %+v", out.Decision)
	}
	if tool.count() != 1 {
		t.Errorf("dispatched %d times", tool.count())
	}
}

func TestIdleSessionsAreLetGoAndComeBackAsTheyWere(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, MaxLoaded: 2})
	var sessions []*hypervisor.Session
	for range 6 {
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		register(s, (&echo{}).do)
		act(t, s, ann, "write", `{}`)
		sessions = append(sessions, s)
	}
	for _, s := range sessions {
		if out := act(t, s, ann, "write", `{}`); !out.Allowed {
			t.Errorf("%+v", out.Decision)
		}
		if _, err := s.Terminate(context.Background(), admin); err != nil {
			t.Error(err)
		}
	}
	if sum := verify(t, store); sum.Sessions != 6 {
		t.Errorf("%+v", sum)
	}
}

func TestFollowerResumesByPosition(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	register(s, (&echo{}).do)
	act(t, s, ann, "write", `{}`)
	all := take(hv.Follow(context.Background(), 0), 9)
	if len(all) != 9 {
		t.Fatalf("%d events", len(all))
	}
	rest := take(hv.Follow(context.Background(), all[4].Position), 1)
	if len(rest) != 1 || rest[0].Position != all[4].Position+1 {
		t.Errorf("resumed at %+v", rest)
	}
}

// The rim starts no goroutine outside Run: a stepped hypervisor has none at all, and does everything. One of a test before
// this may still be ending, so there can be fewer than there were.
func TestSteppedHypervisorStartsNoGoroutine(t *testing.T) {
	before := goroutines()
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	register(s, func(_ context.Context, args json.RawMessage) (json.RawMessage, error) {
		if n := goroutines(); n > before {
			t.Errorf("%d goroutines at dispatch, %d before", n, before)
		}
		return args, nil
	})
	act(t, s, ann, "write", `{}`)
	if _, err := s.Terminate(context.Background(), admin); err != nil {
		t.Fatal(err)
	}
	if n := goroutines(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
	if err := hv.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}
