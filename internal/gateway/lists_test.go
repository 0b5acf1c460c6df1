package gateway

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func TestAClientIsToldThatPromptsAndResourcesHaveChanged(t *testing.T) {
	prompt := func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return &mcp.GetPromptResult{}, nil
	}
	resource := func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return &mcp.ReadResourceResult{}, nil
	}
	for _, upstream := range []struct {
		name string
		opt  *mcp.StreamableHTTPOptions
	}{{"legacy", nil}, {"modern", &mcp.StreamableHTTPOptions{Stateless: true}}} {
		server := inquiring()
		at := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, upstream.opt))
		t.Cleanup(at.Close)
		h := newHall(t, ServerSpec{Name: "desk", Endpoint: &Endpoint{URL: at.URL}, TrustAnnotations: true})
		told := map[string]chan struct{}{}
		for _, revision := range []string{"2025-11-25", "2026-07-28"} {
			prompts, resources := make(chan struct{}, 100), make(chan struct{}, 100)
			told[revision+" prompts"], told[revision+" resources"] = prompts, resources
			cs := h.connect(t, agentDID, revision, &mcp.ClientOptions{
				PromptListChangedHandler:   func(context.Context, *mcp.PromptListChangedRequest) { prompts <- struct{}{} },
				ResourceListChangedHandler: func(context.Context, *mcp.ResourceListChangedRequest) { resources <- struct{}{} },
			})
			if _, err := cs.ListPrompts(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		server.AddPrompt(&mcp.Prompt{Name: "new"}, prompt)
		server.AddResource(&mcp.Resource{Name: "new", URI: "card://new"}, resource)
		for what, heard := range told {
			select {
			case <-heard:
			case <-time.After(20 * time.Second):
				t.Errorf("of a %s server: nobody told %s", upstream.name, what)
			}
		}
	}
}
