package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/action"
)

// Bounds of a tool list.
const (
	maxTools     = 2_000
	maxToolPages = 200
)

// legacyProtocol is the newest revision that begins with initialize.
const legacyProtocol = "2025-11-25"

var (
	errStartTimeout = errors.New("the server did not get ready within a minute")
	errTooManyTools = fmt.Errorf("the server lists more than %d tools or %d pages", maxTools, maxToolPages)
)

// A link is one life of an upstream: its process, its wire, the SDK's session on it.
type link struct {
	upstream *Upstream
	process  *process // nil: reached over HTTP
	conn     *upstreamConn
	hear     func(context.Context) // waits until what the server says unasked is heard; nil: it always is
	session  *mcp.ClientSession

	dead  chan struct{} // closed when nothing of the link is left; cause is valid then
	cause error
}

// start starts the server and lists its tools.
func (u *Upstream) start(ctx context.Context, legacy bool) (*link, []Tool, error) {
	l := &link{upstream: u, dead: make(chan struct{})}
	if err := l.open(); err != nil {
		return nil, nil, err
	}
	ready, cancel := withTimeout(ctx, u.opt.Clock, startTimeout, errStartTimeout)
	defer cancel()
	client := mcp.NewClient(implementation(u.opt.Version), &mcp.ClientOptions{
		Capabilities: u.capabilities(),
		// These make the SDK subscribe; the wire takes the notices in.
		ToolListChangedHandler:     func(context.Context, *mcp.ToolListChangedRequest) {},
		PromptListChangedHandler:   func(context.Context, *mcp.PromptListChangedRequest) {},
		ResourceListChangedHandler: func(context.Context, *mcp.ResourceListChangedRequest) {},
		MultiRoundTrip:             &mcp.MultiRoundTripOptions{Disabled: true},
	})
	opt := &mcp.ClientSessionOptions{}
	if legacy {
		opt.ProtocolVersion = legacyProtocol
	}
	var tools []Tool
	var err error
	if l.session, err = client.Connect(ready, l.conn, opt); err != nil {
		err = fmt.Errorf("shaking hands: %w", err)
	} else if tools, err = l.first(ready); err != nil {
		err = fmt.Errorf("listing tools: %w", err)
	}
	if err == nil {
		l.askForLog(ready)
		return l, tools, nil
	}
	if cause := context.Cause(ready); cause != nil {
		err = cause
	}
	l.close()
	return nil, nil, l.explain(err)
}

// first lists the tools for the first time, once it would be heard that they have changed.
func (l *link) first(ctx context.Context) ([]Tool, error) {
	if l.hear != nil {
		l.hear(ctx)
	}
	return l.list(ctx)
}

// modern reports whether the server speaks modernProtocol.
func (l *link) modern() bool {
	r := l.session.InitializeResult()
	return r != nil && r.ProtocolVersion >= modernProtocol
}

// askForLog has a legacy server that belongs to one agent say what it logs.
func (l *link) askForLog(ctx context.Context) {
	if l.upstream.opt.Shared || !l.features().Logging || l.modern() {
		return
	}
	if err := l.session.SetLoggingLevel(ctx, &mcp.SetLoggingLevelParams{Level: logLevel}); err != nil {
		l.upstream.opt.Log.Debug("log level not set", "server", l.upstream.name, "error", err) // it works without
	}
}

// open starts the process, if the server is one, and the wire.
func (l *link) open() error {
	u := l.upstream
	if u.endpoint != nil {
		w := newHTTPWire(*u.endpoint, u.opt.Clock, u.opt.Log.With("server", u.name))
		l.conn, l.hear = newUpstreamConn(w), w.awaitHearing
		l.conn.lists, l.conn.updated, l.conn.may = u.listsChanged, u.updated, u.opt.Questions
		return nil
	}
	p, err := startProcess(u.command, u.opt.Stderr, "["+u.name+"] ")
	if err != nil {
		return err
	}
	l.process, l.conn = p, newUpstreamConn(lineWire{newStream(p.stdout, p.stdin, false)})
	l.conn.lists, l.conn.updated, l.conn.may = u.listsChanged, u.updated, u.opt.Questions
	return nil
}

// exited is closed when the server's process has ended; nil where it has none.
func (l *link) exited() <-chan struct{} {
	if l.process == nil {
		return nil
	}
	return l.process.exited
}

// withTimeout is context.WithTimeoutCause on our clock.
func withTimeout(ctx context.Context, clock Clock, d time.Duration, why error) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	expired := clock.After(d)
	var wait sync.WaitGroup
	wait.Go(func() {
		select {
		case <-expired:
			cancel(why)
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(nil); wait.Wait() }
}

// features returns what the server said that it has.
func (l *link) features() Features {
	r := l.session.InitializeResult()
	if r == nil {
		return Features{}
	}
	f := Features{Instructions: r.Instructions}
	if c := r.Capabilities; c != nil {
		f.Resources, f.Prompts, f.Completions, f.Logging = c.Resources != nil, c.Prompts != nil, c.Completions != nil, c.Logging != nil
		f.Subscribe = c.Resources != nil && c.Resources.Subscribe
	}
	return f
}

// run serves until the server, its wire or ctx ends, and says which.
func (l *link) run(ctx context.Context) error {
	var own sync.WaitGroup
	ended := make(chan struct{})
	own.Go(func() {
		_ = l.session.Wait() // the wire knows better why it ended
		close(ended)
	})
	own.Go(func() { l.relist(ctx) })
	watching, stop := context.WithCancel(ctx)
	own.Go(func() { l.upstream.watchAgain(watching, l) })

	var why error
	select {
	case <-ctx.Done():
		why = context.Cause(ctx)
		if errors.Is(why, errBarred) {
			l.callOff()
		}
	case <-l.exited():
		<-ended // its last answers are still in the pipe
	case <-ended:
	}
	l.close()
	stop()
	own.Wait()
	l.cause = l.explain(why)
	close(l.dead)
	return l.cause
}

// callOff tells the server which calls are cancelled before its process ends: whoever made them may not have come to it.
func (l *link) callOff() {
	ctx, stop := withTimeout(context.Background(), l.upstream.opt.Clock, callOffFor, errPatience)
	defer stop()
	if err := l.conn.callOff(ctx, errBarred.Error()); err != nil {
		l.upstream.opt.Log.Warn("not told that its calls are cancelled", "server", l.upstream.name, "error", err)
	}
}

// close ends all of the link and waits for it.
func (l *link) close() {
	garbage := errors.Is(l.conn.reason(), errGarbage)
	_ = l.conn.Close()
	l.conn.stopAsking()
	if l.process != nil && garbage {
		l.process.kill() // what it does next is nobody's wish
	}
	if l.process != nil {
		l.process.stop(l.upstream.opt.Clock)
	}
	if l.session != nil {
		_ = l.session.Close() // the wire is closed already; this ends the SDK's goroutines
	}
	l.conn.questions.Wait()
	l.conn.wait()
	if l.process != nil {
		l.process.pumps.Wait()
	}
}

// explain returns, for a link that is closed, the reason people want to know of: why we closed the wire or what broke it, and
// where it just ended, how the process did.
func (l *link) explain(why error) error {
	switch reason := l.conn.reason(); {
	case errors.Is(reason, errClosed):
		return why
	case errors.Is(reason, errGarbage), errors.Is(reason, errStalled), l.process == nil:
		return reason
	}
	return l.process.ending()
}

// relist lists the tools anew each time the server says that they have changed.
func (l *link) relist(ctx context.Context) {
	for {
		select {
		case <-l.conn.ended():
			return
		case <-l.conn.changed:
		}
		said := l.conn.said.Swap(false)
		tools, err := l.list(ctx)
		if err != nil {
			l.upstream.opt.Log.Warn("tools not listed anew", "server", l.upstream.name, "error", err)
			continue
		}
		l.upstream.setTools(tools)
		if said {
			l.upstream.listsChanged(toolsChanged)
		}
	}
}

// list returns all tools of the server that have a definition we can stand behind.
func (l *link) list(ctx context.Context) ([]Tool, error) {
	tools := []Tool{}
	r := l.session.InitializeResult()
	if r == nil || r.Capabilities == nil || r.Capabilities.Tools == nil {
		return tools, nil
	}
	server := ""
	if r.ServerInfo != nil {
		server = r.ServerInfo.Name
	}
	seen := map[string]bool{}
	cursor := ""
	for range maxToolPages {
		page, err := l.page(ctx, cursor)
		if err != nil {
			return nil, err
		}
		for _, definition := range page.Tools {
			t, err := ParseTool(json.RawMessage(definition))
			if err == nil && seen[t.Name] {
				err = fmt.Errorf("%w: a second tool named %s", ErrTool, t.Name)
			}
			if err != nil {
				l.upstream.opt.Log.Warn("tool left out", "server", l.upstream.name, "error", err)
				continue
			}
			seen[t.Name] = true
			if tools = append(tools, t.of(server)); len(tools) > maxTools {
				return nil, errTooManyTools
			}
		}
		if cursor = page.NextCursor; cursor == "" {
			return tools, nil
		}
	}
	return nil, errTooManyTools
}

type toolPage struct {
	Tools      []jsontext.Value `json:"tools"`
	NextCursor string           `json:"nextCursor"`
}

func (l *link) page(ctx context.Context, cursor string) (p toolPage, err error) {
	t := &tap{}
	_, err = l.session.ListTools(withTap(ctx, t), &mcp.ListToolsParams{Cursor: cursor})
	switch answered := l.conn.untap(t); {
	case answered && t.err != nil:
		return p, answeredError{l.upstream.name, t.err}
	case !answered && err != nil:
		return p, err
	case !answered:
		panic("gateway: a list of tools that did not come by the wire")
	}
	if err := jsonv2.Unmarshal(t.result, &p); err != nil {
		return p, fmt.Errorf("decoding tools: %w", err)
	}
	return p, nil
}

// call is Upstream.Call on a running server.
func (l *link) call(ctx context.Context, t *tap, tool string, args json.RawMessage) (json.RawMessage, error) {
	return l.asking(ctx, tool, t.caller, func(say round) (json.RawMessage, error) {
		p := &mcp.CallToolParams{Name: tool, Arguments: args}
		say.put(p)
		if t.progress != nil {
			p.SetProgressToken(t.progressToken)
		}
		return l.ask(ctx, t.again(ctx), tool, func(ctx context.Context) error {
			_, err := l.session.CallTool(ctx, p)
			return err
		})
	})
}

// request is Upstream.Request on a running server. The params are ours, so they decode.
func (l *link) request(ctx context.Context, t *tap, method string, params json.RawMessage) (json.RawMessage, error) {
	var do func(context.Context, round) error
	switch method {
	case "resources/list":
		do = request(t, params, &mcp.ListResourcesParams{}, l.session.ListResources)
	case "resources/templates/list":
		do = request(t, params, &mcp.ListResourceTemplatesParams{}, l.session.ListResourceTemplates)
	case "resources/read":
		do = request(t, params, &mcp.ReadResourceParams{}, l.session.ReadResource)
	case "prompts/list":
		do = request(t, params, &mcp.ListPromptsParams{}, l.session.ListPrompts)
	case "prompts/get":
		do = request(t, params, &mcp.GetPromptParams{}, l.session.GetPrompt)
	case "completion/complete":
		do = request(t, params, &mcp.CompleteParams{}, l.session.Complete)
	default:
		panic("gateway: " + method + " is not forwarded")
	}
	once := func(say round) (json.RawMessage, error) {
		return l.ask(ctx, t.again(ctx), method, func(ctx context.Context) error { return do(ctx, say) })
	}
	if method == "resources/read" || method == "prompts/get" {
		return l.asking(ctx, method, t.caller, once)
	}
	result, err := once(round{})
	if errors.Is(err, errInput) {
		return nil, fmt.Errorf("server %s asks for input before it does %s; that is passed on for tools, prompts and resources only", l.upstream.name, method)
	}
	return result, err
}

// request returns what makes one of the SDK's requests with our params.
func request[P mcp.Params, R any](t *tap, params json.RawMessage, p P, do func(context.Context, P) (R, error)) func(context.Context, round) error {
	return func(ctx context.Context, say round) error {
		if err := json.Unmarshal(params, p); err != nil {
			return fmt.Errorf("%w: %w", action.ErrNotDispatched, err)
		}
		say.put(p)
		if token, ok := any(p).(interface{ SetProgressToken(any) }); ok && t.progress != nil {
			token.SetProgressToken(t.progressToken)
		}
		_, err := do(ctx, p)
		return err
	}
}

// ask makes a request and returns its result as it came by the wire.
func (l *link) ask(ctx context.Context, t *tap, what string, do func(context.Context) error) (json.RawMessage, error) {
	err := do(withTap(ctx, t))
	if l.conn.untap(t) {
		return l.outcome(t, what)
	}
	name := l.upstream.name
	switch {
	case errors.Is(err, action.ErrNotDispatched):
		return nil, err
	case t.broken != nil && !t.mayHaveArrived():
		return nil, fmt.Errorf("%w: server %s: %w", action.ErrNotDispatched, name, t.broken)
	case t.broken != nil:
		return nil, fmt.Errorf("%w: server %s broke off during the call: %w", action.ErrUnknownOutcome, name, t.broken)
	case ctx.Err() != nil && !t.mayHaveArrived():
		return nil, fmt.Errorf("%w: %w", action.ErrNotDispatched, context.Cause(ctx))
	case ctx.Err() != nil:
		return nil, fmt.Errorf("calling %s of server %s: %w", what, name, ctx.Err())
	}
	select { // the link is on its way down; it knows why in a moment
	case <-l.dead:
		err = l.cause
	case <-ctx.Done():
	}
	if !t.mayHaveArrived() {
		return nil, fmt.Errorf("%w: server %s: %w", action.ErrNotDispatched, name, err)
	}
	return nil, fmt.Errorf("%w: server %s broke off during the call: %w", action.ErrUnknownOutcome, name, err)
}

// An answeredError is the protocol error that a server answered with.
type answeredError struct {
	server string
	is     *jsonrpc.Error
}

func (e answeredError) Error() string {
	return fmt.Sprintf("server %s answered: %v (code %d)", e.server, e.is, e.is.Code)
}

// protocolError returns the protocol error that a server answered with, as the agent gets it; nil: err is none.
func protocolError(err error) error {
	var e answeredError
	if !errors.As(err, &e) {
		return nil
	}
	data, _ := neutralise(e.is.Data)
	return &jsonrpc.Error{Code: e.is.Code, Message: neutralText(e.is.Message), Data: data}
}

// outcome reads an answer as far as it must be understood here.
func (l *link) outcome(t *tap, tool string) (json.RawMessage, error) {
	if t.err != nil {
		return nil, answeredError{l.upstream.name, t.err}
	}
	kind, failed, err := resultKind(t.result)
	if err != nil {
		return nil, fmt.Errorf("%w: server %s answered %s with no result: %w", action.ErrUnknownOutcome, l.upstream.name, tool, err)
	}
	switch {
	case kind == "input_required":
		return t.result, errInput
	case failed:
		return t.result, fmt.Errorf("%w: %s", ErrReported, tool)
	}
	return t.result, nil
}

// resultKind returns a result's resultType (empty: none) and isError.
func resultKind(result json.RawMessage) (kind string, failed bool, err error) {
	parts, err := members(result)
	if err != nil {
		return "", false, err
	}
	for _, m := range parts {
		switch value := string(m.value); {
		case value == "null":
		case m.name == "resultType":
			if kind, err = unquote(m.value); err != nil {
				return "", false, errors.New("its resultType is not a string")
			}
		case m.name == "isError":
			if failed = value == "true"; !failed && value != "false" {
				return "", false, errors.New("its isError is neither true nor false")
			}
		}
	}
	return kind, failed, nil
}
