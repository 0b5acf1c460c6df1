package client

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/agenthypervisor/hypervisor/api"
)

// find.go: which hypervisor is meant.

const (
	// DefaultServer is the address of a daemon that was told nothing else.
	DefaultServer = "http://127.0.0.1:7700"
	socketName    = "control.sock"
	pointerName   = "control.path"
	maxTokenBytes = 16 << 10
)

// A Target says which hypervisor is meant. The zero Target is whichever runs here.
type Target struct {
	Dir       string // a data directory; empty: not said
	Server    string // an address; empty: not said
	Fallback  string // an address to try where nothing runs under the state directory; empty: DefaultServer
	Token     string // for Server and Fallback; empty: TokenFile
	TokenFile string // a file that holds it; empty: none
}

// Find returns the hypervisors a target means, at least one: that of its data directory; or that at its address; or all that
// run under the user's state directory; or, where none does, that at the fallback address, which is not tried. It returns
// *UnreachableError where nobody answers.
func Find(t Target) ([]*Client, error) {
	if t.Dir != "" {
		c, err := inDir(t.Dir)
		return []*Client{c}, err
	}
	if t.Server == "" {
		if live := running(); len(live) > 0 {
			return live, nil
		}
	}
	token, err := t.token()
	if err != nil {
		return nil, err
	}
	c, err := HTTP(cmp.Or(t.Server, t.Fallback, DefaultServer), token)
	if err != nil {
		return nil, err
	}
	if t.Server == "" {
		c.hint = "none runs under the state directory either: start one, or name it with --data DIR or --server URL"
	} else {
		c.hint = "start it, or name another with --data DIR or --server URL"
	}
	return []*Client{c}, nil
}

// StateDir returns the directory under which a user's hypervisors keep their data directories, each its own, when they are
// told no other place: $XDG_STATE_HOME/hypervisor, else ~/.local/state/hypervisor, on Windows %LocalAppData%\hypervisor.
func StateDir() (string, error) {
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "hypervisor"), nil
	}
	if runtime.GOOS == "windows" {
		dir, err := os.UserCacheDir()
		return filepath.Join(dir, "hypervisor"), err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the state directory: %w", err)
	}
	return filepath.Join(home, ".local", "state", "hypervisor"), nil
}

// SocketIn returns where the control socket of a data directory is: DIR/control.sock or, if that path is too long for one, where
// DIR/control.path says. It does not look whether anybody listens.
func SocketIn(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, pointerName))
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Join(dir, socketName), nil
	}
	if err != nil {
		return "", fmt.Errorf("finding the control socket: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func inDir(dir string) (*Client, error) {
	path, err := SocketIn(dir)
	if err != nil {
		return nil, err
	}
	if err := isLive(path); err != nil {
		return nil, &UnreachableError{Where: path, Err: err, Hint: fmt.Sprintf("start the hypervisor of %s, or name another with --data", dir)}
	}
	return Socket(path), nil
}

// isLive returns why nobody answers on a socket, nil if somebody does.
func isLive(path string) error {
	conn, err := net.DialTimeout("unix", path, dialTimeout)
	var op *net.OpError
	switch {
	case err == nil:
		return conn.Close()
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("there is no socket")
	case errors.As(err, &op):
		return op.Err
	}
	return err
}

// running returns the hypervisors that run under the state directory, in the order of their directories' names.
func running() []*Client {
	state, err := StateDir()
	if err != nil {
		return nil // no home, so nothing keeps its data there
	}
	entries, err := os.ReadDir(state)
	if err != nil {
		return nil
	}
	var live []*Client
	for _, e := range entries {
		path, err := SocketIn(filepath.Join(state, e.Name()))
		if err == nil && isLive(path) == nil {
			live = append(live, Socket(path))
		}
	}
	return live
}

func (t Target) token() (string, error) {
	if t.Token != "" || t.TokenFile == "" {
		return t.Token, nil
	}
	f, err := os.Open(t.TokenFile)
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTokenBytes))
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	text := strings.TrimSpace(string(b))
	if text == "" || strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", fmt.Errorf("reading the token: %s holds none: want one line with a token, such as 'agent token --out FILE' writes", t.TokenFile)
	}
	return text, nil
}

// Merge yields a list of each of the clients, one after the other. Ids of sessions are unique, so nothing comes twice.
func Merge[T any](clients []*Client, list func(*Client) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, c := range clients {
			for item, err := range list(c) {
				if !yield(item, err) || err != nil {
					return
				}
			}
		}
	}
}

// One asks all clients for one thing and returns what the only one that has it answers, and which that is. Where none has
// it the error is the first one's; where several have, an *Error that lists them as name says.
func One[T any](ctx context.Context, clients []*Client, ask func(context.Context, *Client) (T, error), name func(T) string) (*Client, T, error) {
	var first error
	var has []*Client
	var answers []T
	var candidates []string
	for _, c := range clients {
		v, err := ask(ctx, c)
		var e *Error
		switch {
		case err == nil:
			has, answers = append(has, c), append(answers, v)
			candidates = append(candidates, name(v))
		case errors.As(err, &e) && e.API.Code == api.CodeAmbiguous:
			candidates = append(candidates, e.API.Details.Candidates...)
		case !IsNotFound(err):
			return nil, v, err
		}
		first = cmp.Or(first, err)
	}
	var zero T
	switch {
	case len(candidates) > 1:
		slices.Sort(candidates)
		return nil, zero, &Error{http.StatusConflict, api.Error{Code: api.CodeAmbiguous, Details: api.ErrorDetails{Candidates: candidates},
			Message: "several sessions have it; say which"}}
	case len(has) == 0:
		return nil, zero, first
	}
	return has[0], answers[0], nil
}

// newLines reads lines of a stream.
func newLines(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), maxLineBytes)
	return s
}
