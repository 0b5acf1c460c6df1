package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/client"
)

// serve_test.go: the daemon as a real process, with a real tool server behind it and the SDK's client before it.

// serveSlow is a tool server whose one tool says on a file that it was called, and answers once another file is there.
func serveSlow() int {
	dir := os.Args[1]
	s := mcp.NewServer(&mcp.Implementation{Name: "slow", Version: "1"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "wait", Description: "Wait", Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
		func(ctx context.Context, _ *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
			if err := os.WriteFile(filepath.Join(dir, "called"), nil, 0o600); err != nil {
				return nil, nil, err
			}
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "waited"}}}, nil, awaitFile(ctx, filepath.Join(dir, "go"))
		})
	if err := s.Run(context.Background(), &mcp.StdioTransport{}); err != nil {
		return 1
	}
	return 0
}

func awaitFile(ctx context.Context, path string) error {
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// canary is a token in the daemon's environment, which no server may see.
const canary = "hvt_CANARYcanaryCANARYcanaryCANARYcanaryCANARY0"

// A served daemon is a process of its own.
type served struct {
	t      *testing.T
	cmd    *exec.Cmd
	dir    string // its data
	hello  greeting
	stderr *tail
	ctl    *client.Client
}

// A tail is what a process has said, and tells who waits for more.
type tail struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (w *tail) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.more)
	w.more = make(chan struct{})
	return w.text.Write(b)
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// await waits until a text was said a number of times.
func (w *tail) await(t *testing.T, text string, times int) {
	t.Helper()
	for {
		w.mu.Lock()
		said, more := strings.Count(w.text.String(), text), w.more
		w.mu.Unlock()
		if said >= times {
			return
		}
		select {
		case <-more:
		case <-time.After(20 * time.Second):
			t.Fatalf("%q was said %d times: %s", text, said, w)
		}
	}
}

const notesYAML = `
listen: 127.0.0.1:0
mcpServers:
  notes: {command: hypervisor, args: [demo-server, NOTES], env: {NOTE: plain}}
servers: {notes: {trust_annotations: true}}
agents: [{did: "did:mesh:ann", sigma: 0.80}]
`

// start starts a daemon on dir with a configuration and waits until it serves.
func start(t *testing.T, dir, yaml string) *served {
	t.Helper()
	notes := filepath.Join(dir, "notes")
	if err := os.MkdirAll(notes, 0o700); err != nil {
		t.Fatal(err)
	}
	d := &served{t: t, dir: filepath.Join(dir, "data"), stderr: &tail{more: make(chan struct{})}}
	d.write(yaml)
	d.cmd = exec.Command("hypervisor", "serve", "--json", "-c", filepath.Join(dir, "c.yaml"), "--data", d.dir)
	d.cmd.Env = append(os.Environ(), "HYPERVISOR_TOKEN="+canary)
	d.cmd.Stderr = d.stderr
	out, err := d.cmd.StdoutPipe()
	if err == nil {
		err = d.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("the daemon said:\n%s", d.stderr)
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &d.hello)
	}
	if err != nil {
		t.Fatalf("no greeting: %v", err)
	}
	path, err := client.SocketIn(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	d.ctl = client.Socket(path)
	t.Cleanup(d.ctl.Close)
	return d
}

func (d *served) write(yaml string) {
	d.t.Helper()
	dir := filepath.Dir(d.dir)
	yaml = strings.ReplaceAll(yaml, "NOTES", filepath.Join(dir, "notes"))
	if err := os.WriteFile(filepath.Join(dir, "c.yaml"), []byte(yaml), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// end ends the daemon as its user would, and returns how it ended.
func (d *served) end() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return d.cmd.Wait()
}

// seat opens a session of a name, if need be, and returns a token for ann in it.
func (d *served) seat(name string) api.IssuedToken {
	d.t.Helper()
	if _, err := d.ctl.CreateSession(d.t.Context(), api.SessionConfig{Name: name}, "seat "+name); err != nil {
		d.t.Fatal(err)
	}
	tok, err := d.ctl.Seat(d.t.Context(), "did:mesh:ann", api.SeatRequest{Session: name})
	if err != nil {
		d.t.Fatal(err)
	}
	return tok
}

// bearing adds a token to every request.
type bearing string

func (b bearing) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if b != "" {
		r.Header.Set("Authorization", "Bearer "+string(b))
	}
	return http.DefaultTransport.RoundTrip(r)
}

// connect is an MCP client of the daemon.
func (d *served) connect(token string) (*mcp.ClientSession, error) {
	c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	return c.Connect(d.t.Context(), &mcp.StreamableClientTransport{Endpoint: d.hello.MCP, HTTPClient: &http.Client{Transport: bearing(token)}, MaxRetries: -1}, nil)
}

func (d *served) mustConnect(token string) *mcp.ClientSession {
	d.t.Helper()
	s, err := d.connect(token)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = s.Close() })
	return s
}

// call returns a result's text and whether it is a refusal or an error.
func call(t *testing.T, s *mcp.ClientSession, tool string, args map[string]any) (string, bool) {
	t.Helper()
	res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, c := range res.Content {
		if c, ok := c.(*mcp.TextContent); ok {
			text.WriteString(c.Text)
		}
	}
	return text.String(), res.IsError
}

func TestAnAgentWorksThroughTheDaemon(t *testing.T) {
	d := start(t, t.TempDir(), notesYAML)
	tok := d.seat("dev")
	s := d.mustConnect(tok.Token)
	if text, refused := call(t, s, "notes__write_note", map[string]any{"name": "a", "text": "hello"}); refused || text != "written" {
		t.Errorf("write: %q %v", text, refused)
	}
	if text, refused := call(t, s, "notes__read_note", map[string]any{"name": "a"}); refused || text != "hello" {
		t.Errorf("read: %q %v", text, refused)
	}
	burn := func() (string, bool) { return call(t, s, "notes__burn_note", map[string]any{"name": "a"}) }
	if text, refused := burn(); !refused || !strings.Contains(text, "approv") {
		t.Fatalf("burn: %q %v", text, refused)
	}
	for a, err := range d.ctl.Approvals(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.ctl.Grant(t.Context(), a.Session, a.ID, a.Digest); err != nil {
			t.Fatal(err)
		}
	}
	if text, refused := burn(); refused {
		t.Errorf("burn once it is granted: %q", text)
	}
	byHTTP, err := client.HTTP("http://"+d.hello.Listen, tok.Token)
	if err != nil {
		t.Fatal(err)
	}
	defer byHTTP.Close()
	if out, err := byHTTP.Act(t.Context(), "dev", api.Act{Action: "notes.write_note", Args: json.RawMessage(`{"name":"b","text":"x"}`)}, "k"); err != nil || out.Outcome != "done" {
		t.Errorf("over /v1: %+v, %v", out, err)
	}
	var refused *client.Error
	if _, err := byHTTP.Act(t.Context(), "dev", api.Act{Action: "notes.burn_note", Args: json.RawMessage(`{"name":"b"}`)}, ""); !errors.As(err, &refused) || refused.Status != 403 || refused.API.Details.Decision == nil {
		t.Errorf("a refusal over /v1: %v", err)
	}
	if err := d.end(); err != nil {
		t.Errorf("the end: %v", err)
	}
}

// status makes a request and returns its status.
func (d *served) status(method, path, token string, change func(*http.Request)) int {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), method, "http://"+d.hello.Listen+path, strings.NewReader(`{}`))
	if err != nil {
		d.t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	resp, err := bearing(token).RoundTrip(r)
	if err != nil {
		d.t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func (d *served) operator() string {
	d.t.Helper()
	b, err := os.ReadFile(d.hello.TokenFile)
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestATokenIsGoodForItsSessionAndNoLongerThanItLives(t *testing.T) {
	dir := t.TempDir()
	d := start(t, dir, notesYAML)
	good, revoked := d.seat("dev"), d.seat("dev")
	other, err := d.ctl.CreateSession(t.Context(), api.SessionConfig{}, "other")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ctl.RevokeToken(t.Context(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		for _, c := range []struct {
			name, path, token string
			want              int
		}{
			{"nobody over MCP", "/mcp", "", 401},
			{"nobody over /v1", "/v1/sessions", "", 401},
			{"revoked", "/mcp", revoked.Token, 401},
			{"unknown", "/mcp", canary, 401},
			{"an operator over MCP", "/mcp", d.operator(), 403},
			{"an operator over /v1", "/v1/sessions", d.operator(), 200},
			{"an agent's own session", "/v1/sessions/dev", good.Token, 200},
			{"another session", "/v1/sessions/" + other.ID, good.Token, 403},
			{"all sessions", "/v1/sessions", good.Token, 403},
			{"health", "/healthz", "", 200},
			{"readiness", "/readyz", "", 200},
		} {
			method := http.MethodGet
			if c.path == "/mcp" {
				method = http.MethodPost
			}
			if got := d.status(method, c.path, c.token, nil); got != c.want {
				t.Errorf("%s, %s: %d, want %d", when, c.name, got, c.want)
			}
		}
	}
	check("at first")
	for name, change := range map[string]func(*http.Request){
		"another host":   func(r *http.Request) { r.Host = "evil.example" },
		"another origin": func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") },
	} {
		for _, path := range []string{"/mcp", "/v1/sessions", "/healthz"} {
			if got := d.status(http.MethodPost, path, d.operator(), change); got != http.StatusForbidden {
				t.Errorf("%s at %s: %d", name, path, got)
			}
		}
	}
	first := d.operator()
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	d = start(t, dir, notesYAML)
	check("after a restart")
	if d.operator() != first || d.hello.First {
		t.Error("the operator's token was made anew")
	}
}

func TestAfterAKillANameGoesOn(t *testing.T) {
	dir := t.TempDir()
	d := start(t, dir, notesYAML)
	tok := d.seat("dev")
	s := d.mustConnect(tok.Token)
	call(t, s, "notes__write_note", map[string]any{"name": "a", "text": "x"})
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = d.cmd.Wait()
	d = start(t, dir, notesYAML)
	if text, refused := call(t, d.mustConnect(tok.Token), "notes__read_note", map[string]any{"name": "a"}); refused || text != "x" {
		t.Errorf("in the same session: %q %v", text, refused)
	}
	was, err := d.ctl.Session(t.Context(), "dev")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ctl.Terminate(t.Context(), "dev"); err != nil {
		t.Fatal(err)
	}
	if text, refused := call(t, d.mustConnect(tok.Token), "notes__read_note", map[string]any{"name": "a"}); refused || text != "x" {
		t.Errorf("in its successor: %q %v", text, refused)
	}
	if now, err := d.ctl.Session(t.Context(), "dev"); err != nil || now.ID == was.ID || now.Lifecycle != "active" {
		t.Errorf("%+v, %v", now, err)
	}
}

// A server's environment has what it needs to find its way and what its own env says; no file, line or command holds a token.
func TestNoTokenIsTold(t *testing.T) {
	if _, err := os.Stat("/proc/self/environ"); err != nil {
		t.Skip("no /proc to look into")
	}
	dir := t.TempDir()
	d := start(t, dir, notesYAML)
	tok := d.seat("dev")
	call(t, d.mustConnect(tok.Token), "notes__read_note", map[string]any{"name": "none"})
	d.status(http.MethodPost, "/mcp", tok.Token+"x", nil)
	secrets := []string{tok.Token, d.operator(), canary}
	children := 0
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		stat, err := os.ReadFile(p + "/stat")
		if err != nil || !strings.Contains(string(stat[bytes.LastIndexByte(stat, ')')+1:]), fmt.Sprintf(" %d ", d.cmd.Process.Pid)) {
			continue
		}
		environ, err := os.ReadFile(p + "/environ")
		if err != nil || !bytes.Contains(environ, []byte("NOTE=plain")) {
			continue
		}
		children++
		cmdline, err := os.ReadFile(p + "/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(environ, []byte("hvt_")) || bytes.Contains(environ, []byte("HYPERVISOR_")) || bytes.Contains(cmdline, []byte("hvt_")) {
			t.Errorf("a server sees %s %s", cmdline, environ)
		}
	}
	if children == 0 {
		t.Error("no server was found among the processes")
	}
	if err := d.end(); err != nil {
		t.Error(err)
	}
	for _, secret := range secrets {
		if strings.Contains(d.stderr.String(), secret) {
			t.Errorf("stderr tells a token: %s", d.stderr)
		}
		_ = filepath.WalkDir(d.dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.Name() == filepath.Base(d.hello.TokenFile) || !e.Type().IsRegular() {
				return err
			}
			if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s holds a token", path)
			}
			return nil
		})
	}
}

func TestAConfigurationIsTakenOverWholeOrNotAtAll(t *testing.T) {
	d := start(t, t.TempDir(), notesYAML)
	s := d.mustConnect(d.seat("dev").Token)
	write := func() (string, bool) {
		return call(t, s, "notes__write_note", map[string]any{"name": "a", "text": "x"})
	}
	if text, refused := write(); refused {
		t.Fatal(text)
	}
	reload := func(yaml, says string) {
		t.Helper()
		d.write(yaml)
		before := strings.Count(d.stderr.String(), says)
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		d.stderr.await(t, says, before+1)
	}
	denying := strings.ReplaceAll(notesYAML, "0.80", "0.70") + "policies: [{name: no-writes, when: 'action.id == \"notes.write_note\"', effect: deny}]\n"
	reload(denying, "the configuration is in force")
	if text, refused := write(); !refused || !strings.Contains(text, "no-writes") {
		t.Errorf("under the new policy: %q %v", text, refused)
	}
	if a, err := d.ctl.Agent(t.Context(), "did:mesh:ann"); err != nil || a.Sigma != "0.70" {
		t.Errorf("σ %s, %v", a.Sigma, err)
	}
	reload(notesYAML+"polices: []\n", "did you mean")
	reload(strings.ReplaceAll(notesYAML, "127.0.0.1:0", "127.0.0.1:1"), "listen changed, which needs a restart")
	if _, refused := write(); !refused {
		t.Error("a bad configuration took the policy away")
	}
	reload(strings.ReplaceAll(denying, "notes: {command", "papers: {command"), "there is no \"notes\"")
	more := strings.ReplaceAll(denying, "servers: {notes", "  papers: {command: hypervisor, args: [demo-server, NOTES]}\nservers: {papers: {trust_annotations: true}, notes")
	reload(more, "the configuration is in force")
	if text, refused := call(t, d.mustConnect(d.seat("dev").Token), "papers__read_note", map[string]any{"name": "a"}); refused || text != "x" {
		t.Errorf("a server that was added: %q %v", text, refused)
	}
}

func TestTheEndLetsRunningCallsFinish(t *testing.T) {
	dir := t.TempDir()
	d := start(t, dir, strings.ReplaceAll(notesYAML, "command: hypervisor, args: [demo-server, NOTES]", "command: slowserver, args: [NOTES]"))
	s := d.mustConnect(d.seat("dev").Token)
	type answer struct {
		res *mcp.CallToolResult
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "notes__wait"})
		answered <- answer{res, err}
	}()
	if err := awaitFile(t.Context(), filepath.Join(dir, "notes", "called")); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	d.stderr.await(t, "ending: running calls finish", 1)
	if got := d.status(http.MethodGet, "/readyz", "", nil); got != http.StatusServiceUnavailable {
		t.Errorf("readiness while it ends: %d", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "notes", "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if a := <-answered; a.err != nil || a.res.IsError {
		t.Errorf("the call that ran: %+v, %v", a.res, a.err)
	}
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("the end: %v", err)
	}
	var out bytes.Buffer
	if code := execute(t.Context(), []string{"audit", "verify", d.dir}, nil, &out, &out); code != exitDone {
		t.Errorf("audit verify: %d %s", code, &out)
	}
}

func TestWhoComesWithoutATokenIsTheAnonymousAgent(t *testing.T) {
	d := start(t, t.TempDir(), notesYAML+"anonymous_agent: {did: \"did:mesh:local\", sigma: 0.80}\n")
	s := d.mustConnect("")
	if text, refused := call(t, s, "notes__write_note", map[string]any{"name": "a", "text": "x"}); refused || text != "written" {
		t.Errorf("%q %v", text, refused)
	}
	if got := d.status(http.MethodGet, "/v1/sessions", "", nil); got != http.StatusUnauthorized {
		t.Errorf("/v1 without a token: %d", got)
	}
	if got := d.status(http.MethodPost, "/mcp", "", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }); got != http.StatusForbidden {
		t.Errorf("a page of another origin: %d", got)
	}
	view, err := d.ctl.Session(t.Context(), "anonymous")
	if err != nil || len(view.Participants) != 1 || view.Participants[0].Agent != "did:mesh:local" {
		t.Errorf("%+v, %v", view, err)
	}
}
