package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
)

// A Session is what a Server needs of the session it stands in front of, for the one agent that it serves.
// Implementations are safe for concurrent use.
type Session interface {
	// Tools returns the tools the agent may be shown, in order. The result is not changed.
	Tools(ctx context.Context) ([]Tool, error)
	// Act asks to have a tool called, known or not. It returns when the outcome is recorded, or when ctx ends; the error
	// says that nothing could be decided or recorded. Whoever does the call finds how to report progress in ctx (ProgressOf).
	Act(ctx context.Context, tool string, args json.RawMessage) (Reply, error)
	// Status returns what the agent may know of itself here. It is encoded as JSON.
	Status(ctx context.Context) (any, error)
	// Undo takes back what the agent did.
	Undo(ctx context.Context, req hypervisor.UndoRequest) (hypervisor.UndoReport, error)
	SagaRunner
	Voucher
}

// A Reader is what a Server needs of who serves what is not a tool. Implementations are safe for concurrent use.
type Reader interface {
	// Read does one of resources/list, resources/templates/list, resources/read, prompts/list, prompts/get and
	// completion/complete and returns its result. A *jsonrpc.Error goes to the agent as it is.
	Read(ctx context.Context, method string, params json.RawMessage) (json.RawMessage, error)
	// Features returns what there is to read, as it is told to an agent that connects.
	Features() Features
	// Watch subscribes to a resource. tell is called whenever that has changed, or may have; it does not block.
	Watch(ctx context.Context, uri string, tell func()) (Subscription, error)
}

// A Reply is what became of a call.
type Reply struct {
	Decision policy.Decision
	Result   json.RawMessage // a CallToolResult as the upstream wrote it; nil: there is none
	Err      error           // why it failed or is unknown, once it was allowed; a Result beside it goes to the agent as it is
}

// ServerOptions are what a Server can do without. The zero value is ready for use.
type ServerOptions struct {
	Instructions string       // passed on, where Reads has none to say
	Reads        Reader       // nil: tools are all there is
	Peer         Peer         // nil: the agent asks nothing of others
	Version      string       // of this program; empty: "dev"
	Log          *slog.Logger // nil: nowhere
	Clock        Clock        // nil: WallClock

	ended context.Context // its end cancels all requests; nil: they end with their connection
	spawn func(func())    // starts a goroutine for a client that is subscribed to something; nil: one that Run waits for
	newID func() string   // names a client's session; nil: the SDK does
}

// sdkLog is what the SDK logs to: it says each connection, and a hub has one for each request.
func (o ServerOptions) sdkLog() *slog.Logger {
	if o.ended != nil {
		return nil
	}
	return o.Log
}

// A Server is the MCP server one agent talks to. It is a handle, safe for concurrent use; it serves one connection at a time.
type Server struct {
	session   Session
	sdk       *mcp.Server
	clock     Clock
	ended     context.Context
	log       *slog.Logger
	reads     Reader // nil: tools are all there is
	colleague Peer   // nil: none
	spawn     func(func())
	own       sync.WaitGroup // of spawn, where Run waits
	subs      subscribers
}

// statusTool is the hypervisor's own tool.
const statusTool = ownPrefix + "status"

// ownDefinitions are of the hypervisor's own tools, as they end every list.
var ownDefinitions = []json.RawMessage{sagaDefinition, vouchDefinition, statusDefinition, undoDefinition}

var statusDefinition = json.RawMessage(`{"name":"` + statusTool + `","title":"Hypervisor status",` +
	`"description":"What the agent hypervisor in front of these tools knows of you: your ring, your trust score, open approvals. Call it when a call was refused.",` +
	`"inputSchema":{"type":"object","properties":{},"additionalProperties":false},` +
	`"annotations":{"readOnlyHint":true,"idempotentHint":true,"openWorldHint":false}}`)

// NewServer returns a server in front of the session; opt may be nil.
func NewServer(session Session, opt *ServerOptions) *Server {
	var o ServerOptions
	if opt != nil {
		o = *opt
	}
	if o.Clock == nil {
		o.Clock = WallClock{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{session: session, clock: o.Clock, ended: o.ended, reads: o.Reads, colleague: o.Peer, log: o.Log, spawn: o.spawn}
	if s.spawn == nil {
		s.spawn = s.own.Go
	}
	opts := &mcp.ServerOptions{
		Instructions: o.Instructions,
		Logger:       o.sdkLog(),
		GetSessionID: o.newID,
		Capabilities: o.sdkCapabilities(),
	}
	if o.Reads != nil { // Watch has subscribed; the SDK only keeps whom to tell
		opts.SubscribeHandler = func(context.Context, *mcp.SubscribeRequest) error { return nil }
		opts.UnsubscribeHandler = func(context.Context, *mcp.UnsubscribeRequest) error { return nil }
	}
	s.sdk = mcp.NewServer(implementation(o.Version), opts)
	s.sdk.AddReceivingMiddleware(s.receive)
	s.sdk.AddSendingMiddleware(s.send)
	return s
}

// implementation is how we name ourselves on either side.
func implementation(version string) *mcp.Implementation {
	if version == "" {
		version = "dev"
	}
	return &mcp.Implementation{Name: "agent-hypervisor", Title: "Agent Hypervisor", Version: version}
}

// Run serves one agent on in and out, and closes them at the end if they can be closed. It returns nil when the agent has
// ended its input and what it had asked for is answered (half a minute at most), ctx's cause when ctx ends, and otherwise what
// broke the connection. Calls under way are cancelled then.
//
// A goroutine that reads an input whose Read outlasts Close, such as a process's own stdin, is left to end with the process.
func (s *Server) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	c := newAgentConn(in, out, s.clock)
	sdk, err := s.sdk.Connect(ctx, c, nil)
	if err != nil {
		return fmt.Errorf("connecting agent: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = sdk.Wait() // the wire knows better why it ended
		close(ended)
	}()
	select {
	case <-ctx.Done():
		c.end(context.Cause(ctx))
	case <-ended:
	}
	_ = c.Close()
	_ = sdk.Close() // waits for the calls under way, which the closed wire has cancelled
	<-ended
	s.own.Wait()
	if err := c.reason(); !errors.Is(err, io.EOF) && !errors.Is(err, errClosed) {
		return err
	}
	return nil
}

// ToolsChanged tells the agent that the list is worth reading again. It does not block.
func (s *Server) ToolsChanged() {
	// The SDK has no call for it but tells of its own list. That list is never shown: receive answers tools/list.
	s.sdk.AddTool(&mcp.Tool{Name: statusTool, InputSchema: json.RawMessage(`{"type":"object"}`)},
		func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			panic("gateway: a call went past the middleware")
		})
}

// receive stands before the SDK's own handlers: tools are ours, the handshake is the SDK's, the rest is not served yet.
func (s *Server) receive(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
		ctx, stop := s.within(ctx)
		defer stop()
		switch method {
		case "tools/list":
			p, _ := req.GetParams().(*mcp.ListToolsParams)
			if p == nil {
				p = &mcp.ListToolsParams{}
			}
			if ss, ok := req.GetSession().(*mcp.ServerSession); ok { // a server that is started now is spoken to in the client's way
				ctx = withCaller(ctx, callerIn(ss, p))
			}
			return coded(s.list(ctx, p))
		case "tools/call":
			return coded(s.call(ctx, req.(*mcp.CallToolRequest)))
		case "subscriptions/listen":
			return s.listen(ctx, next, method, req)
		case subscribeMethod, unsubscribeMethod:
			if s.reads != nil {
				return coded(s.subscribe(ctx, next, method, req))
			}
		case "ping":
			return next(ctx, method, req)
		case "initialize", "server/discover":
			r, err := next(ctx, method, req)
			s.introduce(r)
			return r, err
		case "logging/setLevel":
			if s.reads != nil {
				return next(ctx, method, req)
			}
		}
		if readMethods[method] != nil && s.reads != nil {
			return coded(s.read(ctx, method, req))
		}
		if strings.HasPrefix(method, "notifications/") {
			return next(ctx, method, req)
		}
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeMethodNotFound, Message: fmt.Sprintf("%q is not served", clip(method))}
	}
}

// introduce puts into the answer to a client that connects what there is now.
func (s *Server) introduce(r mcp.Result) {
	if s.reads == nil {
		return
	}
	f := s.reads.Features()
	c := &mcp.ServerCapabilities{Tools: &mcp.ToolCapabilities{ListChanged: true}}
	if f.Resources {
		c.Resources = &mcp.ResourceCapabilities{ListChanged: true, Subscribe: f.Subscribe}
	}
	if f.Prompts {
		c.Prompts = &mcp.PromptCapabilities{ListChanged: true}
	}
	if f.Completions {
		c.Completions = &mcp.CompletionCapabilities{}
	}
	if f.Logging {
		c.Logging = &mcp.LoggingCapabilities{}
	}
	switch r := r.(type) {
	case *mcp.InitializeResult:
		r.Capabilities, r.Instructions = c, f.Instructions
	case *mcp.DiscoverResult:
		r.Capabilities, r.Instructions = c, f.Instructions
	}
}

// read does a request that is not a tool's. Its params were decoded once, by the SDK; what goes on is made of them.
func (s *Server) read(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
	p := req.GetParams()
	params, err := encode(p)
	if err != nil {
		return nil, fmt.Errorf("encoding params: %w", err)
	}
	if bytes.Equal(params, []byte("null")) { // a request without params
		p, params = &mcp.ListToolsParams{}, json.RawMessage(`{}`)
	}
	if ss, ok := req.GetSession().(*mcp.ServerSession); ok {
		ctx = withCaller(s.withProgressTo(ctx, ss, p), callerIn(ss, p))
	}
	result, err := s.reads.Read(ctx, method, params)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	return s.forwarded(result, method, p)
}

// forwarded is an upstream's result as the agent gets it: with nothing hidden in it.
func (s *Server) forwarded(result json.RawMessage, what string, p mcp.Params) (mcp.Result, error) {
	result, found := neutralised(result)
	if found {
		s.log.Warn("hidden characters in a result are replaced", "of", clip(what))
	}
	parts, err := members(result)
	if err != nil {
		return nil, fmt.Errorf("the result of %s is not an object", what)
	}
	r := &rawResult{parts: parts, modern: isModern(p)}
	if _, list := listMethods[what]; (list || what == "resources/read") && r.modern && !r.has("ttlMs") {
		r.parts = append(r.parts, member{"ttlMs", json.RawMessage(`0`)}, member{"cacheScope", json.RawMessage(`"private"`)})
	}
	return r, nil
}

// withProgressTo returns ctx with where the call's progress goes, if the agent asked for it.
func (s *Server) withProgressTo(ctx context.Context, ss *mcp.ServerSession, p mcp.Params) context.Context {
	token := p.GetMeta()["progressToken"]
	if token == nil {
		return ctx
	}
	return withProgress(ctx, func(step Progress) {
		// If it cannot be told, the connection is ending or the call is, and neither is progress's to report.
		_ = ss.NotifyProgress(ctx, &mcp.ProgressNotificationParams{
			ProgressToken: token, Progress: step.Done, Total: step.Total, Message: neutralText(step.Message)})
	})
}

// within returns ctx, ended with the server too.
func (s *Server) within(ctx context.Context) (context.Context, func()) {
	if s.ended == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(s.ended, func() { cancel(errClosed) })
	return ctx, func() { unhook(); cancel(nil) }
}

// Bounds of one page of tools/list.
const (
	pageTools = 200
	pageBytes = 1 << 20 // a first tool is listed however large
)

func (s *Server) list(ctx context.Context, p *mcp.ListToolsParams) (mcp.Result, error) {
	tools, err := s.session.Tools(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing tools: %w", err)
	}
	h := sha256.New()
	for _, t := range tools {
		h.Write(t.Digest[:])
	}
	edition := fmt.Sprintf("%x", h.Sum(nil)[:8])
	at, err := cursorIn(p.Cursor, edition, len(tools))
	if err != nil {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: err.Error()}
	}
	var page []json.RawMessage
	size := 0
	for ; at < len(tools) && len(page) < pageTools && (size == 0 || size+len(tools[at].Definition) <= pageBytes); at++ {
		page = append(page, withRefusal(tools[at].Definition))
		size += len(tools[at].Definition)
	}
	out := rawResult{modern: isModern(p)}
	if at < len(tools) {
		cursor, _ := json.Marshal(edition + "." + strconv.Itoa(at)) // hexadecimal and digits: it cannot fail
		out.parts = append(out.parts, member{"nextCursor", cursor})
	} else {
		if s.colleague != nil {
			page = append(page, peerDefinitions...)
		}
		page = append(page, ownDefinitions...)
	}
	list, err := encode(page)
	if err != nil {
		return nil, fmt.Errorf("encoding tools: %w", err)
	}
	out.parts = append(out.parts, member{"tools", list})
	if out.modern { // a list that changes with the agent's standing is nobody else's and not worth keeping
		out.parts = append(out.parts, member{"ttlMs", json.RawMessage(`0`)}, member{"cacheScope", json.RawMessage(`"private"`)})
	}
	return &out, nil
}

var errCursor = errors.New("the cursor is not of the list as it is now; begin again without one")

// cursorIn returns where in a list of n tools a page begins.
func cursorIn(cursor, edition string, n int) (int, error) {
	if cursor == "" {
		return 0, nil
	}
	rest, ok := strings.CutPrefix(cursor, edition+".")
	at, err := strconv.Atoi(rest)
	if !ok || err != nil || at <= 0 || at >= n {
		return 0, errCursor
	}
	return at, nil
}

func (s *Server) call(ctx context.Context, r *mcp.CallToolRequest) (mcp.Result, error) {
	p := r.Params
	if p.Name == "" {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: `invalid params: tools/call needs a "name"`}
	}
	if p.Name == statusTool {
		return s.status(ctx, isModern(p))
	}
	c := callerIn(r.Session, p)
	if i := r.Session.InitializeParams(); r.Extra != nil && !c.modern && i != nil && i.ProtocolVersion >= legacyProtocol {
		c.closeStream = r.Extra.CloseSSEStream // an earlier client would not come back for the answer
	}
	ctx = withCaller(s.withProgressTo(ctx, r.Session, p), c)
	args := p.Arguments
	if len(args) == 0 {
		args = json.RawMessage(`{}`)
	}
	switch p.Name {
	case undoTool:
		return s.undo(ctx, args, isModern(p))
	case vouchTool:
		return s.vouch(ctx, args, isModern(p))
	case sagaTool:
		return s.runSaga(ctx, args, isModern(p))
	}
	if s.colleague != nil {
		defer func() {
			if s.colleague.outgrown(ctx) { // by what was decided since, or by this call
				s.ToolsChanged()
			}
		}()
	}
	if r, ok, err := s.peer(ctx, p.Name, args, isModern(p)); ok {
		return r, err
	}
	reply, err := s.session.Act(ctx, p.Name, args)
	switch {
	case err != nil:
		return nil, fmt.Errorf("calling %s: %w", p.Name, err)
	case !reply.Decision.Allowed:
		return refusal(reply.Decision, isModern(p))
	case reply.Result != nil:
		return s.forwarded(reply.Result, p.Name, p)
	case protocolError(reply.Err) != nil:
		return nil, protocolError(reply.Err)
	case reply.Err != nil:
		return said(neutralText(fmt.Sprintf("%s: %v", p.Name, reply.Err)), nil, true, isModern(p))
	}
	return said("done", nil, false, isModern(p))
}

func (s *Server) status(ctx context.Context, modern bool) (mcp.Result, error) {
	v, err := s.session.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading status: %w", err)
	}
	text, err := encode(v)
	if err != nil {
		return nil, fmt.Errorf("encoding status: %w", err)
	}
	return said(string(text), text, false, modern)
}

// refusal is a decision against a call, as a tool result: a sentence for the model, the decision for the program.
func refusal(d policy.Decision, modern bool) (mcp.Result, error) {
	structured, err := encode(d)
	if err != nil {
		return nil, fmt.Errorf("encoding decision: %w", err)
	}
	text := d.Reason
	if text == "" {
		text = string(d.Code)
	}
	return said(text, structured, true, modern)
}

// said is a result of one text.
func said(text string, structured json.RawMessage, failed, modern bool) (mcp.Result, error) {
	content, err := encode([]map[string]string{{"type": "text", "text": text}})
	if err != nil {
		return nil, fmt.Errorf("encoding text: %w", err)
	}
	r := &rawResult{parts: []member{{"content", content}}, modern: modern}
	if structured != nil {
		r.parts = append(r.parts, member{"structuredContent", structured})
	}
	if failed {
		r.parts = append(r.parts, member{"isError", json.RawMessage(`true`)})
	}
	return r, nil
}

type progressKey struct{}

func withProgress(ctx context.Context, report func(Progress)) context.Context {
	return context.WithValue(ctx, progressKey{}, report)
}

// ProgressOf returns how to report progress to the agent whose call ctx is of; nil: it did not ask, or it is not its call. The reports block while
// the agent does not read.
func ProgressOf(ctx context.Context) func(Progress) {
	if hypervisor.InSystemsName(ctx) {
		return nil
	}
	report, _ := ctx.Value(progressKey{}).(func(Progress))
	return report
}
