package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/httpapi"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// server_test.go: a hypervisor in a process of its own, which scripts drive a line at a time.

var (
	admin = policy.Operator("did:mesh:admin")
	ann   = policy.Agent("did:mesh:ann")
)

// serveTest serves DIR's control socket and does what it is told on its standard input, answering each line with one, until
// that ends:
//
//	session NAME             opens a session with the agent ann, ring 2, and four actions, of which files.slow ends when it is cancelled; answers its id
//	act SESSION ACTION ARGS  lets ann act; answers the code and, where there is one, the approval's id and digest
//	begin SESSION ACTION ARGS  is act that does not wait for the outcome
func serveTest() int {
	if err := serveDir(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serveDir(ctx context.Context, dir string) error {
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Dir: dir})
	if err != nil {
		return err
	}
	socket, err := httpapi.Listen(dir)
	if err != nil {
		return errors.Join(err, hv.Close(ctx))
	}
	serving, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- socket.Run(serving, httpapi.New(hv, httpapi.SocketOperator, nil)) }()
	fmt.Println(socket.Path())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer, err := obey(ctx, hv, strings.SplitN(lines.Text(), " ", 4))
		if err != nil {
			answer = "error " + err.Error()
		}
		fmt.Println(answer)
	}
	stop()
	return errors.Join(<-done, hv.Close(ctx))
}

func obey(ctx context.Context, hv *hypervisor.Hypervisor, words []string) (string, error) {
	switch words[0] {
	case "session":
		return openSession(ctx, hv, words[1])
	case "act", "begin":
		s, err := hv.Session(ctx, words[1])
		if err != nil {
			return "", err
		}
		act := s.Act
		if words[0] == "begin" {
			act = s.Begin
		}
		out, err := act(ctx, ann, session.Act{Action: words[2], Args: json.RawMessage(words[3])})
		if err != nil {
			return "", err
		}
		if out.Approval != nil {
			return strings.Join([]string{string(out.Code), out.Approval.ID, out.Approval.Digest}, " "), nil
		}
		return strings.TrimSpace(string(out.Code) + " " + out.ID), nil
	}
	return "", fmt.Errorf("unknown command %q", words[0])
}

func openSession(ctx context.Context, hv *hypervisor.Hypervisor, name string) (string, error) {
	s, err := hv.CreateSessionOnce(ctx, admin, name, &session.Config{Name: name})
	if err != nil {
		return "", err
	}
	if _, err := s.Join(ctx, admin, session.Join{Agent: ann.DID, Sigma: ring.MustSigma("0.8")}); err != nil {
		return "", err
	}
	if err := s.Activate(ctx, admin); err != nil {
		return "", err
	}
	done := func(_ context.Context, args json.RawMessage) (json.RawMessage, error) {
		return json.RawMessage(`{"did":` + string(args) + `}`), nil
	}
	s.Register(action.Descriptor{ID: "files.read", ReadOnly: true}, done)
	s.Register(action.Descriptor{ID: "files.write", Reversibility: action.Partial}, done)
	s.Register(action.Descriptor{ID: "files.delete"}, done)
	s.Register(action.Descriptor{ID: "files.slow", Reversibility: action.Partial}, func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	return s.ID(), nil
}

// A child is a test server of a script.
type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

// serversKey is under which a script keeps its servers, by directory.
type serversKey struct{}

func servers(ts *testscript.TestScript) map[string]*child {
	return ts.Value(serversKey{}).(map[string]*child)
}

// startServer is `serve DIR`: it starts a server and waits until it serves; $SOCKET is where.
func startServer(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	cmd := exec.Command(filepath.Join(firstOf(ts.Getenv("PATH")), "testserver"), dir)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+ts.Getenv("XDG_RUNTIME_DIR"))
	cmd.Stderr = ts.Stderr()
	in, err := cmd.StdinPipe()
	ts.Check(err)
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	c := &child{cmd, in, bufio.NewScanner(out)}
	servers(ts)[args[0]] = c
	ts.Defer(func() { _ = c.in.Close(); _ = c.cmd.Wait() })
	ts.Setenv("SOCKET", c.answer(ts))
}

func firstOf(path string) string { return strings.Split(path, string(os.PathListSeparator))[0] }

func (c *child) answer(ts *testscript.TestScript) string {
	if !c.lines.Scan() {
		ts.Fatalf("the server has ended: %v", c.lines.Err())
	}
	return c.lines.Text()
}

// tellServer is `tell DIR VAR… : LINE…`: it says a line to a server and sets the variables to the words of its answer.
func tellServer(ts *testscript.TestScript, _ bool, args []string) {
	c := servers(ts)[args[0]]
	if c == nil {
		ts.Fatalf("no server serves %s", args[0])
	}
	vars, line := split(args[1:])
	_, err := fmt.Fprintln(c.in, strings.Join(line, " "))
	ts.Check(err)
	words := strings.Fields(c.answer(ts))
	for i, name := range vars {
		if i >= len(words) {
			ts.Fatalf("the answer is only %q", words)
		}
		ts.Setenv(name, words[i])
	}
	if words[0] == "error" {
		ts.Fatalf("%s", strings.Join(words, " "))
	}
}

func split(args []string) (before, after []string) {
	for i, a := range args {
		if a == ":" {
			return args[:i], args[i+1:]
		}
	}
	return nil, args
}

// stopServer is `stop DIR`: it ends a server as its user would.
func stopServer(ts *testscript.TestScript, _ bool, args []string) {
	c := servers(ts)[args[0]]
	ts.Check(c.in.Close())
	ts.Check(c.cmd.Wait())
}

// crashServer is `crash DIR`: it kills a server.
func crashServer(ts *testscript.TestScript, _ bool, args []string) {
	c := servers(ts)[args[0]]
	ts.Check(c.cmd.Process.Kill())
	_ = c.cmd.Wait()
}

// startDaemon is `daemon DIR ARG…`: it starts `hypervisor serve` on a data directory and waits until it serves; $URL and $LISTEN
// are where.
func startDaemon(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command(filepath.Join(firstOf(ts.Getenv("PATH")), "hypervisor"), append([]string{"serve", "--json", "--data"}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+ts.Getenv("XDG_RUNTIME_DIR"))
	cmd.Stderr = ts.Stderr()
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	var hello greeting
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &hello) != nil {
		ts.Fatalf("the daemon said %q", lines.Text())
	}
	ts.Setenv("URL", "http://"+hello.Listen)
	ts.Setenv("LISTEN", hello.Listen)
}

// exits is `exits CODE COMMAND…`: it runs a program that must end with exactly that code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var ended *exec.ExitError
	got := 0
	if errors.As(err, &ended) {
		got = ended.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// flip is `flip FILE TEXT`: it changes a letter in the last place where a file has a text.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	i := strings.LastIndex(string(b), args[1])
	if i < 0 {
		ts.Fatalf("%s has no %q", args[0], args[1])
	}
	b[i] ^= 1
	ts.Check(os.WriteFile(path, b, 0o600))
}

// mode is `mode FILE OCTAL`: it compares a file's permissions.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}
