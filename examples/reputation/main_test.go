package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/internal/reputation"
	remote "github.com/agenthypervisor/hypervisor/internal/service"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// SPEC §9 "Reputation", §3 "score of a configured service": over HTTP, from this server, what it says decides the ring of who joins;
// when it is down nobody is raised.
func TestAScoreThatIsAskedForDecidesTheRing(t *testing.T) {
	ctx := context.Background()
	s := newService("")
	s.scores = map[string]int{"did:mesh:ann": 990, "did:mesh:bob": 420, "did:mesh:cem": 950}
	server := httptest.NewServer(s.handler())
	defer server.Close()
	rep, err := reputation.New(remote.Options{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	hv := hypervisortest.Open(t, nil)
	hv.SetReputation(rep)
	admin := policy.Operator("did:mesh:admin")
	if _, err := hv.SetSigma(ctx, admin, "did:mesh:cem", ring.MustSigma("0.70")); err != nil {
		t.Fatal(err)
	}
	join := func(did policy.DID) hypervisor.Participant {
		t.Helper()
		session1, err := hv.CreateSession(ctx, admin, nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := session1.Join(ctx, admin, session.Join{Agent: did})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for did, want := range map[policy.DID]hypervisor.Participant{
		"did:mesh:ann": {Ring: ring.Standard, SigmaEff: 900_000}, // a start is 0.90 at most
		"did:mesh:bob": {Ring: ring.Sandbox, SigmaEff: 420_000},
		"did:mesh:cem": {Ring: ring.Standard, SigmaEff: 700_000}, // ours is lower
		"did:mesh:dan": {Ring: ring.Sandbox, SigmaEff: ring.Newcomer},
	} {
		if p := join(did); p.Ring != want.Ring || p.SigmaEff != want.SigmaEff {
			t.Errorf("%s: %+v, want %+v", did, p, want)
		}
	}
	for e, err := range hv.Ledger(ctx, "did:mesh:bob", 1) {
		if err != nil || e.Kind != agent.Score || e.Caller.Role != policy.ServiceRole.String() {
			t.Errorf("%+v, %v", e, err)
		}
	}
	server.Close()
	if p := join("did:mesh:eve"); p.SigmaEff != ring.Newcomer {
		t.Errorf("of a service that is down: %+v", p)
	}
	if _, err := rep.Score(ctx, "did:mesh:eve"); !errors.Is(err, remote.ErrUnknown) {
		t.Error(err)
	}
}

func TestTheServerTakesScoresInRange(t *testing.T) {
	s := newService("")
	for path, want := range map[string]int{"/agents/did:mesh:ann/score/850": 200, "/agents/did:mesh:ann/score/1001": 400, "/agents/ann/score/1": 400} {
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, httptest.NewRequest(http.MethodPut, path, nil))
		if w.Code != want {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	for score, want := range map[int]string{900: "verified_partner", 899: "trusted", 700: "trusted", 500: "standard", 300: "probationary", 299: "untrusted"} {
		if got := tier(score); got != want {
			t.Errorf("%d is %s", score, got)
		}
	}
}

// The issue: "slashes and outcomes reported back at least once, idempotently": over HTTP, to this server, whose first answers are lost
// on the way. What it is told again counts once, and decides the ring of who joins elsewhere.
func TestASlashIsReportedAndCountsOnce(t *testing.T) {
	ctx := context.Background()
	s := newService("secret")
	var calls atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			s.handler().ServeHTTP(w, r)
			return
		}
		if calls.Add(1) <= 2 {
			s.handler().ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		s.handler().ServeHTTP(w, r)
	}))
	defer server.Close()
	rep, err := reputation.New(remote.Options{URL: server.URL, Keep: 1, Headers: map[string]string{"Authorization": "Bearer secret"}})
	if err != nil {
		t.Fatal(err)
	}
	clock := hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock})
	hv.SetReputation(rep)
	hv.SetReporter(rep)
	admin := policy.Operator("did:mesh:admin")
	here := hypervisortest.Session(t, hv, nil, map[policy.DID]string{"did:mesh:ann": "0.80"})
	if d, err := here.Slash(ctx, admin, session.Slash{Agent: "did:mesh:ann", Cause: "it wiped a folder"}); err != nil || !d.Allowed {
		t.Fatalf("%+v, %v", d, err)
	}
	for range 10 {
		for hv.Step(ctx) {
		}
		clock.Advance(2 * time.Second)
	}
	if calls.Load() != 3 || len(s.order) != 1 || s.scores["did:mesh:ann"] != 0 {
		t.Fatalf("%d calls, %d reports, rated %d", calls.Load(), len(s.order), s.scores["did:mesh:ann"])
	}
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/reports", nil))
	if !strings.Contains(w.Body.String(), `"kind":"slash"`) || !strings.Contains(w.Body.String(), "it wiped a folder") {
		t.Errorf("%s", w.Body)
	}
	other := hypervisortest.Open(t, nil) // another hypervisor, which asks the same service
	other.SetReputation(rep)
	there, err := other.CreateSession(ctx, admin, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := there.Join(ctx, admin, session.Join{Agent: "did:mesh:ann"}); err != nil || p.SigmaEff != 0 || p.Ring != ring.Sandbox {
		t.Errorf("who was slashed elsewhere joins with %+v, %v", p, err)
	}
}

func TestTheServerTakesReportsOfWhoHasItsToken(t *testing.T) {
	id := strings.Repeat("a", 64)
	good := `{"id":"` + id + `","agent":"did:mesh:ann","kind":"slash","score":0,"time":"2026-01-02T03:04:05Z"}`
	s := newService("secret")
	for _, c := range []struct {
		body, token string
		want        int
	}{
		{good, "", 401}, {good, "other", 401}, {good, "secret", 201}, {good, "secret", 200}, {"<html>", "secret", 400}, {strings.Repeat(" ", maxReport) + good, "secret", 400},
		{`{"id":"x"}`, "secret", 422}, {strings.Replace(good, `"score":0`, `"score":1001`, 1), "secret", 422},
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/reports", strings.NewReader(c.body))
		r.Header.Set("Authorization", "Bearer "+c.token)
		s.handler().ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%.40s with %q: %d, want %d", c.body, c.token, w.Code, c.want)
		}
	}
}
