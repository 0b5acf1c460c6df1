//go:build unix

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// A hall is a hub behind an HTTP server, in which a token is an agent's DID and a session's id.
type hall struct {
	*Hub
	hv    *hypervisor.Hypervisor
	s     *hypervisor.Session
	url   string
	clock *handClock

	revoked atomic.Bool // no token is good any more
}

func serveOnce(h http.Handler, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/mcp", strings.NewReader(body)))
	return w
}

// newHall serves the specs until the test ends, and then waits until nothing is left.
func newHall(t *testing.T, specs ...ServerSpec) *hall {
	t.Helper()
	hv, s := newSession(t, "0.80")
	return hallOf(t, hv, s, &HubOptions{Servers: specs, Claims: reversible})
}

func hallOf(t testing.TB, hv *hypervisor.Hypervisor, s *hypervisor.Session, opt *HubOptions) *hall {
	t.Helper()
	h := &hall{hv: hv, s: s, clock: newHandClock()}
	opt.Clock = h.clock
	var err error
	if h.Hub, err = NewHub(hv, opt); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h.Handler(h.identify))
	h.url = srv.URL
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	started := make(chan struct{})
	go func() { close(started); done <- h.Run(ctx) }()
	<-started
	h.clock.await(sweepEvery) // it serves
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
		srv.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return h
}

// reversible is what an operator says who lets a ring-2 agent use everything.
func reversible(_, tool string) []action.Claim {
	partial := action.Partial
	switch tool {
	case "grow", "die", "fail", "steps", "ask":
		return []action.Claim{{Reversibility: &partial}}
	}
	return nil
}

func (h *hall) identify(r *http.Request) (Seat, error) {
	did, id, ok := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), " ")
	switch {
	case !ok:
		return Seat{}, errors.New("no token")
	case h.revoked.Load():
		return Seat{}, fmt.Errorf("%w: revoked", ErrForbidden)
	}
	s, err := h.hv.Session(r.Context(), id)
	return Seat{policy.Agent(policy.DID(did)).Through("http"), s}, err
}

// token is what the hall lets an agent into its session by.
func (h *hall) token(did policy.DID) string { return string(did) + " " + h.s.ID() }

// join brings one more agent into the session.
func (h *hall) join(t *testing.T, did policy.DID) {
	t.Helper()
	if _, err := h.s.Join(t.Context(), policy.Operator("did:mesh:admin"), session.Join{Agent: did, Sigma: ring.MustSigma("0.80")}); err != nil {
		t.Fatal(err)
	}
}

type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

// connect connects an SDK client as an agent.
func (h *hall) connect(t *testing.T, did policy.DID, version string, opt *mcp.ClientOptions) *mcp.ClientSession {
	t.Helper()
	cs, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, opt).Connect(t.Context(),
		&mcp.StreamableClientTransport{Endpoint: h.url, HTTPClient: &http.Client{Transport: bearer(h.token(did))}},
		&mcp.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cs.Close() })
	return cs
}

func stdio(name, kind string) ServerSpec {
	c := child(kind)
	return ServerSpec{Name: name, Command: &c, TrustAnnotations: true}
}

func names(t *testing.T, cs *mcp.ClientSession) []string {
	t.Helper()
	var out []string
	for tool, err := range cs.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, tool.Name)
	}
	return out
}

func TestManyServersStandBehindOneAddressInEveryRevision(t *testing.T) {
	h := newHall(t, stdio("one", "sdk"), stdio("two", "raw"))
	for _, version := range revisions {
		t.Run(version, func(t *testing.T) {
			cs := h.connect(t, agentDID, version, nil)
			if got := cs.InitializeResult().ProtocolVersion; got != version {
				t.Errorf("speaks %s", got)
			}
			list := names(t, cs)
			for _, want := range []string{"one__echo", "one__die", "two__odd", statusTool} {
				if !slices.Contains(list, want) {
					t.Errorf("%s is not in %v", want, list)
				}
			}
			if text, code := call(t, cs, "one__echo", `{"n":1}`); text != `{"n":1}` || code != "" {
				t.Errorf("%s %s", text, code)
			}
			if _, code := call(t, cs, "one__nope", `{}`); code != string(policy.UnknownAction) {
				t.Error(code)
			}
			r, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: statusTool, Arguments: json.RawMessage(`{}`)})
			if err != nil || r.IsError {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	views, err := h.s.Actions(t.Context(), 0, 10)
	if err != nil || len(views) != 3 || views[0].Action != "one.echo" {
		t.Errorf("%+v, %v", views, err)
	}
}
