package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// errGarbage is why a connection to an upstream is given up: what it wrote is not MCP. Its answers can no longer be told apart.
var errGarbage = errors.New("the server wrote what is not MCP")

// An upstreamConn is the strict wire to an upstream: a faulty line breaks it. The SDK above it sees answers only: requests of
// the upstream are answered and notifications taken in here, in the order of the wire, so none can pile up unhandled.
// It is its own mcp.Transport, for one Connect.
type upstreamConn struct {
	wire
	changed chan struct{}       // one slot: the upstream says its tools have changed
	said    atomic.Bool         // it was the upstream, since they were listed last
	lists   func(method string) // told of notifications that another list has changed; nil: nobody is
	updated func(uri string)    // and that a resource has; "": any may have

	may        Questions      // that the upstream may ask
	questions  sync.WaitGroup // put to agents
	open       atomic.Int32   // of them
	asking     context.Context
	stopAsking context.CancelFunc

	mu      sync.Mutex
	taps    map[jsonrpc.ID]*tap
	pending map[jsonrpc.ID]bool // requests that had a tap: neither answered nor cancelled
}

func newUpstreamConn(w wire) *upstreamConn {
	c := &upstreamConn{wire: w, changed: make(chan struct{}, 1), taps: map[jsonrpc.ID]*tap{}, pending: map[jsonrpc.ID]bool{}}
	c.asking, c.stopAsking = context.WithCancel(context.Background())
	return c
}

// A wire carries whole messages to an upstream and back. Its methods are safe for concurrent use but for next, which has one
// caller.
type wire interface {
	// next returns the next message. Its error has ended the wire, or is ctx's.
	next(ctx context.Context) (incoming, error)
	// send hands over a message. It returns when that is on its way or can no longer be; o.state says how far it came.
	send(ctx context.Context, o *outgoing) error
	// end ends the wire for the first reason given. It does not wait.
	end(why error)
	// reason returns why the wire ended, or nil while it has not.
	reason() error
	// ended is closed when the wire has ended.
	ended() <-chan struct{}
	// wait returns once no goroutine of a wire that has ended is left.
	wait()
}

// An incoming message, strictly checked.
type incoming struct {
	envelope
	ours bool      // it is no message of the server's
	of   *outgoing // the request on whose own answer it came; nil: on a stream that all requests share
	err  error     // why of gets no answer; there is no message then

	pause time.Duration // the server has ended of's stream and wants to be asked again so much later; there is no message then
}

// A lineWire is a wire of lines, one message each. A line that is no message breaks it.
type lineWire struct{ *stream }

func (w lineWire) next(ctx context.Context) (incoming, error) {
	line, err := w.stream.next(ctx)
	if errors.Is(err, errLineTooLong) {
		return incoming{}, fmt.Errorf("%w: %w", errGarbage, err)
	}
	if err != nil {
		return incoming{}, err
	}
	e, f := parse(line)
	if f != nil {
		return incoming{}, fmt.Errorf("%w: %w: %q", errGarbage, f, clip(string(line)))
	}
	return incoming{envelope: e}, nil
}

func (w lineWire) ended() <-chan struct{} { return w.done }
func (w lineWire) wait()                  { w.pumps.Wait() }

// A tap takes one request's answer off the wire as it stands: the SDK's own types drop members they do not know and read
// numbers as floats. It travels in the context of the call down to Write.
type tap struct {
	progressToken int64                    // zero: no progress is wanted
	headers       map[string]string        // more for a request over HTTP
	progress      func(Progress)           // called in the order of the wire, before the call returns
	line          atomic.Pointer[outgoing] // the request; nil: not yet handed to the wire
	id            jsonrpc.ID               // guarded by the connection's mu
	caller        *caller                  // who may be asked and told something during the call; nil: nobody
	ctx           context.Context          // of the call; set with caller

	// Valid once untap has returned true.
	answered bool
	result   json.RawMessage
	err      *jsonrpc.Error
	broken   error // why this one request gets no answer though the wire goes on; nil: it does or the wire ends
}

// again returns a tap for one more request of the same call.
func (t *tap) again(ctx context.Context) *tap {
	return &tap{progressToken: t.progressToken, progress: t.progress, headers: t.headers, caller: t.caller, ctx: ctx}
}

type tapKey struct{}

func withTap(ctx context.Context, t *tap) context.Context { return context.WithValue(ctx, tapKey{}, t) }

// mayHaveArrived reports whether the upstream may have got the request whole.
func (t *tap) mayHaveArrived() bool {
	o := t.line.Load()
	if o == nil {
		return false
	}
	s := o.state.Load()
	return s == writing || s == sent
}

// Progress is how far a call has come (MCP, notifications/progress).
type Progress struct {
	Done    float64 `json:"progress"`
	Total   float64 `json:"total"` // zero: not known
	Message string  `json:"message"`
}

// Connect returns the connection itself.
func (c *upstreamConn) Connect(context.Context) (mcp.Connection, error) { return c, nil }

// SessionID returns "".
func (c *upstreamConn) SessionID() string { return "" }

// Close ends the connection.
func (c *upstreamConn) Close() error {
	c.end(errClosed)
	return nil
}

// Read returns the next answer. An error has ended the connection.
func (c *upstreamConn) Read(ctx context.Context) (jsonrpc.Message, error) {
	for {
		msg, err := c.read(ctx)
		if err != nil {
			c.end(err)
			return nil, err
		}
		if msg != nil {
			return msg, nil
		}
	}
}

// read takes in one message. A nil message is one that was dealt with.
func (c *upstreamConn) read(ctx context.Context) (jsonrpc.Message, error) {
	in, err := c.next(ctx)
	switch {
	case err != nil:
		return nil, err
	case in.err != nil:
		return c.unanswered(in.of, in.err), nil
	case in.pause > 0:
		if t := c.asker(in.of); t != nil {
			t.caller.pause(in.pause)
		}
		return nil, nil
	case in.method == "" && !in.id.IsValid() && in.of == nil:
		return nil, nil // an error about no request we know of
	case in.method == "":
		return c.answer(in), nil
	case in.call:
		return nil, c.asked(ctx, in)
	}
	return nil, c.notice(in)
}

// errTapped is what the SDK gets in the place of an answer that its tap has: an error is what costs it least.
var errTapped = &jsonrpc.Error{Message: "the answer was taken off the wire"}

// answer hands the answer to its tap, if it has one, and then tells the SDK only that there was one.
func (c *upstreamConn) answer(e incoming) *jsonrpc.Response {
	if e.of != nil {
		e.id = e.of.id // an error may come without it
	}
	r := &jsonrpc.Response{ID: e.id, Result: e.result}
	if e.envelope.err != nil {
		r.Error = e.envelope.err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, e.id)
	if t := c.taps[e.id]; t != nil {
		delete(c.taps, e.id)
		t.answered, t.result, t.err = true, e.result, e.envelope.err
		r.Result, r.Error = nil, errTapped
	}
	return r
}

// unanswered tells a request's tap, and the SDK, that there will be no answer.
func (c *upstreamConn) unanswered(o *outgoing, why error) jsonrpc.Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, o.id)
	if t := c.taps[o.id]; t != nil {
		delete(c.taps, o.id)
		t.broken = why
	}
	return &jsonrpc.Response{ID: o.id, Error: why}
}

// decline answers a request of the upstream's that goes no further.
func (c *upstreamConn) decline(ctx context.Context, e envelope) error {
	r := &jsonrpc.Response{ID: e.id, Result: json.RawMessage(`{}`)}
	if e.method != "ping" {
		r.Result = nil
		r.Error = &jsonrpc.Error{Code: jsonrpc.CodeMethodNotFound, Message: fmt.Sprintf("the hypervisor does not serve %q to a tool server", clip(e.method))}
	}
	return c.Write(ctx, r)
}

// notice takes in a notification. Most kinds change nothing.
func (c *upstreamConn) notice(e incoming) error {
	switch e.method {
	case toolsChanged:
		c.said.CompareAndSwap(false, !e.ours)
		select {
		case c.changed <- struct{}{}:
		default: // it will be asked once for both
		}
	case promptsChanged, resourcesChanged:
		if c.lists != nil {
			c.lists(e.method)
		}
	case resourceUpdated:
		var p struct {
			URI string `json:"uri"`
		}
		if err := jsonv2.Unmarshal(e.params, &p); !e.ours && err != nil {
			return fmt.Errorf("%w: an updated resource: %w", errGarbage, err)
		}
		if c.updated != nil && (e.ours || p.URI != "") {
			c.updated(p.URI)
		}
	case "notifications/message":
		if t := c.asker(e.of); t != nil {
			t.caller.log(t.ctx, e.params)
		}
	case "notifications/progress":
		var p struct {
			Progress
			Token any `json:"progressToken"`
		}
		if err := jsonv2.Unmarshal(e.params, &p); err != nil {
			return fmt.Errorf("%w: progress: %w", errGarbage, err)
		}
		if token, ok := p.Token.(float64); ok {
			if t := c.tapOf(int64(token)); t != nil && (e.of == nil || t.line.Load() == e.of) {
				t.progress(p.Progress)
			}
		}
	}
	return nil
}

func (c *upstreamConn) tapOf(token int64) *tap {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.taps {
		if t.progressToken == token && t.progress != nil {
			return t
		}
	}
	return nil
}

// untap takes the tap off the wire and reports whether an answer came through it before.
func (c *upstreamConn) untap(t *tap) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.taps, t.id)
	return t.answered
}

// callCancelled is the notification that a request's answer is not waited for any more (MCP, "Cancellation").
const callCancelled = "notifications/cancelled"

// callOff tells the upstream that each request it has not answered is cancelled (MCP, notifications/cancelled). The SDK does when
// its caller gives up, but not before that goes on. One that it tells of at the same time is told of twice.
func (c *upstreamConn) callOff(ctx context.Context, why string) error {
	c.mu.Lock()
	open := slices.Collect(maps.Keys(c.pending))
	c.mu.Unlock()
	for _, id := range open {
		params, err := json.Marshal(map[string]any{"requestId": id.Raw(), "reason": why})
		if err != nil {
			return fmt.Errorf("encoding message: %w", err)
		}
		if err := c.Write(ctx, &jsonrpc.Request{Method: callCancelled, Params: params}); err != nil {
			return err
		}
	}
	return nil
}

// Write sends a message; a request made with a tap is entered under it first.
func (c *upstreamConn) Write(ctx context.Context, msg jsonrpc.Message) error {
	text, err := jsonrpc.EncodeMessage(msg)
	if err != nil {
		return fmt.Errorf("encoding message: %w", err)
	}
	o := &outgoing{text: text, msg: msg}
	if r, ok := msg.(*jsonrpc.Request); ok && r.IsCall() {
		o.id = r.ID
		if t, ok := ctx.Value(tapKey{}).(*tap); ok {
			c.mu.Lock()
			t.id = r.ID
			c.taps[r.ID], c.pending[r.ID] = t, true
			c.mu.Unlock()
			t.line.Store(o)
		}
	}
	err = c.send(ctx, o)
	if r, ok := msg.(*jsonrpc.Request); ok && r.Method == callCancelled && err == nil {
		c.settle(r.Params)
	}
	return err
}

// settle takes note that the upstream was told of a request's cancellation.
func (c *upstreamConn) settle(params json.RawMessage) {
	var p struct {
		ID any `json:"requestId"`
	}
	if json.Unmarshal(params, &p) != nil {
		return // not of the SDK's making, nor of callOff's: then it is told again
	}
	if id, err := jsonrpc.MakeID(p.ID); err == nil {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
	}
}
