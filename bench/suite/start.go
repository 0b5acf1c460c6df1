package suite

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/bench/passthrough"
)

// start.go: how long it takes until a program that was not running has answered a first call.

// PassOn is the bare proxy as a program: of the command that follows an address to listen on, which it prints, or "-" for stdin
// and stdout. It passes on until it is ended, or its input is.
func PassOn(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New("pass-through wants an address or -, and a command")
	}
	command := exec.CommandContext(ctx, args[1], args[2:]...)
	if args[0] == "-" {
		return passthrough.Run(ctx, command, os.Stdin, os.Stdout)
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	fmt.Printf("{\"mcp\":\"http://%s\"}\n", l.Addr())
	if err := passthrough.Serve(ctx, command, l); ctx.Err() == nil {
		return err
	}
	return nil
}

// startUp starts the bare proxy and the gateway in turns, both over stdio and both over HTTP, with a client that connects at
// once and calls. `wrap` starts on a fresh directory each time, `serve` on one that has the session and its agent's token.
func startUp(ctx context.Context, r *run) ([]Row, error) {
	config, err := r.writeConfig(1)
	if err != nil {
		return nil, err
	}
	d, err := r.startDaemon(ctx, config)
	if err != nil {
		return nil, err
	}
	tokens, err := d.seats(ctx, 1)
	if err := errors.Join(err, d.end()); err != nil {
		return nil, err
	}
	server := append([]string{r.server.Path}, r.server.Args...)
	var took [4][]time.Duration
	for i := range r.Starts {
		data := filepath.Join(r.dir, fmt.Sprint("wrap-", i))
		for k, start := range []func() (time.Duration, error){
			func() (time.Duration, error) {
				return r.firstOverPipes(ctx, append([]string{"bench", PassThrough, "-"}, server...))
			},
			func() (time.Duration, error) {
				return r.firstOverPipes(ctx, append([]string{"wrap", "--name", "up", "--data", data, "--"}, server...))
			},
			func() (time.Duration, error) {
				return r.firstOverHTTP(ctx, "", "", append([]string{"bench", PassThrough, "127.0.0.1:0"}, server...))
			},
			func() (time.Duration, error) {
				return r.firstOverHTTP(ctx, tokens[0], "up__", []string{"serve", "--json", "-c", config, "--data", filepath.Join(r.dir, "data")})
			},
		} {
			lasted, err := start()
			if err != nil {
				return nil, err
			}
			took[k] = append(took[k], lasted)
		}
	}
	row := func(what string, ours, bare []time.Duration) Row {
		return Row{Work: "start to the first governed call, " + what, Value: millis(percentile(ours, 50)), Unit: "ms",
			Beside: "of the bare pass-through", Baseline: millis(percentile(bare, 50))}.reported()
	}
	return []Row{row("wrap on a new directory", took[1], took[0]), row("serve", took[3], took[2])}, nil
}

// firstOverPipes starts the program, and returns how long it took until a first call was answered.
func (r *run) firstOverPipes(ctx context.Context, args []string) (time.Duration, error) {
	began := time.Now()
	said := &strings.Builder{}
	cmd := exec.CommandContext(ctx, r.program, args...)
	cmd.Stderr = said
	cs, err := mcp.NewClient(&mcp.Implementation{Name: "bench", Version: "1"}, nil).Connect(ctx, &mcp.CommandTransport{Command: cmd}, nil)
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, said)
	}
	err = hand{cs, ""}.call(ctx, "read")
	return time.Since(began), errors.Join(err, cs.Close())
}

// firstOverHTTP does the same with a program that serves.
func (r *run) firstOverHTTP(ctx context.Context, token, prefix string, args []string) (_ time.Duration, err error) {
	began := time.Now()
	p, err := startServing(exec.CommandContext(ctx, r.program, args...))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.end()) }()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	cs, err := connectTo(ctx, p.mcp, agentClient(token, transport), "")
	if err != nil {
		return 0, err
	}
	err = hand{cs, prefix}.call(ctx, "read")
	return time.Since(began), errors.Join(err, cs.Close())
}

// A serving process has printed where it serves, on its first line.
type serving struct {
	cmd *exec.Cmd
	mcp string
}

func startServing(cmd *exec.Cmd) (*serving, error) {
	said := &strings.Builder{}
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	p := &serving{cmd: cmd}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		p.mcp, err = addressIn(line)
	}
	if err != nil {
		return nil, errors.Join(err, p.end(), fmt.Errorf("it said: %s", said))
	}
	return p, nil
}

// addressIn returns the address in the line that a process says when it serves.
func addressIn(line []byte) (string, error) {
	var hello struct {
		MCP string `json:"mcp"`
	}
	err := json.Unmarshal(line, &hello)
	return hello.MCP, err
}

// end ends the process as its user would and waits for it.
func (p *serving) end() error {
	return errors.Join(p.cmd.Process.Signal(syscall.SIGTERM), p.cmd.Wait())
}
