//go:build unix

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/action"
)

// sdkOverHTTP serves a server on the SDK as the SDK does.
func sdkOverHTTP(t *testing.T, opt *mcp.StreamableHTTPOptions) string {
	t.Helper()
	s := newSDKServer()
	srv := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, opt))
	t.Cleanup(srv.Close)
	return srv.URL
}

// runAt starts an upstream at an endpoint and waits, when the test ends, until nothing is left of it.
func runAt(t *testing.T, at Endpoint) *runningUpstream {
	t.Helper()
	r := &runningUpstream{clock: newHandClock(), stderr: &lockedBuffer{}}
	r.Upstream = NewRemoteUpstream("up", at, &UpstreamOptions{Clock: r.clock, Jitter: func() float64 { return 0.5 }})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	return r
}

func readyAt(t *testing.T, at Endpoint) *runningUpstream {
	t.Helper()
	r := runAt(t, at)
	if err := r.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAServerOverHTTPIsUsedInItsRevision(t *testing.T) {
	for name, opt := range map[string]*mcp.StreamableHTTPOptions{
		"2026-07-28 stateless": {Stateless: true}, "stateless JSON": {Stateless: true, JSONResponse: true},
		"2025-11-25 with a session": {}, "legacy JSON": {JSONResponse: true}, "numbered events": {EventStore: mcp.NewMemoryEventStore(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			u := readyAt(t, Endpoint{URL: sdkOverHTTP(t, opt)})
			if len(u.Tools()) != 6 || u.Features().Instructions != "use with care" {
				t.Errorf("%d tools, %q", len(u.Tools()), u.Features().Instructions)
			}
			got, err := u.Call(t.Context(), "echo", json.RawMessage(`{"n":9007199254740993}`), nil)
			if err != nil || !strings.Contains(string(got), `{\"n\":9007199254740993}`) {
				t.Errorf("%s, %v", got, err)
			}
			var steps []float64
			if _, err := u.Call(t.Context(), "steps", json.RawMessage(`{}`), func(p Progress) { steps = append(steps, p.Done) }); err != nil && !opt.JSONResponse {
				t.Error(err)
			}
			if !opt.JSONResponse && (len(steps) != 50 || steps[49] != 49) {
				t.Errorf("progress %v", steps)
			}
			if _, err := u.Call(t.Context(), "grow", json.RawMessage(`{}`), nil); err != nil {
				t.Error(err)
			}
			if opt.Stateless && opt.JSONResponse {
				return
			}
			<-u.Changed()
			if n := len(u.Tools()); n != 7 {
				t.Errorf("%d tools after the change", n)
			}
		})
	}
}

// An oddServer shakes hands as a 2025-11-25 server without a session, and answers calls by hand.
type oddServer struct {
	t     *testing.T
	call  func(w http.ResponseWriter, r *http.Request, id, tool string)
	mu    sync.Mutex
	seen  []http.Header
	calls int
}

func (o *oddServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.seen = append(o.seen, r.Header.Clone())
	o.mu.Unlock()
	if r.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	var m struct {
		ID     json.RawMessage
		Method string
		Params struct{ Name string }
	}
	body, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(body, &m); err != nil {
		o.t.Errorf("%s: %v", body, err)
	}
	reply := func(result string) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, result)
	}
	switch m.Method {
	case "initialize":
		reply(`{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"odd","version":"1"}}`)
	case "tools/list":
		reply(`{"tools":[` + fmt.Sprintf(rawTool, "odd") + `]}`)
	case "tools/call":
		o.mu.Lock()
		o.calls++
		o.mu.Unlock()
		o.call(w, r, string(m.ID), m.Params.Name)
	case "server/discover":
		http.Error(w, "what?", http.StatusBadRequest)
	default:
		w.WriteHeader(http.StatusAccepted)
	}
}

func (o *oddServer) called() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.calls
}

// oddAt starts an upstream before an odd server.
func oddAt(t *testing.T, call func(w http.ResponseWriter, r *http.Request, id, tool string)) (*runningUpstream, *oddServer) {
	t.Helper()
	o := &oddServer{t: t, call: call}
	srv := httptest.NewServer(o)
	t.Cleanup(srv.Close)
	return readyAt(t, Endpoint{URL: srv.URL, Headers: map[string]string{"X-Key": "k"}}), o
}

func TestAnAnswerOverHTTPThatIsNoneLeavesThatCallUnknownAndTheOthersAlone(t *testing.T) {
	for _, tt := range []struct {
		name, says string
		sent       bool
		answer     func(w http.ResponseWriter, r *http.Request, id string)
	}{
		{"another id", "answers another request", true, func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"jsonrpc":"2.0","id":1,"result":{"content":[]}}`)
		}},
		{"another id in a stream", "answers another request", true, func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: {\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":{}}\n\n")
		}},
		{"not JSON", "not MCP", true, func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `<html>`)
		}},
		{"names twice", "not MCP", true, func(w http.ResponseWriter, _ *http.Request, id string) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[],"content":[]}}`, id)
		}},
		{"HTML", "neither application/json", true, func(w http.ResponseWriter, _ *http.Request, _ string) { fmt.Fprint(w, `<html>`) }},
		{"too long", "16 MiB", true, func(w http.ResponseWriter, _ *http.Request, id string) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"x":"`, id)
			_, _ = io.Copy(w, io.LimitReader(neverEnding('x'), 20<<20))
		}},
		{"an event too long", "16 MiB", true, func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: ")
			_, _ = io.Copy(w, io.LimitReader(neverEnding('x'), 20<<20))
		}},
		{"streams for ever", "64 MiB", true, func(w http.ResponseWriter, r *http.Request, _ string) {
			w.Header().Set("Content-Type", "text/event-stream")
			line := []byte(":" + strings.Repeat("x", 1<<20) + "\n")
			for r.Context().Err() == nil {
				if _, err := w.Write(line); err != nil {
					return
				}
			}
		}},
		{"a stream that ends", "without answering", true, func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, ": nothing\n\n")
		}},
		{"broken off", "EOF", true, func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.Header().Set("Content-Length", "100")
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{`)
		}},
		{"an error of the server's", "502", true, func(w http.ResponseWriter, _ *http.Request, _ string) { w.WriteHeader(http.StatusBadGateway) }},
		{"refused", "403", false, func(w http.ResponseWriter, _ *http.Request, _ string) { w.WriteHeader(http.StatusForbidden) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first := true
			u, _ := oddAt(t, func(w http.ResponseWriter, r *http.Request, id, _ string) {
				if first {
					first = false
					tt.answer(w, r, id)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, oddResult)
			})
			_, err := u.Call(t.Context(), "odd", json.RawMessage(`{}`), nil)
			want := action.ErrUnknownOutcome
			if !tt.sent {
				want = action.ErrNotDispatched
			}
			if !errors.Is(err, want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %v with %q", err, want, tt.says)
			}
			if got, err := u.Call(t.Context(), "odd", json.RawMessage(`{}`), nil); err != nil || string(got) != oddResult {
				t.Errorf("the next: %s, %v", got, err)
			}
		})
	}
}

func TestASlowServerIsGivenUp(t *testing.T) {
	began := make(chan struct{})
	u, _ := oddAt(t, func(_ http.ResponseWriter, r *http.Request, _, _ string) { close(began); <-r.Context().Done() })
	called := make(chan error)
	go func() {
		_, err := u.Call(t.Context(), "odd", json.RawMessage(`{}`), nil)
		called <- err
	}()
	<-began
	u.clock.fire(callPatience)
	if err := <-called; !errors.Is(err, action.ErrUnknownOutcome) || !errors.Is(err, errPatience) {
		t.Error(err)
	}
}

func TestAServerThatIsGoneWasNotAsked(t *testing.T) {
	o := &oddServer{t: t}
	srv := httptest.NewServer(o)
	u := readyAt(t, Endpoint{URL: srv.URL})
	srv.Close()
	_, _ = u.Call(t.Context(), "odd", json.RawMessage(`{}`), nil) // on a connection that stood, it cannot be told whether it arrived
	if _, err := u.Call(t.Context(), "odd", json.RawMessage(`{}`), nil); !errors.Is(err, action.ErrNotDispatched) || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}

func TestARedirectToAnotherHostIsNotFollowed(t *testing.T) {
	var elsewhere oddServer
	other := httptest.NewServer(&elsewhere)
	t.Cleanup(other.Close)
	for _, status := range []int{http.StatusMovedPermanently, http.StatusSeeOther, http.StatusTemporaryRedirect} {
		u, _ := oddAt(t, func(w http.ResponseWriter, r *http.Request, _, _ string) { http.Redirect(w, r, other.URL, status) })
		if _, err := u.Call(t.Context(), "odd", json.RawMessage(`{}`), nil); err == nil || !strings.Contains(err.Error(), "redirects to another address") {
			t.Errorf("%d: %v", status, err)
		}
	}
	if len(elsewhere.seen) > 0 {
		t.Errorf("the other host saw %v", elsewhere.seen)
	}
}

func TestAServerThatForgotTheSessionIsConnectedToAnew(t *testing.T) {
	s := newSDKServer()
	srv := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, nil))
	t.Cleanup(srv.Close)
	u := readyAt(t, Endpoint{URL: srv.URL})
	for ss := range s.Sessions() {
		_ = ss.Close()
	}
	if _, err := u.Call(t.Context(), "echo", json.RawMessage(`{}`), nil); !errors.Is(err, action.ErrNotDispatched) {
		t.Errorf("%v", err)
	}
	u.clock.fire(backoff1)
	for {
		_, err := u.Call(t.Context(), "echo", json.RawMessage(`{}`), nil)
		if err == nil {
			break
		}
		if !errors.Is(err, action.ErrNotDispatched) {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
}

func TestCredentialsOfOurOwnGetATokenAndANewOneWhenItIsRefused(t *testing.T) {
	asked := 0
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		if id != "me" || secret != "s3cret" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("resource") != "x" {
			t.Errorf("%s %s %v", id, secret, r.Form)
		}
		asked++
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":3600}`, asked)
	}))
	t.Cleanup(tokens.Close)
	o := &oddServer{t: t, call: func(w http.ResponseWriter, r *http.Request, id, _ string) {
		if r.Header.Get("Authorization") != "Bearer t2" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[]}}`, id)
	}}
	srv := httptest.NewServer(o)
	t.Cleanup(srv.Close)
	u := readyAt(t, Endpoint{URL: srv.URL, OAuth: &ClientCredentials{TokenURL: tokens.URL, ID: "me", Secret: "s3cret", Params: map[string]string{"resource": "x"}}})
	if _, err := u.Call(t.Context(), "odd", json.RawMessage(`{}`), nil); err != nil || o.called() != 2 || asked != 2 {
		t.Errorf("%v, %d calls, %d tokens", err, o.called(), asked)
	}
}

func TestTheSecretGoesToItsTokenEndpointAloneAndNoFailureRepeatsAnything(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	for name, endpoint := range map[string]http.HandlerFunc{
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		},
		"sends a form": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusSeeOther) },
		"refuses": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"error":"invalid_client","error_description":"s3cret \u202e"}`, http.StatusUnauthorized)
		},
		"answers a page":   func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>s3cret</html>") },
		"answers no token": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"token_type":"Bearer"}`) },
		"breaks off":       func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"answers for ever": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"access_token":"`+strings.Repeat("s3cret", 1<<20)+`"}`)
		},
		"has no good header": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"access_token":"a\r\nB: s3cret","token_type":"Bearer"}`)
		},
	} {
		srv := httptest.NewServer(endpoint)
		t.Cleanup(srv.Close)
		o := &oddServer{t: t}
		upstream := httptest.NewServer(o)
		t.Cleanup(upstream.Close)
		err := runAt(t, Endpoint{URL: upstream.URL, OAuth: &ClientCredentials{TokenURL: srv.URL, ID: "me", Secret: "s3cret"}}).Ready(t.Context())
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if elsewhere.Load() > 0 {
		t.Error("another host was asked for a token")
	}
}
