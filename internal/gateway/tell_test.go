//go:build unix

package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/session"
)

// A board is a server of resources that may be subscribed to, and notes who is.
type board struct {
	*mcp.Server
	at *httptest.Server

	mu  sync.Mutex
	log []string
}

func newBoard(t *testing.T, name string, opt *mcp.StreamableHTTPOptions) *board {
	t.Helper()
	b := &board{}
	note := func(what, uri string) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.log = append(b.log, what+" "+uri)
		if strings.HasSuffix(uri, "closed") {
			return errors.New("not for you")
		}
		return nil
	}
	b.Server = mcp.NewServer(&mcp.Implementation{Name: name, Version: "1"}, &mcp.ServerOptions{
		SubscribeHandler:   func(_ context.Context, r *mcp.SubscribeRequest) error { return note("+", r.Params.URI) },
		UnsubscribeHandler: func(_ context.Context, r *mcp.UnsubscribeRequest) error { return note("-", r.Params.URI) },
	})
	for _, uri := range []string{"note://both", "note://" + name} {
		b.AddResource(&mcp.Resource{URI: uri, Name: "n"}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
			return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{}}, nil
		})
	}
	b.at = httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return b.Server }, opt))
	t.Cleanup(b.at.Close)
	t.Cleanup(b.at.CloseClientConnections)
	return b
}

func (b *board) spec(name string) ServerSpec {
	return ServerSpec{Name: name, Endpoint: &Endpoint{URL: b.at.URL}}
}

// boardServer is one over a pipe: reading one resource changes another, reading a third ends it.
func boardServer() {
	ok := func(context.Context, *mcp.SubscribeRequest) error { return nil }
	s := mcp.NewServer(&mcp.Implementation{Name: "board", Version: "1"}, &mcp.ServerOptions{SubscribeHandler: ok,
		UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error { return nil }})
	for uri, do := range map[string]func(){
		"note://board": func() {},
		"note://touch": func() {
			_ = s.ResourceUpdated(context.Background(), &mcp.ResourceUpdatedNotificationParams{URI: "note://board"})
		},
		"note://die": func() { os.Exit(4) },
	} {
		s.AddResource(&mcp.Resource{URI: uri, Name: "n"}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
			do()
			return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{}}, nil
		})
	}
	s.AddPrompt(&mcp.Prompt{Name: "hi"}, func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return &mcp.GetPromptResult{}, nil
	})
	_ = s.Run(context.Background(), &mcp.StdioTransport{})
}

// noted reports whether the server was told this, so many times.
func (b *board) noted(what string, times int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, is := range b.log {
		if is == what {
			n++
		}
	}
	return n == times
}

func (b *board) changes(t *testing.T, uri string) {
	t.Helper()
	if err := b.ResourceUpdated(t.Context(), &mcp.ResourceUpdatedNotificationParams{URI: uri}); err != nil {
		t.Fatal(err)
	}
}

// A reader is a client that hears of resources.
type reader struct {
	*mcp.ClientSession
	heard chan string
}

func (h *hall) reader(t *testing.T, token, revision string) reader {
	t.Helper()
	r := reader{heard: make(chan string, 1000)}
	cs, err := mcp.NewClient(&mcp.Implementation{Name: "reader", Version: "1"}, &mcp.ClientOptions{
		ResourceUpdatedHandler: func(_ context.Context, n *mcp.ResourceUpdatedNotificationRequest) { r.heard <- n.Params.URI },
	}).Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: h.url, HTTPClient: &http.Client{Transport: bearer(token)}}, &mcp.ClientSessionOptions{ProtocolVersion: revision})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cs.Close() })
	r.ClientSession = cs
	return r
}

func (r reader) subscribe(t *testing.T, uri string) error {
	t.Helper()
	return r.Subscribe(t.Context(), &mcp.SubscribeParams{URI: uri})
}

// hears waits until it is told of a resource.
func (r reader) hears(t *testing.T, what, uri string) {
	t.Helper()
	if got := <-r.heard; got != uri {
		t.Errorf("%s: heard of %s", what, got)
	}
}

func TestWhoIsSubscribedIsToldAndNobodyElseIs(t *testing.T) {
	for _, upstream := range []struct {
		name string
		opt  *mcp.StreamableHTTPOptions
	}{{"legacy", nil}, {"modern", modernServer}} {
		t.Run(upstream.name, func(t *testing.T) {
			ann, bob := newBoard(t, "ann", upstream.opt), newBoard(t, "bob", upstream.opt)
			h := newHall(t, ann.spec("ann"), bob.spec("bob"))
			h.join(t, "did:mesh:other")
			type listener struct {
				reader
				uri string
			}
			var all []listener
			for _, revision := range []string{"2025-11-25", "2026-07-28"} {
				for _, l := range []struct {
					token, uri string
				}{{h.token(agentDID), "note://ann"}, {h.token(agentDID), "note://both"}, {h.token("did:mesh:other"), "note://bob"}} {
					r := h.reader(t, l.token, revision)
					if err := r.subscribe(t, l.uri); err != nil {
						t.Fatal(err)
					}
					all = append(all, listener{r, l.uri})
				}
			}
			for _, b := range []struct {
				*board
				uri string
			}{{ann, "note://ann"}, {bob, "note://bob"}} {
				for _, l := range all {
					eventually(t, l.uri+" is not heard of", func() bool { // a server may know of a subscription before it acts on it
						if l.uri == b.uri && len(l.heard) == 0 {
							b.changes(t, b.uri)
							b.changes(t, b.uri+"/beneath")
						}
						return l.uri != b.uri || len(l.heard) > 0
					})
				}
			}
			for _, l := range all {
				if n := len(l.heard); n > 0 && l.uri == "note://both" {
					t.Errorf("who is subscribed to what has not changed hears %d times", n)
				}
				for range len(l.heard) {
					l.hears(t, "who is subscribed to "+l.uri, l.uri)
				}
				if l.uri == "note://ann" {
					if err := l.Unsubscribe(t.Context(), &mcp.UnsubscribeParams{URI: l.uri}); err != nil {
						t.Fatal(err)
					}
				}
			}
			eventually(t, "it stays subscribed", func() bool { return ann.noted("- note://ann", 1) })
			if ann.noted("- note://both", 1) {
				t.Error("another subscription is ended")
			}
			views, err := h.s.Actions(t.Context(), 0, 100)
			if err != nil {
				t.Fatal(err)
			}
			recorded := map[string]int{}
			for _, v := range views {
				if v.ReadOnly && v.Outcome == "done" {
					recorded[string(v.Agent)+" "+v.Action+" "+string(v.Args)]++
				}
			}
			for what, n := range map[string]int{
				string(agentDID) + ` ann.resources/subscribe {"uri":"note://ann"}`:   2,
				string(agentDID) + ` ann.resources/unsubscribe {"uri":"note://ann"}`: 1, // from 2026-07-28 on a client only leaves
				`did:mesh:other bob.resources/subscribe {"uri":"note://bob"}`:        2,
			} {
				if recorded[what] != n {
					t.Errorf("%s is recorded %d times: %v", what, recorded[what], recorded)
				}
			}
		})
	}
}

func TestANoticeIsForWhoWatchesThatResourceOrOneAboveIt(t *testing.T) {
	u := NewUpstream("u", Command{}, nil)
	told := map[string]int{}
	for _, uri := range []string{"a://x", "a://x/", "a://x/y", "a://xy", "b://x"} {
		u.mu.Lock()
		u.enterWatch(&watch{uri, func() { told[uri]++ }})
		u.mu.Unlock()
	}
	for notice, want := range map[string]map[string]int{
		"a://x":     {"a://x": 1},
		"a://x/":    {"a://x": 1, "a://x/": 1},
		"a://x/y/z": {"a://x": 1, "a://x/": 1, "a://x/y": 1},
		"c://x":     {},
		"a:":        {},
		"":          {"a://x": 1, "a://x/": 1, "a://x/y": 1, "a://xy": 1, "b://x": 1},
	} {
		clear(told)
		u.updated(notice)
		if !maps.Equal(told, want) {
			t.Errorf("of %q are told %v", notice, told)
		}
	}
}

func TestASubscriptionWhoseClientHasLeftMeanwhileIsEnded(t *testing.T) {
	ann := newBoard(t, "ann", nil)
	h := newHall(t, ann.spec("ann"))
	names(t, h.reader(t, h.token(agentDID), "2025-11-25").ClientSession)
	seat := only(t, h)
	late := &subscription{front: seat.front, face: seat.front.all()[0], watch: watch{"note://ann", func() {}}}
	late.Drop()
	if _, err := late.begin(t.Context()); !errors.Is(err, errClosed) || !ann.noted("+ note://ann", 1) || !ann.noted("- note://ann", 1) {
		t.Errorf("%v, and the server was told %v", err, ann.log)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kept != 0 {
		t.Error("its connection is kept")
	}
}

func TestASubscriptionIsRefusedWhereItMayNotBe(t *testing.T) {
	ann := newBoard(t, "ann", nil)
	deaf := library("deaf")
	hv, s := newSession(t, "0.80")
	h := hallOf(t, hv, s, &HubOptions{Servers: []ServerSpec{ann.spec("ann"), overHTTP(t, "deaf", deaf), newBoard(t, "kept", nil).spec("kept")},
		Claims: func(server, tool string) []action.Claim {
			if server == "kept" && tool == subscribeMethod {
				return []action.Claim{{Admin: &yes}}
			}
			return nil
		}})
	r := h.reader(t, h.token(agentDID), "2025-11-25")
	for _, c := range []struct{ uri, want string }{
		{"note://kept", "administrative"},
		{"test://deaf", "resources/subscribe"},
		{"note://nobody", "no server lists"},
		{"hypervisor:ann/note://closed", "not for you"},
	} {
		if err := r.subscribe(t, c.uri); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.uri, err)
		}
		modern := postman{t: t, h: h, token: h.token(agentDID)}
		m, _ := modern.with(map[string]string{versionHeader: "2026-07-28", methodHeader: "subscriptions/listen"}).say(`{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["` + c.uri + `"]},
			"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"x","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}`)
		if m.Error == nil || !strings.Contains(m.Error.Message, c.want) {
			t.Errorf("%s by a listen: %+v", c.uri, m)
		}
	}
	if err := r.subscribe(t, "hypervisor:ann/note://x"); err != nil {
		t.Error(err)
	}
	seat := only(t, h)
	seat.server.subs.mu.Lock()
	taken := seat.server.subs.taken
	seat.server.subs.taken = maxSubscriptions
	seat.server.subs.mu.Unlock()
	if taken != 1 {
		t.Errorf("%d subscriptions are counted", taken)
	}
	var refused *jsonrpc.Error
	if err := r.subscribe(t, "note://ann"); !errors.As(err, &refused) || !strings.Contains(err.Error(), fmt.Sprint(maxSubscriptions)) {
		t.Errorf("one more: %v", err)
	}
	if _, err := h.s.Act(t.Context(), seat.front.agent, session.Act{Action: "ann." + subscribeMethod, Args: []byte(`{"uri":"note://ann"}`)}); err != nil {
		t.Error(err)
	}
	views, err := h.s.Actions(t.Context(), 0, 1000)
	if last := views[len(views)-1]; err != nil || last.Outcome != "failed" || last.Why != "not_sent" {
		t.Errorf("through another door: %+v %v", last, err)
	}
}

// only returns the one seat of a hall.
func only(t *testing.T, h *hall) *seat {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.seats) != 1 {
		t.Fatalf("%d seats", len(h.seats))
	}
	for _, s := range h.seats {
		return s
	}
	return nil
}

func TestAServerThatIsStartedAgainIsSubscribedToAgainAndItsReadersAreTold(t *testing.T) {
	pipe := child("board")
	h := newHall(t, ServerSpec{Name: "pipe", Command: &pipe})
	for _, revision := range []string{"2025-11-25", "2026-07-28"} {
		r := h.reader(t, h.token(agentDID), revision)
		prompts := make(chan struct{}, 100)
		watcher := h.connect(t, agentDID, revision, &mcp.ClientOptions{
			PromptListChangedHandler:   func(context.Context, *mcp.PromptListChangedRequest) { prompts <- struct{}{} },
			ResourceListChangedHandler: func(context.Context, *mcp.ResourceListChangedRequest) { prompts <- struct{}{} },
		})
		names(t, watcher)
		if err := r.subscribe(t, "note://board"); err != nil {
			t.Fatal(err)
		}
		touch := func() {
			if _, err := r.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "note://touch"}); err != nil {
				t.Fatal(err)
			}
		}
		touch()
		r.hears(t, "before", "note://board")
		_, _ = r.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "note://die"})
		eventually(t, "it is not down", func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			for b := range h.running {
				b.up.mu.Lock()
				defer b.up.mu.Unlock()
				return b.up.link == nil && !b.up.retry.IsZero()
			}
			return false
		})
		backoff := backoffOf(h)
		h.clock.fire(backoff)
		r.hears(t, "as it is back", "note://board")
		touch()
		r.hears(t, "after", "note://board")
		<-prompts
		<-prompts
	}
}

// backoffOf returns how long the one server that is down waits.
func backoffOf(h *hall) (d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for b := range h.running {
		b.up.mu.Lock()
		defer b.up.mu.Unlock()
		return b.up.retry.Sub(h.clock.Now())
	}
	return 0
}

func TestASubscriptionKeepsItsConnectionAndEndsWithItsClient(t *testing.T) {
	ann := newBoard(t, "ann", nil)
	bob := newBoard(t, "bob", nil)
	hv, s := newSession(t, "0.80")
	h := hallOf(t, hv, s, &HubOptions{Servers: []ServerSpec{ann.spec("ann"), bob.spec("bob")}, MaxConnections: 2})
	r := h.reader(t, h.token(agentDID), "2025-11-25")
	if err := r.subscribe(t, "note://ann"); err != nil {
		t.Fatal(err)
	}
	if err := r.subscribe(t, "note://bob"); err == nil || !strings.Contains(err.Error(), "kept") {
		t.Errorf("more than half of all connections: %v", err)
	}
	h.pass(int(berthIdle/sweepEvery) + 1)
	eventually(t, "the connection that nobody uses is not ended", func() bool { running, _ := h.up(); return running == 1 })
	ann.changes(t, "note://ann")
	r.hears(t, "after a while", "note://ann")
	_ = r.Close()
	eventually(t, "the server is not told", func() bool { return ann.noted("- note://ann", 1) })
	eventually(t, "the connection is kept", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.kept == 0 })

	for _, revision := range []string{"2025-11-25", "2026-07-28"} {
		again := h.reader(t, h.token(agentDID), revision)
		if err := again.subscribe(t, "note://ann"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is not subscribed", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.kept == 1 })
		if err := h.SetServers([]ServerSpec{bob.spec("bob")}, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the subscription outlives its server", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.kept == 0 })
		if err := h.SetServers([]ServerSpec{ann.spec("ann"), bob.spec("bob")}, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the agent's servers are not both there", func() bool { // else the next subscription is bob's, who is the only one to ask
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, s := range h.seats {
				return len(s.front.all()) == 2
			}
			return false
		})
	}
}

func TestAnAgentOverAPipeIsAskedAndToldToo(t *testing.T) {
	for _, revision := range []string{"2025-11-25", "2026-07-28"} {
		hv, s := newSession(t, "0.80")
		m := &model{name: "me"}
		client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, m.options())
		client.AddRoots(&mcp.Root{URI: "file:///me"})
		asked := governedAs(t, hv, s, "nosy", &FrontOptions{TrustAnnotations: true}, client, revision)
		if text := answered(t, asked, "rounds", `{}`); text != "words of me file:///me" {
			t.Errorf("%s: %s", revision, text)
		}
		hv, s = newSession(t, "0.80")
		r := reader{heard: make(chan string, 100)}
		r.ClientSession = governedAs(t, hv, s, "board", nil, mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, &mcp.ClientOptions{
			ResourceUpdatedHandler: func(_ context.Context, n *mcp.ResourceUpdatedNotificationRequest) { r.heard <- n.Params.URI },
		}), revision)
		if err := r.subscribe(t, "note://board"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "nothing is heard", func() bool {
			if _, err := r.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "note://touch"}); err != nil && !strings.Contains(err.Error(), "at once") {
				t.Fatal(err)
			}
			return len(r.heard) > 0
		})
		r.hears(t, revision, "note://board")
		if err := r.Unsubscribe(t.Context(), &mcp.UnsubscribeParams{URI: "note://board"}); err != nil && !strings.Contains(err.Error(), "at once") {
			t.Error(err)
		}
	}
}

func TestAReaderThatDoesNotReadHoldsUpNoOther(t *testing.T) {
	ann := newBoard(t, "ann", nil)
	h := newHall(t, ann.spec("ann"))
	var readers []reader
	for range 2 {
		r := h.reader(t, h.token(agentDID), "2025-11-25")
		if err := r.subscribe(t, "note://ann"); err != nil {
			t.Fatal(err)
		}
		readers = append(readers, r)
	}
	stuck, entered := make(chan struct{}), make(chan struct{}, 1000)
	only(t, h).server.sdk.AddSendingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			if ss, ok := req.GetSession().(*mcp.ServerSession); ok && method == resourceUpdated && ss.ID() == readers[0].ID() {
				entered <- struct{}{}
				<-stuck
			}
			return next(ctx, method, req)
		}
	})
	ann.changes(t, "note://ann")
	<-entered
	for i := range 100 {
		ann.changes(t, "note://ann")
		readers[1].hears(t, fmt.Sprint("change ", i), "note://ann")
	}
	close(stuck)
	readers[0].hears(t, "at last", "note://ann")
	readers[0].hears(t, "once for all changes since", "note://ann")
	ann.changes(t, "note://ann")
	readers[0].hears(t, "and on", "note://ann")
	if len(entered) > 2 {
		t.Errorf("it is told %d times of what it had not read", len(entered))
	}
}
