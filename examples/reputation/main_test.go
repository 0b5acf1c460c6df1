package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/internal/reputation"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// SPEC §9 "Reputation", §3 "score of a configured service": over HTTP, from this server, what it says decides the ring of who joins;
// when it is down nobody is raised.
func TestAScoreThatIsAskedForDecidesTheRing(t *testing.T) {
	ctx := context.Background()
	s := &service{scores: map[string]int{"did:mesh:ann": 990, "did:mesh:bob": 420, "did:mesh:cem": 950}}
	server := httptest.NewServer(s.handler())
	defer server.Close()
	rep, err := reputation.New(reputation.Options{URL: server.URL})
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
	if _, err := rep.Score(ctx, "did:mesh:eve"); !errors.Is(err, reputation.ErrUnknown) {
		t.Error(err)
	}
}

func TestTheServerTakesScoresInRange(t *testing.T) {
	s := &service{scores: map[string]int{}}
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
