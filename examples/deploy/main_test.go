package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/internal/config"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// The definition of this folder, run against the server of this folder by a hypervisor with the configuration of this folder.
func TestTheReleaseIsRolledBackWhereWestHasNoRoom(t *testing.T) {
	s, err := newServer(secret)
	if err != nil {
		t.Fatal(err)
	}
	at := httptest.NewServer(s)
	defer at.Close()
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.ReplaceAll(b, []byte("http://127.0.0.1:7810"), []byte(at.URL))
	}
	cfg, err := config.Parse("hypervisor.yaml", read("hypervisor.yaml"), &config.Options{Environ: func(string) (string, bool) { return secret, true }})
	if err != nil {
		t.Fatal(err)
	}
	hv, err := hypervisor.Open(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := hv.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	hv.SetAddresses(cfg.Addresses)
	dev := hypervisortest.Session(t, hv, &session.Config{NetworkAllow: cfg.Session.NetworkAllow}, map[policy.DID]string{"did:mesh:ops": "0.80"})
	for text, want := range map[string]struct {
		state string
		east  []int
	}{"8": {"compensated", nil}, "7": {"completed", []int{7}}} {
		def, err := saga.ParseYAML("release.yaml", bytes.ReplaceAll(read("release.yaml"), []byte("v: 8"), []byte("v: "+text)), saga.Known{})
		if err != nil {
			t.Fatal(err)
		}
		run, err := dev.RunSaga(context.Background(), hypervisortest.Admin, *def)
		if err != nil || !run.Allowed {
			t.Fatal(run.Decision, err)
		}
		end, err := dev.AwaitSaga(context.Background(), run.ID)
		s.mu.Lock()
		if east := s.versions["east"]; err != nil || end.State != want.state || !slices.Equal(east, want.east) {
			t.Errorf("v: %s: %+v %v, east is %v", text, end, err, east)
		}
		s.versions = map[string][]int{}
		s.mu.Unlock()
	}
}

func TestWhoHasNotTheSecretDeploysNothing(t *testing.T) {
	s, err := newServer(secret)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/do/east", strings.NewReader(`{"v":7}`)))
	if w.Code != http.StatusUnauthorized || len(s.versions) != 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for range 2 { // two calls with one key are one
		if got := s.do("k", "east", 7, false); got != 7 || len(s.versions["east"]) != 1 {
			t.Errorf("%d, %v", got, s.versions)
		}
	}
	if got := s.do("k2", "east", 7, true); got != 0 {
		t.Errorf("rolled back to %d", got)
	}
}
