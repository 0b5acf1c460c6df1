package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Bounds of one agent's connection.
const (
	maxInFlight  = 256              // requests read and not answered
	lastRequests = 30 * time.Second // how long requests may still run after the agent has ended its input (SPEC §1 "End")
)

const codeOverloaded = -32000 // JSON-RPC's range for servers; the text says what to do

// An agentConn is the strict wire to an agent: a faulty line is answered and the connection goes on.
// It is its own mcp.Transport, for one Connect.
type agentConn struct {
	*stream
	clock Clock

	mu       sync.Mutex
	inFlight map[jsonrpc.ID]bool // true: it ends by itself; false: a subscription, which lasts as long as the connection
	running  int                 // how many of inFlight end by themselves
	writing  int                 // answers on their way
	idle     chan struct{}       // closed and forgotten when nothing runs and no answer is on its way; nil: nobody waits
}

func newAgentConn(r io.Reader, w io.Writer, clock Clock) *agentConn {
	return &agentConn{stream: newStream(r, w, true), clock: clock, inFlight: map[jsonrpc.ID]bool{}}
}

// Connect returns the connection itself.
func (c *agentConn) Connect(context.Context) (mcp.Connection, error) { return c, nil }

// SessionID returns "": session and agent come from the door, not from the wire.
func (c *agentConn) SessionID() string { return "" }

// Close ends the connection.
func (c *agentConn) Close() error {
	c.end(errClosed)
	return nil
}

// Read returns the next message that is one. It answers every line that is not, and every request beyond maxInFlight.
func (c *agentConn) Read(ctx context.Context) (jsonrpc.Message, error) {
	for {
		line, err := c.next(ctx)
		if errors.Is(err, io.EOF) {
			c.finish(ctx)
		}
		var f *fault
		var msg jsonrpc.Message
		switch {
		case errors.Is(err, errLineTooLong):
			f = invalid("a message is at most %d bytes", maxLineBytes)
		case err != nil:
			c.end(err)
			return nil, err
		default:
			msg, f = c.accept(line)
		}
		if f == nil {
			return msg, nil
		}
		if err := c.send(ctx, &outgoing{text: f.line()}); err != nil {
			return nil, fmt.Errorf("answering a bad line: %w", err)
		}
	}
}

// accept turns a line into a message and enters a request as in flight.
func (c *agentConn) accept(line []byte) (jsonrpc.Message, *fault) {
	e, f := parseClients(line)
	switch {
	case f != nil:
		return nil, f
	case e.method == "" && e.err != nil:
		return &jsonrpc.Response{ID: e.id, Error: e.err}, nil
	case e.method == "":
		return &jsonrpc.Response{ID: e.id, Result: e.result}, nil
	case !e.call:
		return &jsonrpc.Request{Method: e.method, Params: e.params}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.inFlight[e.id]; taken {
		return nil, invalid("the id %v is of a request that is not answered yet", e.id.Raw()) // answered with a null id: it is not that request's answer
	}
	if len(c.inFlight)+c.writing >= maxInFlight {
		return nil, &fault{code: codeOverloaded, id: salvageID(line),
			text: fmt.Sprintf("%d requests are not answered yet; wait for answers and send this one again", maxInFlight)}
	}
	c.inFlight[e.id] = e.method != "subscriptions/listen"
	if c.inFlight[e.id] {
		c.running++
	}
	return &jsonrpc.Request{ID: e.id, Method: e.method, Params: e.params}, nil
}

// finish waits, after the agent has said its last, until what it asked for is answered: a script that pipes its requests in
// gets all its answers.
func (c *agentConn) finish(ctx context.Context) {
	c.mu.Lock()
	if c.running+c.writing == 0 {
		c.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	c.idle = idle
	c.mu.Unlock()
	select {
	case <-idle:
	case <-c.clock.After(lastRequests):
	case <-c.done:
	case <-ctx.Done():
	}
}

// Write sends a message; an answer ends its request.
func (c *agentConn) Write(ctx context.Context, msg jsonrpc.Message) error {
	text, err := jsonrpc.EncodeMessage(msg)
	if err != nil {
		return fmt.Errorf("encoding message: %w", err)
	}
	if r, ok := msg.(*jsonrpc.Response); ok {
		c.answering(r.ID)
		defer c.answered()
	}
	return c.send(ctx, &outgoing{text: text})
}

// answering frees the request's id: the agent may use it again as soon as it has the answer. The answer keeps the request's
// part of the bound until it is written.
func (c *agentConn) answering(id jsonrpc.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inFlight[id] {
		c.running--
	}
	delete(c.inFlight, id)
	c.writing++
}

func (c *agentConn) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing--
	if c.running+c.writing == 0 && c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}
