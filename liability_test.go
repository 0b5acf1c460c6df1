package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

const kid = policy.DID("did:mesh:kid")

// settled does everything that waits to be done now.
func settled(hv *hypervisor.Hypervisor) {
	for hv.Step(context.Background()) {
	}
}

func events[E any](t testing.TB, s *hypervisor.Session) (all []E) {
	t.Helper()
	for r, err := range s.Records(context.Background(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		var rec struct{ Events json.RawMessage }
		if err := json.Unmarshal(r.Body, &rec); err != nil {
			t.Fatal(err)
		}
		parsed, err := session.ParseEvents(rec.Events)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range parsed {
			if e, ok := e.(E); ok {
				all = append(all, e)
			}
		}
	}
	return all
}

// elevate has ann elevated to ring 2, with bob as her sponsor.
func elevate(t testing.TB, s *hypervisor.Session, d time.Duration) hypervisor.AskedElevation {
	t.Helper()
	ctx := context.Background()
	asked, err := s.Elevate(ctx, policy.Agent(ann), session.Elevate{Ring: ring.Standard, For: d, Reason: "to write"})
	if err != nil || asked.Approval == nil {
		t.Fatalf("%+v, %v", asked, err)
	}
	if d, err := s.Vote(ctx, policy.Agent(bob), session.Vote{Approval: asked.Approval.ID, Digest: asked.Approval.Digest}); err != nil || !d.Allowed {
		t.Fatalf("%+v, %v", d, err)
	}
	return asked
}

// SPEC §2 "Elevation": it changes what is decided, and ends by itself though nobody calls.
func TestAnElevationEndsByItself(t *testing.T) {
	clock := hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.55", bob: "0.80"})
	var tool echo
	register(s, tool.do)
	if out := act(t, s, ann, "write", `{}`); out.Code != policy.RingInsufficient {
		t.Fatalf("before: %s", out.Code)
	}
	elevate(t, s, time.Minute)
	if out := act(t, s, ann, "write", `{}`); !out.Allowed || *out.Ring != ring.Standard {
		t.Fatalf("elevated: %+v", out.Decision)
	}
	views, err := s.Elevations(context.Background())
	if err != nil || len(views) != 1 || !views[0].Active || views[0].By != bob || views[0].For != time.Minute {
		t.Fatalf("%+v, %v", views, err)
	}
	clock.Advance(time.Minute)
	settled(hv)
	if demoted := events[session.RingDemoted](t, s); len(demoted) != 1 || demoted[0].Ring != ring.Sandbox {
		t.Errorf("nobody called, and the drop was recorded as %+v", demoted)
	}
	if out := act(t, s, ann, "write", `{}`); out.Code != policy.RingInsufficient {
		t.Errorf("after its time: %s", out.Code)
	}
}

// SPEC §2, and the issue: "an elevation does not outlive its TTL over restart or a clock set back".
func TestAnElevationDoesNotOutliveItsTimeOverARestart(t *testing.T) {
	for name, c := range map[string]struct {
		passes time.Duration
		want   policy.Code
	}{
		"within its time": {time.Minute, policy.OK}, "when it is over": {10 * time.Minute, policy.RingInsufficient},
		"with the clock set back": {-30 * time.Minute, policy.RingInsufficient},
	} {
		t.Run(name, func(t *testing.T) {
			clock, store := hypervisortest.NewClock(), newKept()
			hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.55", bob: "0.80"})
			elevate(t, s, 10*time.Minute)
			closeAll(t, hv)
			clock.Advance(c.passes)
			hv = hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
			s, err := hv.Session(context.Background(), s.ID())
			if err != nil {
				t.Fatal(err)
			}
			var tool echo
			register(s, tool.do)
			if out := act(t, s, ann, "write", `{}`); out.Code != c.want {
				t.Errorf("%+v, want %s", out.Decision, c.want)
			}
			verify(t, store)
		})
	}
}

// SPEC §2 "Demotion is immediate: whenever σ … changes the ring is computed anew and a drop is a record": though nobody calls.
func TestADropIsRecordedThoughNobodyCalls(t *testing.T) {
	hv, ctx := hypervisortest.Open(t, nil), context.Background()
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97", bob: "0.80"})
	if _, err := s.Join(ctx, policy.Agent(ann), session.Join{Agent: kid}); err != nil {
		t.Fatal(err)
	}
	if _, err := hv.SetSigma(ctx, admin, kid, ring.MustSigma("0.90")); err != nil {
		t.Fatal(err)
	}
	settled(hv)
	if _, err := hv.SetSigma(ctx, admin, ann, ring.MustSigma("0.30")); err != nil {
		t.Fatal(err)
	}
	settled(hv)
	var dropped []policy.DID
	for _, e := range events[session.RingDemoted](t, s) {
		dropped = append(dropped, e.Agent)
	}
	if !slices.Equal(dropped, []policy.DID{ann, kid}) {
		t.Errorf("ann dropped, and with her whom she brought; recorded is the drop of %v", dropped)
	}
}

// SPEC §2: "a killed parent's children are killed": also the call of a child that runs.
func TestAKilledParentsChildrenAreKilled(t *testing.T) {
	hv, err := hypervisor.Open(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, hv)
	ctx := context.Background()
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97", bob: "0.80"})
	begun := make(chan struct{})
	s.Register(action.Descriptor{ID: "wait", ReadOnly: true}, func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	if _, err := s.Join(ctx, policy.Agent(ann), session.Join{Agent: kid}); err != nil {
		t.Fatal(err)
	}
	running, err := s.Begin(ctx, policy.Agent(kid), session.Act{Action: "wait"})
	if err != nil || !running.Allowed {
		t.Fatalf("%+v, %v", running, err)
	}
	<-begun
	report, err := hv.Kill(ctx, admin, policy.Kill{Scope: policy.Scope{Agent: ann}, Reason: policy.Manual})
	if err != nil || len(report.Cancelled) != 1 || report.Cancelled[0].ID != running.ID {
		t.Errorf("%+v, %v", report, err)
	}
	if out := act(t, s, kid, "wait", `{}`); out.Code != policy.AgentKilled {
		t.Errorf("the child of the killed acts: %s", out.Code)
	}
	if !hv.KilledIn(s.ID(), kid) || hv.KilledIn(s.ID(), bob) {
		t.Error("the child's tools are not stopped, or another's are")
	}
}

// SPEC §3 "Attribution": shares go to the agents' ledgers as faults, σ(1−0.25f), and what nobody can help to nobody's.
func TestAnIncidentReachesTheLedgersOfWhoLedToIt(t *testing.T) {
	clock, store, ctx := hypervisortest.NewClock(), newKept(), context.Background()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	cem := policy.DID("did:mesh:cem")
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80", cem: "0.80"})
	do := func(_ context.Context, args json.RawMessage) (json.RawMessage, error) { return args, nil }
	s.Register(action.Descriptor{ID: "put", Reversibility: action.Partial, Resource: "{{args.path}}"}, do)
	s.Register(action.Descriptor{ID: "get", ReadOnly: true, Resource: "{{args.path}}"}, do)
	s.Register(action.Descriptor{ID: "send", Reversibility: action.Partial}, do)
	s.Register(action.Descriptor{ID: "fail", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		return nil, errors.New("no")
	})
	act(t, s, ann, "put", `{"path":"/plan"}`)
	act(t, s, cem, "get", `{"path":"/plan"}`)
	clock.Advance(time.Minute)
	act(t, s, bob, "get", `{"path":"/plan"}`)
	sent := act(t, s, bob, "send", `{}`)
	severity := ring.MustSigma("0.40")
	c := session.RaiseIncident{Action: sent.ID, Severity: &severity, Reason: "it was wrong", Key: "k"}
	v, err := s.RaiseIncident(ctx, admin, c)
	if err != nil || v.Blame == nil || len(v.Blame.Shares) != 2 {
		t.Fatalf("%+v, %v", v, err)
	}
	if again, err := s.RaiseIncident(ctx, admin, c); err != nil || again.ID != v.ID {
		t.Errorf("the same key raised another: %+v, %v", again, err)
	}
	settled(hv)
	failed := act(t, s, cem, "fail", `{}`)
	if v, err := s.RaiseIncident(ctx, admin, session.RaiseIncident{Action: failed.ID}); err != nil || v.Blame != nil || v.Faultless == "" {
		t.Errorf("a tool's error: %+v, %v", v, err)
	}
	if v, err := s.RaiseIncident(ctx, policy.Agent(ann), session.RaiseIncident{Agent: cem}); err != nil || v.Blame != nil {
		t.Errorf("an agent's own report: %+v, %v", v, err)
	}
	settled(hv)
	for did, want := range map[policy.DID]string{ // bob 0.783334, ann 0.216666: see session/testdata/incidents.txt
		bob: "0.643333", ann: "0.756666", cem: "0.80"} {
		a, err := hv.Agent(ctx, did)
		if err != nil || a.Sigma.String() != want {
			t.Errorf("%s has σ %s, want %s (%v)", did, a.Sigma, want, err)
		}
	}
	verify(t, store)
}
