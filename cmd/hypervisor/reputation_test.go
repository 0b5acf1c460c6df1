package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path"
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
