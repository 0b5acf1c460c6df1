package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/client"
)

// daemon.go: `hypervisor serve` in a process of its own, and what comes to it.

// A daemon is a process that serves agents, and a client of its API.
type daemon struct {
	*serving
	ctl *client.Client
}

// writeConfig writes the configuration of a daemon with the tool server behind it and so many agents, and one more
// that comes without a token, and returns its path.
func (r *run) writeConfig(agents int) (string, error) {
	var text strings.Builder
	args, err := json.Marshal(r.server.Args)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&text, "listen: 127.0.0.1:0\nsession: {max_participants: %d, max_duration: 168h}\n", max(agents, 10))
	fmt.Fprintf(&text, "mcpServers: {up: {command: %q, args: %s}}\nservers: {up: {trust_annotations: true}}\n", r.server.Path, args)
	fmt.Fprintf(&text, "anonymous_agent: {did: %q, sigma: 0.80}\nagents:\n", agentNo(agents))
	for i := range agents {
		fmt.Fprintf(&text, "  - {did: %q, sigma: 0.80}\n", agentNo(i))
	}
	path := filepath.Join(r.dir, "hypervisor.yaml")
	return path, os.WriteFile(path, []byte(text.String()), 0o600)
}

func agentNo(i int) string { return "did:mesh:agent-" + strconv.Itoa(i) }

// startDaemon starts a daemon with a configuration on the run's directory and returns once it serves.
func (r *run) startDaemon(ctx context.Context, config string) (*daemon, error) {
	data := filepath.Join(r.dir, "data")
	p, err := startServing(exec.CommandContext(ctx, r.program, "serve", "--json", "-c", config, "--data", data))
	if err != nil {
		return nil, err
	}
	socket, err := client.SocketIn(data)
	if err != nil {
		return nil, errors.Join(err, p.end())
	}
	return &daemon{p, client.Socket(socket)}, nil
}

// end ends the daemon and waits for it.
func (d *daemon) end() error {
	d.ctl.Close()
	return d.serving.end()
}

// seats opens the session and returns a token in it for each of so many agents.
func (d *daemon) seats(ctx context.Context, agents int) ([]string, error) {
	const session = "bench"
	if _, err := d.ctl.CreateSession(ctx, api.SessionConfig{Name: session}, session); err != nil {
		return nil, err
	}
	tokens := make([]string, agents)
	return tokens, eachOf(agents, func(i int) error {
		t, err := d.ctl.Seat(ctx, agentNo(i), api.SeatRequest{Session: session})
		tokens[i] = t.Token
		return err
	})
}

// agentClient returns an HTTP client that shows an agent's token; empty: it comes as the anonymous agent.
func agentClient(token string, transport http.RoundTripper) *http.Client {
	return &http.Client{Transport: bearer{token, transport}}
}

type bearer struct {
	token string
	next  http.RoundTripper
}

// RoundTrip adds the token.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if b.token != "" {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.next.RoundTrip(r)
}

// connectTo connects a client to an address, in a revision of the protocol; empty: the newest.
func connectTo(ctx context.Context, address string, c *http.Client, revision string) (*mcp.ClientSession, error) {
	return mcp.NewClient(&mcp.Implementation{Name: "bench", Version: "1"}, nil).Connect(ctx,
		&mcp.StreamableClientTransport{Endpoint: address, HTTPClient: c, MaxRetries: -1}, &mcp.ClientSessionOptions{ProtocolVersion: revision})
}

// resident returns how much of a process's memory is in the machine's, in bytes, or zero where that cannot be had.
func resident(pid int) float64 {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	pages, err := strconv.ParseFloat(fields[1], 64)
	if err != nil {
		return 0
	}
	return pages * float64(os.Getpagesize())
}
