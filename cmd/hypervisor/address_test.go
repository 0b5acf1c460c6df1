package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/agenthypervisor/hypervisor/api"
)

// A deployment is a server that sagas call: it keeps what it was asked for.
type deployment struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []string          // PATH BODY
	times  map[string]int    // each PATH, in all
	keys   map[string]string // of Idempotency-Key: what was asked for with it
	handle func(w http.ResponseWriter, path string)
}

func deploy(t *testing.T) *deployment {
	t.Helper()
	p := &deployment{times: map[string]int{}, keys: map[string]string{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the caller was killed while it sent
		}
		asked := strings.TrimPrefix(r.URL.Path, "/") + " " + string(body)
		key := r.Header.Get("Idempotency-Key")
		p.mu.Lock()
		p.asked = append(p.asked, asked)
		p.times[r.URL.Path]++
		if was, ok := p.keys[key]; key == "" || ok && was != asked || r.Header.Get("Webhook-Signature") == "" {
			t.Errorf("key %q of %s was that of %q", key, asked, was)
		}
		p.keys[key] = asked
		handle := p.handle
		p.mu.Unlock()
		if handle != nil {
			handle(w, r.URL.Path)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

// took returns what was asked for since the last time.
func (p *deployment) took() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.asked
	p.asked = nil
	return asked
}

// addressYAML allows what is under a deployment, for ann of ring 2.
func addressYAML(p *deployment) string {
	return fmt.Sprintf(`
listen: 127.0.0.1:0
session: {network_allow: [127.0.0.1]}
addresses:
  %q: {reversibility: partial, private: [127.0.0.0/8], secret: "${HYPERVISOR_TEST_SECRET}"}
  "http://127.0.0.1:1/": {reversibility: partial, private: [127.0.0.0/8]}
agents: [{did: "did:mesh:ann", sigma: 0.80}]
`, p.URL+"/do/")
}

// newestSaga returns the id of the session's newest.
func (d *served) newestSaga(t *testing.T) (id string) {
	t.Helper()
	for s, err := range d.ctl.Sagas(t.Context(), "dev") {
		if err != nil {
			t.Fatal(err)
		}
		id = s.ID
	}
	return id
}

// SPEC §5 of addresses, through the CLI and over HTTP: a saga calls them, in order, and what it did is undone in reverse, also by name
// once it has ended. What is not allowed is refused before anything is begun, and validate says where.
func TestASagaCallsAddressesAndIsUndone(t *testing.T) {
	t.Setenv("HYPERVISOR_TEST_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	p := deploy(t)
	dir := t.TempDir()
	d := start(t, dir, addressYAML(p))
	d.seat("dev")
	for _, args := range [][]string{{"session", "join", "dev", "--agent", "did:mesh:ann"}, {"session", "activate", "dev"}} {
		if code, out, errout := d.run(args...); code != exitDone {
			t.Fatal(code, out, errout)
		}
	}
	file := func(text string) string {
		t.Helper()
		name := filepath.Join(t.TempDir(), "saga.yaml")
		if err := os.WriteFile(name, []byte(strings.ReplaceAll(text, "AT", p.URL)), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	good := file(`saga: release
steps:
  - {id: east, agent: "did:mesh:ann", execute: "AT/do/east", undo: "AT/do/east/rollback", args: {v: 7}}
  - {id: west, agent: "did:mesh:ann", execute: "AT/do/west", undo: "AT/do/west/rollback", args: {v: 7}, needs: [east]}
`)
	if code, out, errout := d.run("saga", "validate", good, "-c", filepath.Join(dir, "c.yaml")); code != exitDone || !strings.Contains(out, "needs ring 2") {
		t.Errorf("%d %s%s", code, out, errout)
	}
	through := []string{`do/east {"v":7}`, `do/west {"v":7}`}
	back := []string{`do/west/rollback {"v":7}`, `do/east/rollback {"v":7}`}
	if code, out, errout := d.run("saga", "run", good, "--session", "dev"); code != exitDone || !strings.Contains(out, "completed") {
		t.Errorf("%d %s%s", code, out, errout)
	}
	if got := p.took(); !slices.Equal(got, through) {
		t.Errorf("asked %q", got)
	}
	if code, out, errout := d.run("action", "undo", "--saga", "dev/"+d.newestSaga(t)); code != exitDone || !strings.Contains(out, "2 undone, 0 left") {
		t.Errorf("%d %s%s", code, out, errout)
	}
	if got := p.took(); !slices.Equal(got, back) {
		t.Errorf("asked %q", got)
	}
	p.handle = func(w http.ResponseWriter, path string) {
		if path == "/do/west" {
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
	}
	code, out, errout := d.run("saga", "run", good, "--session", "dev")
	if code != exitRefused || !strings.Contains(out, "compensated") {
		t.Errorf("%d %s%s", code, out, errout)
	}
	if got := p.took(); !slices.Equal(got, append(slices.Clone(through), back[1])) {
		t.Errorf("asked %q", got)
	}
	s, err := d.ctl.RunSaga(t.Context(), "dev", api.SagaDefinition{Saga: "over HTTP", Steps: []api.SagaDefinitionStep{
		{ID: "north", Agent: "did:mesh:ann", Execute: p.URL + "/do/north", Undo: p.URL + "/do/north/rollback"},
		{ID: "south", Agent: "did:mesh:ann", Execute: p.URL + "/do/south", Undo: p.URL + "/do/south/rollback", Needs: []string{"north"}},
		{ID: "west", Agent: "did:mesh:ann", Execute: p.URL + "/do/west", Needs: []string{"south"}},
	}}, true)
	if err != nil || s.State != "compensated" || s.Steps[0].Action != p.URL+"/do/north" {
		t.Errorf("%+v %v", s, err)
	}
	if got := p.took(); !slices.Equal(got, []string{"do/north {}", "do/south {}", "do/west {}", "do/south/rollback {}", "do/north/rollback {}"}) {
		t.Errorf("asked %q", got)
	}
	// SPEC §4: a step whose undo nobody answers for counts as one that cannot be taken back, so that ring 2 needs an approval.
	blind := file("saga: blind\nsteps: [{id: a, agent: 'did:mesh:ann', execute: 'AT/do/a', undo: 'http://127.0.0.1:1/a'}]\n")
	if code, out, errout := d.run("saga", "run", blind, "--session", "dev"); code != exitRefused || !strings.Contains(out, "waits for approval apr-") || !strings.Contains(out, "(irreversible)") {
		t.Errorf("%d %s%s", code, out, errout)
	}
	bad := file(`saga: astray
steps:
  - {id: a, agent: "did:mesh:ann", execute: "AT/other"}
  - {id: b, agent: "did:mesh:ann", execute: "AT/do/../other", undo: "https://nowhere.example/"}
`)
	if code, out, errout := d.run("saga", "validate", bad, "-c", filepath.Join(dir, "c.yaml")); code != exitRefused || !strings.Contains(out, ":3:45: ") || !strings.Contains(out, "under none of addresses") ||
		!strings.Contains(out, ":4:45: ") || !strings.Contains(out, "another spelling") {
		t.Errorf("%d %s%s", code, out, errout)
	}
	astray := file("saga: astray\nsteps: [{id: a, agent: 'did:mesh:ann', execute: 'AT/other'}]\n")
	if code, out, errout := d.run("saga", "run", astray, "--session", "dev"); code != exitRefused || !strings.Contains(out+errout, "under none of addresses") {
		t.Errorf("%d %s%s", code, out, errout)
	}
	if got := p.took(); len(got) != 0 {
		t.Errorf("asked %q", got)
	}
}
