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
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/session"
)

// nosy is a server whose tools want the client's model and roots: by a request, or by a result.
func nosy() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "nosy", Version: "1"}, nil)
	add := func(name string, h mcp.ToolHandler) {
		s.AddTool(&mcp.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object"}`), Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}}, h)
	}
	said := func(parts ...any) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: fmt.Sprint(parts...)}}}, nil
	}
	prompt := func(r *mcp.CallToolRequest) *mcp.CreateMessageParams {
		return &mcp.CreateMessageParams{MaxTokens: 9, Temperature: 0.5, IncludeContext: "allServers", SystemPrompt: "be brief\u202e",
			Messages: []*mcp.SamplingMessage{{Role: "user", Content: &mcp.TextContent{Text: "for " + string(r.Params.Arguments)}}}}
	}
	add("sample", func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		answer, err := r.Session.CreateMessage(ctx, prompt(r))
		if err != nil {
			return said(err)
		}
		return said(answer.Content.(*mcp.TextContent).Text)
	})
	add("toolbox", func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		_, err := r.Session.CreateMessageWithTools(ctx, &mcp.CreateMessageWithToolsParams{MaxTokens: 9, Tools: []*mcp.Tool{{Name: "x", InputSchema: json.RawMessage(`{"type":"object"}`)}}})
		return said(err)
	})
	add("insist", func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		answered := 0
		for range session.MaxAsked + 5 {
			if _, err := r.Session.CreateMessage(ctx, prompt(r)); err == nil {
				answered++
			}
		}
		return said(answered)
	})
	add("look", func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		roots, err := r.Session.ListRoots(ctx, nil)
		if err != nil {
			return said(err)
		}
		return said(roots.Roots[0].URI)
	})
	add("rounds", func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if len(r.Params.InputResponses) == 0 {
			can := r.ClientCapabilities()
			if can == nil || can.Sampling == nil || can.RootsV2 == nil {
				return said("not asked")
			}
			return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{"m": prompt(r), "r": &mcp.ListRootsParams{}}}, nil
		}
		text := ""
		switch answer := r.Params.InputResponses["m"].(type) {
		case *mcp.CreateMessageWithToolsResult:
			text = answer.Content[0].(*mcp.TextContent).Text
		case *mcp.CreateMessageResult:
			text = answer.Content.(*mcp.TextContent).Text
		}
		roots, _ := r.Params.InputResponses["r"].(*mcp.ListRootsResult)
		if roots == nil {
			return said(text, " no roots")
		}
		return said(text, " ", roots.Roots[0].URI)
	})
	return s
}

func nosySpec(t *testing.T, name string, may Questions, opt *mcp.StreamableHTTPOptions) ServerSpec {
	t.Helper()
	s := nosy()
	srv := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, opt))
	t.Cleanup(srv.Close)
	return ServerSpec{Name: name, Endpoint: &Endpoint{URL: srv.URL}, TrustAnnotations: true, Questions: may}
}

var modernServer = &mcp.StreamableHTTPOptions{Stateless: true}

// A model is a client that lends its model and its roots, and remembers for what.
type model struct {
	name string

	mu  sync.Mutex
	saw []*mcp.CreateMessageParams
}

func (m *model) options() *mcp.ClientOptions {
	return &mcp.ClientOptions{Capabilities: &mcp.ClientCapabilities{RootsV2: &mcp.RootCapabilities{}},
		CreateMessageHandler: func(_ context.Context, r *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.saw = append(m.saw, r.Params)
			return &mcp.CreateMessageResult{Role: "assistant", Model: "m", Content: &mcp.TextContent{Text: "words of " + m.name}}, nil
		}}
}

func (m *model) asked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.saw)
}

func (h *hall) lend(t *testing.T, name string, revision string) (*mcp.ClientSession, *model) {
	t.Helper()
	m := &model{name: name}
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, m.options())
	client.AddRoots(&mcp.Root{URI: "file:///" + name})
	cs, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: h.url, HTTPClient: &http.Client{Transport: bearer(h.token(agentDID))}},
		&mcp.ClientSessionOptions{ProtocolVersion: revision})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cs.Close() })
	return cs, m
}

func TestAServerAsksTheModelOfTheClientWhoseCallItIsAndOfNobodyElse(t *testing.T) {
	h := newHall(t, nosySpec(t, "legacy", Questions{}, nil), nosySpec(t, "modern", Questions{}, modernServer))
	other, otherModel := h.lend(t, "other", "2025-11-25")
	names(t, other)
	for _, c := range []struct{ revision, tool, want string }{
		{"2025-11-25", "legacy__sample", "words of me"},
		{"2025-11-25", "modern__rounds", "words of me file:///me"},
		{"2026-07-28", "modern__rounds", "words of me file:///me"},
		{"2026-07-28", "legacy__sample", "cannot be asked"},
	} {
		me, mine := h.lend(t, "me", c.revision)
		if text := answered(t, me, c.tool, `{"n":1}`); !strings.Contains(text, c.want) {
			t.Errorf("%s %s: %s", c.revision, c.tool, text)
			continue
		}
		if strings.Contains(c.want, "cannot") {
			continue
		}
		if mine.asked() != 1 {
			t.Errorf("%s %s: asked %d times", c.revision, c.tool, mine.asked())
			continue
		}
		saw := mine.saw[0]
		if saw.IncludeContext != "" || saw.SystemPrompt != "be brief\uFFFD" || saw.MaxTokens != 9 || saw.Temperature != 0.5 ||
			saw.Messages[0].Content.(*mcp.TextContent).Text != `for {"n":1}` {
			t.Errorf("%s %s: it saw %+v", c.revision, c.tool, saw)
		}
	}
	if n := otherModel.asked(); n != 0 {
		t.Errorf("another client was asked %d times", n)
	}
	views, err := h.s.Actions(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]string{}
	for _, v := range views {
		asked[v.Action] = v.Outcome + string(v.Args)
		if of := slices.IndexFunc(views, func(o hypervisor.ActionView) bool { return o.ID == v.During }); strings.HasSuffix(v.Action, "/createMessage") != (of >= 0 && v.During != "") && v.Action != "modern.roots/list" {
			t.Errorf("%s in the course of %q", v.Action, v.During)
		}
	}
	if got := asked["legacy.sampling/createMessage"]; !strings.HasPrefix(got, "done") || !strings.Contains(got, `for {\"n\":1}`) {
		t.Errorf("what was asked is not recorded: %v", asked)
	}
	if !strings.HasPrefix(asked["modern.roots/list"], "done") || !strings.HasPrefix(asked["modern.sampling/createMessage"], "done") {
		t.Errorf("what was asked by a result is not recorded: %v", asked)
	}
}

func TestAServerThatAsksForSamplingIsRefusedWhereNobodyLendsItsModel(t *testing.T) {
	no := Questions{NoModel: true, NoRoots: true}
	hv, s := newSession(t, "0.80")
	raw := stdio("raw", "raw")
	h := hallOf(t, hv, s, &HubOptions{
		Servers: []ServerSpec{nosySpec(t, "legacy", Questions{}, nil), nosySpec(t, "closed", no, nil), nosySpec(t, "modernclosed", no, modernServer),
			nosySpec(t, "open", Questions{AllRoots: true}, nil), nosySpec(t, "kept", Questions{}, nil), raw},
		Claims: func(server, tool string) []action.Claim {
			if server == "kept" && tool == askModel {
				return []action.Claim{{Admin: &yes}}
			}
			return readOnly
		}})
	mute := h.connect(t, agentDID, "2025-11-25", nil)
	if text := answered(t, mute, "legacy__sample", `{}`); !strings.Contains(text, "cannot be asked") {
		t.Errorf("a client without a model: %s", text)
	}
	if r, err := mute.CallTool(t.Context(), &mcp.CallToolParams{Name: "raw__sample", Arguments: json.RawMessage(`{}`)}); err != nil || r.IsError {
		t.Errorf("a call during which a server asks: %+v %v", r, err)
	}
	eventually(t, "the server is not refused", func() bool {
		text, _ := call(t, mute, "raw__seen", `{}`)
		return strings.Contains(text, "cannot be asked") || strings.Contains(text, "does not serve")
	})
	me, mine := h.lend(t, "me", "2025-11-25")
	for _, c := range []struct{ tool, want string }{
		{"legacy__toolbox", "not passed on"},
		{"legacy__look", "does not serve"}, // it would be for all its connection
		{"closed__sample", "does not serve"},
		{"closed__look", "does not serve"},
		{"modernclosed__rounds", "not asked"},
		{"kept__sample", "refused"},
		{"open__look", "file:///me"},
	} {
		if text := answered(t, me, c.tool, `{}`); !strings.Contains(text, c.want) {
			t.Errorf("%s: %s", c.tool, text)
		}
	}
	if mine.asked() != 0 {
		t.Errorf("it was asked %d times", mine.asked())
	}
	modern, _ := h.lend(t, "me", "2026-07-28")
	r, err := modern.CallTool(t.Context(), &mcp.CallToolParams{Name: "modernclosed__rounds", Arguments: json.RawMessage(`{}`),
		InputResponses: mcp.InputResponseMap{"r": &mcp.ListRootsResult{Roots: []*mcp.Root{{URI: "file:///etc"}}},
			"m": &mcp.CreateMessageResult{Role: "assistant", Content: &mcp.TextContent{Text: "mine"}}, "e": &mcp.ElicitResult{Action: "accept"}}})
	if err != nil || r.Content[0].(*mcp.TextContent).Text != " no roots" {
		t.Errorf("what nobody may ask for is passed on: %+v %v", r, err)
	}
}

func TestAServerAsksSoOftenInOneCallAndNoMore(t *testing.T) {
	hv, s := newSession(t, "0.50") // whose rate is far below that: the call has paid for its questions
	h := hallOf(t, hv, s, &HubOptions{Servers: []ServerSpec{nosySpec(t, "legacy", Questions{}, nil)}, Claims: func(string, string) []action.Claim { return readOnly }})
	me, mine := h.lend(t, "me", "2025-11-25")
	if text := answered(t, me, "legacy__insist", `{}`); text != fmt.Sprint(session.MaxAsked) || mine.asked() != session.MaxAsked {
		t.Errorf("%s answered, %d asked", text, mine.asked())
	}
}

func TestAQuestionIsCleanedAndBounded(t *testing.T) {
	for _, c := range []struct{ method, params, want string }{
		{askRoots, ``, `{}`},
		{askRoots, `{"_meta":{"progressToken":1}}`, `{}`},
		{askModel, `{"maxTokens":1,"includeContext":"thisServer","task":{"ttl":1},"x":[1.50]}`, `{"maxTokens":1,"x":[1.50]}`},
		{askModel, `{"tools":[]}`, ""},
		{askModel, `{"toolChoice":{}}`, ""},
		{askInput, `{"mode":"url","message":"m"}`, ""},
		{askInput, `{"url":"https://x"}`, ""},
		{askInput, `{"mode":"form","message":"a\u200bb"}`, `{"mode":"form","message":"a` + "\uFFFD" + `b"}`},
		{askInput, `[1]`, ""},
		{askInput, `{"message":"` + strings.Repeat("x", maxQuestionBytes) + `"}`, ""},
	} {
		q, err := newQuestion(&caller{}, c.method, json.RawMessage(c.params))
		var refused *jsonrpc.Error
		switch {
		case c.want == "" && (err == nil || !errors.As(err, &refused)):
			t.Errorf("%s %.60s: %v", c.method, c.params, err)
		case c.want != "" && (err != nil || string(q.params) != c.want):
			t.Errorf("%s %.60s: %s %v", c.method, c.params, q.params, err)
		}
	}
}
