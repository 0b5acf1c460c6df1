package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/session"
)

// questions.go: what a server may ask of the client whose call it does. Each question is an action of that agent's, like a call:
// server.sampling/createMessage and so on, decided by the same rules and recorded with what was asked and answered.

// The methods by which a server asks.
const (
	askInput = "elicitation/create"     // the client's user, by a form
	askModel = "sampling/createMessage" // the client's model
	askRoots = "roots/list"             // what files the client works on
)

var questionMethods = []string{askInput, askModel, askRoots}

// Bounds of questions; a call has at most session.MaxAsked of them.
const (
	maxRounds        = 8       // of questions in one call
	maxQuestions     = 16      // in one round, or open at once on one connection
	maxQuestionBytes = 4 << 20 // as much as a client may send
)

// Questions say what a server may ask beside a form. The zero value is what a server may that nothing is said of: its client's
// model, and, within a call of 2026-07-28, its client's roots.
type Questions struct {
	NoModel bool // not the client's model
	NoRoots bool // not the client's roots
	// AllRoots: a server of an earlier revision may ask for roots, too. Such a server takes them for its whole connection, and
	// may let them stand in for the operator's own arguments.
	AllRoots bool
}

// allow reports whether a server may ask by a method.
func (q Questions) allow(method string, modern bool) bool {
	switch method {
	case askInput:
		return true
	case askModel:
		return !q.NoModel
	case askRoots:
		return !q.NoRoots && (modern || q.AllRoots)
	}
	return false
}

var (
	errNotAskable = errors.New("the client that made this call cannot be asked that")
	errTooMuch    = fmt.Errorf("a question is at most %d MiB", maxQuestionBytes>>20)
)

// answers reports whether the client said that it can be asked by a method.
func (c *caller) answers(method string) bool {
	if c == nil {
		return false
	}
	p := c.ss.InitializeParams()
	if p == nil || p.Capabilities == nil {
		return false
	}
	switch can := p.Capabilities; method {
	case askInput:
		return can.Elicitation != nil && (can.Elicitation.Form != nil || can.Elicitation.URL == nil)
	case askModel:
		return can.Sampling != nil
	case askRoots:
		return can.RootsV2 != nil || can.Roots.ListChanged
	}
	return false
}

// A question is what a server asks during a call.
type question struct {
	method string
	params json.RawMessage
	of     *caller
}

// newQuestion returns a question as it may be put to the client: without what is hidden in it, and without what would have the
// client add other servers' words, offer its model tools that nobody pinned, or send its user somewhere.
func newQuestion(c *caller, method string, params json.RawMessage) (question, error) {
	q := question{method: method, of: c, params: json.RawMessage(`{}`)}
	if len(params) > maxQuestionBytes {
		return q, refusedQuestion(errTooMuch)
	}
	parts, err := members(params)
	if len(params) > 0 && err != nil {
		return q, refusedQuestion(errors.New("params are not an object"))
	}
	value := func(name string) string {
		if at := slices.IndexFunc(parts, func(m member) bool { return m.name == name }); at >= 0 {
			return string(parts[at].value)
		}
		return ""
	}
	switch {
	case method == askModel && (value("tools") != "" || value("toolChoice") != ""):
		return q, refusedQuestion(errors.New("tools for the client's model are not passed on"))
	case method == askInput && (value("mode") == `"url"` || value("url") != ""):
		return q, refusedQuestion(errors.New("the client's user is not sent elsewhere"))
	}
	parts = slices.DeleteFunc(parts, func(m member) bool { return m.name == "_meta" || m.name == "includeContext" || m.name == "task" })
	if q.params, err = (&rawResult{parts: parts}).MarshalJSON(); err != nil {
		return q, err
	}
	q.params, _ = neutralise(q.params)
	return q, nil
}

// refusedQuestion is what a server is told whose question goes no further.
func refusedQuestion(why error) error {
	return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: why.Error()}
}

// A questioner puts questions to the clients of calls, and returns the answers.
type questioner func(context.Context, question) (json.RawMessage, error)

type (
	questionerKey struct{}
	questionKey   struct{}
)

func withQuestioner(ctx context.Context, put questioner) context.Context {
	return context.WithValue(ctx, questionerKey{}, put)
}

// put puts a question by the questioner of ctx's call.
func put(ctx context.Context, q question) (json.RawMessage, error) {
	by, _ := ctx.Value(questionerKey{}).(questioner)
	if by == nil {
		return nil, refusedQuestion(errNotAskable)
	}
	return by(ctx, q)
}

// questioner returns what puts a face's questions: as actions of the agent's, in the course of its call.
func (f *Front) questioner(c *face) questioner {
	return func(ctx context.Context, q question) (json.RawMessage, error) {
		out, err := f.session.Act(context.WithValue(ctx, questionKey{}, q), f.agent,
			session.Act{Action: c.Name() + "." + q.method, Args: q.params, During: hypervisor.ActionOf(ctx)})
		switch {
		case err != nil:
			return nil, fmt.Errorf("putting the question: %w", err)
		case !out.Allowed: // the reason is the agent's to know
			return nil, &jsonrpc.Error{Code: CodeRefused, Message: "the question was refused: " + string(out.Code)}
		case out.Err != nil:
			return nil, out.Err
		}
		return out.Result, nil
	}
}

// questionAction returns what answers a question that was admitted.
func questionAction(method string) action.Func {
	return func(ctx context.Context, params json.RawMessage) (json.RawMessage, error) {
		q, ok := ctx.Value(questionKey{}).(question)
		if !ok || q.method != method {
			return nil, fmt.Errorf("%w: %s is a server's to ask, during a call", action.ErrNotDispatched, method)
		}
		return q.of.ask(ctx, method, params)
	}
}

// withQuestions returns the read actions of a face and those of its questions.
func (f *Front) withQuestions(c *face) []hypervisor.Tool {
	out := f.readActions(c)
	for _, method := range questionMethods {
		if d, ok := f.readOnly(c, method); ok {
			out = append(out, hypervisor.Tool{Descriptor: d, Do: questionAction(method)})
		}
	}
	return out
}

// ask asks the client and returns its answer; a modern client finds the question in its call's result.
func (c *caller) ask(ctx context.Context, method string, params json.RawMessage) (json.RawMessage, error) {
	if c.modern {
		return json.RawMessage(`{}`), nil
	}
	var answer any
	var err error
	switch method {
	case askInput:
		answer, err = asked(ctx, params, &mcp.ElicitParams{}, c.ss.Elicit)
	case askModel:
		answer, err = asked(ctx, params, &mcp.CreateMessageWithToolsParams{}, c.ss.CreateMessageWithTools)
	case askRoots:
		answer, err = asked(ctx, params, &mcp.ListRootsParams{}, c.ss.ListRoots)
	}
	if err != nil {
		return nil, err
	}
	return encode(answer)
}

// asked makes one of the SDK's requests of a client.
func asked[P any, R mcp.Result](ctx context.Context, params json.RawMessage, p P, do func(context.Context, P) (R, error)) (R, error) {
	if err := json.Unmarshal(params, p); err != nil {
		var none R
		return none, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "invalid params: " + err.Error()}
	}
	r, err := do(ctx, p)
	if err == nil {
		r.SetMeta(nil)
	}
	return r, err
}
