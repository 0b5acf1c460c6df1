//go:build unix

package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
)

// kill_test.go: SPEC §7 "Kill switch", with real servers.

// workVar says where a working server tells what it does.
const workVar = "GATEWAY_TEST_WORK"

// workingServer has a tool that works until it is cancelled. It tells over a connection of its own when it begins, that it was
// cancelled, and by the connection's end that the process is gone. It never answers: an answer would race with the end of the
// process. That comes with the end of its input, once it has told of all that was cancelled.
func workingServer() {
	var told sync.WaitGroup
	s := mcp.NewServer(&mcp.Implementation{Name: "worker", Version: "1"}, nil)
	schema := json.RawMessage(`{"type":"object"}`)
	s.AddTool(&mcp.Tool{Name: "work", InputSchema: schema, Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}}, func(ctx context.Context, _ *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		c, err := net.Dial("tcp", os.Getenv(workVar))
		if err != nil {
			return nil, err
		}
		told.Add(1)
		fmt.Fprintln(c, "begun")
		<-ctx.Done()
		fmt.Fprintln(c, "cancelled")
		told.Done()
		select {}
	})
	s.AddTool(&mcp.Tool{Name: "pid", InputSchema: schema, Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: fmt.Sprint(os.Getpid())}}}, nil
	})
	_ = s.Run(context.Background(), &mcp.IOTransport{Writer: os.Stdout, Reader: endingReader{os.Stdin, func() {
		told.Wait()
		os.Exit(0)
	}}})
}

// An endingReader says when there is no more to read.
type endingReader struct {
	io.ReadCloser
	end func()
}

func (r endingReader) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	if err != nil {
		r.end()
	}
	return n, err
}

// A site is where the working servers tell what they do.
type site struct{ net.Listener }

func newSite(t *testing.T) site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return site{l}
}

func (s site) command() Command { return child("worker", workVar+"="+s.Addr().String()) }

// begun waits for a call to begin, and returns what is told of it from then on.
func (s site) begun(t *testing.T) *bufio.Scanner {
	t.Helper()
	c, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	lines := bufio.NewScanner(c)
	if !lines.Scan() || lines.Text() != "begun" {
		t.Fatalf("%q, %v", lines.Text(), lines.Err())
	}
	return lines
}

// all returns what is left to be told until the process is gone.
func all(lines *bufio.Scanner) (out []string) {
	for lines.Scan() {
		out = append(out, lines.Text())
	}
	return out
}

func killAgent(t *testing.T, hv *hypervisor.Hypervisor, scope policy.Scope) hypervisor.KillReport {
	t.Helper()
	report, err := hv.Kill(t.Context(), policy.Operator("did:mesh:admin"), policy.Kill{Scope: scope, Reason: policy.Manual})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func liftKill(t *testing.T, hv *hypervisor.Hypervisor, scope policy.Scope) {
	t.Helper()
	if d, err := hv.LiftKill(t.Context(), policy.Operator("did:mesh:admin"), scope); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
}

// SPEC §7: "cancels running ones": the server is told, its process ends, and nothing starts it while the kill is in force.
func TestAKilledAgentsCallIsCancelledAtItsServerWhoseProcessEnds(t *testing.T) {
	for _, scope := range []policy.Scope{{Agent: agentDID}, {All: true}} {
		t.Run(scope.String(), func(t *testing.T) {
			hv, s := newSession(t, "0.80")
			w := newSite(t)
			in, out, agentOut, agentIn := pipes(t)
			up := NewUpstream("up", w.command(), nil)
			f := NewFront(hv, s, policy.Agent(agentDID).Through("stdio"), up, &FrontOptions{TrustAnnotations: true})
			done := make(chan error)
			go func() { done <- f.Run(t.Context(), in, out) }()
			cs, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil).Connect(t.Context(), &mcp.IOTransport{Reader: agentIn, Writer: agentOut}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cs.Close(); <-done }()
			pid, _ := call(t, cs, "pid", `{}`)
			answered := make(chan *mcp.CallToolResult)
			go func() {
				r, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "work"})
				if err != nil {
					t.Error(err)
				}
				answered <- r
			}()
			lines := w.begun(t)
			report := killAgent(t, hv, scope)
			if len(report.Cancelled) != 1 || report.Cancelled[0].Action != "up.work" || report.Cancelled[0].Outcome != "unknown" || len(report.StillRunning) > 0 {
				t.Errorf("%+v", report)
			}
			if r := <-answered; r == nil || !r.IsError {
				t.Errorf("the agent is answered %+v", r)
			}
			if told := all(lines); !slices.Equal(told, []string{"cancelled"}) {
				t.Errorf("the server was told %q before its end", told)
			}
			for _, tool := range []string{"work", "pid"} {
				want := map[bool]policy.Code{true: policy.KilledAll, false: policy.AgentKilled}[scope.All]
				if text, code := call(t, cs, tool, `{}`); code != string(want) {
					t.Errorf("%s: %s %s", tool, code, text)
				}
			}
			eventually(t, "its server is known to be down", func() bool { return up.Ready(t.Context()) != nil })
			liftKill(t, hv, scope)
			eventually(t, "the server runs again", func() bool { return up.Ready(t.Context()) == nil })
			if again, code := call(t, cs, "pid", `{}`); code != "" || again == pid {
				t.Errorf("%s %s, after %s", code, again, pid)
			}
		})
	}
}

// Of several agents only the killed one's process ends; the shared server stays, but for a kill of everything.
func TestAKillEndsTheProcessesOfTheKilledOnly(t *testing.T) {
	w := newSite(t)
	command := w.command()
	h := newHall(t, ServerSpec{Name: "own", Command: &command, TrustAnnotations: true}, ServerSpec{Name: "all", Command: &command, TrustAnnotations: true, Shared: true})
	const other = policy.DID("did:mesh:other")
	h.join(t, other)
	one, two := h.connect(t, agentDID, "", nil), h.connect(t, other, "", nil)
	pids := func(cs *mcp.ClientSession) string {
		own, _ := call(t, cs, "own__pid", `{}`)
		shared, _ := call(t, cs, "all__pid", `{}`)
		return own + " " + shared
	}
	first, second := pids(one), pids(two)
	working := make(chan struct{})
	go func() {
		defer close(working)
		_, _ = one.CallTool(t.Context(), &mcp.CallToolParams{Name: "own__work"})
	}()
	lines := w.begun(t)
	scope := policy.Scope{Agent: agentDID, Session: h.s.ID()}
	if report := killAgent(t, h.hv, scope); len(report.Cancelled) != 1 {
		t.Errorf("%+v", report)
	}
	if told := all(lines); !slices.Equal(told, []string{"cancelled"}) {
		t.Errorf("the server was told %q before its end", told)
	}
	<-working
	if _, code := call(t, one, "own__pid", `{}`); code != string(policy.AgentKilled) {
		t.Error(code)
	}
	if got := pids(two); got != second {
		t.Errorf("another agent's servers: %s, before %s", got, second)
	}
	liftKill(t, h.hv, scope)
	var got string
	eventually(t, "the killed agent's server runs again", func() bool {
		got = pids(one)
		return len(strings.Fields(got)) == 2
	})
	if own, shared, _ := strings.Cut(got, " "); strings.HasPrefix(first, own+" ") || !strings.HasSuffix(first, " "+shared) {
		t.Errorf("%s, before %s", got, first)
	}
	killAgent(t, h.hv, policy.Scope{All: true})
	eventually(t, "every process has ended", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		for b := range h.running {
			if b.up.Ready(t.Context()) == nil {
				return false
			}
		}
		return true
	})
	if _, code := call(t, two, "all__pid", `{}`); code != string(policy.KilledAll) {
		t.Error(code)
	}
}

// That a killed agent's process does not start says nothing of the server to others.
func TestAKilledAgentsFirstListingHidesNoServerFromOthers(t *testing.T) {
	command := newSite(t).command()
	h := newHall(t, ServerSpec{Name: "own", Command: &command, TrustAnnotations: true})
	const other = policy.DID("did:mesh:other")
	h.join(t, other)
	killAgent(t, h.hv, policy.Scope{Agent: agentDID, Session: h.s.ID()})
	if got := names(t, h.connect(t, agentDID, "", nil)); slices.Contains(got, "own__pid") {
		t.Errorf("the killed agent is shown %v", got)
	}
	if got := names(t, h.connect(t, other, "", nil)); !slices.Contains(got, "own__pid") {
		t.Errorf("another is shown %v", got)
	}
}
