//go:build unix

package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// after returns what a replay gives back.
func after(t *testing.T, r *replay, session, stream string, index int) (string, error) {
	t.Helper()
	var out []string
	for data, err := range r.After(t.Context(), session, stream, index) {
		if err != nil {
			return strings.Join(out, " "), err
		}
		out = append(out, string(data))
	}
	return strings.Join(out, " "), nil
}

func TestWhatAClientMissedIsKeptAWhileAndWithinBounds(t *testing.T) {
	clock := newHandClock()
	total := &replayTotal{}
	r := newReplay(clock, total)
	open := func(session string, streams ...string) {
		for _, stream := range streams {
			if err := r.Open(t.Context(), session, stream); err != nil {
				t.Fatal(err)
			}
		}
	}
	say := func(session, stream string, texts ...string) (err error) {
		for _, text := range texts {
			err = r.Append(t.Context(), session, stream, []byte(text))
		}
		return err
	}
	want := func(what, session, stream string, index int, text string, kept bool) {
		t.Helper()
		got, err := after(t, r, session, stream, index)
		if got != text || kept != (err == nil) || err != nil && !errors.Is(err, errNotKept) {
			t.Errorf("%s: %q %v", what, got, err)
		}
	}
	open("s", "", "a", "b")
	open("other", "", "a")
	_ = say("s", "a", "", "a1", "a2")
	_ = say("s", "b", "", "b1")
	want("all of it", "s", "a", 0, "a1 a2", true)
	want("the rest", "s", "a", 1, "a2", true)
	want("nothing more", "s", "a", 2, "", true)
	want("what was never sent", "s", "a", 3, "", false)
	want("a stream nobody opened", "s", "c", 0, "", false)
	want("another session's stream", "other", "b", 0, "", false)
	want("another session's stream of that name", "other", "a", 0, "", false)
	want("a session nobody opened", "none", "a", 0, "", false)

	clock.pass(replayFor)
	_ = say("s", "a", "a3")
	want("what is too old", "s", "a", 1, "", false)
	want("what is not", "s", "a", 2, "a3", true)
	_ = say("s", "", "n0", "n1")
	want("the stream of no request", "s", "", 0, "n1", true)
	clock.pass(replayFor)
	_ = say("s", "", "n2")
	want("of which a part is too old", "s", "", 0, "", false)
	want("and which is opened anew", "s", "", -1, "n2", true)
	_ = say("s", "", "n3")
	want("and goes on", "s", "", 0, "n3", true)

	if err := say("s", "a", strings.Repeat("x", replayBytes+1)); !errors.Is(err, errNotKept) {
		t.Errorf("what is too long: %v", err)
	}
	want("behind which nothing is missed", "s", "a", 4, "", true)
	want("before which it is", "s", "a", 3, "", false)
	for range 3 {
		_ = say("s", "b", strings.Repeat("y", replayBytes/2))
	}
	if total.bytes > replayBytes {
		t.Errorf("one session keeps %d bytes", total.bytes)
	}
	for range replayEvents + 5 {
		_ = say("other", "a", "")
	}
	if n := len(r.sessions["other"].events); n > replayEvents {
		t.Errorf("one session keeps %d events", n)
	}
	for i := range replayStreams {
		open("s", fmt.Sprint("more", i))
	}
	if err := say("s", "b", "b"); !errors.Is(err, errNotKept) || len(r.sessions["s"].streams) > replayStreams+1 {
		t.Errorf("%d streams, %v", len(r.sessions["s"].streams), err)
	}
	for i := range replayAllBytes/replayBytes + 1 {
		id := fmt.Sprint("session", i)
		open(id, "a")
		_ = say(id, "a", strings.Repeat("z", replayBytes))
	}
	if total.bytes > replayAllBytes {
		t.Errorf("all keep %d bytes", total.bytes)
	}
	clock.pass(replayFor)
	r.sweep(clock.Now())
	if total.bytes != 0 {
		t.Errorf("%d bytes stay", total.bytes)
	}
	_ = say("session0", "a", "last")
	for id := range r.sessions {
		if err := r.SessionClosed(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if total.bytes != 0 || len(r.sessions) != 0 {
		t.Errorf("%d bytes and %d sessions stay", total.bytes, len(r.sessions))
	}
}

// pass moves the clock without ending any wait.
func (c *handClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// slow is a server whose tool answers when it is let.
func slow(t *testing.T) (spec ServerSpec, let chan<- struct{}) {
	gate := make(chan struct{})
	s := mcp.NewServer(&mcp.Implementation{Name: "slow", Version: "1"}, nil)
	s.AddTool(&mcp.Tool{Name: "wait", InputSchema: json.RawMessage(`{"type":"object"}`), Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
		func(ctx context.Context, _ *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			select {
			case <-gate:
			case <-ctx.Done():
			}
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "at last"}}}, nil
		})
	at := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, nil))
	t.Cleanup(at.Close)
	return ServerSpec{Name: "slow", Endpoint: &Endpoint{URL: at.URL}, TrustAnnotations: true}, gate
}

// A server may end the stream of a call and say when to come back (SEP-1699).
func TestAServerThatEndsTheStreamOfACallSaysToItsClientWhenToComeBack(t *testing.T) {
	s := mcp.NewServer(&mcp.Implementation{Name: "polled", Version: "1"}, nil)
	s.AddTool(&mcp.Tool{Name: "wait", InputSchema: json.RawMessage(`{"type":"object"}`), Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
		func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			r.Extra.CloseSSEStream(mcp.CloseSSEStreamArgs{RetryAfter: 70 * time.Millisecond})
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "at last"}}}, nil
		})
	at := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{EventStore: mcp.NewMemoryEventStore(nil)}))
	t.Cleanup(at.Close)
	h := newHall(t, ServerSpec{Name: "polled", Endpoint: &Endpoint{URL: at.URL}, TrustAnnotations: true})
	const call = `{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"polled__wait"}}`
	p := postman{t: t, h: h, token: h.token(agentDID)}.session()
	p.say(`{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
	text, err := io.ReadAll(p.do(http.MethodPost, call).Body)
	if err != nil || !strings.Contains(string(text), "retry: 70\n") || strings.Contains(string(text), "at last") {
		t.Fatalf("%s %v", text, err)
	}
	h.clock.fire(firstReopening) // we come back, too
	again := p.with(map[string]string{sessionHeader: p.extra[sessionHeader], versionHeader: "2025-11-25", lastEventHeader: eventID(t, bufio.NewReader(strings.NewReader(string(text))))})
	if text, err = io.ReadAll(again.do(http.MethodGet, "").Body); err != nil || !strings.Contains(string(text), "at last") {
		t.Errorf("%s %v", text, err)
	}

	older := h.connect(t, agentDID, "2025-06-18", nil)
	fired := make(chan struct{})
	go func() {
		defer close(fired)
		h.clock.fire(firstReopening)
	}()
	if text := answered(t, older, "polled__wait", `{}`); text != "at last" {
		t.Errorf("an earlier client, which does not come back: %s", text)
	}
	<-fired
}

// eventID reads a stream up to the id of its next event.
func eventID(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			return strings.TrimSpace(id)
		}
	}
}

func TestACallWhoseStreamBrokeOffIsResumedByItsClientAndByNobodyElse(t *testing.T) {
	spec, let := slow(t)
	h := newHall(t, spec)
	h.join(t, "did:mesh:other")
	p := postman{t: t, h: h, token: h.token(agentDID)}.session()
	p.say(`{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
	resp := p.do(http.MethodPost, `{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"slow__wait"}}`)
	id := eventID(t, bufio.NewReader(resp.Body))
	_ = resp.Body.Close() // the client has lost the connection
	let <- struct{}{}
	eventually(t, "the call does not end", func() bool {
		views, err := h.s.Actions(t.Context(), 0, 10)
		return err == nil && len(views) == 1 && views[0].Outcome == "done"
	})

	from := func(p postman) postman {
		return p.with(map[string]string{sessionHeader: p.extra[sessionHeader], versionHeader: "2025-11-25", lastEventHeader: id})
	}
	stranger := from(p)
	stranger.token = h.token("did:mesh:other")
	if resp := stranger.do(http.MethodGet, ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("another agent resumes it: %s", resp.Status)
	}
	if resp := from(postman{t: t, h: h, token: stranger.token}.session()).do(http.MethodGet, ""); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("another agent resumes it in its own session: %s", resp.Status)
	}
	if resp := from(postman{t: t, h: h, token: p.token}.session()).do(http.MethodGet, ""); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("another client of the agent's resumes it: %s", resp.Status)
	}
	text, err := io.ReadAll(from(p).do(http.MethodGet, "").Body)
	if err != nil || !strings.Contains(string(text), "at last") || !strings.Contains(string(text), `"id":3`) {
		t.Errorf("the client gets %s %v", text, err)
	}
	h.clock.pass(replayFor)
	if resp := from(p).do(http.MethodGet, ""); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("it is resumed much later: %s", resp.Status)
	}
}

// A thousand agents that connect are answered the same, and what they are answered is kept two minutes.
func TestWhatManyClientsAreToldIsHeldOnce(t *testing.T) {
	all := &replayTotal{}
	clients := []*replay{newReplay(WallClock{}, all), newReplay(WallClock{}, all)}
	var held []*byte
	for _, r := range clients {
		if err := r.Open(t.Context(), "client", "1"); err != nil {
			t.Fatal(err)
		}
		if err := r.Append(t.Context(), "client", "1", []byte(strings.Repeat("tools ", 1000))); err != nil {
			t.Fatal(err)
		}
		held = append(held, unsafe.StringData(r.sessions["client"].events[0].data.Value()))
	}
	if held[0] != held[1] {
		t.Error("it is held for each")
	}
	runtime.KeepAlive(clients)
}
