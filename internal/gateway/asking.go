package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/action"
)

// asking.go: what an upstream asks or tells, during a call, of the agent whose call it is, in either way: by a request while the
// call waits (until 2025-11-25), or by a result that wants input before the call is done (2026-07-28).

const (
	questionTimeout = 10 * time.Minute
	logLevel        = "info" // that upstreams are asked for; an agent's own level filters again

	metaLogLevel     = "io.modelcontextprotocol/logLevel"
	metaCapabilities = "io.modelcontextprotocol/clientCapabilities"
)

// A caller is the client whose call is under way.
type caller struct {
	ss     *mcp.ServerSession
	modern bool // it is asked by an answer that wants input, and calls again with that

	closeStream func(mcp.CloseSSEStreamArgs) // ends the stream that its call's answer comes on; nil: it could not be resumed

	// Of a modern call that is such a second one.
	responses mcp.InputResponseMap
	state     string
}

type callerKey struct{}

func withCaller(ctx context.Context, c *caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// callerOf returns whose call ctx is of; nil: nobody's that could be asked or told anything.
func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	return c
}

// pause has the client come back later for its call's answer (SEP-1699), as the upstream has us.
func (c *caller) pause(d time.Duration) {
	if c.closeStream != nil {
		c.closeStream(mcp.CloseSSEStreamArgs{RetryAfter: d})
	}
}

// log tells the client what the upstream logs.
func (c *caller) log(ctx context.Context, params json.RawMessage) {
	params, _ = neutralise(params)
	var p mcp.LoggingMessageParams
	if json.Unmarshal(params, &p) == nil {
		p.Meta = nil
		_ = c.ss.Log(ctx, &p) // if it cannot be told, the connection or the call is ending
	}
}

// A round is what one request to an upstream says, beside what is asked for: what may be asked and told during it, and, when it
// is made again, the answers to what it wanted.
type round struct {
	meta      mcp.Meta // nil: of a legacy upstream
	responses mcp.InputResponseMap
	state     string
}

// prepare returns the first round with a modern upstream.
func (c *caller) prepare(f Features, may Questions) round {
	can := map[string]any{}
	for method, capability := range map[string]member{
		askInput: {"elicitation", json.RawMessage(`{"form":{}}`)}, askModel: {"sampling", json.RawMessage(`{}`)}, askRoots: {"roots", json.RawMessage(`{}`)},
	} {
		if may.allow(method, true) && c.answers(method) {
			can[capability.name] = capability.value
		}
	}
	r := round{meta: mcp.Meta{metaCapabilities: can}}
	if c == nil {
		return r
	}
	if f.Logging {
		r.meta[metaLogLevel] = logLevel
	}
	r.responses, r.state = maps.Clone(c.responses), c.state
	maps.DeleteFunc(r.responses, func(_ string, answer mcp.InputResponse) bool { // nobody may have asked for it
		switch answer.(type) {
		case *mcp.ListRootsResult:
			return !may.allow(askRoots, true)
		case *mcp.CreateMessageResult, *mcp.CreateMessageWithToolsResult:
			return !may.allow(askModel, true)
		}
		return false
	})
	return r
}

// put puts what a round says into params that can say it.
func (r round) put(p mcp.Params) {
	switch p := p.(type) {
	case *mcp.CallToolParams:
		p.Meta, p.InputResponses, p.RequestState = maps.Clone(r.meta), r.responses, r.state
	case *mcp.GetPromptParams:
		p.Meta, p.InputResponses, p.RequestState = maps.Clone(r.meta), r.responses, r.state
	case *mcp.ReadResourceParams:
		p.Meta, p.InputResponses, p.RequestState = maps.Clone(r.meta), r.responses, r.state
	}
}

// callerIn returns the client on a connection as the caller of a request with these params.
func callerIn(ss *mcp.ServerSession, p mcp.Params) *caller {
	c := &caller{ss: ss, modern: isModern(p)}
	switch p := p.(type) {
	case *mcp.CallToolParamsRaw:
		c.responses, c.state = p.InputResponses, p.RequestState
	case *mcp.GetPromptParams:
		c.responses, c.state = p.InputResponses, p.RequestState
	case *mcp.ReadResourceParams:
		c.responses, c.state = p.InputResponses, p.RequestState
	}
	return c
}

// inputRequired is a result that wants input before the call is done (2026-07-28).
type inputRequired struct {
	Type     string                   `json:"resultType"`
	Requests map[string]inputQuestion `json:"inputRequests"`
	State    string                   `json:"requestState"`
}

type inputQuestion struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

// input returns what a result wants, if it wants what may be asked of the client.
func (l *link) input(result json.RawMessage, tool string, c *caller) (*inputRequired, error) {
	var r inputRequired
	if err := jsonv2.Unmarshal(result, &r); err != nil {
		return nil, fmt.Errorf("%w: server %s answered %s with what it wants, not readably: %w", action.ErrUnknownOutcome, l.upstream.name, tool, err)
	}
	for _, q := range r.Requests {
		if !slices.Contains(questionMethods, q.Method) {
			return nil, fmt.Errorf("server %s wants %s before it does %s; the hypervisor does not pass that on", l.upstream.name, clip(q.Method), tool)
		}
		if !l.upstream.opt.Questions.allow(q.Method, true) || !c.answers(q.Method) {
			return nil, l.unasked(tool, q.Method, errNotAskable)
		}
	}
	if len(r.Requests) > maxQuestions {
		return nil, fmt.Errorf("server %s asks more than %d questions at once", l.upstream.name, maxQuestions)
	}
	return &r, nil
}

// unasked is why a call is not done that wants to ask something first.
func (l *link) unasked(tool, method string, why error) error {
	return fmt.Errorf("server %s asks %s before it does %s: %w", l.upstream.name, method, tool, why)
}

// errInput is returned beside a result that wants input.
var errInput = errors.New("the call wants input before it is done")

// asking does a request and gets it what it asks for: a modern agent is given the questions as the request's result, a legacy one
// is asked while its request waits.
func (l *link) asking(ctx context.Context, tool string, c *caller, do func(round) (json.RawMessage, error)) (json.RawMessage, error) {
	var say round
	if l.modern() {
		say = c.prepare(l.features(), l.upstream.opt.Questions)
	}
	for range maxRounds {
		result, err := do(say)
		if !errors.Is(err, errInput) {
			return result, err
		}
		r, err := l.input(result, tool, c)
		if err != nil {
			return nil, err
		}
		answers := map[string]json.RawMessage{}
		for _, id := range slices.Sorted(maps.Keys(r.Requests)) {
			method := r.Requests[id].Method
			q, err := newQuestion(c, method, r.Requests[id].Params)
			if err == nil {
				answers[id], err = put(ctx, q)
			}
			if err != nil {
				return nil, l.unasked(tool, method, err)
			}
			r.Requests[id] = inputQuestion{method, q.params}
		}
		if c.modern {
			return r.passedOn(result)
		}
		if say.responses, err = decodeAnswers(answers); err != nil {
			return nil, err
		}
		say.state = r.State
	}
	return nil, fmt.Errorf("server %s asks for input more than %d times in one call", l.upstream.name, maxRounds)
}

// passedOn returns a result that wants input with its questions as they may be asked.
func (r *inputRequired) passedOn(result json.RawMessage) (json.RawMessage, error) {
	parts, err := members(result)
	if err != nil {
		return nil, err
	}
	for i, m := range parts {
		if m.name == "inputRequests" {
			if parts[i].value, err = encode(r.Requests); err != nil {
				return nil, err
			}
		}
	}
	return (&rawResult{parts: parts}).MarshalJSON()
}

// decodeAnswers returns answers as the SDK sends them.
func decodeAnswers(answers map[string]json.RawMessage) (out mcp.InputResponseMap, err error) {
	text, err := encode(answers)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding input: %w", err)
	}
	return out, nil
}

// asked takes in a request of the upstream's. A question goes to the client whose call it came on; on a stream that all calls
// share, to the client of all that are under way, if that is one and the same.
func (c *upstreamConn) asked(ctx context.Context, in incoming) error {
	t := c.asker(in.of)
	if t == nil || !slices.Contains(questionMethods, in.method) || !c.may.allow(in.method, false) {
		return c.decline(ctx, in.envelope)
	}
	if c.open.Add(1) > maxQuestions {
		c.open.Add(-1)
		return c.decline(ctx, in.envelope)
	}
	c.questions.Go(func() {
		defer c.open.Add(-1)
		// The answer is waited for as long as the call and the connection last.
		ctx, cancel := context.WithTimeout(t.ctx, questionTimeout)
		defer cancel()
		defer context.AfterFunc(c.asking, cancel)()
		r := &jsonrpc.Response{ID: in.id}
		result, err := t.caller.question(ctx, in.method, in.params)
		if r.Result = result; err != nil {
			r.Result, r.Error = nil, wireError(err)
		}
		_ = c.Write(context.WithoutCancel(ctx), r) // a wire that has ended needs no answer
	})
	return nil
}

// question puts a legacy upstream's question.
func (c *caller) question(ctx context.Context, method string, params json.RawMessage) (json.RawMessage, error) {
	if c.modern || !c.answers(method) {
		return nil, refusedQuestion(errNotAskable)
	}
	q, err := newQuestion(c, method, params)
	if err != nil {
		return nil, err
	}
	return put(ctx, q)
}

// wireError is an error as a peer is told it.
func wireError(err error) error {
	var e *jsonrpc.Error
	if errors.As(err, &e) {
		return e
	}
	return &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: err.Error()}
}

// asker returns the call that a question or a log message belongs to, or nil if that cannot be told.
func (c *upstreamConn) asker(of *outgoing) *tap {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found *tap
	for _, t := range c.taps {
		switch {
		case of != nil && t.line.Load() == of:
			if t.caller == nil {
				return nil
			}
			return t
		case of != nil:
		case t.caller == nil, found != nil && found.caller.ss != t.caller.ss:
			return nil
		default:
			found = t
		}
	}
	return found
}
