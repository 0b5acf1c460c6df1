//go:build unix

package gateway

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
)

// undoneByEcho claims that what a tool did, other than echo and fail, is taken back by a call of echo.
func undoneByEcho(tool string) []action.Claim {
	yes, partial := true, action.Partial
	switch tool {
	case "steps":
		return []action.Claim{{Reversibility: &partial, Undo: []action.Call{{Tool: "echo", Args: map[string]any{"undone": true}}}}}
	case "fail":
		return []action.Claim{{Reversibility: &partial}}
	}
	return []action.Claim{{ReadOnly: &yes}}
}

// An agent that speaks MCP runs calls of its own tools that end all done or undone; what is refused is a decision, and begins nothing.
func TestAgentRunsASagaOverMCP(t *testing.T) {
	hv, s := newSession(t, "0.80")
	cs := governed(t, hv, s, "sdk", &FrontOptions{Claims: undoneByEcho})
	for _, bad := range []string{`{}x`, `{"saga":1}`, `{"saga":"x","steps":[{"id":"a","tool":"echo","agent":"did:mesh:zoe"}]}`, `{"saga":"x","steps":[{"id":"a","tool":"echo","timeout":"soon"}]}`} {
		if r, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: sagaTool, Arguments: json.RawMessage(bad)}); err == nil {
			t.Errorf("%s: %+v", bad, r)
		}
	}
	for args, code := range map[string]policy.Code{
		`{"saga":"x","steps":[]}`: policy.SagaInvalid,
		`{"saga":"x","steps":[{"id":"a","tool":"echo","needs":["b"]}]}`:      policy.SagaInvalid,
		`{"saga":"x","steps":[{"id":"a","tool":""}]}`:                        policy.SagaInvalid,
		`{"saga":"x","steps":[{"id":"a","tool":"launch"}]}`:                  policy.UnknownAction,
		`{"saga":"x","steps":[{"id":"a","tool":"echo","args":{"n":"one"}}]}`: policy.InvalidArguments,
	} {
		if text, got := call(t, cs, sagaTool, args); got != string(code) {
			t.Errorf("%s: %s %s", args, got, text)
		}
	}
	if views, err := s.Sagas(t.Context()); err != nil || len(views) != 0 {
		t.Fatalf("a refused saga was begun: %+v, %v", views, err)
	}
	done := answerOf[SagaAnswer](t, cs, sagaTool, `{"saga":"two","steps":[{"id":"a","tool":"steps"},{"id":"b","tool":"echo","args":{"n":1},"needs":["a"]}]}`)
	if done.State != "completed" || len(done.Steps) != 2 || done.Steps[0].State != "committed" || !strings.HasPrefix(done.Steps[1].Action, "act-") {
		t.Errorf("%+v", done)
	}
	undone := answerOf[SagaAnswer](t, cs, sagaTool, `{"saga":"three","steps":[{"id":"a","tool":"steps"},{"id":"b","tool":"fail","needs":["a"]}]}`)
	if undone.State != "compensated" || undone.Steps[0].State != "compensated" || undone.Steps[1].State != "failed" || !strings.Contains(undone.Why, "b") {
		t.Errorf("%+v", undone)
	}
	v, err := s.Saga(t.Context(), undone.ID)
	if err != nil || v.By != agentDID || v.Steps[0].Agent != agentDID || v.Steps[0].Does != "up.steps" {
		t.Errorf("%+v, %v", v, err)
	}
}

// What a saga can be over HTTP it can be over MCP: its steps name goals and what takes them back, and one that has ended is replayed. Of
// an agent's own saga nobody bears that it fails, and nobody does it in the agent's place, here as there.
func TestAnAgentsSagaOverMCPIsAsItIsOverHTTP(t *testing.T) {
	hv, s := newSession(t, "0.80")
	cs := governed(t, hv, s, "sdk", &FrontOptions{Claims: undoneByEcho})
	for _, bad := range []string{`{"replay":"sag-1","saga":"x"}`, `{"replay":"sag-1","fault":true}`, `{"replay":7}`} {
		if r, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: sagaTool, Arguments: json.RawMessage(bad)}); err == nil {
			t.Errorf("%s: %+v", bad, r)
		}
	}
	for args, code := range map[string]policy.Code{
		`{}`: policy.SagaInvalid, `{"replay":"sag-99"}`: policy.NotFound,
		`{"saga":"x","steps":[{"id":"a","tool":"echo","substitutes":["did:mesh:zoe"]}]}`:           policy.Forbidden,
		`{"saga":"x","steps":[{"id":"a","tool":"echo","undo":"launch"}]}`:                          policy.UnknownAction,
		`{"saga":"x","steps":[{"id":"a","tool":"https://nowhere.example/a"}]}`:                     policy.UnknownAction,
		`{"saga":"x","steps":[{"id":"a","tool":"steps","undo":"https://nowhere.example/a/back"}]}`: policy.UnknownAction,
	} {
		if text, got := call(t, cs, sagaTool, args); got != string(code) {
			t.Errorf("%s: %s %s", args, got, text)
		}
	}
	failed := answerOf[SagaAnswer](t, cs, sagaTool, `{"saga":"named","fault":true,"steps":[{"id":"a","tool":"steps","undo":"echo"},{"id":"b","tool":"fail","needs":["a"]}]}`)
	v, err := s.Saga(t.Context(), failed.ID)
	if err != nil || v.State != "compensated" || v.Faultless != "agent_saga" {
		t.Errorf("%+v, %v", v, err)
	}
	actions, err := s.Actions(t.Context(), 0, hypervisor.MaxPage)
	if last := actions[len(actions)-1]; err != nil || last.Action != "up.echo" || last.Undoes != s.ID()+"/"+v.Steps[0].Action {
		t.Errorf("%+v, %v", last, err)
	}
	done := answerOf[SagaAnswer](t, cs, sagaTool, `{"saga":"goal","steps":[{"id":"a","tool":"steps","checkpoint":"a is there"},{"id":"b","tool":"echo","args":{"n":1},"needs":["a"]}]}`)
	again := answerOf[SagaAnswer](t, cs, sagaTool, `{"replay":"`+done.ID+`"}`)
	if again.State != "completed" || again.ID == done.ID || again.Steps[0].Why != "stands since "+done.ID || again.Steps[0].Action != "" || again.Steps[1].Action == "" {
		t.Errorf("%+v", again)
	}
}

// Through the hub the steps name the tools of several servers as the agent is shown them, also before it asked for any list.
func TestASagaSpansServersOfTheHub(t *testing.T) {
	h := newHall(t, stdio("one", "sdk"), stdio("two", "sdk"))
	cs := h.connect(t, agentDID, "2025-11-25", nil)
	done := answerOf[SagaAnswer](t, cs, sagaTool, `{"saga":"both","steps":[{"id":"a","tool":"one__steps"},{"id":"b","tool":"two__echo","needs":["a"]}]}`)
	v, err := h.s.Saga(t.Context(), done.ID)
	if done.State != "completed" || err != nil || v.Steps[0].Does != "one.steps" || v.Steps[1].Does != "two.echo" {
		t.Errorf("%+v, %+v, %v", done, v, err)
	}
}
