//go:build unix

package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// curious is a server whose tools ask before they answer.
func curious() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "curious", Version: "1"}, nil)
	hint := &mcp.ToolAnnotations{ReadOnlyHint: true}
	schema := json.RawMessage(`{"type":"object"}`)
	s.AddTool(&mcp.Tool{Name: "confirm", InputSchema: schema, Annotations: hint}, func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		answer, err := r.Session.Elicit(ctx, &mcp.ElicitParams{Message: "sure of " + string(r.Params.Arguments) + "?\u202e"})
		if err != nil {
			return nil, err
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: answer.Action + " " + fmt.Sprint(answer.Content["by"])}}}, nil
	})
	s.AddTool(&mcp.Tool{Name: "rounds", InputSchema: schema, Annotations: hint}, func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if r.Params.RequestState == "" {
			return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{"q": &mcp.ElicitParams{Message: "sure?"}}, RequestState: "once"}, nil
		}
		answer, _ := r.Params.InputResponses["q"].(*mcp.ElicitResult)
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: fmt.Sprint(r.Params.RequestState, " ", answer.Action)}}}, nil
	})
	s.AddTool(&mcp.Tool{Name: "chat", InputSchema: schema, Annotations: hint}, func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if err := r.Session.Log(ctx, &mcp.LoggingMessageParams{Level: "warning", Data: "\x1b[31mfor " + string(r.Params.Arguments)}); err != nil {
			return nil, err
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "ok"}}}, nil
	})
	return s
}

func curiousSpec(t *testing.T, name string, opt *mcp.StreamableHTTPOptions) ServerSpec {
	t.Helper()
	s := curious()
	srv := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, opt))
	t.Cleanup(srv.Close)
	return ServerSpec{Name: name, Endpoint: &Endpoint{URL: srv.URL}, TrustAnnotations: true}
}

func TestAQuestionReachesTheClientWhoseCallItIs(t *testing.T) {
	shared := curiousSpec(t, "shared", nil)
	shared.Shared = true
	pipe := child("curious")
	h := newHall(t, curiousSpec(t, "legacy", nil), curiousSpec(t, "modern", &mcp.StreamableHTTPOptions{Stateless: true}), shared,
		ServerSpec{Name: "pipe", Command: &pipe, TrustAnnotations: true})
	h.join(t, "did:mesh:other")
	var all sync.WaitGroup
	for i := range 6 {
		did := agentDID
		if i%2 == 1 {
			did = "did:mesh:other"
		}
		me := fmt.Sprint("client", i)
		asked := make(chan string, 10)
		opt := &mcp.ClientOptions{ElicitationHandler: func(_ context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			asked <- r.Params.Message
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"by": me}}, nil
		}}
		cs := h.connect(t, did, "2025-11-25", opt)
		all.Go(func() {
			if text, _ := call(t, cs, "legacy__confirm", `{"me":"`+me+`"}`); text != "accept "+me {
				t.Errorf("%s: %s", me, text)
				return
			}
			if got := <-asked; got != `sure of {"me":"`+me+`"}?`+"\uFFFD" {
				t.Errorf("%s was asked %q", me, got)
			}
			if text, _ := call(t, cs, "modern__rounds", `{}`); text != "once accept" {
				t.Errorf("%s: %s", me, text)
			}
			if text := answered(t, cs, "shared__confirm", `{}`); !strings.Contains(text, "elicitation") || strings.Contains(text, "accept") {
				t.Errorf("on a shared connection: %s", text)
			}
		})
	}
	all.Wait()
	modern := h.connect(t, agentDID, "2026-07-28", &mcp.ClientOptions{ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
		return &mcp.ElicitResult{Action: "decline"}, nil
	}})
	if text, _ := call(t, modern, "modern__rounds", `{}`); text != "once decline" {
		t.Errorf("modern: %s", text)
	}
	if text := answered(t, modern, "legacy__confirm", `{}`); !strings.Contains(text, "cannot be asked") {
		t.Errorf("a modern client by a legacy server: %s", text)
	}
	mute := h.connect(t, agentDID, "2025-11-25", nil)
	for _, tool := range []string{"legacy__confirm", "modern__rounds"} {
		if text := answered(t, mute, tool, `{}`); !strings.Contains(text, "cannot be asked") {
			t.Errorf("a client that cannot be asked, %s: %s", tool, text)
		}
	}
	one := h.connect(t, "did:mesh:other", "2025-11-25", &mcp.ClientOptions{ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
		return &mcp.ElicitResult{Action: "cancel"}, nil
	}})
	if text, _ := call(t, one, "pipe__rounds", `{}`); text != "once cancel" {
		t.Errorf("over a pipe: %s", text)
	}
}

// answered is what a call comes back with: a result's text, or the protocol error that the server answered.
func answered(t *testing.T, cs *mcp.ClientSession, tool, args string) string {
	t.Helper()
	r, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: json.RawMessage(args)})
	if err != nil {
		return err.Error()
	}
	return r.Content[0].(*mcp.TextContent).Text
}

func TestALogMessageReachesTheClientWhoseCallItIs(t *testing.T) {
	h := newHall(t, curiousSpec(t, "legacy", nil), curiousSpec(t, "modern", &mcp.StreamableHTTPOptions{Stateless: true}))
	told := make(chan string, 10)
	cs := h.connect(t, agentDID, "2025-11-25", &mcp.ClientOptions{LoggingMessageHandler: func(_ context.Context, r *mcp.LoggingMessageRequest) { told <- fmt.Sprint(r.Params.Data) }})
	names(t, cs)
	if err := cs.SetLoggingLevel(t.Context(), &mcp.SetLoggingLevelParams{Level: "info"}); err != nil {
		t.Fatal(err)
	}
	for _, server := range []string{"legacy", "modern"} {
		if text, _ := call(t, cs, server+"__chat", `{"x":"`+server+`"}`); text != "ok" {
			t.Fatal(text)
		}
		if got := <-told; got != "\uFFFD[31mfor {\"x\":\""+server+"\"}" {
			t.Errorf("%q", got)
		}
	}
}
