//go:build unix

package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
)

// library is a server with things to read, all of which say whose they are.
func library(name string) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: name, Version: "1"}, &mcp.ServerOptions{PageSize: 1,
		CompletionHandler: func(_ context.Context, r *mcp.CompleteRequest) (*mcp.CompleteResult, error) {
			return &mcp.CompleteResult{Completion: mcp.CompletionResultDetails{Values: []string{name + ":" + r.Params.Ref.Name + r.Params.Ref.URI + "=" + r.Params.Argument.Value}}}, nil
		}})
	read := func(_ context.Context, r *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		if strings.HasSuffix(r.Params.URI, "none") {
			return nil, mcp.ResourceNotFoundError(r.Params.URI)
		}
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: r.Params.URI, Text: name + " has " + r.Params.URI}}}, nil
	}
	for _, uri := range []string{"test://both", "test://" + name} {
		s.AddResource(&mcp.Resource{URI: uri, Name: "a"}, read)
	}
	s.AddResourceTemplate(&mcp.ResourceTemplate{URITemplate: "test://" + name + "/{x}", Name: "t"}, read)
	s.AddPrompt(&mcp.Prompt{Name: "hi", Arguments: []*mcp.PromptArgument{{Name: "who"}}}, func(_ context.Context, r *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{{Role: "user", Content: &mcp.TextContent{Text: name + " says hi to " + r.Params.Arguments["who"]}}}}, nil
	})
	return s
}

// overHTTP serves a server and names it.
func overHTTP(t *testing.T, name string, s *mcp.Server) ServerSpec {
	t.Helper()
	srv := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{Stateless: true}))
	t.Cleanup(srv.Close)
	return ServerSpec{Name: name, Endpoint: &Endpoint{URL: srv.URL}}
}

func TestThingsToReadComeFromWhoseTheyAreAndEachRequestIsAnAction(t *testing.T) {
	for _, version := range revisions[:2] {
		t.Run(version, func(t *testing.T) {
			gone := Command{Path: "/no/such/program"}
			h := newHall(t, overHTTP(t, "ann", library("ann")), ServerSpec{Name: "gone", Command: &gone}, overHTTP(t, "bob", library("bob")))
			cs := h.connect(t, agentDID, version, nil)
			read := func(uri string) string {
				r, err := cs.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: uri})
				if err != nil {
					return err.Error()
				}
				return r.Contents[0].URI + ": " + r.Contents[0].Text
			}
			if got := read("test://bob/7"); got != "test://bob/7: bob has test://bob/7" {
				t.Errorf("by its template, before anything was listed: %s", got)
			}
			var uris []string
			for r, err := range cs.Resources(t.Context(), nil) {
				if err != nil {
					t.Fatal(err)
				}
				uris = append(uris, r.URI)
			}
			if want := []string{"test://ann", "test://both", "test://bob", "hypervisor:bob/test://both"}; !slices.Equal(uris, want) {
				t.Errorf("%v, want %v", uris, want)
			}
			for uri, want := range map[string]string{
				"test://both": "test://both: ann has test://both", "test://bob": "test://bob: bob has test://bob",
				"hypervisor:bob/test://both": "hypervisor:bob/test://both: bob has test://both",
				"test://bob/none":            "not found", "other://x": "no server lists",
			} {
				if got := read(uri); !strings.Contains(got, want) {
					t.Errorf("%s: %s, want %s", uri, got, want)
				}
			}
			p, err := cs.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "bob__hi", Arguments: map[string]string{"who": "you"}})
			if err != nil || p.Messages[0].Content.(*mcp.TextContent).Text != "bob says hi to you" {
				t.Errorf("%+v, %v", p, err)
			}
			c, err := cs.Complete(t.Context(), &mcp.CompleteParams{Ref: &mcp.CompleteReference{Type: "ref/prompt", Name: "ann__hi"}, Argument: mcp.CompleteParamsArgument{Name: "who", Value: "y"}})
			if err != nil || c.Completion.Values[0] != "ann:hi=y" {
				t.Errorf("%+v, %v", c, err)
			}
			views, err := h.s.Actions(t.Context(), 0, 100)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, v := range views {
				seen[v.Action] = true
			}
			for _, want := range []string{"ann.resources/list", "bob.resources/read", "bob.prompts/get", "ann.completion/complete", "ann.resources/templates/list"} {
				if !seen[want] {
					t.Errorf("no record of %s in %v", want, seen)
				}
			}
		})
	}
}

func TestAReadIsRefusedWhereTheOperatorSaysSo(t *testing.T) {
	yes := true
	hv, s := newSession(t, "0.80")
	h := hallOf(t, hv, s, &HubOptions{Servers: []ServerSpec{overHTTP(t, "ann", library("ann"))}, Claims: func(_, tool string) []action.Claim {
		if tool == "resources/read" {
			return []action.Claim{{Admin: &yes}}
		}
		return nil
	}})
	cs := h.connect(t, agentDID, "2025-11-25", nil)
	_, err := cs.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "test://ann"})
	var refused *jsonrpc.Error
	if !errors.As(err, &refused) || refused.Code != CodeRefused || !strings.Contains(string(refused.Data), string(policy.RingInsufficient)) {
		t.Errorf("%v", err)
	}
	if list, err := cs.ListPrompts(t.Context(), nil); err != nil || len(list.Prompts) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	// A tool of that name would be called instead; no server may have one.
	if text, code := call(t, cs, "ann__resources/read", `{"uri":"test://ann"}`); code != string(policy.UnknownAction) {
		t.Error(fmt.Sprint(text, code))
	}
}
