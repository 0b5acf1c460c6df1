package gateway

import (
	"context"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// lists.go: changes of lists, as upstreams tell of them. What prompts and resources there are is kept nowhere, so all that is known
// of those is that the upstream says they have changed.

// editions count how often an upstream has said that a list of its own has changed.
type editions struct{ tools, prompts, resources int }

const (
	toolsChanged     = "notifications/tools/list_changed"
	promptsChanged   = "notifications/prompts/list_changed"
	resourcesChanged = "notifications/resources/list_changed"
)

// listsChanged takes in that the upstream says so: of its tools once they are listed anew.
func (u *Upstream) listsChanged(method string) {
	u.mu.Lock()
	switch method {
	case toolsChanged:
		u.lists.tools++
	case promptsChanged:
		u.lists.prompts++
	case resourcesChanged:
		u.lists.resources++
	}
	u.mu.Unlock()
	u.toolsChanged() // it wakes whoever follows this upstream
}

// editions returns how often each list has changed.
func (u *Upstream) editions() editions {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.lists
}

func (e editions) since(was editions) editions {
	return editions{e.tools - was.tools, e.prompts - was.prompts, e.resources - was.resources}
}

// tellLists tells the agents of what has changed since they were told last.
func (b *berth) tellLists(up *Upstream) {
	now, h := up.editions(), b.hub
	h.mu.Lock()
	changed := now.since(b.lists)
	if b.up != up || changed == (editions{}) {
		h.mu.Unlock()
		return
	}
	b.lists = now
	var seats []*seat
	for _, s := range h.seats {
		if s.berths[b.server] == b {
			seats = append(seats, s)
		}
	}
	h.mu.Unlock()
	for _, s := range seats {
		s.front.tellLists(s.server, changed)
	}
}

// tellLists tells the agent of changed lists, and forgets that they were gone through.
func (f *Front) tellLists(server *Server, changed editions) {
	f.mu.Lock()
	if changed.prompts > 0 {
		delete(f.routes.surveyed, "prompts/list")
	}
	if changed.resources > 0 {
		delete(f.routes.surveyed, "resources/list")
		delete(f.routes.surveyed, "resources/templates/list")
	}
	f.mu.Unlock()
	server.listsChanged(changed)
}

// listsChanged tells the agent which lists are worth reading again. It does not block.
func (s *Server) listsChanged(changed editions) {
	if changed.tools > 0 {
		s.ToolsChanged()
	}
	if s.reads == nil {
		return
	}
	// As with tools: the SDK tells of its own lists, which are never shown.
	if changed.prompts > 0 {
		s.sdk.AddPrompt(&mcp.Prompt{Name: statusTool}, func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			panic("gateway: a prompt went past the middleware")
		})
	}
	if changed.resources > 0 {
		s.sdk.AddResource(&mcp.Resource{Name: statusTool, URI: ownScheme}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
			panic("gateway: a resource went past the middleware")
		})
	}
}

// sdkCapabilities are what the SDK's own server takes part in; what the agent is told is introduce's.
func (o ServerOptions) sdkCapabilities() *mcp.ServerCapabilities {
	c := &mcp.ServerCapabilities{Tools: &mcp.ToolCapabilities{ListChanged: true}}
	if o.Reads != nil {
		c.Prompts, c.Resources = &mcp.PromptCapabilities{ListChanged: true}, &mcp.ResourceCapabilities{ListChanged: true, Subscribe: true}
	}
	return c
}

// missed is what we tell ourselves when a stream was away: changes may have been missed. What the tools are is asked; the others
// the agent has to ask for.
func missed(push func(incoming)) {
	for _, method := range []string{toolsChanged, promptsChanged, resourcesChanged, resourceUpdated} {
		push(incoming{envelope: envelope{method: method}, ours: true})
	}
}
