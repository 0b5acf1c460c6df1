package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// inquiring is a server that asks before it gives its prompt and its resource.
func inquiring() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "inquiring", Version: "1"}, nil)
	questions := mcp.InputRequestMap{"q": &mcp.ElicitParams{Message: "who?"}}
	text := func(state string, responses mcp.InputResponseMap) string {
		answer, _ := responses["q"].(*mcp.ElicitResult)
		return fmt.Sprint(state, " ", answer.Action)
	}
	s.AddPrompt(&mcp.Prompt{Name: "greet"}, func(_ context.Context, r *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		if r.Params.RequestState == "" {
			return &mcp.GetPromptResult{InputRequests: questions, RequestState: "once"}, nil
		}
		return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{{Role: "user", Content: &mcp.TextContent{Text: text(r.Params.RequestState, r.Params.InputResponses)}}}}, nil
	})
	s.AddResource(&mcp.Resource{Name: "card", URI: "card://one"}, func(_ context.Context, r *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		if r.Params.RequestState == "" {
			return &mcp.ReadResourceResult{InputRequests: questions, RequestState: "once"}, nil
		}
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: r.Params.URI, Text: text(r.Params.RequestState, r.Params.InputResponses)}}}, nil
	})
	return s
}

func TestAPromptAndAResourceMayAskTheClientThatWantsThem(t *testing.T) {
	server := inquiring()
	at := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: true}))
	t.Cleanup(at.Close)
	h := newHall(t, ServerSpec{Name: "desk", Endpoint: &Endpoint{URL: at.URL}, TrustAnnotations: true})
	for _, revision := range []string{"2025-11-25", "2026-07-28"} {
		cs := h.connect(t, agentDID, revision, &mcp.ClientOptions{ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			return &mcp.ElicitResult{Action: "decline"}, nil
		}})
		prompt, err := cs.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "desk__greet"})
		if err != nil || len(prompt.Messages) != 1 || prompt.Messages[0].Content.(*mcp.TextContent).Text != "once decline" {
			t.Errorf("%s: prompt %+v: %v", revision, prompt, err)
		}
		card, err := cs.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "card://one"})
		if err != nil || len(card.Contents) != 1 || card.Contents[0].Text != "once decline" {
			t.Errorf("%s: resource %+v: %v", revision, card, err)
		}
		mute := h.connect(t, agentDID, revision, nil)
		if _, err := mute.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "desk__greet"}); err == nil {
			t.Errorf("%s: a client that cannot be asked was given the prompt", revision)
		}
	}
}
