package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/internal/auth"
	"github.com/agenthypervisor/hypervisor/internal/httpapi"
	"github.com/agenthypervisor/hypervisor/internal/service"
	watching "github.com/agenthypervisor/hypervisor/internal/watcher"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

// SPEC §9 "Drift": from what this service is shown to what the agent may do, over HTTP, with a token of the service role.
func TestWhatIsObservedDemotesTheAgent(t *testing.T) {
	const ann = policy.DID("did:mesh:ann")
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97"})
	door := auth.NewDoor(hv)
	secret, _, err := door.Issue(t.Context(), policy.Operator("did:mesh:admin"), system.Token{Subject: "did:mesh:cmvk", Role: policy.ServiceRole}, 0)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(httpapi.New(hv, door.Identify, nil))
	defer server.Close()
	w := newWatcher(server.URL+"/", secret.Reveal())
	ask := func(method, path, body string, want int) (d api.Drift) {
		t.Helper()
		out := httptest.NewRecorder()
		w.handler().ServeHTTP(out, httptest.NewRequest(method, path, strings.NewReader(body)))
		if out.Code != want {
			t.Fatalf("%s %s: %d %s", path, body, out.Code, out.Body)
		}
		if want == http.StatusOK && out.Body.Len() > 0 {
			if err := json.Unmarshal(out.Body.Bytes(), &d); err != nil {
				t.Fatal(err)
			}
		}
		return d
	}
	observed := "/sessions/" + s.ID() + "/agents/did:mesh:ann/observed"
	ask("POST", observed, `[1, 0]`, http.StatusBadGateway) // it has claimed nothing
	ask("PUT", "/agents/did:mesh:ann/claimed", `{}`, http.StatusBadRequest)
	ask("PUT", "/agents/did:mesh:ann/claimed", `[1, 0]`, http.StatusOK)
	if d := ask("POST", observed, `[2, 0]`, http.StatusOK); d.Level != "none" {
		t.Errorf("%+v", d)
	}
	if d := ask("POST", observed, `[1, 1.1]`, http.StatusOK); d.Level != "medium" || d.Distance != "0.327327" {
		t.Errorf("%+v", d)
	}
	if p, err := s.Participant(t.Context(), ann); err != nil || p.Ring != ring.Standard {
		t.Errorf("%+v, %v", p, err)
	}
	ask("POST", observed, `[1]`, http.StatusUnprocessableEntity) // what the hypervisor answers is handed on
}

// SPEC §9 "Drift": the hypervisor asks this service, over HTTP, and what it answers demotes; when it is down nothing follows.
func TestWhatTheHypervisorAsksDemotesTheAgent(t *testing.T) {
	const ann, bob = policy.DID("did:mesh:ann"), policy.DID("did:mesh:bob")
	w := newWatcher("", "")
	server := httptest.NewServer(w.handler())
	defer server.Close()
	asked, err := watching.New(service.Options{URL: server.URL, Keep: 1})
	if err != nil {
		t.Fatal(err)
	}
	hv := hypervisortest.Open(t, nil)
	hv.SetDriftSource(asked)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97", bob: "0.97"})
	steps := func() {
		for hv.Step(t.Context()) {
		}
	}
	steps() // nothing was observed yet
	for path, body := range map[string]string{"/agents/did:mesh:ann/claimed": `[1, 0]`, "/sessions/" + s.ID() + "/agents/did:mesh:ann/observed": `[1, 1.1]`} {
		method := http.MethodPut
		if strings.HasPrefix(path, "/sessions") {
			method = http.MethodPost
		}
		out := httptest.NewRecorder()
		w.handler().ServeHTTP(out, httptest.NewRequest(method, path, strings.NewReader(body)))
		if out.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, out.Code, out.Body)
		}
	}
	again := func(did policy.DID) ring.Ring {
		t.Helper()
		if _, err := s.Join(t.Context(), policy.Operator("did:mesh:admin"), session.Join{Agent: did}); err != nil {
			t.Fatal(err)
		}
		steps()
		p, err := s.Participant(t.Context(), did)
		if err != nil {
			t.Fatal(err)
		}
		return p.Ring
	}
	if got := again(ann); got != ring.Standard {
		t.Errorf("ann, who has moved by 0.33, is in ring %d", got)
	}
	server.Close()
	if got := again(bob); got != ring.Privileged {
		t.Errorf("of a service that is down: ring %d", got)
	}
}
