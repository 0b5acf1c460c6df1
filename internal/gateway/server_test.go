//go:build unix

package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// A plainSession allows every call of its upstream but what deny names. It stands for a session that decides.
type plainSession struct {
	up    *Upstream
	deny  map[string]policy.Decision
	tools func() []Tool
	began chan struct{} // a slot for each call that has begun; nil: nobody looks
}

func (s *plainSession) Tools(context.Context) ([]Tool, error) {
	switch {
	case s.tools != nil:
		return s.tools(), nil
	case s.up != nil:
		return s.up.Tools(), nil
	}
	return nil, nil
}

func (s *plainSession) Act(ctx context.Context, tool string, args json.RawMessage) (Reply, error) {
	if d, ok := s.deny[tool]; ok {
		return Reply{Decision: d}, nil
	}
	if s.began != nil {
		s.began <- struct{}{}
	}
	if s.up == nil {
		<-ctx.Done()
		return Reply{}, ctx.Err()
	}
	result, err := s.up.Call(ctx, named(s.up, tool), args, ProgressOf(ctx))
	return Reply{Decision: policy.Allow(), Result: result, Err: err}, nil
}

func (s *plainSession) Status(context.Context) (any, error) {
	return map[string]any{"ring": 2}, nil
}

func (s *plainSession) Undo(_ context.Context, req hypervisor.UndoRequest) (hypervisor.UndoReport, error) {
	return hypervisor.UndoReport{Steps: []hypervisor.UndoStep{{ID: req.Action, Kind: session.Reversible, State: hypervisor.StepUndone}}, Undone: 1}, nil
}

func (s *plainSession) Vouch(_ context.Context, c session.Vouch) (hypervisor.Bond, error) {
	return hypervisor.Bond{ID: "vch-1", Vouchee: c.Vouchee, Amount: c.Bond}, nil
}

func (s *plainSession) RunSaga(_ context.Context, c SagaCall) (hypervisor.SagaView, error) {
	return hypervisor.SagaView{ID: "sag-1", Name: c.Definition.Name, State: "completed"}, nil
}

// pipes returns both ends of a connection, the server's first.
func pipes(t testing.TB) (in *os.File, out *os.File, agentOut, agentIn *os.File) {
	t.Helper()
	in, agentOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	agentIn, out, err = os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return in, out, agentOut, agentIn
}

// serve runs a server on the pipes and returns what Run will say.
func serve(t *testing.T, s *Server, in io.Reader, out io.Writer) <-chan error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, in, out); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return done
}

// client connects an SDK client to a server in front of the session.
func client(t *testing.T, session Session, opt *mcp.ClientOptions, version string) (*mcp.ClientSession, *Server) {
	t.Helper()
	in, out, agentOut, agentIn := pipes(t)
	s := NewServer(session, &ServerOptions{Instructions: "use with care"})
	serve(t, s, in, out)
	cs, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, opt).
		Connect(t.Context(), &mcp.IOTransport{Reader: agentIn, Writer: agentOut}, &mcp.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cs.Close() })
	return cs, s
}

var revisions = []string{"2026-07-28", "2025-11-25", "2024-11-05"}

func TestAnAgentWorksThroughTheGatewayInEveryRevision(t *testing.T) {
	up := ready(t, child("sdk"))
	for _, version := range revisions {
		t.Run(version, func(t *testing.T) {
			steps := make(chan float64, 100)
			cs, _ := client(t, &plainSession{up: up.Upstream}, &mcp.ClientOptions{
				ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
					if r.Params.ProgressToken == "tok" {
						steps <- r.Params.Progress
					}
				}}, version)
			if r := cs.InitializeResult(); r.Instructions != "use with care" || r.ServerInfo.Name != "agent-hypervisor" {
				t.Errorf("%+v", r)
			}
			list, err := cs.ListTools(t.Context(), nil)
			if err != nil || len(list.Tools) < 7 || list.Tools[len(list.Tools)-2].Name != statusTool || list.Tools[len(list.Tools)-1].Name != undoTool {
				t.Fatalf("%v, %v", list, err)
			}
			got, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "echo", Arguments: json.RawMessage(`{"n":9007199254740993}`)})
			if err != nil || got.Content[0].(*mcp.TextContent).Text != `{"n":9007199254740993}` {
				t.Errorf("%+v, %v", got, err)
			}
			call := &mcp.CallToolParams{Name: "steps"}
			call.SetProgressToken("tok")
			if _, err := cs.CallTool(t.Context(), call); err != nil {
				t.Error(err)
			}
			for i := range 50 {
				if s := <-steps; s != float64(i) {
					t.Fatalf("step %v came as number %d", s, i)
				}
			}
			status, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: statusTool})
			if err != nil || status.IsError || fmt.Sprint(status.StructuredContent) != "map[ring:2]" {
				t.Errorf("%+v, %v", status, err)
			}
		})
	}
}

func TestARefusalIsAToolResultWithTheDecision(t *testing.T) {
	deny := policy.Refuse(policy.RingInsufficient, "files.write needs ring 2 and you are in ring 3 <here>")
	unknown := policy.Refuse(policy.UnknownAction, "no server lists a tool named nope")
	cs, _ := client(t, &plainSession{deny: map[string]policy.Decision{"write": deny, "nope": unknown}, tools: func() []Tool { return nil }}, nil, "2025-11-25")
	for name, want := range map[string]policy.Decision{"write": deny, "nope": unknown} {
		got, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: name})
		if err != nil || !got.IsError || got.Content[0].(*mcp.TextContent).Text != want.Reason {
			t.Fatalf("%+v, %v", got, err)
		}
		d, _ := got.StructuredContent.(map[string]any)
		if d["allowed"] != false || d["code"] != string(want.Code) || d["reason"] != want.Reason {
			t.Errorf("structured %v", d)
		}
	}
}

func TestAListChangeReachesTheAgent(t *testing.T) {
	for _, version := range revisions[:2] {
		t.Run(version, func(t *testing.T) {
			up := ready(t, child("sdk"))
			told := make(chan struct{}, 10)
			cs, s := client(t, &plainSession{up: up.Upstream}, &mcp.ClientOptions{
				ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) { told <- struct{}{} }}, version)
			if _, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "grow"}); err != nil {
				t.Fatal(err)
			}
			<-up.Changed()
			s.ToolsChanged()
			<-told
			if list, err := cs.ListTools(t.Context(), nil); err != nil || len(list.Tools) != 7+len(ownDefinitions) {
				t.Errorf("%v, %v", list, err)
			}
		})
	}
}

func TestACancelledCallIsCancelledUpstream(t *testing.T) {
	up := ready(t, child("raw"))
	session := &plainSession{up: up.Upstream, began: make(chan struct{}, 100)}
	cs, _ := client(t, session, nil, "2025-11-25")
	ctx, cancel := context.WithCancel(t.Context())
	called := make(chan error)
	go func() {
		_, err := cs.CallTool(ctx, &mcp.CallToolParams{Name: "mute"})
		called <- err
	}()
	<-session.began
	waitSeen(t, up, "tools/call")
	cancel()
	if err := <-called; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	waitSeen(t, up, "notifications/cancelled")
}

func TestADeadUpstreamIsAToolResultThatSaysWhen(t *testing.T) {
	up := ready(t, child("sdk"))
	cs, _ := client(t, &plainSession{up: up.Upstream}, nil, "2025-11-25")
	got, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "die"})
	if err != nil || !got.IsError || !strings.Contains(got.Content[0].(*mcp.TextContent).Text, "unknown") {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "echo"})
	if err != nil || !got.IsError || !strings.Contains(got.Content[0].(*mcp.TextContent).Text, "not sent") {
		t.Errorf("%+v, %v", got, err)
	}
}

// An agentByHand writes lines and reads answers.
type agentByHand struct {
	t   *testing.T
	in  *bufio.Reader
	out io.WriteCloser
}

func byHand(t *testing.T, s *Server) (agentByHand, <-chan error) {
	in, out, agentOut, agentIn := pipes(t)
	done := serve(t, s, in, out)
	t.Cleanup(func() { _ = agentOut.Close(); _ = agentIn.Close() })
	a := agentByHand{t, bufio.NewReader(agentIn), agentOut}
	a.say(`{"jsonrpc":"2.0","id":"init","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`)
	a.hear()
	a.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	return a, done
}

func (a agentByHand) say(line string) {
	a.t.Helper()
	if _, err := io.WriteString(a.out, line+"\n"); err != nil {
		a.t.Fatal(err)
	}
}

type answer struct {
	ID     json.RawMessage
	Result json.RawMessage
	Error  *struct {
		Code    int64
		Message string
	}
}

func (a agentByHand) hear() (m answer) {
	a.t.Helper()
	line, err := a.in.ReadString('\n')
	if err != nil {
		a.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		a.t.Fatal(err)
	}
	return m
}

func TestABadLineIsAnsweredAndTheConnectionGoesOn(t *testing.T) {
	a, _ := byHand(t, NewServer(&plainSession{}, nil))
	lines := badLines
	lines = append(lines[:len(lines):len(lines)], badLines[0])
	for _, tt := range lines {
		a.say(tt.line)
		id := tt.id
		if id == "" {
			id = "null"
		}
		if m := a.hear(); m.Error == nil || m.Error.Code != tt.code || string(m.ID) != id {
			t.Errorf("%s: answered %+v %s, want %d for %s", tt.name, m.Error, m.ID, tt.code, id)
		}
	}
	go func() {
		_, _ = io.WriteString(a.out, `{"jsonrpc":"2.0","id":9,"method":"`+strings.Repeat("x", 20<<20)+"\"}\n")
	}()
	if m := a.hear(); m.Error == nil || m.Error.Code != jsonrpc.CodeInvalidRequest || string(m.ID) != "null" {
		t.Errorf("too long: %+v", m)
	}
	a.say(`{"jsonrpc":"2.0","id":10,"method":"ping"}`)
	if m := a.hear(); string(m.ID) != "10" || m.Error != nil {
		t.Errorf("after all that, ping: %+v", m)
	}
	for _, bad := range []struct {
		line string
		code int64
	}{
		{`{"jsonrpc":"2.0","id":11,"method":"tools/call","params":{}}`, jsonrpc.CodeInvalidParams},
		{`{"jsonrpc":"2.0","id":11,"method":"tools/call","params":{"name":7}}`, jsonrpc.CodeInvalidParams},
		{`{"jsonrpc":"2.0","id":11,"method":"tools/list","params":{"cursor":"x.1"}}`, jsonrpc.CodeInvalidParams},
		{`{"jsonrpc":"2.0","id":11,"method":"prompts/list"}`, jsonrpc.CodeMethodNotFound},
		{`{"jsonrpc":"2.0","id":11,"method":"no/such"}`, jsonrpc.CodeMethodNotFound},
	} {
		a.say(bad.line)
		if m := a.hear(); m.Error == nil || m.Error.Code != bad.code || string(m.ID) != "11" {
			t.Errorf("%s: %+v", bad.line, m)
		}
	}
}

func TestDefinitionsAndResultsReachTheAgentVerbatim(t *testing.T) {
	up := ready(t, child("raw"))
	a, _ := byHand(t, NewServer(&plainSession{up: up.Upstream}, nil))
	a.say(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
	if m := a.hear(); !strings.Contains(string(m.Result), fmt.Sprintf(rawTool, "odd")) || !strings.Contains(string(m.Result), string(statusDefinition)) {
		t.Errorf("%s", m.Result)
	}
	a.say(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"odd"}}`)
	if m := a.hear(); string(m.Result) != oddResult {
		t.Errorf("%s", m.Result)
	}
	modern := `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	a.say(`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"odd",` + modern + `}}`)
	m := a.hear()
	if !strings.HasPrefix(string(m.Result), strings.Split(oddResult, `"_meta"`)[0]) || !strings.Contains(string(m.Result), `"resultType":"complete"`) ||
		!strings.Contains(string(m.Result), `"_meta":{"x/y":1,"io.modelcontextprotocol/serverInfo":{"name":"agent-hypervisor"`) {
		t.Errorf("%s", m.Result)
	}
}

func TestALongListComesInPagesAndACursorOfAnotherListIsRefused(t *testing.T) {
	var tools []Tool
	for i := range 2*pageTools + 1 {
		d, err := ParseTool(json.RawMessage(fmt.Sprintf(rawTool, fmt.Sprintf("t%03d", i))))
		if err != nil {
			t.Fatal(err)
		}
		tools = append(tools, d)
	}
	cs, _ := client(t, &plainSession{tools: func() []Tool { return tools }}, nil, "2025-11-25")
	var names []string
	for tool, err := range cs.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, tool.Name)
	}
	if len(names) != len(tools)+len(ownDefinitions) || names[400] != "t400" {
		t.Errorf("%d tools", len(names))
	}
	first, err := cs.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tools = tools[1:]
	if _, err := cs.ListTools(t.Context(), &mcp.ListToolsParams{Cursor: first.NextCursor}); err == nil {
		t.Error("a cursor of another list is taken")
	}
}

func TestTheEndOfInputWaitsForAnswersButNotForEver(t *testing.T) {
	clock := newHandClock()
	session := &plainSession{began: make(chan struct{}, 1), deny: map[string]policy.Decision{"no": policy.Refuse(policy.PolicyDenied, "no")}}
	a, done := byHand(t, NewServer(session, &ServerOptions{Clock: clock}))
	a.say(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"forever"}}`)
	<-session.began
	a.say(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"no"}}`)
	_ = a.out.Close()
	if m := a.hear(); string(m.ID) != "2" {
		t.Errorf("%+v", m)
	}
	clock.fire(lastRequests)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAnAgentMayNotHaveMoreInFlightThanTheBoundNorOneIDTwice(t *testing.T) {
	session := &plainSession{began: make(chan struct{}, maxInFlight)}
	a, _ := byHand(t, NewServer(session, nil))
	call := func(id int) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"x"}}`, id)
	}
	a.say(call(0))
	a.say(call(0))
	if m := a.hear(); m.Error == nil || m.Error.Code != jsonrpc.CodeInvalidRequest || string(m.ID) != "null" {
		t.Errorf("one id twice: %+v", m)
	}
	for i := 1; i < maxInFlight; i++ {
		a.say(call(i))
	}
	a.say(call(maxInFlight))
	if m := a.hear(); m.Error == nil || m.Error.Code != codeOverloaded || string(m.ID) != fmt.Sprint(maxInFlight) {
		t.Errorf("one too many: %+v", m)
	}
	a.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}`)
	if m := a.hear(); string(m.ID) != "3" {
		t.Errorf("%+v", m)
	}
	a.say(call(maxInFlight))
	for range maxInFlight {
		<-session.began
	}
}

func TestAPeerThatDoesNotReadIsEndedBeforeItHoldsMuch(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in, inW := io.Pipe()
	defer inW.Close()
	s := newStream(in, w, true)
	errs := make(chan error)
	const senders = maxPendingBytes/maxLineBytes + 1
	for range senders {
		go func() { errs <- s.send(t.Context(), &outgoing{text: make([]byte, maxLineBytes)}) }()
	}
	for range senders {
		if err := <-errs; !errors.Is(err, errStalled) {
			t.Errorf("%v", err)
		}
	}
	s.pumps.Wait()
}

func TestALineThatIsTooLongIsNotHeld(t *testing.T) {
	counted := &countingReader{r: io.LimitReader(neverEnding('x'), 50<<20)}
	br := bufio.NewReaderSize(counted, 64<<10)
	if _, err := boundedLine(br, maxLineBytes); !errors.Is(err, errLineTooLong) {
		t.Fatal(err)
	}
	if counted.n > maxLineBytes+128<<10 {
		t.Errorf("read %d bytes of a line whose bound is %d", counted.n, maxLineBytes)
	}
	exact := strings.Repeat("y", 10)
	br = bufio.NewReader(strings.NewReader(exact + "\n" + exact + "z\nnext\n"))
	if line, err := boundedLine(br, 10); err != nil || string(line) != exact {
		t.Errorf("%q, %v", line, err)
	}
	if _, err := boundedLine(br, 10); !errors.Is(err, errLineTooLong) || skipLine(br) != nil {
		t.Errorf("%v", err)
	}
	if line, err := boundedLine(br, 10); err != nil || string(line) != "next" {
		t.Errorf("%q, %v", line, err)
	}
}

type neverEnding byte

func (b neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}
