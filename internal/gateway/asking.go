package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/action"
)

// asking.go: what an upstream asks or tells, during a call, of the agent whose call it is. It may ask for its user's input in a
// form, and write to its log. It may not ask for its model, its files, or to be sent somewhere.

const (
	askMethod       = "elicitation/create"
	maxRounds       = 8  // of questions in one call
	maxQuestions    = 16 // in one round, or open at once on one connection
	questionTimeout = 10 * time.Minute
	logLevel        = "info" // that upstreams are asked for; an agent's own level filters again

	metaLogLevel     = "io.modelcontextprotocol/logLevel"
	metaCapabilities = "io.modelcontextprotocol/clientCapabilities"
)

var errNotAskable = errors.New("the client that made this call cannot be asked for input")

// A caller is the client whose call is under way.
type caller struct {
	ss     *mcp.ServerSession
	modern bool // it is asked by an answer that wants input, and calls again with that

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

// takesForms reports whether the client can ask its user.
func (c *caller) takesForms() bool {
	if c == nil {
		return false
	}
	p := c.ss.InitializeParams()
	if p == nil || p.Capabilities == nil || p.Capabilities.Elicitation == nil {
		return false
	}
	e := p.Capabilities.Elicitation
	return e.Form != nil || e.URL == nil
}

// ask puts a question to the client of a legacy call and returns the answer.
func (c *caller) ask(ctx context.Context, params json.RawMessage) (json.RawMessage, error) {
	params, _ = neutralise(params)
	var p mcp.ElicitParams
	if err := json.Unmarshal(params, &p); err != nil {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "invalid params: " + err.Error()}
	}
	if c == nil || c.modern || !c.takesForms() || p.Mode == "url" || p.URL != "" {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: errNotAskable.Error()}
	}
	p.Meta = nil
	r, err := c.ss.Elicit(ctx, &p)
	if err != nil {
		return nil, err
	}
	r.Meta = nil
	return encode(r)
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
func (c *caller) prepare(f Features) round {
	can := map[string]any{}
	if c.takesForms() {
		can["elicitation"] = map[string]any{"form": map[string]any{}}
	}
	r := round{meta: mcp.Meta{metaCapabilities: can}}
	if c == nil {
		return r
	}
	if f.Logging {
		r.meta[metaLogLevel] = logLevel
	}
	r.responses, r.state = c.responses, c.state
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
	Type     string `json:"resultType"`
	Requests map[string]struct {
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
	} `json:"inputRequests"`
	State string `json:"requestState"`
}

// input returns what a result wants, if it wants something that may be asked.
func (l *link) input(result json.RawMessage, tool string) (*inputRequired, error) {
	var r inputRequired
	if err := jsonv2.Unmarshal(result, &r); err != nil {
		return nil, fmt.Errorf("%w: server %s answered %s with what it wants, not readably: %w", action.ErrUnknownOutcome, l.upstream.name, tool, err)
	}
	for _, q := range r.Requests {
		if q.Method != askMethod {
			return nil, fmt.Errorf("server %s wants %s before it does %s; the hypervisor does not pass that on", l.upstream.name, clip(q.Method), tool)
		}
	}
	if len(r.Requests) > maxQuestions {
		return nil, fmt.Errorf("server %s asks more than %d questions at once", l.upstream.name, maxQuestions)
	}
	return &r, nil
}

// errInput is returned beside a result that wants input.
var errInput = errors.New("the call wants input before it is done")

// asking does a request and gets it what it asks for: a modern agent is given the questions as the request's result, a legacy one
// is asked while its request waits.
func (l *link) asking(ctx context.Context, tool string, c *caller, do func(round) (json.RawMessage, error)) (json.RawMessage, error) {
	var say round
	if r := l.session.InitializeResult(); r != nil && r.ProtocolVersion >= modernProtocol {
		say = c.prepare(l.features())
	}
	for range maxRounds {
		result, err := do(say)
		if !errors.Is(err, errInput) {
			return result, err
		}
		r, err := l.input(result, tool)
		switch {
		case err != nil:
			return nil, err
		case !c.takesForms():
			return nil, fmt.Errorf("server %s asks for input before it does %s: %w", l.upstream.name, tool, errNotAskable)
		case c.modern:
			return result, nil
		}
		responses := map[string]json.RawMessage{}
		for id, q := range r.Requests {
			if responses[id], err = c.ask(ctx, q.Params); err != nil {
				return nil, fmt.Errorf("server %s asks for input before it does %s: %w", l.upstream.name, tool, err)
			}
		}
		text, err := encode(responses)
		if err == nil {
			say.responses = nil
			err = json.Unmarshal(text, &say.responses)
		}
		if err != nil {
			return nil, fmt.Errorf("encoding input: %w", err)
		}
		say.state = r.State
	}
	return nil, fmt.Errorf("server %s asks for input more than %d times in one call", l.upstream.name, maxRounds)
}

// asked takes in a request of the upstream's. A question goes to the client whose call it came on; on a stream that all calls
// share, to the client of all that are under way, if that is one and the same.
func (c *upstreamConn) asked(ctx context.Context, in incoming) error {
	t := c.asker(in.of)
	if in.method != askMethod || t == nil || c.open.Add(1) > maxQuestions {
		if in.method == askMethod && t != nil {
			c.open.Add(-1)
		}
		return c.decline(ctx, in.envelope)
	}
	c.questions.Go(func() {
		defer c.open.Add(-1)
		// The answer is waited for as long as the call and the connection last.
		ctx, cancel := context.WithTimeout(t.ctx, questionTimeout)
		defer cancel()
		defer context.AfterFunc(c.asking, cancel)()
		r := &jsonrpc.Response{ID: in.id}
		result, err := t.caller.ask(ctx, in.params)
		if r.Result = result; err != nil {
			r.Result, r.Error = nil, wireError(err)
		}
		_ = c.Write(context.WithoutCancel(ctx), r) // a wire that has ended needs no answer
	})
	return nil
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
