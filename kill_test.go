package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
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
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

// kill_test.go: SPEC §7 "Kill switch".

func kill(t testing.TB, hv *hypervisor.Hypervisor, scope policy.Scope) hypervisor.KillReport {
	t.Helper()
	report, err := hv.Kill(context.Background(), admin, policy.Kill{Scope: scope, Reason: policy.Manual})
	if err != nil {
		t.Fatalf("killing %s: %v", scope, err)
	}
	return report
}

func lift(t testing.TB, hv *hypervisor.Hypervisor, scope policy.Scope) {
	t.Helper()
	if d, err := hv.LiftKill(context.Background(), admin, scope); err != nil || !d.Allowed {
		t.Fatalf("lifting %s: %+v, %v", scope, d, err)
	}
}

// scopes are the four kinds of kill, of ann and of her session where they name one.
func scopes(s *hypervisor.Session) map[string]policy.Scope {
	return map[string]policy.Scope{
		"agent": {Agent: ann}, "agent in session": {Agent: ann, Session: s.ID()}, "session": {Session: s.ID()}, "all": {All: true},
	}
}

var afterKill = map[string]policy.Code{"agent": policy.AgentKilled, "agent in session": policy.AgentKilled, "session": policy.SessionNotActive, "all": policy.KilledAll}

// "refuses the next call at once".
func TestAKillRefusesTheNextCall(t *testing.T) {
	for name := range afterKill {
		t.Run(name, func(t *testing.T) {
			store := newKept()
			hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
			other := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
			var tool echo
			register(s, tool.do)
			register(other, tool.do)
			act(t, s, ann, "write", `{}`)
			scope := scopes(s)[name]
			if report := kill(t, hv, scope); !report.Recorded || report.Kill.Scope != scope || len(report.Cancelled)+len(report.StillRunning) > 0 {
				t.Errorf("%+v", report)
			}
			again := kill(t, hv, scope)
			if !again.Recorded || len(hv.Kills()) > 1 {
				t.Errorf("%+v, %v", again, hv.Kills())
			}
			before := tool.count()
			if out := act(t, s, ann, "read", `{}`); out.Code != afterKill[name] {
				t.Errorf("%+v", out.Decision)
			}
			if tool.count() != before {
				t.Error("it was dispatched")
			}
			if out := act(t, other, ann, "read", `{}`); out.Allowed != (name == "agent in session" || name == "session") {
				t.Errorf("in another session: %+v", out.Decision)
			}
			if out := act(t, s, bob, "read", `{}`); out.Allowed != strings.HasPrefix(name, "agent") {
				t.Errorf("another agent: %+v", out.Decision)
			}
			closeAll(t, hv)
			verify(t, store)
		})
	}
}

// "Checked at the door and again at dispatch": what was admitted before the kill and had not gone out does not go out.
func TestAKillBetweenAdmissionAndDispatchStopsTheCall(t *testing.T) {
	for name := range afterKill {
		t.Run(name, func(t *testing.T) {
			hv := hypervisortest.Open(t, nil)
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
			var tool echo
			register(s, tool.do)
			out, err := s.Begin(context.Background(), policy.Agent(ann), session.Act{Action: "write"})
			if err != nil || !out.Allowed {
				t.Fatalf("%+v, %v", out, err)
			}
			report := kill(t, hv, scopes(s)[name])
			want := []hypervisor.KilledCall{{Session: s.ID(), ID: out.ID, Action: "write", Outcome: "failed"}}
			if !slices.Equal(report.Cancelled, want) || len(report.StillRunning) > 0 {
				t.Errorf("%+v", report)
			}
			steps(hv)
			if n := tool.count(); n != 0 {
				t.Errorf("%d dispatched", n)
			}
			if v, err := s.Action(context.Background(), out.ID); err != nil || v.Outcome != "failed" || v.Why != "not_sent" {
				t.Errorf("%+v, %v", v, err)
			}
			closeAll(t, hv)
		})
	}
}

// A call that is admitted while the kill looks for what runs finds the kill when it is dispatched.
func TestACallThatIsAdmittedWhileTheKillIsMadeIsNotDispatched(t *testing.T) {
	store := newKept()
	hv := open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	var tool echo
	register(s, tool.do)
	var killing sync.WaitGroup
	store.break_(func(recs []eventlog.Append) []error { // the admission is decided, and on its way to the store
		if strings.Contains(string(recs[0].Body), "action.admitted") {
			store.break_(nil)
			changed := hv.KillsChanged()
			killing.Go(func() { kill(t, hv, policy.Scope{Agent: ann}) })
			<-changed
		}
		return store.Store.Append(context.Background(), recs)
	})
	out, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "write"})
	if err != nil || out.State != "failed" || !errors.Is(out.Err, action.ErrNotDispatched) || tool.count() != 0 {
		t.Errorf("%+v, %v; %d dispatched", out, err, tool.count())
	}
	killing.Wait()
	closeAll(t, hv)
	verify(t, store)
}

// "cancels running ones … and reports".
func TestAKillCancelsWhatRuns(t *testing.T) {
	for name := range afterKill {
		t.Run(name, func(t *testing.T) {
			store := newKept()
			hv := open(t, &hypervisor.Options{Store: store})
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
			going := make(chan struct{}, 2)
			s.Register(action.Descriptor{ID: "wait", Reversibility: action.Partial}, func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
				going <- struct{}{}
				<-ctx.Done()
				return nil, ctx.Err()
			})
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			var ids []string
			for _, who := range []policy.DID{ann, bob} {
				out, err := s.Begin(ctx, policy.Agent(who), session.Act{Action: "wait"})
				if err != nil || !out.Allowed {
					t.Fatal(out, err)
				}
				ids = append(ids, out.ID)
			}
			<-going
			<-going
			report := kill(t, hv, scopes(s)[name])
			want := []hypervisor.KilledCall{{Session: s.ID(), ID: ids[0], Action: "wait", Outcome: "unknown"}}
			if !strings.HasPrefix(name, "agent") {
				want = append(want, hypervisor.KilledCall{Session: s.ID(), ID: ids[1], Action: "wait", Outcome: "unknown"})
			}
			if !slices.Equal(report.Cancelled, want) || len(report.StillRunning) > 0 {
				t.Errorf("%+v", report)
			}
			stop()
			closeAll(t, hv)
			why := map[string]string{ids[0]: "killed", ids[1]: map[bool]string{true: "cancelled", false: "killed"}[len(want) == 1]}
			read := hypervisortest.Open(t, &hypervisor.Options{Store: store})
			s, err := read.Session(context.Background(), s.ID())
			if err != nil {
				t.Fatal(err)
			}
			for id, why := range why {
				if v, err := s.Action(context.Background(), id); err != nil || v.Outcome != "unknown" || v.Why != why {
					t.Errorf("%+v, %v; want %s", v, err, why)
				}
			}
		})
	}
}

// "and said if it could not be": a function that ignores its context is reported.
func TestACallThatCannotBeCancelledIsReported(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	var report hypervisor.KillReport
	s.Register(action.Descriptor{ID: "stubborn", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		report = kill(t, hv, policy.Scope{Agent: ann})
		return json.RawMessage(`"done all the same"`), nil
	})
	out := act(t, s, ann, "stubborn", `{}`)
	if want := []hypervisor.KilledCall{{Session: s.ID(), ID: out.ID, Action: "stubborn"}}; !slices.Equal(report.StillRunning, want) || len(report.Cancelled) > 0 {
		t.Errorf("%+v", report)
	}
	if out.State != "done" {
		t.Errorf("%+v", out)
	}
}

// "A preallocated kill file … makes it survive a crash with the disk full": no record of the kill could be written.
func TestAKillSurvivesACrashWhileTheStoreRefusesWrites(t *testing.T) {
	for name := range afterKill {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			store, dir := newKept(), t.TempDir()
			hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Dir: dir})
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
			var tool echo
			register(s, tool.do)
			store.break_(full)
			if report := kill(t, hv, scopes(s)[name]); report.Recorded {
				t.Errorf("%+v: nothing can be recorded", report)
			}
			out, err := s.Act(ctx, policy.Agent(ann), session.Act{Action: "write"})
			if name == "session" { // its state is as the log has it, which does not tell yet
				if err == nil && out.Allowed || tool.count() != 0 {
					t.Errorf("%+v, %v", out, err)
				}
			} else if err != nil || out.Code != afterKill[name] {
				t.Errorf("%+v, %v", out, err)
			}
			store.break_(nil) // the process is gone, and there is room again

			hv = hypervisortest.Open(t, &hypervisor.Options{Store: store, Dir: dir})
			if s, err = hv.Session(ctx, s.ID()); err != nil {
				t.Fatal(err)
			}
			register(s, tool.do)
			if out, err := s.Act(ctx, policy.Agent(ann), session.Act{Action: "write"}); err != nil || out.Allowed || tool.count() != 0 {
				t.Errorf("%+v, %v", out, err)
			}
			steps(hv)
			if out := act(t, s, ann, "write", `{}`); out.Code != afterKill[name] {
				t.Errorf("%+v", out.Decision)
			}
			closeAll(t, hv)
			if err := os.Remove(filepath.Join(dir, "kill")); err != nil { // by now the log tells of it too
				t.Fatal(err)
			}
			hv = hypervisortest.Open(t, &hypervisor.Options{Store: store, Dir: dir})
			if s, err = hv.Session(ctx, s.ID()); err != nil {
				t.Fatal(err)
			}
			register(s, tool.do)
			if out := act(t, s, ann, "write", `{}`); out.Code != afterKill[name] || tool.count() != 0 {
				t.Errorf("%+v", out.Decision)
			}
			closeAll(t, hv)
			verify(t, store)
		})
	}
}

// A record that was owed is written once the store is back, without a restart.
func TestAnOwedKillIsRecordedLater(t *testing.T) {
	store, clock := newKept(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Dir: t.TempDir(), Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	store.break_(full)
	kill(t, hv, policy.Scope{Agent: ann, Session: s.ID()})
	store.break_(nil)
	clock.Advance(2 * time.Second)
	steps(hv)
	if got := types(t, s); !slices.Contains(got, "security.agent_killed") {
		t.Errorf("%v", got)
	}
	if report := kill(t, hv, policy.Scope{Agent: ann, Session: s.ID()}); !report.Recorded {
		t.Errorf("%+v", report)
	}
	closeAll(t, hv)
	verify(t, store)
}

// "until an operator lifts it", and not again by what the kill file still says.
func TestALiftedKillStaysLifted(t *testing.T) {
	for name := range afterKill {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			store, dir := newKept(), t.TempDir()
			hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Dir: dir})
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
			scope := scopes(s)[name]
			if d, err := hv.LiftKill(ctx, admin, scope); err != nil || d.Allowed {
				t.Errorf("lifting what is not killed: %+v, %v", d, err)
			}
			kill(t, hv, scope)
			before, err := os.ReadFile(filepath.Join(dir, "kill"))
			if err != nil {
				t.Fatal(err)
			}
			if name == "session" {
				if d, err := hv.LiftKill(ctx, admin, scope); err != nil || d.Code != policy.SessionNotActive {
					t.Errorf("%+v, %v", d, err)
				}
				closeAll(t, hv)
				return
			}
			lift(t, hv, scope)
			var tool echo
			register(s, tool.do)
			if out := act(t, s, ann, "write", `{}`); !out.Allowed || len(hv.Kills()) > 0 {
				t.Errorf("%+v, %v", out.Decision, hv.Kills())
			}
			closeAll(t, hv)
			// A crash before the file was written again.
			if err := os.WriteFile(filepath.Join(dir, "kill"), before, 0o600); err != nil {
				t.Fatal(err)
			}
			hv = hypervisortest.Open(t, &hypervisor.Options{Store: store, Dir: dir})
			steps(hv)
			if s, err = hv.Session(ctx, s.ID()); err != nil {
				t.Fatal(err)
			}
			register(s, tool.do)
			if out := act(t, s, ann, "write", `{}`); !out.Allowed || len(hv.Kills()) > 0 {
				t.Errorf("%+v, %v", out.Decision, hv.Kills())
			}
			closeAll(t, hv)
			verify(t, store)
		})
	}
}

// A kill whose record is owed cannot be lifted past it: the log tells of both, or of neither.
func TestLiftingRecordsTheKillFirst(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Dir: t.TempDir()})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	scope := policy.Scope{Agent: ann, Session: s.ID()}
	store.break_(full)
	kill(t, hv, scope)
	if _, err := hv.LiftKill(context.Background(), admin, scope); !errors.Is(err, hypervisor.ErrStoreUnavailable) || !hv.KilledIn(s.ID(), ann) {
		t.Errorf("%v", err)
	}
	store.break_(nil)
	lift(t, hv, scope)
	steps(hv)
	got := types(t, s)
	if n := len(got); n < 2 || got[n-2] != "security.agent_killed" || got[n-1] != "security.kill_lifted" || hv.KilledIn(s.ID(), ann) {
		t.Errorf("%v", got)
	}
}

// What the kill file says cannot be believed, so everything is stopped until somebody has looked.
func TestADamagedKillFileStopsEverything(t *testing.T) {
	store, dir := newKept(), t.TempDir()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Dir: dir})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	closeAll(t, hv)
	if err := os.WriteFile(filepath.Join(dir, "kill"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and it stays so
		hv = hypervisortest.Open(t, &hypervisor.Options{Store: store, Dir: dir})
		var err error
		if s, err = hv.Session(context.Background(), s.ID()); err != nil {
			t.Fatal(err)
		}
		var tool echo
		register(s, tool.do)
		if out := act(t, s, ann, "read", `{}`); out.Code != policy.KilledAll || !strings.Contains(out.Reason, "damaged") {
			t.Errorf("%+v", out.Decision)
		}
		steps(hv)
		closeAll(t, hv)
	}
	hv = hypervisortest.Open(t, &hypervisor.Options{Store: store, Dir: dir})
	lift(t, hv, policy.Scope{All: true})
	closeAll(t, hv)
	hv = hypervisortest.Open(t, &hypervisor.Options{Store: store, Dir: dir})
	if len(hv.Kills()) > 0 {
		t.Errorf("%v", hv.Kills())
	}
	closeAll(t, hv)
	verify(t, store)
}

func TestAKillFileThatCannotBeOpenedKeepsTheHypervisorFromOpening(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "kill"), 0o700); err != nil {
		t.Fatal(err)
	}
	if hv, err := hypervisor.Open(context.Background(), &hypervisor.Options{Store: newKept(), Dir: dir}); err == nil || hv != nil {
		t.Error("it opened")
	}
}

// "revokes tokens", and who is killed gets no other.
func TestAKillEndsTokens(t *testing.T) {
	ctx := context.Background()
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, &session.Config{Name: "dev"}, map[policy.DID]string{ann: "0.80", bob: "0.80"})
	issue := func(id string, who policy.DID, session, alias string) policy.Decision {
		d, err := hv.IssueToken(ctx, admin, system.Token{ID: id, Subject: who, Role: policy.AgentRole, Session: session, Alias: alias,
			Hash: audit.Leaf([]byte(id)), Expires: hv.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	alive := func() (ids []string) {
		for _, tok := range hv.Tokens() {
			ids = append(ids, tok.ID)
		}
		return ids
	}
	issue("a", ann, s.ID(), "")
	issue("a-dev", ann, "", "dev")
	issue("b", bob, s.ID(), "")
	issue("b-dev", bob, "", "dev")
	if report := kill(t, hv, policy.Scope{Agent: ann}); report.TokensRevoked != 2 || !slices.Equal(alive(), []string{"b", "b-dev"}) {
		t.Errorf("%+v; %v", report, alive())
	}
	if d := issue("a-2", ann, s.ID(), ""); d.Code != policy.AgentKilled {
		t.Errorf("%+v", d)
	}
	if _, err := hypervisortest.Session(t, hv, nil, map[policy.DID]string{bob: "0.80"}).Join(ctx, admin, session.Join{Agent: ann}); refusal(err) != policy.AgentKilled {
		t.Errorf("a killed agent joins: %v", err)
	}
	if report := kill(t, hv, policy.Scope{Session: s.ID()}); report.TokensRevoked != 1 || !slices.Equal(alive(), []string{"b-dev"}) {
		t.Errorf("%+v; %v", report, alive())
	}
	steps(hv)
	if _, err := hv.Enter(ctx, system.Token{Subject: bob, Role: policy.AgentRole, Alias: "dev"}); refusal(err) != policy.SessionNotActive {
		t.Errorf("a killed session's name opens a successor by itself: %v", err)
	}
	next := hypervisortest.Session(t, hv, &session.Config{Name: "dev"}, map[policy.DID]string{bob: "0.80"})
	if got, err := hv.Enter(ctx, system.Token{Subject: bob, Role: policy.AgentRole, Alias: "dev"}); err != nil || got.ID() != next.ID() {
		t.Errorf("%v, %v", got, err)
	}
}

// A token whose revocation is owed lets nobody in.
func TestAKilledAgentsTokenCountsNoMoreWhileTheStoreRefusesWrites(t *testing.T) {
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Dir: t.TempDir()})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	hash := audit.Leaf([]byte("secret"))
	if d, err := hv.IssueToken(context.Background(), admin, system.Token{ID: "a", Subject: ann, Role: policy.AgentRole, Session: s.ID(), Hash: hash, Expires: hv.Now().Add(time.Hour)}); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	if _, ok := hv.Token(hash); !ok {
		t.Fatal("it does not count at all")
	}
	store.break_(full)
	kill(t, hv, policy.Scope{Agent: ann, Session: s.ID()})
	if _, ok := hv.Token(hash); ok {
		t.Error("it counts")
	}
}

func refusal(err error) policy.Code {
	var refused *hypervisor.Refused
	if errors.As(err, &refused) {
		return refused.Decision.Code
	}
	return ""
}

// "approvals closed": in every session, also one that is loaded later.
func TestAKillClosesApprovals(t *testing.T) {
	ctx := context.Background()
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	one := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97"})
	two := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97"})
	var tool echo
	for _, s := range []*hypervisor.Session{one, two} {
		register(s, tool.do)
		if out := act(t, s, ann, "destroy", `{}`); out.Code != policy.ApprovalRequired {
			t.Fatalf("%+v", out)
		}
	}
	closeAll(t, hv)
	hv = hypervisortest.Open(t, &hypervisor.Options{Store: store})
	one, err := hv.Session(ctx, one.ID())
	if err != nil {
		t.Fatal(err)
	}
	if report := kill(t, hv, policy.Scope{Agent: ann}); report.ApprovalsClosed != 1 {
		t.Errorf("%+v", report)
	}
	if two, err = hv.Session(ctx, two.ID()); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*hypervisor.Session{one, two} {
		if open, err := s.Approvals(ctx); err != nil || len(open) > 0 {
			t.Errorf("%+v, %v", open, err)
		}
	}
	closeAll(t, hv)
	verify(t, store)
}

// SPEC §7 "Authority".
func TestOnlyAnOperatorKillsAndLifts(t *testing.T) {
	ctx := context.Background()
	hv := hypervisortest.Open(t, nil)
	for _, by := range []policy.Caller{policy.Agent(ann), policy.Approver(ann), policy.Auditor(ann), {}} {
		if _, err := hv.Kill(ctx, by, policy.Kill{Scope: policy.Scope{All: true}, Reason: policy.Manual}); refusal(err) != policy.Forbidden {
			t.Errorf("%s kills: %v", by.Role, err)
		}
		if d, err := hv.LiftKill(ctx, by, policy.Scope{All: true}); err != nil || d.Code != policy.Forbidden {
			t.Errorf("%s lifts: %+v, %v", by.Role, d, err)
		}
	}
	for _, k := range []policy.Kill{{Reason: policy.Manual}, {Scope: policy.Scope{All: true}}, {Scope: policy.Scope{All: true, Agent: ann}, Reason: policy.Manual},
		{Scope: policy.Scope{Agent: "ann"}, Reason: policy.Manual}, {Scope: policy.Scope{Agent: ann}, Reason: policy.Manual, Note: strings.Repeat("x", 257)}} {
		if _, err := hv.Kill(ctx, admin, k); refusal(err) != policy.InvalidArguments {
			t.Errorf("%+v: %v", k, err)
		}
	}
	if _, err := hv.Kill(ctx, admin, policy.Kill{Scope: policy.Scope{Session: "nowhere"}, Reason: policy.Manual}); refusal(err) != policy.NotFound {
		t.Errorf("a session that is not there: %v", err)
	}
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	if _, err := hv.Kill(ctx, admin, policy.Kill{Scope: policy.Scope{Session: s.ID(), Agent: bob}, Reason: policy.Manual}); refusal(err) != policy.NotAParticipant {
		t.Errorf("an agent that is not in it: %v", err)
	}
	if len(hv.Kills()) > 0 {
		t.Errorf("%v", hv.Kills())
	}
}

// A kill during an undo: what was not begun is not done, and the report says where it stopped.
func TestAKillDuringAnUndoStopsIt(t *testing.T) {
	for name, c := range map[string]struct {
		scope policy.Scope
		by    policy.Caller
	}{"of the agent that takes back": {policy.Scope{Agent: ann}, policy.Agent(ann)}, "of everything, an operator's": {policy.Scope{All: true}, admin}} {
		t.Run(name, func(t *testing.T) {
			store := newKept()
			hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
			d := newDrive()
			d.on(t, s)
			for _, path := range []string{"/a", "/b", "/c"} {
				d.files[path] = "old"
				drives(t, s, policy.Agent(ann), "drive.write", path, "new")
			}
			writes := 0
			d.broken = func(tool, _ string) error {
				if tool != "write" {
					return nil
				}
				if writes++; writes == 2 {
					kill(t, hv, c.scope)
				}
				return nil
			}
			r := undone(t, hv, c.by, hypervisor.UndoRequest{Session: s.ID()})
			if writes != 2 || d.files["/a"] != "new" || d.files["/c"] != "old" || r.Stopped == "" || r.Steps[2].State == hypervisor.StepUndone {
				t.Errorf("%d calls, %v, %s: %s", writes, d.files, states(r), r.Stopped)
			}
			lift(t, hv, c.scope)
			if r := undone(t, hv, c.by, hypervisor.UndoRequest{Session: s.ID()}); r.Stopped != "" || d.files["/a"] != "old" || d.files["/b"] != "old" {
				t.Errorf("after it was lifted: %s: %s; %v", states(r), r.Stopped, d.files)
			}
			closeAll(t, hv)
			verify(t, store)
		})
	}
}

// What is looked at before a call is looked at in the agent's stead: it is killed with it.
func TestAKillStopsTheLookBeforeACall(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	d := newDrive()
	d.on(t, s)
	d.files["/a"] = "old"
	var report hypervisor.KillReport
	d.broken = func(tool, _ string) error {
		if tool == "read" {
			report = kill(t, hv, policy.Scope{Agent: ann})
		}
		return nil
	}
	out, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "drive.write", Args: json.RawMessage(`{"path":"/a","text":"new"}`)})
	if out.Allowed || d.files["/a"] != "old" || d.writes > 0 {
		t.Errorf("%+v, %v; the drive has %v", out, err, d.files)
	}
	if want := []hypervisor.KilledCall{{Session: s.ID()}}; !slices.Equal(report.StillRunning, want) {
		t.Errorf("%+v", report)
	}
}

// "Works … at twice the load the machine can take": a kill waits in no queue.
func TestAKillWorksWhileEveryQueueIsFull(t *testing.T) {
	store, clock := newKept(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Dir: t.TempDir(), Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	var tool echo
	register(s, tool.do)
	begun, err := s.Begin(context.Background(), policy.Agent(ann), session.Act{Action: "write"})
	if err != nil || !begun.Allowed {
		t.Fatal(begun, err)
	}
	emptyRecords, emptyCalls := hv.FillCommitter(), hv.FillExecutor()
	report := kill(t, hv, policy.Scope{Agent: ann})
	if report.Recorded || len(report.Cancelled) != 1 || tool.count() != 0 {
		t.Errorf("%+v; %d dispatched", report, tool.count())
	}
	emptyRecords()
	emptyCalls()
	if out := act(t, s, ann, "write", `{}`); out.Code != policy.AgentKilled {
		t.Errorf("%+v", out.Decision)
	}
	clock.Advance(2 * time.Second)
	steps(hv)
	if report := kill(t, hv, policy.Scope{Agent: ann}); !report.Recorded || tool.count() != 0 {
		t.Errorf("%+v; %d dispatched", report, tool.count())
	}
	closeAll(t, hv)
	verify(t, store)
}
