package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// routes.go: whose a resource or prompt is.

// route remembers whose a listed thing is and returns it as the agent knows it.
func (f *Front) route(c *face, method string, item json.RawMessage) (json.RawMessage, error) {
	var d struct {
		Name     string `json:"name"`
		URI      string `json:"uri"`
		Template string `json:"uriTemplate"`
	}
	if err := jsonv2.Unmarshal(item, &d); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.routes.resources == nil {
		f.routes = routing{resources: map[string]*face{}, prompts: map[string]promptRoute{}, surveyed: map[string]bool{}}
	}
	full := len(f.routes.resources)+len(f.routes.templates)+len(f.routes.prompts) >= maxRoutes
	switch method {
	case "prompts/list":
		shown := d.Name
		if f.up == nil {
			shown = shownName(c.Name(), d.Name)
		}
		if !full {
			f.routes.prompts[shown] = promptRoute{c, d.Name}
		}
		return replaced(item, "name", shown)
	case "resources/templates/list":
		return f.routeURI(c, item, "uriTemplate", d.Template, full)
	}
	return f.routeURI(c, item, "uri", d.URI, full)
}

// routeURI notes who has a URI or template first, and returns the thing with a URI of our own if that is another server. The
// caller holds mu.
func (f *Front) routeURI(c *face, item json.RawMessage, member, uri string, full bool) (json.RawMessage, error) {
	owner := f.routes.resources[uri]
	if owner == nil && !full {
		owner = c
		f.routes.resources[uri] = c
		if prefix, _, ok := strings.Cut(uri, "{"); ok {
			f.routes.templates = append(f.routes.templates, templateRoute{prefix, c})
		}
	}
	if owner == c && !strings.HasPrefix(uri, ownScheme) {
		return item, nil
	}
	return replaced(item, member, ownURI(c.Name(), uri))
}

func ownURI(server, uri string) string { return ownScheme + server + "/" + uri }

// replaced returns an object with one member otherwise.
func replaced(object json.RawMessage, name, value string) (json.RawMessage, error) {
	parts, err := members(object)
	if err != nil {
		return nil, err
	}
	for i, m := range parts {
		if m.name == name {
			if parts[i].value, err = encode(value); err != nil {
				return nil, err
			}
		}
	}
	return (&rawResult{parts: parts}).MarshalJSON()
}

// survey goes through the lists of all servers once, so that what the agent names without having listed it is found.
func (f *Front) survey(ctx context.Context, methods ...string) {
	for _, method := range methods {
		f.mu.Lock()
		done := f.routes.surveyed[method]
		f.mu.Unlock()
		if done {
			continue
		}
		complete := true
		for _, c := range f.all() {
			features, known := c.features()
			if !known || !listMethods[method].has(features) {
				continue
			}
			cursor := ""
			for range maxListPages {
				_, next, err := f.listPage(ctx, c, method, cursor)
				if complete = complete && err == nil; err != nil || next == "" {
					break
				}
				cursor = next
			}
		}
		f.mu.Lock()
		if f.routes.surveyed != nil {
			f.routes.surveyed[method] = complete
		}
		f.mu.Unlock()
	}
}

// resourceOf returns whose a resource is, and its URI there.
func (f *Front) resourceOf(ctx context.Context, uri string) (*face, string, error) {
	if rest, ok := strings.CutPrefix(uri, ownScheme); ok {
		server, theirs, _ := strings.Cut(rest, "/")
		if at := slices.IndexFunc(f.all(), func(c *face) bool { return c.Name() == server }); at >= 0 {
			return f.all()[at], theirs, nil
		}
	}
	if c := f.routed(uri); c != nil {
		return c, uri, nil
	}
	having := slices.DeleteFunc(f.all(), func(c *face) bool { features, known := c.features(); return !known || !features.Resources })
	if len(having) == 1 {
		return having[0], uri, nil
	}
	if len(having) > 1 {
		f.survey(ctx, "resources/list", "resources/templates/list")
		if c := f.routed(uri); c != nil {
			return c, uri, nil
		}
	}
	return nil, "", &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf("no server lists a resource %q; list the resources", clip(uri)),
		Data: json.RawMessage(`{}`)}
}

// routed returns who listed a URI, or else whose template begins most like it.
func (f *Front) routed(uri string) *face {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.routes.resources[uri]; c != nil {
		return c
	}
	var best templateRoute
	for _, t := range f.routes.templates {
		if strings.HasPrefix(uri, t.prefix) && (best.face == nil || len(t.prefix) > len(best.prefix)) {
			best = t
		}
	}
	return best.face
}

// readResource reads a resource from whose it is. One with a URI of our own comes back under that.
func (f *Front) readResource(ctx context.Context, uri string) (json.RawMessage, error) {
	c, theirs, err := f.resourceOf(ctx, uri)
	if err != nil {
		return nil, err
	}
	result, err := f.ask(ctx, c, "resources/read", map[string]any{"uri": theirs})
	if err != nil || theirs == uri {
		return result, err
	}
	parts, err := members(result)
	if err != nil {
		return nil, fmt.Errorf("decoding a resource of server %s: %w", c.Name(), err)
	}
	for i, m := range parts {
		var contents []json.RawMessage
		if m.name != "contents" || jsonv2.Unmarshal(m.value, &contents) != nil {
			continue
		}
		for j, item := range contents {
			var d struct {
				URI string `json:"uri"`
			}
			if jsonv2.Unmarshal(item, &d) != nil {
				continue
			}
			if contents[j], err = replaced(item, "uri", ownURI(c.Name(), d.URI)); err != nil {
				return nil, err
			}
		}
		if parts[i].value, err = encode(contents); err != nil {
			return nil, err
		}
	}
	return (&rawResult{parts: parts}).MarshalJSON()
}

// promptOf returns whose a prompt is and what it is called there.
func (f *Front) promptOf(ctx context.Context, name string) (promptRoute, error) {
	find := func() (promptRoute, bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		r, ok := f.routes.prompts[name]
		return r, ok
	}
	if r, ok := find(); ok {
		return r, nil
	}
	if f.up != nil {
		return promptRoute{f.faces[0], name}, nil
	}
	f.survey(ctx, "prompts/list")
	if r, ok := find(); ok {
		return r, nil
	}
	return promptRoute{}, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf("no server lists a prompt %q; list the prompts", clip(name))}
}
