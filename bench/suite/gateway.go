package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/bench/passthrough"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/internal/gateway"
	"github.com/agenthypervisor/hypervisor/session"
)

// gateway.go: a call by MCP, from the agent's client to a tool server that is a child process, and back.

// ServeTools is the tool server: two tools that answer their arguments, one of them read-only. It serves stdin and stdout
// until stdin ends.
func ServeTools(ctx context.Context) error {
	s := mcp.NewServer(&mcp.Implementation{Name: "bench-tools", Version: "1"}, nil)
	for name, readOnly := range map[string]bool{"read": true, "write": false} {
		s.AddTool(&mcp.Tool{Name: name, Description: "answers its arguments", Annotations: &mcp.ToolAnnotations{ReadOnlyHint: readOnly},
			InputSchema: json.RawMessage(`{"type":"object","properties":{"path":{"type":"string"},"text":{"type":"string"}},"required":["path"]}`)},
			func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: string(r.Params.Arguments)}}}, nil
			})
	}
	return s.Run(ctx, &mcp.StdioTransport{})
}

// gatewayCalls makes four things in turns: a call through the bare pass-through, a governed read, a governed change, and a
// durable append to the bare table. Client, proxy and gateway are in this process, the tool servers are its children.
func gatewayCalls(ctx context.Context, r *run) (rows []Row, err error) {
	n, err := r.openNode(ctx)
	if err != nil {
		return nil, err
	}
	bare, endBare, err := connect(ctx, func(ctx context.Context, in io.ReadCloser, out io.WriteCloser) error {
		c := exec.CommandContext(ctx, r.server.Path, r.server.Args...)
		c.Env = r.server.Env
		return passthrough.Run(ctx, c, in, out)
	})
	if err != nil {
		return nil, err
	}
	governed, endGoverned, err := r.governed(ctx, n)
	if err != nil {
		return nil, errors.Join(err, endBare())
	}
	samples, err := r.sampleCalls(ctx, n, bare, governed)
	if err := errors.Join(err, endGoverned(), endBare(), n.close(ctx)); err != nil {
		return nil, err
	}
	return gatewayRows(samples), nil
}

// governed puts a front before a tool server in an eventual session.
func (r *run) governed(ctx context.Context, n *node) (*mcp.ClientSession, func() error, error) {
	s, err := openSession(ctx, n.hv, session.Eventual)
	if err != nil {
		return nil, nil, err
	}
	partial := action.Partial
	front := gateway.NewFront(n.hv, s, ann.Through("stdio"), gateway.NewUpstream("up", r.server, nil), &gateway.FrontOptions{
		TrustAnnotations: true,
		Claims: func(tool string) []action.Claim {
			if tool == "write" {
				return []action.Claim{{Reversibility: &partial}}
			}
			return nil
		}})
	return connect(ctx, func(ctx context.Context, in io.ReadCloser, out io.WriteCloser) error { return front.Run(ctx, in, out) })
}

// connect runs a server on pipes and connects a client to it. end disconnects and waits for the server.
func connect(ctx context.Context, serve func(ctx context.Context, in io.ReadCloser, out io.WriteCloser) error) (cs *mcp.ClientSession, end func() error, err error) {
	in, clientOut, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	clientIn, out, err := os.Pipe()
	if err != nil {
		return nil, nil, errors.Join(err, in.Close(), clientOut.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() {
		served <- serve(ctx, in, out)
		cancel() // a client that still connects would wait for ever
	}()
	cs, err = mcp.NewClient(&mcp.Implementation{Name: "bench", Version: "1"}, nil).Connect(ctx, &mcp.IOTransport{Reader: clientIn, Writer: clientOut}, nil)
	if err != nil {
		cancel()
		return nil, nil, errors.Join(err, <-served)
	}
	return cs, func() error {
		err := cs.Close()
		if bad := <-served; !errors.Is(bad, context.Canceled) {
			err = errors.Join(err, bad)
		}
		return err
	}, nil
}

// callSamples are how long each of the four took.
type callSamples struct{ bare, read, write, append []time.Duration }

func (r *run) sampleCalls(ctx context.Context, n *node, bare, governed *mcp.ClientSession) (s callSamples, err error) {
	record := []eventlog.Append{{Stream: "session/bench", Body: make([]byte, 900), Payload: make([]byte, 150)}}
	call := func(cs *mcp.ClientSession, tool string) func() error {
		return func() error {
			res, err := cs.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: json.RawMessage(writeArgs)})
			if err == nil && res.IsError {
				err = fmt.Errorf("calling %s: %s", tool, res.Content[0].(*mcp.TextContent).Text)
			}
			return err
		}
	}
	const warmUp = 20
	for i := range warmUp + r.Calls {
		if i%100 == 0 {
			r.say(fmt.Sprintf("call %d of %d", i, r.Calls))
		}
		for _, step := range []struct {
			into *[]time.Duration
			do   func() error
		}{
			{&s.bare, call(bare, "read")}, {&s.read, call(governed, "read")}, {&s.write, call(governed, "write")},
			{&s.append, func() error { return n.table.Commit(ctx, record) }},
		} {
			began := time.Now()
			if err := step.do(); err != nil {
				return s, err
			}
			if i >= warmUp {
				*step.into = append(*step.into, time.Since(began))
			}
		}
	}
	return s, nil
}

func gatewayRows(s callSamples) []Row {
	at := func(samples []time.Duration, p int) float64 { return micros(percentile(samples, p)) }
	change := func(p int) float64 { return at(s.bare, p) + 2*at(s.append, p) }
	const passing, changing = "bare pass-through on the same SDK", "bare pass-through and two durable appends"
	return []Row{
		Row{Work: "gateway, read-only in eventual, p50", Value: at(s.read, 50), Unit: "µs", Reach: "≤ 1.2 × bare", Beside: passing, Baseline: at(s.bare, 50)}.atMost(1.2 * at(s.bare, 50)),
		Row{Work: "gateway, read-only in eventual, p99", Value: at(s.read, 99), Unit: "µs", Reach: "≤ 2 × bare", Beside: passing, Baseline: at(s.bare, 99)}.atMost(2 * at(s.bare, 99)),
		Row{Work: "gateway, changing, p50", Value: at(s.write, 50), Unit: "µs", Reach: "≤ bare + 2 appends + 15 %", Beside: changing, Baseline: change(50)}.atMost(1.15 * change(50)),
		Row{Work: "gateway, changing, p99", Value: at(s.write, 99), Unit: "µs", Reach: "≤ 2 × that", Beside: changing, Baseline: change(99)}.atMost(2 * change(99)),
	}
}
