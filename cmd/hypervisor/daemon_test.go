package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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

// daemon_test.go: the daemon as a real process, with a real tool server behind it and the SDK's client before it.

// serveSlow is a tool server whose one tool says on a file that it was called, and answers once another file is there. A third says its description.
func serveSlow() int {
	dir := os.Args[1]
	says := "Wait"
	if b, err := os.ReadFile(filepath.Join(dir, "says")); err == nil {
		says = string(b)
	}
	s := mcp.NewServer(&mcp.Implementation{Name: "slow", Version: "1"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "wait", Description: says, Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
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
	d.cmd.Env = append(os.Environ(), "HYPERVISOR_TOKEN="+canary, "GORACE=atexit_sleep_ms=0")
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

// recorded returns the types of the first events of some types.
func (d *served) recorded(types string, enough int) (got []string) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, d.hello.API+"/events?type="+types, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	resp, err := bearing(d.operator()).RoundTrip(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); len(got) < enough && lines.Scan(); {
		var e api.Event
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && json.Unmarshal([]byte(data), &e) == nil {
			got = append(got, e.Type)
		}
	}
	return got
}

func (d *served) operator() string {
	d.t.Helper()
	b, err := os.ReadFile(d.hello.TokenFile)
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
