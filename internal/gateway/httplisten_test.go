//go:build unix

package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/action"
)

// A reticent server opens the stream of what it says unasked when it is let, and counts how often its tools are listed.
type reticent struct {
	*mcp.Server
	url    string
	listed atomic.Int64
}

func newReticent(t *testing.T, opt *mcp.StreamableHTTPOptions, let func(*reticent)) *reticent {
	t.Helper()
	s := &reticent{Server: newSDKServer()}
	sdk := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s.Server }, opt)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		switch {
		case r.Method == http.MethodGet, bytes.Contains(body, []byte(`"subscriptions/listen"`)):
			let(s)
		case bytes.Contains(body, []byte(`"tools/list"`)):
			s.listed.Add(1)
		}
		sdk.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(srv.CloseClientConnections)
	s.url = srv.URL
	return s
}

// revisionsOfServers are how a server on the SDK is served: until 2025-11-25, with a GET for what it says unasked, and from
// 2026-07-28 on, with subscriptions/listen.
var revisionsOfServers = map[string]*mcp.StreamableHTTPOptions{"legacy": nil, "modern": modernServer}

func TestToolsAreListedOnceAChangeOfThemWouldBeHeard(t *testing.T) {
	for name, opt := range revisionsOfServers {
		t.Run(name, func(t *testing.T) {
			var clock atomic.Pointer[handClock]
			started := make(chan struct{})
			s := newReticent(t, opt, func(s *reticent) {
				<-started
				clock.Load().await(hearing) // that it is waited for
				if n := s.listed.Load(); n > 0 {
					t.Errorf("tools were listed %d times before the stream was open", n)
				}
			})
			u := runAt(t, Endpoint{URL: s.url})
			clock.Store(u.clock)
			close(started)
			if err := u.Ready(t.Context()); err != nil || len(u.Tools()) != 6 {
				t.Fatalf("%v, %d tools", err, len(u.Tools()))
			}
			s.AddTool(&mcp.Tool{Name: "new", InputSchema: json.RawMessage(`{"type":"object"}`)}, nil)
			<-u.Changed()
			if n := len(u.Tools()); n != 7 {
				t.Errorf("%d tools after a change", n)
			}
		})
	}
}

func TestAServerThatTakesTooLongToBeHeardIsListedOnceMore(t *testing.T) {
	for name, opt := range revisionsOfServers {
		t.Run(name, func(t *testing.T) {
			open := make(chan struct{})
			s := newReticent(t, opt, func(*reticent) { <-open })
			u := runAt(t, Endpoint{URL: s.url})
			u.clock.fire(hearing)
			if err := u.Ready(t.Context()); err != nil || len(u.Tools()) != 6 {
				t.Fatalf("%v, %d tools", err, len(u.Tools()))
			}
			before := s.listed.Load()
			close(open)
			eventually(t, "its tools are not listed again once it is heard", func() bool { return s.listed.Load() == 2*before })
		})
	}
}

// At the bound a stream that brings something is read on; above it the server is taken for gone.
func TestAStreamOfNoticesIsOpenedAgainSoOftenAndNoMore(t *testing.T) {
	for _, tt := range []struct {
		broken int // openings in a row, behind the first, that bring nothing
		down   bool
	}{{maxReopenings - 1, false}, {maxReopenings, true}} {
		t.Run(fmt.Sprint(tt.broken), func(t *testing.T) {
			var opened atomic.Int64
			brought := make(chan struct{})
			o := &oddServer{t: t}
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet {
					o.ServeHTTP(w, r)
					return
				}
				n := int(opened.Add(1)) - 1
				if n > 0 && n <= tt.broken {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				w.Header().Set("Content-Type", "text/event-stream")
				w.WriteHeader(http.StatusOK)
				if n > 0 {
					fmt.Fprint(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"x\"}}\n\n")
					close(brought)
					w.(http.Flusher).Flush()
					<-r.Context().Done()
				}
			}))
			t.Cleanup(srv.Close)
			t.Cleanup(srv.CloseClientConnections)
			u := readyAt(t, Endpoint{URL: srv.URL})
			u.clock.mu.Lock()
			delete(u.clock.waits, maxBackoff) // what else waited so long is over
			u.clock.mu.Unlock()
			for tries := range tt.broken + 1 {
				u.clock.fire(reopening(tries, 0))
			}
			if !tt.down {
				<-brought
				if err := u.Ready(t.Context()); err != nil {
					t.Error(err)
				}
				return
			}
			u.clock.await(backoff1)
			if err := u.Ready(t.Context()); !errors.Is(err, errUnreachable) || opened.Load() != maxReopenings+1 {
				t.Errorf("%v after %d openings, want it to be out of reach after %d", err, opened.Load(), maxReopenings+1)
			}
		})
	}
}

// A shared server has many callers at once; what they dialled serves their next calls.
func TestManyCallersDialOnce(t *testing.T) {
	const callers = 200
	var dialled atomic.Int64
	var here sync.WaitGroup
	o := &oddServer{t: t, call: func(w http.ResponseWriter, _ *http.Request, id, _ string) {
		here.Done()
		here.Wait() // all at once
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, oddResult)
	}}
	srv := httptest.NewUnstartedServer(o)
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			dialled.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	u := readyAt(t, Endpoint{URL: srv.URL})
	round := func() int64 {
		here.Add(callers)
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				if _, err := u.Call(t.Context(), "odd", json.RawMessage(`{}`), nil); err != nil || errors.Is(err, action.ErrUnknownOutcome) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		return dialled.Load()
	}
	first := round()
	if again := round(); again != first || first < callers || callers > maxIdleSockets {
		t.Errorf("%d callers at once dialled %d times, and once more %d times", callers, first, again-first)
	}
}

// At the bound the answer may still come; above it the call's outcome is unknown.
func TestAnAnswerThatBreaksOffIsResumedSoOftenAndNoMore(t *testing.T) {
	for _, tt := range []struct {
		empty int // resumed streams in a row that bring nothing
		err   error
	}{{maxReopenings - 1, nil}, {maxReopenings, errNoAnswer}} {
		t.Run(fmt.Sprint(tt.empty), func(t *testing.T) {
			var resumed atomic.Int64
			var called atomic.Value
			o := &oddServer{t: t, call: func(w http.ResponseWriter, _ *http.Request, id, _ string) {
				called.Store(id)
				w.Header().Set("Content-Type", "text/event-stream")
				fmt.Fprint(w, "id: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"x\"}}\n\n")
			}}
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.Header.Get(lastEventHeader) == "" {
					o.ServeHTTP(w, r)
					return
				}
				w.Header().Set("Content-Type", "text/event-stream")
				if n := int(resumed.Add(1)); n > tt.empty {
					fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":%s}\n\n", called.Load(), oddResult)
				}
			}))
			t.Cleanup(srv.Close)
			u := readyAt(t, Endpoint{URL: srv.URL})
			answered := make(chan error, 1)
			go func() {
				_, err := u.Call(t.Context(), "odd", json.RawMessage(`{}`), nil)
				answered <- err
			}()
			for tries := range maxReopenings {
				u.clock.fire(reopening(tries, 0))
			}
			if err := <-answered; !errors.Is(err, tt.err) || resumed.Load() != maxReopenings {
				t.Errorf("%v after %d tries to resume it, want %v after %d", err, resumed.Load(), tt.err, maxReopenings)
			}
		})
	}
}
