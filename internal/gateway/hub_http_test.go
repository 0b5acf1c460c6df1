//go:build unix

package gateway

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/agenthypervisor/hypervisor/policy"
)

// A postman makes requests by hand.
type postman struct {
	t      *testing.T
	h      *hall
	token  string
	extra  map[string]string
	loose  bool         // whoever asks closes the bodies
	client *http.Client // nil: http.DefaultClient
}

func (p postman) do(method, body string) *http.Response {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, p.h.url, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	if p.token != "" {
		r.Header.Set("Authorization", "Bearer "+p.token)
	}
	for k, v := range p.extra {
		r.Header.Set(k, v)
	}
	resp, err := cmp.Or(p.client, http.DefaultClient).Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	if !p.loose {
		p.t.Cleanup(func() { _ = resp.Body.Close() })
	}
	return resp
}

// say posts a message and returns the answer to it.
func (p postman) say(body string) (m answer, resp *http.Response) {
	p.t.Helper()
	resp = p.do(http.MethodPost, body)
	all, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		p.t.Fatal(err)
	}
	if at := bytes.LastIndex(all, []byte("data: ")); at >= 0 {
		all = all[at+len("data: "):]
	}
	if err := json.Unmarshal(all, &m); err != nil && len(all) > 0 && all[0] == '{' {
		p.t.Fatalf("%s: %v", all, err)
	}
	return m, resp
}

const hello = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`

// session opens a client's session and returns the postman of it.
func (p postman) session() postman {
	p.t.Helper()
	m, resp := p.say(hello)
	id := resp.Header.Get(sessionHeader)
	if m.Error != nil || id == "" {
		p.t.Fatalf("%+v, session %q", m, id)
	}
	p.extra = map[string]string{sessionHeader: id, versionHeader: "2025-11-25"}
	p.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	return p
}

func TestASessionOrStreamNamedByAnotherSeatIsRefused(t *testing.T) {
	h := newHall(t, stdio("one", "sdk"))
	h.join(t, "did:mesh:other")
	mine := postman{t: t, h: h, token: h.token(agentDID)}.session()
	stranger := mine
	stranger.token = h.token("did:mesh:other")
	if resp := stranger.do(http.MethodPost, `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`); resp.StatusCode != http.StatusNotFound {
		t.Errorf("another agent's request: %s", resp.Status)
	}
	for _, extra := range []string{"", "abc_0", "_0"} {
		stranger.extra = map[string]string{sessionHeader: mine.extra[sessionHeader], versionHeader: "2025-11-25"}
		if extra != "" {
			stranger.extra[lastEventHeader] = extra
		}
		if resp := stranger.do(http.MethodGet, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("another agent's stream from %q: %s", extra, resp.Status)
		}
	}
	if resp := stranger.do(http.MethodDelete, ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("another agent's end: %s", resp.Status)
	}
	nobody := mine
	nobody.token = ""
	if resp := nobody.do(http.MethodPost, hello); resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("nobody: %s", resp.Status)
	}
	if m, _ := mine.say(`{"jsonrpc":"2.0","id":2,"method":"tools/list"}`); m.Error != nil || !strings.Contains(string(m.Result), "one__echo") {
		t.Errorf("my own: %+v", m)
	}
}

func TestABodyIsReadAsStrictlyAsALine(t *testing.T) {
	h := newHall(t)
	p := postman{t: t, h: h, token: h.token(agentDID)}.session()
	for _, version := range []string{"2025-11-25", "2026-07-28"} {
		p.extra[versionHeader] = version
		for _, tt := range badLines {
			m, resp := p.say(tt.line)
			if resp.StatusCode != http.StatusBadRequest || m.Error == nil || m.Error.Code != tt.code {
				t.Errorf("%s, %s: %s %+v, want %d", version, tt.name, resp.Status, m.Error, tt.code)
			}
		}
	}
	if resp := p.do(http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"`+strings.Repeat("x", maxBodyBytes)+`"}`); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("too long: %s", resp.Status)
	}
}

func TestAModernRequestWithoutItsHeadersOrWithOthersIsRefused(t *testing.T) {
	h := newHall(t, stdio("one", "sdk"))
	p := postman{t: t, h: h, token: h.token(agentDID)}
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"one__echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"x","version":"1"}}}}`
	good := map[string]string{versionHeader: "2026-07-28", methodHeader: "tools/call", nameHeader: "one__echo"}
	if m, resp := p.with(good).say(body); resp.StatusCode != http.StatusOK || m.Error != nil {
		t.Errorf("%s %+v", resp.Status, m.Error)
	}
	for name, other := range map[string]string{versionHeader: "2025-11-25", methodHeader: "tools/list", nameHeader: "two__echo"} {
		for _, value := range []string{"", other} {
			bad := map[string]string{}
			for k, v := range good {
				bad[k] = v
			}
			if bad[name] = value; value == "" {
				delete(bad, name)
			}
			if m, resp := p.with(bad).say(body); resp.StatusCode == http.StatusOK && m.Error == nil {
				t.Errorf("%s=%q: %s %s", name, value, resp.Status, m.Result)
			}
		}
	}
}

func (p postman) with(extra map[string]string) postman {
	p.extra = extra
	return p
}

func TestAnOpenStreamHearsOfAChangedListAndEndsWithItsToken(t *testing.T) {
	h := newHall(t, stdio("one", "sdk"))
	p := postman{t: t, h: h, token: h.token(agentDID)}.session()
	p.say(`{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
	stream := p.do(http.MethodGet, "")
	if stream.StatusCode != http.StatusOK {
		t.Fatal(stream.Status)
	}
	in := bufio.NewReader(stream.Body)
	if m, _ := p.say(`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"one__grow"}}`); m.Error != nil {
		t.Fatal(m)
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, "tools/list_changed") {
			break
		}
	}
	if m, _ := p.say(`{"jsonrpc":"2.0","id":4,"method":"tools/list"}`); !strings.Contains(string(m.Result), "one__grown") {
		t.Errorf("%s", m.Result)
	}
	h.revoked.Store(true)
	h.clock.fire(sweepEvery)
	if _, err := io.Copy(io.Discard, in); err != nil && !strings.Contains(err.Error(), "EOF") {
		t.Error(err)
	}
	if resp := p.do(http.MethodPost, hello); resp.StatusCode != http.StatusForbidden {
		t.Error(resp.Status)
	}
}

func TestARequestOutsideOfRunIsAnsweredLater(t *testing.T) {
	hv, s := newSession(t, "0.80")
	hub, err := NewHub(hv, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := &hall{Hub: hub, hv: hv, s: s}
	w := serveOnce(hub.Handler(func(*http.Request) (Seat, error) { return Seat{policy.Agent(agentDID), s}, nil }), hello)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Error(w.Code, h.url)
	}
}

func TestErrorsOfTheProtocolStayErrors(t *testing.T) {
	h := newHall(t, stdio("one", "sdk"))
	p := postman{t: t, h: h, token: h.token(agentDID)}.session()
	for i, tt := range []struct {
		method, params string
		code           int64
	}{
		{"no/such", `{}`, jsonrpc.CodeMethodNotFound},
		{"tools/list", `{"cursor":"x.1"}`, jsonrpc.CodeInvalidParams},
		{"tools/call", `{}`, jsonrpc.CodeInvalidParams},
	} {
		m, resp := p.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`, 10+i, tt.method, tt.params))
		if resp.StatusCode != http.StatusOK || m.Error == nil || m.Error.Code != tt.code {
			t.Errorf("%s: %s %+v", tt.method, resp.Status, m)
		}
	}
}

func TestAnErrorWithoutACodeGetsOneAndShowsWhatItHides(t *testing.T) {
	_, err := coded(nil, fmt.Errorf("resources/list: %w", errors.New("server x is not running (it said \u202e)")))
	var e *jsonrpc.Error
	if !errors.As(err, &e) || e.Code != jsonrpc.CodeInternalError || e.Message != "resources/list: server x is not running (it said \uFFFD)" {
		t.Errorf("%+v", err)
	}
	own := &jsonrpc.Error{Code: CodeRefused, Message: "no"}
	if _, err := coded(nil, fmt.Errorf("reading: %w", own)); !errors.As(err, &e) || e != own {
		t.Errorf("%+v, want the error that has a code", err)
	}
}
