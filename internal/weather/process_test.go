//go:build unix

package weather

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// A proc is a process in a group of its own. The test that started it kills the group at its end.
type proc struct {
	cmd    *exec.Cmd
	stdin  *os.File
	stdout *os.File // ours to read; what a killed process has written is still in it
	stderr *words
	exited chan struct{} // closed once it is reaped
	err    error         // valid then
}

// words is what a process says on stderr.
type words struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(b)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// start starts a process with pipes on its three ends.
func start(t testing.TB, cmd *exec.Cmd) *proc {
	t.Helper()
	inR, inW, err := os.Pipe()
	outR, outW, err2 := os.Pipe()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	p := &proc{cmd: cmd, stdin: inW, stdout: outR, stderr: &words{}, exited: make(chan struct{})}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, p.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	_, _ = inR.Close(), outW.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process
		p.err = cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.kill()
		_, _ = p.stdin.Close(), p.stdout.Close()
		if t.Failed() && p.stderr.String() != "" {
			t.Logf("%s said:\n%s", strings.Join(cmd.Args, " "), last(p.stderr.String(), 4000))
		}
	})
	return p
}

func last(text string, n int) string { return text[max(0, len(text)-n):] }

// kill kills the process with SIGKILL, and what is left of its group, and waits until it is gone.
func (p *proc) kill() {
	select {
	case <-p.exited:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.exited
	}
}

// code waits for the process's end and returns its exit code; -1: a signal ended it.
func (p *proc) code(t testing.TB) int {
	t.Helper()
	within(t, "the end of "+p.cmd.Path, p.exited)
	return p.cmd.ProcessState.ExitCode()
}

// config is what the hypervisor is told of the tool server: its agent is in ring 1, and one call can be made after the other.
const config = `
agents: [{did: "did:mesh:local", sigma: 0.97}]
servers:
  tool:
    trust_annotations: true
    actions:
      append: {reversibility: partial}
      hold: {reversibility: partial}
`

// wrapCommand is `wrap` before the tool server that forwards to the keeper.
func wrapCommand(t testing.TB, k *keeper, dataDir string, before ...string) *exec.Cmd {
	t.Helper()
	tool := self(t, "tool", socketVar+"="+k.socket)
	args := []string{program(t), "wrap", "--name", "tool", "-c", k.config}
	if dataDir != "" {
		args = append(args, "--data", dataDir)
	}
	args = append(append(before, args...), "--", tool.Path)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = tool.Env
	return cmd
}

// An agent is an MCP client of a wrap process.
type agent struct {
	*proc
	mcp *mcp.ClientSession
}

// connect shakes hands over the process's stdin and stdout. The error is that of a process that ended meanwhile.
func connect(ctx context.Context, p *proc) (*agent, error) {
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil)
	cs, err := client.Connect(ctx, &mcp.IOTransport{Reader: p.stdout, Writer: p.stdin}, nil)
	if err != nil {
		return nil, err
	}
	return &agent{p, cs}, nil
}

// wrapped starts a wrap process and connects to it.
func wrapped(t testing.TB, cmd *exec.Cmd) *agent {
	t.Helper()
	p := start(t, cmd)
	a, err := connect(t.Context(), p)
	if err != nil {
		t.Fatalf("connecting: %v; it said: %s", err, p.stderr)
	}
	t.Cleanup(func() { p.kill(); _ = a.mcp.Close() })
	return a
}

// An answer is what an agent is told of a call.
type answer struct {
	text string
	code string // of the decision, where the call was refused
	seq  float64
	err  bool // isError
}

// call calls a tool. The error says that no answer came.
func (a *agent) call(ctx context.Context, tool string, args any) (answer, error) {
	r, err := a.mcp.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		return answer{}, err
	}
	got := answer{err: r.IsError}
	if len(r.Content) > 0 {
		if c, ok := r.Content[0].(*mcp.TextContent); ok {
			got.text = c.Text
		}
	}
	if d, ok := r.StructuredContent.(map[string]any); ok {
		got.code, _ = d["code"].(string)
		got.seq, _ = d["seq"].(float64)
	}
	return got, nil
}

// end ends the agent's input as a client does, and waits for the process.
func (a *agent) end(t testing.TB) {
	t.Helper()
	_ = a.mcp.Close()
	if code := a.code(t); code != 0 {
		t.Errorf("exit %d at the end of its input, want 0; it said: %s", code, last(a.stderr.String(), 2000))
	}
}
