//go:build unix

package gateway

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// An agent that speaks MCP stands behind another with its own σ, and is refused what the rules refuse.
func TestAgentVouchesOverMCP(t *testing.T) {
	hv, s := newSession(t, "0.90")
	admin := policy.Operator("did:mesh:admin")
	const newcomer = policy.DID("did:mesh:new")
	if _, err := s.Join(t.Context(), admin, session.Join{Agent: newcomer}); err != nil {
		t.Fatal(err)
	}
	cs := governed(t, hv, s, "sdk", nil)
	for _, bad := range []string{`{}`, `{"agent":"new"}`, `{"agent":"did:mesh:new","bond":"2"}`, `{"agent":"did:mesh:new","bond":"0"}`, `{"agent":"did:mesh:new","bond":"-0.1"}`, `{"agent":"did:mesh:new","bond":"NaN"}`, `{"agent":"did:mesh:new","expires":"soon"}`, `{"agent":"did:mesh:new","more":1}`} {
		if r, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: vouchTool, Arguments: json.RawMessage(bad)}); err == nil {
			t.Errorf("%s: %+v", bad, r)
		}
	}
	for args, code := range map[string]policy.Code{
		`{"agent":"did:mesh:new","bond":"0.73"}`: policy.ExposureExceeded, `{"agent":"did:mesh:agent"}`: policy.VouchRefused, `{"agent":"did:mesh:far"}`: policy.NotAParticipant,
	} {
		if text, got := call(t, cs, vouchTool, args); got != string(code) {
			t.Errorf("%s: %s %s", args, got, text)
		}
	}
	if text, code := call(t, cs, vouchTool, `{"agent":"did:mesh:new","bond":"0.40","expires":"10m"}`); code != "" || !strings.HasPrefix(text, "you stand behind did:mesh:new with 0.40 of your standing: vch-") {
		t.Errorf("%s %s", code, text)
	}
	if p, err := s.Participant(t.Context(), newcomer); err != nil || p.SigmaEff != ring.MustSigma("0.76") || p.Ring != ring.Standard {
		t.Errorf("%+v, %v", p, err)
	}
}
