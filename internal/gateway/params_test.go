//go:build unix

package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func TestArgumentsThatGoIntoHeadersDoSoOnBothSides(t *testing.T) {
	s := mcp.NewServer(&mcp.Implementation{Name: "routed", Version: "1"}, nil)
	s.AddTool(&mcp.Tool{Name: "go", Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true},
		InputSchema: json.RawMessage(`{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"at":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"N"}}}}}`)},
		func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: r.Extra.Header.Get("Mcp-Param-Region") + " " + r.Extra.Header.Get("Mcp-Param-N")}}}, nil
		})
	spec := overHTTP(t, "routed", s)
	spec.TrustAnnotations = true
	h := newHall(t, spec)
	cs := h.connect(t, agentDID, "2026-07-28", nil)
	names(t, cs)
	if text, _ := call(t, cs, "routed__go", `{"region":"zürich","at":{"n":7}}`); text != "=?base64?esO8cmljaA==?= 7" {
		t.Error(text)
	}
	if text, _ := call(t, cs, "routed__go", `{}`); text != " " {
		t.Error(text)
	}
	p := postman{t: t, h: h, token: h.token(agentDID)}
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"routed__go","arguments":{"at":{"n":7}},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"x","version":"1"}}}}`
	for n, want := range map[string]int{"7": http.StatusOK, "7.0": http.StatusOK, "8": http.StatusBadRequest, "": http.StatusBadRequest, "=?base64?Nw==?=": http.StatusOK} {
		p.extra = map[string]string{versionHeader: "2026-07-28", methodHeader: "tools/call", nameHeader: "routed__go", paramPrefix + "N": n}
		if m, resp := p.say(body); resp.StatusCode != want || (want != http.StatusOK) != (m.Error != nil) {
			t.Errorf("%q: %s %s", n, resp.Status, fmt.Sprint(m.Error))
		}
	}
	p.extra[paramPrefix+"N"], p.extra[paramPrefix+"Region"] = "7", "elsewhere"
	if _, resp := p.say(body); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a header for no argument: %s", resp.Status)
	}
}
