package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/bench/store"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
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

// agentsAtOnce is how many agents call at the same time in the rows that are not of one.
const agentsAtOnce = 32

// A hand is one agent at one end of a connection: it calls a tool as the bare proxy or the gateway names it.
type hand struct {
	*mcp.ClientSession
	prefix string
}

func (h hand) call(ctx context.Context, tool string) error {
	res, err := h.CallTool(ctx, &mcp.CallToolParams{Name: h.prefix + tool, Arguments: json.RawMessage(writeArgs)})
	if err == nil && res.IsError {
		err = fmt.Errorf("calling %s: %s", tool, res.Content[0].(*mcp.TextContent).Text)
	}
	return err
}

// A way is how agents come to their tools: bare, and governed.
type way struct {
	bare, governed []hand
	ends           []func() error // the last first
}

func (w *way) end() (err error) {
	for _, end := range slices.Backward(w.ends) {
		err = errors.Join(err, end())
	}
	return err
}

func gatewayStdio(ctx context.Context, r *run) ([]Row, error) {
	return r.gatewayRows(ctx, "stdio", r.stdioWay)
}

func gatewayHTTP(ctx context.Context, r *run) ([]Row, error) {
	return r.gatewayRows(ctx, "HTTP", r.httpWay)
}

// gatewayRows measures one agent, and then many at once. Clients, proxy and gateway are in this process, the tool servers are its
// children.
func (r *run) gatewayRows(ctx context.Context, over string, open func(context.Context, *node, *hypervisor.Session, int) (*way, error)) (rows []Row, err error) {
	n, err := r.openNode(ctx)
	if err != nil {
		return nil, err
	}
	for _, agents := range []int{1, min(agentsAtOnce, r.Calls/5)} {
		s, err := openCrowd(ctx, n.hv, agents)
		if err != nil {
			return nil, err
		}
		r.say(fmt.Sprintf("connecting %d agents over %s", agents, over))
		w, err := open(ctx, n, s, agents)
		if err != nil {
			return nil, err
		}
		samples, err := r.sampleCalls(ctx, n.table, w)
		if err := errors.Join(err, w.end()); err != nil {
			return nil, err
		}
		rows = append(rows, samples.rows(over, agents)...)
	}
	return rows, n.close(ctx)
}

// openCrowd opens an active, eventual session of so many agents.
func openCrowd(ctx context.Context, hv *hypervisor.Hypervisor, agents int) (*hypervisor.Session, error) {
	s, err := hv.CreateSession(ctx, admin, &session.Config{MaxDuration: session.MaxDuration, Consistency: session.Eventual, MaxParticipants: max(agents, 10)})
	if err != nil {
		return nil, err
	}
	for i := range agents {
		if _, err := s.Join(ctx, admin, session.Join{Agent: policy.DID(agentNo(i)), Sigma: high}); err != nil {
			return nil, err
		}
	}
	return s, s.Activate(ctx, admin)
}

// claims are what the operator says of the tool server's tools.
func claims(tool string) []action.Claim {
	partial := action.Partial
	if tool == "write" {
		return []action.Claim{{Reversibility: &partial}}
	}
	return nil
}

// callSamples are how long each took: a bare call, a governed read, a governed change, and a bare call with two appends to a
// table, one before and one after.
type callSamples struct{ bare, read, write, appended []time.Duration }

// sampleCalls has all agents do each of the four, in turns: all do the one at once, then all the next.
func (r *run) sampleCalls(ctx context.Context, table *store.Table, w *way) (s callSamples, err error) {
	const warmUp = 5
	group := newGroupCommit(table)
	defer group.end()
	rounds, each := r.Calls, 1
	if len(w.bare) > 1 {
		each = 4 // so that they are at once for a while
		rounds = max(1, 4*r.Calls/each/len(w.bare))
	}
	for round := range warmUp + rounds {
		if round%100 == 0 {
			r.say(fmt.Sprintf("round %d of %d", round, rounds))
		}
		for _, step := range []struct {
			into *[]time.Duration
			do   func(i int) error
		}{
			{&s.bare, func(i int) error { return w.bare[i].call(ctx, "read") }},
			{&s.read, func(i int) error { return w.governed[i].call(ctx, "read") }},
			{&s.write, func(i int) error { return w.governed[i].call(ctx, "write") }},
			{&s.appended, func(i int) error {
				return errors.Join(group.append(ctx), w.bare[i].call(ctx, "write"), group.append(ctx))
			}},
		} {
			took, err := allAtOnce(len(w.bare), each, step.do)
			if err != nil {
				return s, err
			}
			if round >= warmUp {
				*step.into = append(*step.into, took...)
			}
		}
	}
	return s, nil
}

// allAtOnce has n agents do something so many times each, at the same time, and returns how long each time took.
func allAtOnce(n, times int, do func(i int) error) ([]time.Duration, error) {
	var mu sync.Mutex
	var all []time.Duration
	next := 0
	return all, together(n, func() error {
		mu.Lock()
		i := next
		next++
		mu.Unlock()
		for range times {
			began := time.Now()
			if err := do(i); err != nil {
				return err
			}
			took := time.Since(began)
			mu.Lock()
			all = append(all, took)
			mu.Unlock()
		}
		return nil
	})
}

func (s callSamples) rows(over string, agents int) []Row {
	work := fmt.Sprintf("gateway over %s, %d %s", over, agents, map[bool]string{true: "agent", false: "agents at once"}[agents == 1])
	const passing, changing = "bare pass-through on the same SDK", "bare pass-through and two durable appends"
	row := func(what, reach, beside string, p int, ours, bare []time.Duration, most float64) Row {
		baseline := micros(percentile(bare, p))
		return Row{Work: fmt.Sprintf("%s, %s, p%d", work, what, p), Value: micros(percentile(ours, p)), Unit: "µs", Reach: reach, Beside: beside,
			Baseline: baseline}.atMost(most * baseline)
	}
	return []Row{
		row("read-only in eventual", "≤ 1.2 × bare", passing, 50, s.read, s.bare, 1.2),
		row("read-only in eventual", "≤ 2 × bare", passing, 99, s.read, s.bare, 2),
		row("changing", "≤ bare + 2 appends + 15 %", changing, 50, s.write, s.appended, 1.15),
		row("changing", "≤ 2 × that", changing, 99, s.write, s.appended, 2),
	}
}

// A groupCommit appends records of many callers to the bare table, all that wait at once.
type groupCommit struct {
	waiting chan chan error
	done    chan struct{}
}

func newGroupCommit(table *store.Table) *groupCommit {
	g := &groupCommit{make(chan chan error, agentsAtOnce), make(chan struct{})}
	go func() { // ends with waiting
		defer close(g.done)
		for first := range g.waiting {
			group := []chan error{first}
			for len(g.waiting) > 0 {
				group = append(group, <-g.waiting)
			}
			records := make([]eventlog.Append, len(group))
			for i := range records {
				records[i] = eventlog.Append{Stream: "session/bench", Body: make([]byte, 900), Payload: make([]byte, 150)}
			}
			err := table.Commit(context.Background(), records)
			for _, answer := range group {
				answer <- err
			}
		}
	}()
	return g
}

func (g *groupCommit) append(ctx context.Context) error {
	answer := make(chan error, 1)
	g.waiting <- answer
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *groupCommit) end() { close(g.waiting); <-g.done }
