package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

// runtime_review_test.go: what must hold when the store fails, when callers meet, and when the process ends.

// open begins a hypervisor that runs by itself.
func open(t testing.TB, opts *hypervisor.Options) *hypervisor.Hypervisor {
	t.Helper()
	hv, err := hypervisor.Open(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return hv
}

func closeAll(t testing.TB, hv *hypervisor.Hypervisor) {
	t.Helper()
	if err := hv.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// steps takes all steps there are.
func steps(hv *hypervisor.Hypervisor) {
	for hv.Step(context.Background()) {
	}
}

// failing answers a record whose body has the text, and all behind it in its stream, with err; kept: it is stored all the same.
func (k *kept) failing(text string, err error, kept bool) func([]eventlog.Append) []error {
	return func(recs []eventlog.Append) []error {
		errs := make([]error, len(recs))
		failed := map[string]bool{}
		for i, r := range recs {
			if hit := strings.Contains(string(r.Body), text); hit || failed[r.Stream] {
				errs[i], failed[r.Stream] = err, true
				if !hit || !kept {
					continue
				}
			}
			if e := k.Store.Append(context.Background(), recs[i:i+1]); e != nil {
				errs[i] = e[0]
			}
		}
		return errs
	}
}

// talking is an error that does something when it is read.
type talking struct{ says func() }

func (e talking) Error() string {
	e.says()
	return "disk full"
}

// The id of an admission that was lost is free again; who waits for the lost one must not end the call that has it now.
func TestLostAdmissionDoesNotEndTheCallThatHasItsIDNow(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	var tool echo
	register(s, tool.do)
	gone, cancel := context.WithCancel(context.Background())
	defer cancel()
	reads := 0
	store.break_(func(recs []eventlog.Append) []error {
		store.break_(func(recs []eventlog.Append) []error { // the other's admission: its caller is gone before the dispatch
			store.break_(nil)
			cancel()
			return store.Store.Append(context.Background(), recs)
		})
		return []error{talking{func() {
			if reads++; reads == 2 { // the first is the lane's: now the loser of the record is told
				if _, err := s.Act(gone, policy.Agent(ann), session.Act{Action: "write"}); !errors.Is(err, context.Canceled) {
					t.Errorf("the other: %v", err)
				}
			}
		}}}
	})
	if _, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "write"}); !errors.Is(err, hypervisor.ErrStoreUnavailable) {
		t.Errorf("the lost one: %v", err)
	}
	steps(hv)
	views, err := s.Actions(context.Background(), 0, 10)
	if err != nil || len(views) != 1 || views[0].Outcome != "failed" || views[0].Why != "not_sent" {
		t.Errorf("the other: %+v, %v", views, err)
	}
	closeAll(t, hv)
	verify(t, store)
}

// An admission that was reported lost and is there all the same was not dispatched: it is told so, and holds no place.
func TestAdmissionReportedLostIsSettledAsNotSent(t *testing.T) {
	store, clock := newKept(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	var tool echo
	register(s, tool.do)
	store.break_(store.failing("action.admitted", eventlog.ErrUnknown, true))
	for range 8 { // as many as ring 2 may run
		if _, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "write"}); !errors.Is(err, hypervisor.ErrStoreUnavailable) {
			t.Fatal(err)
		}
	}
	store.break_(nil)
	clock.Advance(2 * time.Second)
	steps(hv)
	if out := act(t, s, ann, "write", `{}`); !out.Allowed {
		t.Errorf("%+v", out.Decision)
	}
	views, err := s.Actions(context.Background(), 0, 20)
	if err != nil || len(views) != 9 || tool.count() != 1 {
		t.Fatalf("%+v, %v; %d dispatched", views, err, tool.count())
	}
	for _, v := range views[:8] {
		if v.Outcome != "failed" || v.Why != "not_sent" {
			t.Errorf("%+v", v)
		}
	}
}

// SPEC §1: no id is given out twice. An eventual session acknowledges reads whose records may be lost.
func TestEventualSessionThatLostRecordsGivesNoIDOutTwice(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, &session.Config{Consistency: session.Eventual}, map[policy.DID]string{ann: "0.80"})
	var tool echo
	register(s, tool.do)
	store.break_(full)
	lost := act(t, s, ann, "read", `{}`)
	steps(hv)
	if out := act(t, s, ann, "nothing", `{}`); out.Code != policy.UnknownAction {
		t.Errorf("a refusal after a loss: %+v", out.Decision)
	}
	store.break_(nil)
	if out := act(t, s, ann, "write", `{}`); out.ID == lost.ID || !strings.HasPrefix(out.ID, "act-2.") {
		t.Errorf("%s, after %s was lost", out.ID, lost.ID)
	}
	closeAll(t, hv)
	verify(t, store)
}

// A read that is still under way when its record is lost must not settle the call that came after it.
func TestLostReadDoesNotSettleAnother(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, &session.Config{Consistency: session.Eventual}, map[policy.DID]string{ann: "0.80"})
	var inner hypervisor.Outcome
	s.Register(action.Descriptor{ID: "write", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		return json.RawMessage(`"written"`), nil
	})
	s.Register(action.Descriptor{ID: "read", ReadOnly: true}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		steps(hv)
		store.break_(nil)
		inner = act(t, s, ann, "write", `{}`)
		return json.RawMessage(`"read"`), nil
	})
	store.break_(full)
	outer := act(t, s, ann, "read", `{}`)
	steps(hv)
	views, err := s.Actions(context.Background(), 0, 10)
	if err != nil || len(views) != 1 || views[0].ID != inner.ID || string(views[0].Result) != `"written"` || outer.ID == inner.ID {
		t.Errorf("outer %s, inner %s, log %+v, %v", outer.ID, inner.ID, views, err)
	}
}

// What a lost record made due, or took from the timers, comes back by itself.
func TestEndThatWasLostIsRecordedLater(t *testing.T) {
	for _, stored := range []bool{false, true} {
		t.Run(fmt.Sprintf("stored=%t", stored), func(t *testing.T) {
			store, clock := newKept(), hypervisortest.NewClock()
			hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
			s := hypervisortest.Session(t, hv, &session.Config{MaxDuration: time.Minute}, map[policy.DID]string{ann: "0.80"})
			store.break_(store.failing("session.archived", eventlog.ErrUnknown, stored))
			clock.Advance(time.Minute)
			steps(hv)
			store.break_(nil)
			clock.Advance(2 * time.Second)
			steps(hv)
			if all := types(t, s); all[len(all)-1] != "session.archived" {
				t.Errorf("the log has %v", all)
			}
			if open := hv.OpenSessions(); len(open) != 0 {
				t.Errorf("not sealed: %v", open)
			}
			verify(t, store)
		})
	}
}

// Calls that outlast the grace time are cancelled, also if the record that says so was reported lost.
func TestGraceIsOverAlsoIfItsRecordWasReportedLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newKept()
		hv := open(t, &hypervisor.Options{Store: store})
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		register(s, func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		var out hypervisor.Outcome
		go func() { out, _ = s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "write"}) }()
		synctest.Wait()
		store.break_(store.failing("session.cancelling", eventlog.ErrUnknown, true))
		begun := time.Now()
		if _, err := s.Terminate(context.Background(), admin); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("the end took %v", took)
		}
		synctest.Wait()
		if out.State != "unknown" {
			t.Errorf("%+v", out)
		}
		closeAll(t, hv)
		verify(t, store)
	})
}

// An acknowledgement of what another command is still recording waits for that record.
func TestEndingTwiceIsNotAcknowledgedBeforeTheFirstIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newKept()
		hv := open(t, &hypervisor.Options{Store: store})
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		asked := make(chan struct{})
		store.break_(func(recs []eventlog.Append) []error {
			<-asked
			store.break_(nil)
			return full(recs)
		})
		errs := make([]error, 2)
		for i := range errs {
			go func() { _, errs[i] = s.Terminate(context.Background(), admin) }()
			synctest.Wait()
		}
		close(asked)
		synctest.Wait()
		for i, err := range errs {
			if !errors.Is(err, hypervisor.ErrStoreUnavailable) {
				t.Errorf("%d: %v", i, err)
			}
		}
		closeAll(t, hv)
	})
}

// After a restart the end of an archived session is told from its records, by any number of callers.
func TestTerminateOfAnArchivedSessionTellsItsSummary(t *testing.T) {
	store := newKept()
	hv := open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	want, err := s.Terminate(context.Background(), admin)
	if err != nil {
		t.Fatal(err)
	}
	closeAll(t, hv)
	again := open(t, &hypervisor.Options{Store: store, MaxLoaded: 1})
	other := hypervisortest.Session(t, again, nil, map[policy.DID]string{bob: "0.80"})
	old, err := again.Session(context.Background(), s.ID())
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if sum, err := old.Terminate(context.Background(), admin); err != nil || sum != want {
				t.Errorf("%+v, %v; want %+v", sum, err, want)
			}
			if _, err := other.State(context.Background()); err != nil { // takes the one place there is
				t.Error(err)
			}
			found, err := again.Session(context.Background(), s.ID())
			if err != nil {
				t.Error(err)
				return
			}
			if sum, err := found.Terminate(context.Background(), admin); err != nil || sum != want {
				t.Errorf("%+v, %v; want %+v", sum, err, want)
			}
		})
	}
	all.Wait()
	closeAll(t, again)
	verify(t, store)
}

func TestCreateSessionOnceIsOneSessionHoweverManyAsk(t *testing.T) {
	for range 20 {
		hv := open(t, nil)
		sessions := make([]*hypervisor.Session, 16)
		var all sync.WaitGroup
		for i := range sessions {
			all.Go(func() {
				s, err := hv.CreateSessionOnce(context.Background(), admin, "k", nil)
				if err != nil {
					t.Errorf("%d: %v", i, err)
				}
				sessions[i] = s
			})
		}
		all.Wait()
		for _, s := range sessions {
			if s != sessions[0] {
				t.Error("one session has two handles")
			}
		}
		if sessions[0] != nil {
			if _, err := sessions[0].Terminate(context.Background(), admin); err != nil {
				t.Error(err)
			}
		}
		closeAll(t, hv)
	}
}

func TestCreateSessionOnceWithOtherSettingsIsAConflict(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	ctx := context.Background()
	first, err := hv.CreateSessionOnce(ctx, admin, "k", &session.Config{MaxParticipants: 5})
	if err != nil {
		t.Fatal(err)
	}
	same, err := hv.CreateSessionOnce(ctx, admin, "k", &session.Config{MaxParticipants: 5, MaxDuration: session.DefaultDuration})
	if err != nil || same != first {
		t.Errorf("the same settings: %v", err)
	}
	_, err = hv.CreateSessionOnce(ctx, admin, "k", &session.Config{MaxParticipants: 6})
	var refused *hypervisor.Refused
	if !errors.As(err, &refused) || refused.Decision.Code != policy.IdempotencyConflict {
		t.Errorf("other settings: %v", err)
	}
}

// Whoever asks for what is not there, or may not create it, costs no memory.
func TestWhatIsNotThereLeavesNoHandle(t *testing.T) {
	store, clock := newKept(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	ctx := context.Background()
	for i := range 100 {
		if _, err := hv.Session(ctx, fmt.Sprint("ses-", i)); !errors.Is(err, hypervisor.ErrNotFound) {
			t.Fatal(err)
		}
		if _, err := hv.CreateSession(ctx, policy.Agent(ann), nil); err == nil {
			t.Fatal("an agent created a session")
		}
		if _, err := hv.CreateSession(ctx, admin, &session.Config{MaxParticipants: -1}); err == nil {
			t.Fatal("created with bad settings")
		}
	}
	store.break_(full)
	for range 10 {
		if _, err := hv.CreateSession(ctx, admin, nil); !errors.Is(err, hypervisor.ErrStoreUnavailable) {
			t.Fatal(err)
		}
	}
	store.break_(nil)
	release := hv.FillCommitter()
	if _, err := hv.CreateSession(ctx, admin, nil); !errors.Is(err, hypervisor.ErrOverloaded) {
		t.Fatal(err)
	}
	release()
	clock.Advance(2 * time.Second)
	steps(hv)
	if handles, loaded := hv.Handles(); handles != 0 || loaded != 0 {
		t.Errorf("%d handles, %d loaded", handles, loaded)
	}
}

// Archived sessions are read now and then by whoever kept a handle; that takes no place for good.
func TestArchivedSessionsTakeNoPlaceForGood(t *testing.T) {
	hv := hypervisortest.Open(t, &hypervisor.Options{MaxLoaded: 4})
	ctx := context.Background()
	var ids []string
	for range 20 {
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		if _, err := s.Terminate(ctx, admin); err != nil {
			t.Fatal(err)
		}
		if state, err := s.State(ctx); err != nil || state.Lifecycle != session.Archived {
			t.Fatal(state, err)
		}
		ids = append(ids, s.ID())
	}
	for _, id := range ids {
		if _, err := hv.Session(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if handles, loaded := hv.Handles(); handles > 4 || loaded > 4 {
		t.Errorf("%d handles, %d loaded", handles, loaded)
	}
}

// docs/design.md "Entities": a repeat answers from the record, and does nothing else.
func TestRepeatedJoinSetsNoSigma(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	ctx := context.Background()
	s, err := hv.CreateSession(ctx, admin, nil)
	if err != nil {
		t.Fatal(err)
	}
	join := session.Join{Agent: ann, Sigma: 800_000, Key: "k"}
	if _, err := s.Join(ctx, admin, join); err != nil {
		t.Fatal(err)
	}
	if _, err := hv.SetSigma(ctx, admin, ann, 300_000); err != nil {
		t.Fatal(err)
	}
	if p, err := s.Join(ctx, admin, join); err != nil || p.SigmaEff != 300_000 {
		t.Errorf("%+v, %v", p, err)
	}
}

// SPEC §2: a start that finds the clock set back ends unused grants. What this process grants stays granted.
func TestClockSetBackEndsOldGrantsAndNoNewOnes(t *testing.T) {
	store, clock := newKept(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	register(s, (&echo{}).do)
	clock.Advance(20 * time.Minute) // the system stream has no record as new as the session's
	grant := func(s *hypervisor.Session) {
		t.Helper()
		asked := act(t, s, ann, "destroy", `{}`)
		if asked.Code != policy.ApprovalRequired {
			t.Fatalf("%+v", asked.Decision)
		}
		d, err := s.Grant(context.Background(), policy.Approver("did:mesh:eve"), session.Grant{Approval: asked.Approval.ID, Digest: asked.Approval.Digest})
		if err != nil || !d.Allowed {
			t.Fatal(d, err)
		}
	}
	grant(s)
	clock.Advance(-10 * time.Minute)
	again := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock, Random: hypervisortest.NewSeeded(2), MaxLoaded: 1})
	s2, err := again.Session(context.Background(), s.ID())
	if err != nil {
		t.Fatal(err)
	}
	register(s2, (&echo{}).do)
	if out := act(t, s2, ann, "destroy", `{}`); out.Code != policy.ApprovalExpired {
		t.Errorf("a grant outlived the clock it was given by: %+v", out.Decision)
	}
	grant(s2)
	hypervisortest.Session(t, again, nil, map[policy.DID]string{bob: "0.80"}) // takes its place in memory
	if out := act(t, s2, ann, "destroy", `{}`); !out.Allowed {
		t.Errorf("a new grant was taken back: %+v", out.Decision)
	}
}

// ErrClosed is what everything answers once the hypervisor has ended.
func TestEverythingIsClosedAfterClose(t *testing.T) {
	for _, stepped := range []bool{true, false} {
		t.Run(fmt.Sprintf("stepped=%t", stepped), func(t *testing.T) {
			ctx := context.Background()
			hv := open(t, &hypervisor.Options{Stepped: stepped})
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
			idle := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
			register(s, (&echo{}).do)
			closeAll(t, hv)
			if _, err := idle.Terminate(ctx, admin); !errors.Is(err, hypervisor.ErrClosed) {
				t.Errorf("Terminate: %v", err)
			}
			for name, call := range map[string]func() error{
				"Act":               func() error { _, err := s.Act(ctx, policy.Agent(ann), session.Act{Action: "write"}); return err },
				"Join":              func() error { _, err := s.Join(ctx, admin, session.Join{Agent: bob, Sigma: 1}); return err },
				"Leave":             func() error { return s.Leave(ctx, admin, session.Leave{Agent: ann}) },
				"Activate":          func() error { return s.Activate(ctx, admin) },
				"Grant":             func() error { _, err := s.Grant(ctx, admin, session.Grant{}); return err },
				"CreateSession":     func() error { _, err := hv.CreateSession(ctx, admin, nil); return err },
				"CreateSessionOnce": func() error { _, err := hv.CreateSessionOnce(ctx, admin, "k", nil); return err },
				"SetRules":          func() error { _, err := hv.SetRules(ctx, admin, policy.NoRules{}, "v"); return err },
				"SetSigma":          func() error { _, err := hv.SetSigma(ctx, admin, bob, 1); return err },
				"Pin":               func() error { _, err := hv.Pin(ctx, admin, map[string]system.Seen{"a.b": {}}); return err },
				"Session":           func() error { _, err := hv.Session(ctx, "other"); return err },
				"Close":             func() error { return hv.Close(ctx) },
				"Records": func() error {
					for _, err := range s.Records(ctx, 1) {
						return err
					}
					return nil
				},
				"Follow": func() error {
					for _, err := range hv.Follow(ctx, 0) {
						return err
					}
					return nil
				},
			} {
				if err := call(); !errors.Is(err, hypervisor.ErrClosed) || errors.Is(err, hypervisor.ErrOverloaded) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// The context of one caller, or of Close, tears no group of records.
func TestCloseThatMayNotWaitLosesNoRecord(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, &session.Config{Consistency: session.Eventual}, map[policy.DID]string{ann: "0.80"})
	register(s, (&echo{}).do)
	act(t, s, ann, "read", `{}`)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := hv.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if all := types(t, s); !slices.Contains(all, "action.completed") {
		t.Errorf("the log has %v", all)
	}
}

// newest returns the type of the newest record's last event, of all streams.
func newest(t *testing.T, log eventlog.Log) (stream, kind string) {
	t.Helper()
	for r, err := range log.Tail(context.Background(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		var rec struct{ Events []struct{ Type string } }
		if err := json.Unmarshal(r.Body, &rec); err != nil {
			t.Fatal(err)
		}
		stream, kind = r.Stream, rec.Events[len(rec.Events)-1].Type
	}
	return stream, kind
}

// Close lets a call in flight finish, and its record is there before system.stopped, the last of all.
func TestCloseWaitsForACallAndRecordsTheEndLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newKept()
		hv := open(t, &hypervisor.Options{Store: store})
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		answer := make(chan struct{})
		register(s, func(context.Context, json.RawMessage) (json.RawMessage, error) {
			<-answer
			return json.RawMessage(`"late"`), nil
		})
		var out hypervisor.Outcome
		var err, closed error
		go func() { out, err = s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "write"}) }()
		synctest.Wait()
		ended := false
		go func() { closed = hv.Close(context.Background()); ended = true }()
		synctest.Wait()
		if ended {
			t.Error("closed with a call in flight")
		}
		if _, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "write"}); !errors.Is(err, hypervisor.ErrClosed) {
			t.Errorf("admitted while closing: %v", err)
		}
		close(answer)
		synctest.Wait()
		if err != nil || closed != nil || out.State != "done" || string(out.Result) != `"late"` {
			t.Errorf("%+v, %v, %v", out, err, closed)
		}
		if all := types(t, s); all[len(all)-1] != "action.completed" {
			t.Errorf("the log has %v", all)
		}
		if stream, kind := newest(t, store); stream != audit.SystemStream || kind != "system.stopped" {
			t.Errorf("the newest record is %s of %s", kind, stream)
		}
		verify(t, store)
	})
}

func TestClosedHypervisorLeavesNoGoroutine(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		before := goleak.IgnoreCurrent()
		hv := open(t, &hypervisor.Options{Dir: dir})
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		register(s, (&echo{}).do)
		act(t, s, ann, "write", `{}`)
		closeAll(t, hv)
		goleak.VerifyNone(t, before)
	}
}

// A call that outlasts Close's context is cancelled, and recorded as what is known of it.
func TestCloseCancelsACallThatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newKept()
		hv := open(t, &hypervisor.Options{Store: store})
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		register(s, func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		var out hypervisor.Outcome
		go func() { out, _ = s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "write"}) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := hv.Close(ctx); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if out.State != "unknown" {
			t.Errorf("%+v", out)
		}
		if all := types(t, s); all[len(all)-1] != "action.unknown" {
			t.Errorf("the log has %v", all)
		}
	})
}

// A call that ignores its cancellation does not hold up the end of the process, nor do those who wait for it.
func TestCloseLeavesBehindWhatIgnoresItsCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newKept()
		hv := open(t, &hypervisor.Options{Store: store})
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		answer := make(chan struct{})
		register(s, func(context.Context, json.RawMessage) (json.RawMessage, error) {
			<-answer
			return nil, nil
		})
		var acted, terminated, followed error
		go func() { _, acted = s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "write"}) }()
		synctest.Wait()
		go func() { _, terminated = s.Terminate(context.Background(), admin) }()
		go func() {
			for _, followed = range hv.Follow(context.Background(), 0) {
				_ = followed
			}
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		begun := time.Now()
		if err := hv.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("closing took %v", took)
		}
		synctest.Wait()
		for name, err := range map[string]error{"Act": acted, "Terminate": terminated, "Follow": followed} {
			if !errors.Is(err, hypervisor.ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		}
		close(answer) // long after the end
		synctest.Wait()
		if stream, kind := newest(t, store); stream != audit.SystemStream || kind != "system.stopped" {
			t.Errorf("the newest record is %s of %s", kind, stream)
		}
		verify(t, store)
	})
}

// A name whose session takes its time to end holds up nobody who asks for another.
func TestEndingSessionOfOneNameHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hv := open(t, nil)
		ctx, answer := context.Background(), make(chan struct{})
		slow := hypervisortest.Session(t, hv, &session.Config{Name: "slow"}, map[policy.DID]string{ann: "0.80"})
		other := hypervisortest.Session(t, hv, &session.Config{Name: "other"}, map[policy.DID]string{ann: "0.80"})
		register(slow, func(context.Context, json.RawMessage) (json.RawMessage, error) {
			<-answer
			return nil, nil
		})
		var successor *hypervisor.Session
		go func() { _, _ = slow.Act(ctx, policy.Agent(ann), session.Act{Action: "write"}) }()
		synctest.Wait()
		go func() { _, _ = slow.Terminate(ctx, admin) }()
		synctest.Wait()
		go func() { successor, _ = hv.Alias(ctx, admin, "slow") }()
		synctest.Wait()
		begun := time.Now()
		if s, err := hv.Alias(ctx, admin, "other"); err != nil || s != other || time.Since(begun) > 0 {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		close(answer)
		synctest.Wait()
		if successor == nil || successor == slow {
			t.Error("the ended session has no successor")
		}
		closeAll(t, hv)
	})
}

// What a lost record said of the node is not so.
func TestLostSystemRecordIsForgotten(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	ctx := context.Background()
	for name, lost := range map[string]func() error{
		"token": func() error {
			_, err := hv.IssueToken(ctx, admin, system.Token{ID: "tok-1", Subject: ann, Role: policy.AgentRole, Session: "ses-1",
				Hash: audit.Leaf([]byte("secret")), Expires: hypervisortest.NewClock().Now().Add(time.Hour)})
			return err
		},
		"opening": func() error { _, err := hv.CreateSession(ctx, admin, nil); return err },
	} {
		store.break_(store.failing(`"stream":"system"`, errors.New("disk full"), false))
		if err := lost(); !errors.Is(err, hypervisor.ErrStoreUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		store.break_(nil)
		if tokens, open := hv.Tokens(), hv.OpenSessions(); len(tokens) != 0 || len(open) != 0 {
			t.Errorf("%s: tokens %v, open sessions %v", name, tokens, open)
		}
	}
}

// Close tries once more to record an outcome the store did not take.
func TestOwedOutcomeIsRecordedByClose(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	s.Register(action.Descriptor{ID: "write", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		store.break_(full)
		return nil, nil
	})
	if _, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "write"}); !errors.Is(err, hypervisor.ErrStoreUnavailable) {
		t.Fatal(err)
	}
	store.break_(nil)
	closeAll(t, hv)
	if all := types(t, s); all[len(all)-1] != "action.completed" {
		t.Errorf("the log has %v", all)
	}
}

// Act's answer when its context ends is read while the outcome is being recorded.
func TestCallersEndRacesTheOutcome(t *testing.T) {
	hv := open(t, &hypervisor.Options{Clock: &fastClock{}})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97"})
	register(s, func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) { return nil, ctx.Err() })
	for range 300 {
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		if out, err := s.Act(ctx, policy.Agent(ann), session.Act{Action: "write"}); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	closeAll(t, hv)
}

// docs/design.md, step 3: without a place nothing is decided, and nothing applied.
func TestOverloadAppliesNothing(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	var tool echo
	register(s, tool.do)
	before, err := s.State(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for name, fill := range map[string]func() func(){"executor": hv.FillExecutor, "committer": hv.FillCommitter} {
		release := fill()
		for _, call := range []string{"write", "nothing"} {
			if out, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: call}); !errors.Is(err, hypervisor.ErrOverloaded) {
				t.Errorf("%s is full, %s: %+v, %v", name, call, out, err)
			}
		}
		if name == "committer" {
			if err := s.Leave(context.Background(), admin, session.Leave{Agent: ann}); !errors.Is(err, hypervisor.ErrOverloaded) {
				t.Errorf("Leave: %v", err)
			}
			if _, err := hv.SetSigma(context.Background(), admin, bob, 1); !errors.Is(err, hypervisor.ErrOverloaded) {
				t.Errorf("SetSigma: %v", err)
			}
		}
		release()
	}
	after, err := s.State(context.Background())
	if err != nil || after.Seq != before.Seq || tool.count() != 0 {
		t.Errorf("record %d, before %d; %d dispatched; %v", after.Seq, before.Seq, tool.count(), err)
	}
	for range 20 { // no place was lost, and no token taken
		if out := act(t, s, ann, "write", `{}`); !out.Allowed {
			t.Fatalf("%+v", out.Decision)
		}
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	var tool echo
	register(s, tool.do)
	before := types(t, s)
	for range 200 { // more than the bucket holds
		for _, name := range []string{"read", "write", "destroy", "nothing"} {
			d, err := s.DryRun(context.Background(), policy.Agent(ann), session.Act{Action: name})
			if err != nil || d.Code == policy.RateLimited || d.Seq != 0 {
				t.Fatalf("%s: %+v, %v", name, d, err)
			}
		}
	}
	steps(hv)
	if after := types(t, s); !slices.Equal(before, after) || tool.count() != 0 {
		t.Errorf("the log has %v; %d dispatched", after, tool.count())
	}
}

// Many callers, many sessions, few places in memory, a real file: what was acknowledged is there once, and the log verifies.
func TestManyCallersOnFewPlaces(t *testing.T) {
	dir := t.TempDir()
	hv := open(t, &hypervisor.Options{Dir: dir, MaxLoaded: 3, Clock: &fastClock{}})
	ctx := context.Background()
	const sessions, callers, each = 12, 64, 6
	all := make([]*hypervisor.Session, sessions)
	var tool echo
	for i := range all {
		all[i] = hypervisortest.Session(t, hv, &session.Config{MaxDuration: session.MaxDuration, Consistency: session.Consistency(i % 2)}, map[policy.DID]string{ann: "0.97"})
		register(all[i], tool.do)
	}
	var mu sync.Mutex
	acked := map[string]int{}
	var done sync.WaitGroup
	for i := range callers {
		done.Go(func() {
			for j := range each {
				s := all[(i+j)%sessions]
				out, err := s.Act(ctx, policy.Agent(ann), session.Act{Action: []string{"read", "write"}[i%2], Args: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i*each+j))})
				if err != nil {
					t.Errorf("act: %v", err)
				}
				if out.Allowed {
					mu.Lock()
					acked[s.ID()+"/"+out.ID]++
					mu.Unlock()
				}
				if _, err := s.State(ctx); err != nil {
					t.Errorf("state: %v", err)
				}
				if i < sessions/2 && j == each-1 {
					if _, err := all[i].Terminate(ctx, admin); err != nil {
						t.Errorf("terminate: %v", err)
					}
				}
			}
		})
	}
	done.Wait()
	if _, loaded := hv.Handles(); loaded > callers {
		t.Errorf("%d sessions are loaded", loaded)
	}
	closeAll(t, hv)
	again := open(t, &hypervisor.Options{Dir: dir, Clock: &fastClock{}})
	found := map[string]int{}
	for _, s := range all {
		old, err := again.Session(ctx, s.ID())
		if err != nil {
			t.Fatal(err)
		}
		views, err := old.Actions(ctx, 0, hypervisor.MaxPage)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range views {
			if v.Outcome != "done" {
				t.Errorf("%+v", v)
			}
			found[s.ID()+"/"+v.ID]++
		}
	}
	if len(found) != len(acked) || tool.count() != len(acked) {
		t.Errorf("%d acknowledged, %d in the log, %d dispatched", len(acked), len(found), tool.count())
	}
	for id, n := range acked {
		if n != 1 || found[id] != 1 {
			t.Errorf("%s was acknowledged %d times and is %d times in the log", id, n, found[id])
		}
	}
	closeAll(t, again)
}

// A follower that stops and comes back sees every record once, in order, while others write.
func TestFollowersResumeWithoutGapOrDuplicate(t *testing.T) {
	hv := open(t, &hypervisor.Options{Clock: &fastClock{}})
	const sessions, each = 8, 20
	var followers, writers sync.WaitGroup
	for i := range 4 {
		followers.Go(func() {
			var at uint64
			for n, end := 0, false; !end; {
				for e, err := range hv.Follow(context.Background(), at) {
					if err != nil || (e.Position != at && e.Position != at+1) {
						t.Errorf("%d after %d: %v", e.Position, at, err)
						return
					}
					if n++; e.Position != at && n%(i+2) == 0 {
						break // before the record is taken: it comes again
					}
					at = e.Position
					if end = e.Stream == audit.AgentPrefix+string(bob); end {
						break
					}
				}
			}
		})
	}
	for range sessions {
		writers.Go(func() {
			s := hypervisortest.Session(t, hv, &session.Config{MaxDuration: session.MaxDuration}, map[policy.DID]string{ann: "0.97"})
			register(s, (&echo{}).do)
			for range each {
				act(t, s, ann, "write", `{}`)
			}
		})
	}
	writers.Wait()
	if _, err := hv.SetSigma(context.Background(), admin, bob, 700_000); err != nil {
		t.Fatal(err)
	}
	followers.Wait()
	closeAll(t, hv)
}
