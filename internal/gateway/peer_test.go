//go:build unix

package gateway

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// colleague connects an SDK client to the server of another agent of the session, behind which there is no tool.
func colleague(t *testing.T, hv *hypervisor.Hypervisor, s *hypervisor.Session, did policy.DID) *mcp.ClientSession {
	t.Helper()
	in, out, agentOut, agentIn := pipes(t)
	f := NewFront(hv, s, policy.Agent(did).Through("stdio"), NewUpstream("none", child("sdk"), nil), nil)
	serve(t, NewServer(f, &ServerOptions{Peer: f}), in, out)
	cs, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil).Connect(t.Context(), &mcp.IOTransport{Reader: agentIn, Writer: agentOut}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cs.Close() })
	return cs
}

// answerOf calls a tool and reads what it answers a program.
func answerOf[T any](t *testing.T, cs *mcp.ClientSession, tool, args string) (v T) {
	t.Helper()
	r, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: json.RawMessage(args)})
	if err != nil {
		t.Fatalf("%s: %v", tool, err)
	}
	b, err := json.Marshal(r.StructuredContent)
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		t.Fatalf("%s: %s: %v", tool, b, err)
	}
	return v
}

// SPEC §2 "Elevation", over MCP from the request to the call it is for; docs/contract.md: the list is "less those that no approval or
// elevation could allow".
func TestAnAgentIsElevatedBySomeoneOfItsSession(t *testing.T) {
	hv, s := newSession(t, "0.55")
	bob := policy.DID("did:mesh:bob")
	if _, err := s.Join(t.Context(), policy.Operator("did:mesh:admin"), session.Join{Agent: bob, Sigma: ring.MustSigma("0.80")}); err != nil {
		t.Fatal(err)
	}
	ann, peer := colleague(t, hv, s, agentDID), colleague(t, hv, s, bob)
	asked := answerOf[ElevationAnswer](t, ann, elevateTool, `{"ring":2,"for":"10m","reason":"to write the report"}`)
	if asked.ID == "" || asked.Approval == nil || !strings.Contains(asked.Next, asked.Approval.ID) {
		t.Fatalf("%+v", asked)
	}
	if _, code := call(t, ann, voteTool, `{"approval":"`+asked.Approval.ID+`","digest":"`+asked.Approval.Digest+`"}`); code != string(policy.Forbidden) {
		t.Errorf("it sponsors itself: %s", code)
	}
	votes := answerOf[Status](t, peer, statusTool, `{}`).Votes
	if len(votes) != 1 || votes[0].Digest != asked.Approval.Digest || !strings.Contains(string(votes[0].Args), "to write the report") {
		t.Fatalf("%+v", votes)
	}
	if d := answerOf[policy.Decision](t, peer, voteTool, `{"approval":"`+votes[0].ID+`","digest":"`+votes[0].Digest+`"}`); !d.Allowed {
		t.Errorf("%+v", d)
	}
	is := answerOf[Status](t, ann, statusTool, `{}`)
	if is.Ring == nil || *is.Ring != ring.Standard || is.Elevation == nil || is.Elevation.ID != asked.ID {
		t.Errorf("%+v", is)
	}
	if _, code := call(t, ann, elevateTool, `{"ring":1,"reason":"more"}`); code != string(policy.ElevationRefused) {
		t.Errorf("a second: %s", code)
	}
	for tool, args := range map[string]string{elevateTool: `{"ring":2,"for":"soon","reason":""}`, voteTool: `{"approval":7}`} {
		if r, err := ann.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: json.RawMessage(args)}); err == nil {
			t.Errorf("%s %s: %+v", tool, args, r)
		}
	}
}

// A tool that neither an approval nor an elevation could let the agent use is not shown; one that an elevation could is.
func TestTheListShowsWhatAnElevationCouldAllow(t *testing.T) {
	for sigma, writes := range map[string]bool{"0.50": false, "0.500001": true, "0.80": true} {
		hv, s := newSession(t, sigma)
		cs := governed(t, hv, s, "sdk", &FrontOptions{TrustAnnotations: true})
		list, err := cs.ListTools(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for _, tool := range list.Tools {
			names[tool.Name] = true
		}
		if !names["echo"] || names["steps"] != writes || !names[elevateTool] || !names[voteTool] || !names[vouchTool] {
			t.Errorf("σ %s is shown %v", sigma, names)
		}
	}
}

// What moves the agent's reach moves its list: it is told with its next call.
func TestAListThatIsAnotherIsTold(t *testing.T) {
	hv, s := newSession(t, "0.50")
	changed := make(chan struct{}, 8)
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, &mcp.ClientOptions{
		ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) { changed <- struct{}{} }})
	cs := governedAs(t, hv, s, "sdk", &FrontOptions{TrustAnnotations: true}, client, "2025-11-25")
	before, err := cs.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hv.SetSigma(t.Context(), policy.Operator("did:mesh:admin"), agentDID, ring.MustSigma("0.80")); err != nil {
		t.Fatal(err)
	}
	call(t, cs, "echo", `{}`)
	<-changed
	after, err := cs.ListTools(t.Context(), nil)
	if err != nil || len(after.Tools) <= len(before.Tools) {
		t.Errorf("%d tools, and then %d (%v)", len(before.Tools), len(after.Tools), err)
	}
}
