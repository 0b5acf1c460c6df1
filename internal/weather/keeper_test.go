//go:build unix

package weather

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// The keeper is the part of the tool server that outlives the hypervisor: a process of its own that appends to its file what
// it is asked to, whoever has died meanwhile. The stdio server that the hypervisor starts, and kills with itself, forwards to it.

const (
	socketVar = "WEATHER_SOCKET" // of the keeper
	fileVar   = "WEATHER_FILE"   // that it appends to
)

// An errand is what the keeper is asked to do: a line of JSON, answered by one with the same ID.
type errand struct {
	ID   uint64 `json:"id"`
	Op   string `json:"op"` // append, hold: append, answer when released; release: all held so far; settled: when nobody else is connected
	N    int    `json:"n,omitempty"`
	Text string `json:"text,omitempty"`
	Size int    `json:"size,omitempty"` // of the answer to the agent
}

// A done is the answer: how many are held now.
type done struct {
	ID   uint64 `json:"id"`
	Held int    `json:"held"`
}

// A keeping is the keeper's own state.
type keeping struct {
	file *os.File

	mu      sync.Mutex
	change  *sync.Cond
	conns   int
	held    int
	release chan struct{}
}

// keeperJob keeps until its stdin ends.
func keeperJob(context.Context) error {
	file, err := os.OpenFile(os.Getenv(fileVar), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	door, err := net.Listen("unix", os.Getenv(socketVar))
	if err != nil {
		return err
	}
	k := &keeping{file: file, release: make(chan struct{})}
	k.change = sync.NewCond(&k.mu)
	go func() {
		for {
			c, err := door.Accept()
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			k.count(+1)
			go k.serve(c)
		}
	}()
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func (k *keeping) count(by int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conns += by
	k.change.Broadcast()
}

// serve does what comes over a connection, to its last whole line, even if nobody is left to hear of it.
func (k *keeping) serve(c net.Conn) {
	var running sync.WaitGroup
	var write sync.Mutex
	in := bufio.NewScanner(c)
	in.Buffer(nil, 64<<20)
	for in.Scan() {
		var e errand
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			continue // cut short: its sender was killed while it wrote
		}
		running.Go(func() {
			d := k.do(e)
			text, err := json.Marshal(d)
			if err != nil {
				panic(err)
			}
			write.Lock()
			defer write.Unlock()
			_, _ = c.Write(append(text, '\n')) // the asker may be dead
		})
	}
	running.Wait()
	_ = c.Close()
	k.count(-1)
}

func (k *keeping) do(e errand) done {
	switch e.Op {
	case "append":
		k.append(e)
	case "hold":
		k.append(e)
		k.mu.Lock()
		k.held++
		release := k.release
		k.change.Broadcast()
		k.mu.Unlock()
		<-release
	case "holding": // until N are held
		k.mu.Lock()
		defer k.mu.Unlock()
		for k.held < e.N {
			k.change.Wait()
		}
		return done{e.ID, k.held}
	case "release":
		k.mu.Lock()
		defer k.mu.Unlock()
		close(k.release)
		k.release, k.held = make(chan struct{}), 0
	case "settled":
		k.mu.Lock()
		defer k.mu.Unlock()
		for k.conns > 1 {
			k.change.Wait()
		}
	}
	return done{ID: e.ID}
}

func (k *keeping) append(e errand) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, err := fmt.Fprintf(k.file, "%d %s\n", e.N, e.Text)
	if err := errors.Join(err, k.file.Sync()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A line is a connection to the keeper. Safe for concurrent use.
type line struct {
	conn net.Conn

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan done // nil: the connection has ended
}

func dialKeeper(socket string) (*line, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	l := &line{conn: c, waiting: map[uint64]chan done{}}
	go l.read()
	return l, nil
}

// read hands the answers out until the connection ends.
func (l *line) read() {
	in := bufio.NewScanner(l.conn)
	for in.Scan() {
		var d done
		if json.Unmarshal(in.Bytes(), &d) != nil {
			break
		}
		l.mu.Lock()
		c := l.waiting[d.ID]
		delete(l.waiting, d.ID)
		l.mu.Unlock()
		c <- d
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.waiting {
		close(c)
	}
	l.waiting = nil
}

// ask has an errand done.
func (l *line) ask(ctx context.Context, e errand) (done, error) {
	answer := make(chan done, 1)
	l.mu.Lock()
	if l.waiting == nil {
		l.mu.Unlock()
		return done{}, io.ErrClosedPipe
	}
	l.next++
	e.ID = l.next
	l.waiting[e.ID] = answer
	text, err := json.Marshal(e)
	if err == nil {
		_, err = l.conn.Write(append(text, '\n'))
	}
	l.mu.Unlock()
	if err != nil {
		return done{}, err
	}
	select {
	case d, ok := <-answer:
		if !ok {
			return d, io.ErrUnexpectedEOF
		}
		return d, nil
	case <-ctx.Done():
		return done{}, ctx.Err()
	}
}

// toolJob is the stdio MCP server the hypervisor starts.
func toolJob(ctx context.Context) error {
	keeper, err := dialKeeper(os.Getenv(socketVar))
	if err != nil {
		return err
	}
	s := mcp.NewServer(&mcp.Implementation{Name: "tool", Version: "1"}, nil)
	forward := func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		e := errand{Op: r.Params.Name}
		if err := json.Unmarshal(r.Params.Arguments, &e); err != nil {
			return nil, err
		}
		if _, err := keeper.ask(ctx, e); err != nil {
			return nil, err
		}
		text := fmt.Sprintf("did-%d-", e.N) + strings.Repeat("x", e.Size)
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}, nil
	}
	schema := json.RawMessage(`{"type":"object","properties":{"n":{"type":"integer"},"text":{"type":"string"},"size":{"type":"integer"}},"required":["n","text"],"additionalProperties":false}`)
	s.AddTool(&mcp.Tool{Name: "append", Description: "appends a line", InputSchema: schema}, forward)
	s.AddTool(&mcp.Tool{Name: "hold", Description: "appends a line and answers when released", InputSchema: schema}, forward)
	s.AddTool(&mcp.Tool{Name: "burn", Description: "cannot be undone by anybody", InputSchema: schema}, forward)
	s.AddTool(&mcp.Tool{Name: "peek", Description: "tells its process id", InputSchema: json.RawMessage(`{"type":"object"}`),
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
		func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: fmt.Sprint(os.Getpid())}}}, nil
		})
	return s.Run(ctx, &mcp.StdioTransport{})
}

// A keeper is a keeper's process, as a test has it.
type keeper struct {
	*line
	socket, file, config string
}

// startKeeper starts a keeper that lives as long as the test.
func startKeeper(t testing.TB) *keeper {
	t.Helper()
	dir := shortDir(t)
	k := &keeper{socket: filepath.Join(dir, "s"), file: filepath.Join(dir, "book"), config: filepath.Join(dir, "hypervisor.yaml")}
	if err := os.WriteFile(k.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, self(t, "keeper", socketVar+"="+k.socket, fileVar+"="+k.file))
	ready := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(p.stdout).ReadString('\n')
		ready <- text
	}()
	if said := within(t, "the keeper is ready", ready); said != "ready\n" {
		t.Fatalf("the keeper did not start: %s", p.stderr)
	}
	var err error
	if k.line, err = dialKeeper(k.socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.conn.Close() })
	return k
}

// settle waits until nobody else is connected: what the dead had sent is in the file.
func (k *keeper) settle(t testing.TB) {
	t.Helper()
	k.must(t, errand{Op: "settled"})
}

func (k *keeper) must(t testing.TB, e errand) done {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, err := k.ask(ctx, e)
	if err != nil {
		t.Fatalf("asking the keeper to %s: %v", e.Op, err)
	}
	return d
}

// lines returns the texts the keeper was given, by number, in the order it got them.
func (k *keeper) lines(t testing.TB) map[int][]string {
	t.Helper()
	b, err := os.ReadFile(k.file)
	if err != nil {
		t.Fatal(err)
	}
	all := map[int][]string{}
	for text := range strings.Lines(string(b)) {
		var n int
		var rest string
		if _, err := fmt.Sscanf(text, "%d %s\n", &n, &rest); err != nil {
			t.Fatalf("the keeper's line %q: %v", text, err)
		}
		all[n] = append(all[n], rest)
	}
	return all
}
