package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// reads.go: resources, prompts and completion. Each request to an upstream is an action, server.resources/read and so on:
// read-only by nature, and whatever the operator says it is.

// Features are what a server has beside tools.
type Features struct {
	Resources, Prompts, Completions, Logging bool
	Subscribe                                bool // to resources
	Instructions                             string
}

// A listMethod is a request that is asked of every server which has the feature; its result's list is in the named member.
type listMethod struct {
	member string
	has    func(Features) bool
}

var listMethods = map[string]listMethod{
	"resources/list":           {"resources", func(f Features) bool { return f.Resources }},
	"resources/templates/list": {"resourceTemplates", func(f Features) bool { return f.Resources }},
	"prompts/list":             {"prompts", func(f Features) bool { return f.Prompts }},
}

// readMethods are all requests that are forwarded beside tools/call, and which servers take them.
var readMethods = map[string]func(Features) bool{
	"resources/list": listMethods["resources/list"].has, "resources/templates/list": listMethods["resources/list"].has,
	"resources/read": listMethods["resources/list"].has,
	subscribeMethod:  func(f Features) bool { return f.Subscribe }, unsubscribeMethod: func(f Features) bool { return f.Subscribe },
	"prompts/list": listMethods["prompts/list"].has, "prompts/get": listMethods["prompts/list"].has,
	"completion/complete": func(f Features) bool { return f.Completions },
}

const (
	// ownScheme begins the URI of a resource whose own URI another server has too: hypervisor:SERVER/URI.
	ownScheme = ownPrefixScheme + ":"
	// maxRoutes bounds the resources and prompts whose server is remembered. A resource beyond it is listed by a URI that names its
	// server; of many servers' prompts one beyond it is listed and not found.
	maxRoutes = 20_000
	// maxListPages bounds one look through a server's list.
	maxListPages = 200

	ownPrefixScheme = "hypervisor"
)

// CodeRefused is the JSON-RPC code of a request beside tools/call that was refused; the decision is its data.
const CodeRefused = -32010

// A routing says which server has what: for the agent's names, as far as they were listed.
type routing struct {
	resources map[string]*face // by the URI as the server has it: who listed it first
	templates []templateRoute
	prompts   map[string]promptRoute // by the name as the agent sees it
	surveyed  map[string]bool        // list methods that were gone through whole, for what was not known
}

type templateRoute struct {
	prefix string // of the template up to its first expression
	face   *face
}

type promptRoute struct {
	face *face
	own  string
}

// readActions returns what a face's features make possible, for registration.
func (f *Front) readActions(c *face) []hypervisor.Tool {
	features, known := c.features()
	if !known {
		return nil
	}
	var out []hypervisor.Tool
	for method, has := range readMethods {
		if !has(features) {
			continue
		}
		d, ok := f.readOnly(c, method)
		if !ok {
			continue
		}
		if method == subscribeMethod || method == unsubscribeMethod {
			out = append(out, hypervisor.Tool{Server: c.Name(), Descriptor: d, Do: subscriptionAction(method)})
			continue
		}
		out = append(out, hypervisor.Tool{Server: c.Name(), Descriptor: d, Do: func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
			up, release, err := c.use(ctx, false)
			if err != nil {
				return nil, err
			}
			defer release()
			return up.Request(withQuestioner(ctx, f.questioner(c)), method, args, ProgressOf(ctx))
		}})
	}
	return out
}

// readOnly returns the descriptor of what is no tool: read-only by nature, and whatever the operator says it is.
func (f *Front) readOnly(c *face, method string) (action.Descriptor, bool) {
	yes := true
	d := action.Resolve(c.Name()+"."+method, append(slices.Clone(c.claims(method)), action.Claim{ReadOnly: &yes})...)
	d.ReadOnly = d.ReadOnly && !d.Admin // an operator who keeps it for himself need not know that it only reads
	if err := d.Validate(); err != nil {
		f.opt.Log.Warn("left out", "server", c.Name(), "action", method, "error", err)
		return d, false
	}
	return d, true
}

// Features returns what the servers have together; of one that was never connected to, that it may have everything.
func (f *Front) Features() Features {
	var all Features
	var texts []string
	for _, c := range f.all() {
		one, known := c.features()
		all.Resources = all.Resources || one.Resources || !known
		all.Subscribe = all.Subscribe || one.Subscribe || !known
		all.Prompts = all.Prompts || one.Prompts || !known
		all.Completions = all.Completions || one.Completions || !known
		all.Logging = all.Logging || one.Logging || !known
		switch {
		case one.Instructions == "":
		case f.up != nil:
			texts = append(texts, one.Instructions)
		default:
			texts = append(texts, "# "+c.Name()+"\n"+clipTo(one.Instructions, maxInstructions))
		}
	}
	all.Instructions = neutralText(strings.Join(texts, "\n\n"))
	return all
}

// maxInstructions bounds what one of many servers says of its use.
const maxInstructions = 4 << 10

// ask does one request to a face's upstream as an action.
func (f *Front) ask(ctx context.Context, c *face, method string, args any) (json.RawMessage, error) {
	text, err := encode(args)
	if err != nil {
		return nil, err
	}
	out, err := f.session.Act(ctx, f.agent, session.Act{Action: c.Name() + "." + method, Args: text})
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s of server %s: %w", method, c.Name(), err)
	case !out.Allowed:
		return nil, refusedRead(out.Decision)
	case out.Result == nil && out.Err != nil:
		if e := protocolError(out.Err); e != nil {
			return nil, e
		}
		return nil, out.Err
	}
	return out.Result, nil
}

func refusedRead(d policy.Decision) error {
	data, err := encode(d)
	if err != nil {
		return fmt.Errorf("encoding decision: %w", err)
	}
	return &jsonrpc.Error{Code: CodeRefused, Message: d.Reason, Data: data}
}

// Read does a request that is not a tool's.
func (f *Front) Read(ctx context.Context, method string, params json.RawMessage) (json.RawMessage, error) {
	var p struct {
		Cursor string `json:"cursor"`
		URI    string `json:"uri"`
		Name   string `json:"name"`
		Args   any    `json:"arguments"`
		Ref    struct {
			Type string `json:"type"`
			Name string `json:"name"`
			URI  string `json:"uri"`
		} `json:"ref"`
		Argument any `json:"argument"`
		Context  any `json:"context"`
	}
	if err := jsonv2.Unmarshal(params, &p); err != nil {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "invalid params: " + document.DecodeFault(err)}
	}
	switch method {
	case "resources/read":
		return f.readResource(ctx, p.URI)
	case "prompts/get":
		r, err := f.promptOf(ctx, p.Name)
		if err != nil {
			return nil, err
		}
		args := map[string]any{"name": r.own}
		if p.Args != nil {
			args["arguments"] = p.Args
		}
		return f.ask(ctx, r.face, method, args)
	case "completion/complete":
		args := map[string]any{"argument": p.Argument}
		if p.Context != nil {
			args["context"] = p.Context
		}
		if p.Ref.Type == "ref/prompt" {
			r, err := f.promptOf(ctx, p.Ref.Name)
			if err != nil {
				return nil, err
			}
			args["ref"] = map[string]any{"type": p.Ref.Type, "name": r.own}
			return f.ask(ctx, r.face, method, args)
		}
		c, uri, err := f.resourceOf(ctx, p.Ref.URI)
		if err != nil {
			return nil, err
		}
		args["ref"] = map[string]any{"type": p.Ref.Type, "uri": uri}
		return f.ask(ctx, c, method, args)
	}
	return f.list(ctx, method, p.Cursor)
}

// list returns one page of what all servers list: a page of one of them, with a cursor that says whose comes next. A server that
// cannot be asked is passed over; only if there is nothing else, why is the answer.
func (f *Front) list(ctx context.Context, method, cursor string) (json.RawMessage, error) {
	at, theirs := "", ""
	if cursor != "" {
		var ok bool
		if at, theirs, ok = strings.Cut(cursor, ":"); !ok {
			return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: errCursor.Error()}
		}
	}
	m := listMethods[method]
	faces := slices.DeleteFunc(f.all(), func(c *face) bool { features, known := c.features(); return !known || !m.has(features) })
	first := slices.IndexFunc(faces, func(c *face) bool { return at == "" || c.Name() == at })
	if cursor != "" && first < 0 {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: errCursor.Error()}
	}
	var failed error
	for i := max(first, 0); i < len(faces); i++ {
		items, next, err := f.listPage(ctx, faces[i], method, theirs)
		theirs = ""
		if err != nil {
			f.opt.Log.Warn("not listed", "server", faces[i].Name(), "method", method, "error", err)
			failed = err
			continue
		}
		switch {
		case next != "":
			next = faces[i].Name() + ":" + next
		case i+1 < len(faces):
			next = faces[i+1].Name() + ":"
		}
		return listResult(m.member, items, next)
	}
	if failed != nil && cursor == "" {
		return nil, failed
	}
	return listResult(m.member, nil, "")
}

func listResult(member string, items []json.RawMessage, next string) (json.RawMessage, error) {
	if items == nil {
		items = []json.RawMessage{}
	}
	out := map[string]any{member: items}
	if next != "" {
		out["nextCursor"] = next
	}
	return encode(out)
}

// listPage asks one server for a page, remembers whose the things on it are, and returns them as the agent knows them.
func (f *Front) listPage(ctx context.Context, c *face, method, cursor string) ([]json.RawMessage, string, error) {
	args := map[string]any{}
	if cursor != "" {
		args["cursor"] = cursor
	}
	result, err := f.ask(ctx, c, method, args)
	if err != nil {
		return nil, "", err
	}
	var page map[string]json.RawMessage
	var items []json.RawMessage
	next := ""
	if err := jsonv2.Unmarshal(result, &page); err != nil {
		return nil, "", fmt.Errorf("decoding %s of server %s: %w", method, c.Name(), err)
	}
	if list, ok := page[listMethods[method].member]; ok {
		if err := jsonv2.Unmarshal(list, &items); err != nil {
			return nil, "", fmt.Errorf("decoding %s of server %s: %w", method, c.Name(), err)
		}
	}
	if raw, ok := page["nextCursor"]; ok {
		next, _ = unquote(raw)
	}
	out := make([]json.RawMessage, 0, len(items))
	for _, item := range items {
		shown, err := f.route(c, method, item)
		if err != nil {
			f.opt.Log.Warn("left out", "server", c.Name(), "method", method, "error", err)
			continue
		}
		shown, _ = neutralised(shown)
		out = append(out, shown)
	}
	return out, next, nil
}
