package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/api"
)

// SPEC §9 "Reputation": a service that the configuration names decides the ring of who joins, over HTTP; its score stands in the ledger.
func TestTheConfiguredServiceIsAskedAtAJoin(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Key") != "k" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"agent": path.Base(path.Dir(r.URL.Path)), "score": 420})
	}))
	defer server.Close()
	d := start(t, t.TempDir(), notesYAML+"services: {reputation: {url: '"+server.URL+"', headers: {X-Key: k}, timeout: 20s}}\n")
	s, err := d.ctl.CreateSession(t.Context(), api.SessionConfig{Name: "dev"}, "k")
	if err != nil {
		t.Fatal(err)
	}
	for _, did := range []string{"did:mesh:ann", "did:mesh:new"} { // 0.80 by the configuration, and a newcomer
		if j, err := d.ctl.Join(t.Context(), s.ID, api.Join{Agent: did}, ""); err != nil || j.Ring != 3 || j.SigmaEff != "0.42" {
			t.Errorf("%s: %+v, %v", did, j, err)
		}
	}
	a, err := d.ctl.Agent(t.Context(), "did:mesh:ann")
	if err != nil || len(a.Entries) != 2 || a.Entries[1].Source != "score" || a.Entries[1].Caller.Role != "service" {
		t.Errorf("%+v, %v", a, err)
	}
	if err := d.end(); err != nil {
		t.Error(err)
	}
}

// … and it is told what conduct brought an agent, with the token that the environment has.
func TestTheConfiguredServiceIsToldOfASlash(t *testing.T) {
	told := make(chan map[string]any, 8)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var said map[string]any
		if r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer s3cret" || json.NewDecoder(r.Body).Decode(&said) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"id": said["id"]})
		told <- said
	}))
	defer server.Close()
	yaml := notesYAML + "services: {reputation: {url: '" + server.URL + "', token_env: TEST_REPUTATION_TOKEN}}\n"
	t.Setenv("TEST_REPUTATION_TOKEN", "s3cret")
	d := start(t, t.TempDir(), yaml)
	if _, err := d.ctl.Slash(t.Context(), "did:mesh:ann", api.Slash{Reason: "it leaked"}); err != nil {
		t.Fatal(err)
	}
	if said := <-told; said["agent"] != "did:mesh:ann" || said["kind"] != "slash" || said["score"] != 0.0 || said["cause"] != "it leaked" {
		t.Errorf("%v", said)
	}
	if err := d.end(); err != nil {
		t.Error(err)
	}
}

// SPEC §9 "Drift": a service that the configuration names is asked about who joins, and what it says demotes.
func TestTheConfiguredDriftServiceIsAsked(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"agent": path.Base(path.Dir(r.URL.Path)), "claimed": []int{1, 0}, "observed": []float64{1, 1.1}})
	}))
	defer server.Close()
	d := start(t, t.TempDir(), notesYAML+"services: {drift: {url: '"+server.URL+"', timeout: 20s}}\n")
	s, err := d.ctl.CreateSession(t.Context(), api.SessionConfig{Name: "dev"}, "k")
	if err != nil {
		t.Fatal(err)
	}
	if j, err := d.ctl.Join(t.Context(), s.ID, api.Join{Agent: "did:mesh:ann"}, ""); err != nil || j.Ring != 2 {
		t.Fatalf("%+v, %v", j, err)
	}
	for r, err := range d.ctl.Log(t.Context(), s.ID, 1, true) { // it comes though nobody calls
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(r), `"type":"ring.demoted"`) {
			break
		}
	}
	if err := d.end(); err != nil {
		t.Error(err)
	}
}
