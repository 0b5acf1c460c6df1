//go:build unix

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

const agentDID = policy.DID("did:mesh:agent")

// newSession opens a hypervisor in memory with one active session and the agent in it.
func newSession(t *testing.T, sigma string) (*hypervisor.Hypervisor, *hypervisor.Session) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // it is closed after the test's own context
	hv, err := hypervisor.Open(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := hv.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	admin := policy.Operator("did:mesh:admin")
	s, err := hv.CreateSession(ctx, admin, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Join(ctx, admin, session.Join{Agent: agentDID, Sigma: ring.MustSigma(sigma)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Activate(ctx, admin); err != nil {
		t.Fatal(err)
	}
	return hv, s
}

// governed connects an SDK client to a front of the named server.
func governed(t *testing.T, hv *hypervisor.Hypervisor, s *hypervisor.Session, server string, opt *FrontOptions) *mcp.ClientSession {
	t.Helper()
	return governedAs(t, hv, s, server, opt, mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil), "")
}

// governedAs is governed with a client of one's own, which speaks a revision.
func governedAs(t *testing.T, hv *hypervisor.Hypervisor, s *hypervisor.Session, server string, opt *FrontOptions, client *mcp.Client, revision string) *mcp.ClientSession {
	t.Helper()
	in, out, agentOut, agentIn := pipes(t)
	f := NewFront(hv, s, policy.Agent(agentDID).Through("stdio"), NewUpstream("up", child(server), nil), opt)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx, in, out) }()
	cs, err := client.Connect(t.Context(), &mcp.IOTransport{Reader: agentIn, Writer: agentOut}, &mcp.ClientSessionOptions{ProtocolVersion: revision})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cs.Close(); <-done; cancel() })
	return cs
}

func call(t *testing.T, cs *mcp.ClientSession, tool, args string) (text, code string) {
	t.Helper()
	r, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: json.RawMessage(args)})
	if err != nil {
		t.Fatal(err)
	}
	d, _ := r.StructuredContent.(map[string]any)
	code, _ = d["code"].(string)
	return r.Content[0].(*mcp.TextContent).Text, code
}

func TestARingThreeAgentReadsAndIsRefusedTheRestWithAReason(t *testing.T) {
	hv, s := newSession(t, "0.50")
	cs := governed(t, hv, s, "sdk", &FrontOptions{TrustAnnotations: true})
	if text, code := call(t, cs, "echo", `{"n":9007199254740993, "a":1.0}`); text != `{"a":1,"n":9007199254740993}` {
		t.Errorf("%s %s", text, code)
	}
	for _, tt := range []struct {
		tool, args string
		code       policy.Code
	}{
		{"steps", `{}`, policy.RingInsufficient},
		{"nope", `{}`, policy.UnknownAction},
		{"\u202Edoog ", `{}`, policy.UnknownAction},
		{strings.Repeat("x", 100_000), `{}`, policy.UnknownAction},
		{"echo", `{"n":1.5}`, policy.InvalidArguments},
		{"echo", `{"n":18446744073709551616123}`, policy.InvalidArguments},
	} {
		if text, code := call(t, cs, tt.tool, tt.args); code != string(tt.code) || len(text) < 20 || len(text) > 1000 {
			t.Errorf("%.20s: %s %.200s, want %s", tt.tool, code, text, tt.code)
		}
	}
	if text, _ := call(t, cs, statusTool, `{}`); !strings.Contains(text, `"ring":3`) || !strings.Contains(text, `"approvals":[]`) {
		t.Error(text)
	}
}

func TestARingTwoAgentDoesWhatTheOperatorDescribedAsPartial(t *testing.T) {
	hv, s := newSession(t, "0.80")
	partial := action.Partial
	cs := governed(t, hv, s, "sdk", &FrontOptions{Claims: func(tool string) []action.Claim {
		if tool == "grow" || tool == "die" || tool == "fail" {
			return []action.Claim{{Reversibility: &partial}}
		}
		return nil
	}})
	if text, code := call(t, cs, "grow", `{}`); text != "ok" || code != "" {
		t.Errorf("%s %s", text, code)
	}
	if text, code := call(t, cs, "echo", `{}`); code != string(policy.ApprovalRequired) {
		t.Errorf("undescribed and untrusted: %s %s", text, code)
	}
	if text, _ := call(t, cs, "fail", `{}`); text != "no such file" {
		t.Error(text)
	}
	if text, _ := call(t, cs, "die", `{}`); !strings.Contains(text, "unknown") {
		t.Error(text)
	}
	views, err := s.Actions(t.Context(), 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	var states []string
	for _, v := range views {
		states = append(states, v.Action+" "+v.Outcome)
	}
	if got := fmt.Sprint(states); got != "[up.grow done up.fail failed up.die unknown]" {
		t.Error(got)
	}
}

func TestAToolThatIsNotAsItWasPinnedIsNeitherShownNorCalled(t *testing.T) {
	hv, s := newSession(t, "0.80")
	if _, err := hv.Pin(t.Context(), policy.System, map[string]system.Seen{"up.echo": {Digest: [32]byte{1}}}); err != nil {
		t.Fatal(err)
	}
	yes := true
	cs := governed(t, hv, s, "sdk", &FrontOptions{TrustAnnotations: true, Claims: func(tool string) []action.Claim {
		if tool == "steps" {
			return []action.Claim{{Admin: &yes}}
		}
		return nil
	}})
	for tool, err := range cs.Tools(t.Context(), nil) {
		if err != nil || tool.Name == "echo" || tool.Name == "steps" {
			t.Errorf("shown: %v, %v", tool, err)
		}
	}
	if text, code := call(t, cs, "echo", `{}`); code != string(policy.ToolChanged) {
		t.Errorf("%s %s", text, code)
	}
}

func TestAFrontWhoseServerDoesNotStartSaysSo(t *testing.T) {
	hv, s := newSession(t, "0.80")
	in, out, agentOut, agentIn := pipes(t)
	for _, f := range []*os.File{in, out, agentOut, agentIn} {
		defer f.Close()
	}
	f := NewFront(hv, s, policy.Agent(agentDID), NewUpstream("up", child("exits"), nil), nil)
	if err := f.Run(t.Context(), in, out); !errors.Is(err, ErrUpstream) || !strings.Contains(err.Error(), "exit status 3") {
		t.Error(err)
	}
}

func TestACallToAServerThatHasChangedItsMindIsNotSent(t *testing.T) {
	u := ready(t, child("sdk"))
	other, err := ParseTool(json.RawMessage(`{"name":"echo","description":"as it was","inputSchema":{"type":"object"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Upstream.Call(t.Context(), other, json.RawMessage(`{}`), nil); !errors.Is(err, action.ErrNotDispatched) {
		t.Error(err)
	}
}

// "pins for the whole canonical definition …, server identity": another server behind the same name, with the very same tools.
func TestTheSameToolOfAnotherServerIsNotThePinnedOne(t *testing.T) {
	var calls atomic.Int64
	name := "ledger"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     json.RawMessage
			Method string
		}
		if r.Method != http.MethodPost || json.NewDecoder(r.Body).Decode(&m) != nil || m.Method == "server/discover" {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		switch m.Method {
		case "initialize":
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":%q,"version":"1"}}}`, m.ID, name)
		case "tools/list":
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"pay","inputSchema":{"type":"object"}}]}}`, m.ID)
		case "tools/call":
			calls.Add(1)
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[]}}`, m.ID)
		default:
			w.WriteHeader(http.StatusAccepted)
		}
	}))
	t.Cleanup(srv.Close)
	hv, s := newSession(t, "0.80")
	yes := true
	reads := func(string, string) []action.Claim { return []action.Claim{{ReadOnly: &yes}} }
	pay := func() answer {
		h := hallOf(t, hv, s, &HubOptions{Servers: []ServerSpec{{Name: "bank", Endpoint: &Endpoint{URL: srv.URL}}}, Claims: reads})
		p := postman{t: t, h: h, token: h.token(agentDID)}.session()
		p.say(`{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{}}`)
		m, _ := p.say(`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"bank__pay","arguments":{}}}`)
		return m
	}
	if m := pay(); calls.Load() != 1 {
		t.Fatalf("at first sight: %s", m.Result)
	}
	name = "fence"
	if m := pay(); calls.Load() != 1 || !strings.Contains(string(m.Result), `"code":"tool_changed"`) {
		t.Errorf("of another server: %s, %d calls", m.Result, calls.Load())
	}
	pins, err := hv.ToolPins(t.Context(), "bank.")
	if err != nil || len(pins) != 1 || !pins[0].Changed || !strings.Contains(string(pins[0].Was), `"hypervisor/server":"ledger"`) || !strings.Contains(string(pins[0].Is), `"hypervisor/server":"fence"`) {
		t.Fatalf("%+v, %v", pins, err)
	}
	if d, err := hv.Accept(t.Context(), policy.Operator("did:mesh:admin"), "bank.pay", pins[0].Seen); err != nil || !d.Allowed {
		t.Fatalf("%+v, %v", d, err)
	}
	if m := pay(); calls.Load() != 2 {
		t.Errorf("once accepted: %s", m.Result)
	}
}
