package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/bench/passthrough"
	"github.com/agenthypervisor/hypervisor/internal/auth"
	"github.com/agenthypervisor/hypervisor/internal/gateway"
	"github.com/agenthypervisor/hypervisor/internal/httpapi"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/system"
)

// ways.go: agents before the bare proxy and before the gateway, over pipes and over HTTP.

func (r *run) toolServer(ctx context.Context) *exec.Cmd {
	c := exec.CommandContext(ctx, r.server.Path, r.server.Args...)
	c.Env = r.server.Env
	return c
}

// stdioWay gives each agent a proxy and a front of its own, each with a tool server of its own, as clients that start them do.
func (r *run) stdioWay(ctx context.Context, n *node, s *hypervisor.Session, agents int) (*way, error) {
	w := &way{}
	for i := range agents {
		bare, end, err := overPipes(ctx, func(ctx context.Context, in io.ReadCloser, out io.WriteCloser) error {
			return passthrough.Run(ctx, r.toolServer(ctx), in, out)
		})
		if err != nil {
			return nil, errors.Join(err, w.end())
		}
		w.bare, w.ends = append(w.bare, hand{bare, ""}), append(w.ends, end)
		front := gateway.NewFront(n.hv, s, policy.Agent(policy.DID(agentNo(i))).Through("stdio"), gateway.NewUpstream("up", r.server, nil),
			&gateway.FrontOptions{TrustAnnotations: true, Claims: claims})
		governed, end, err := overPipes(ctx, func(ctx context.Context, in io.ReadCloser, out io.WriteCloser) error { return front.Run(ctx, in, out) })
		if err != nil {
			return nil, errors.Join(err, w.end())
		}
		w.governed, w.ends = append(w.governed, hand{governed, ""}), append(w.ends, end)
	}
	return w, nil
}

// overPipes runs a server on pipes and connects a client to it. end disconnects and waits for the server.
func overPipes(ctx context.Context, serve func(ctx context.Context, in io.ReadCloser, out io.WriteCloser) error) (cs *mcp.ClientSession, end func() error, err error) {
	in, clientOut, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	clientIn, out, err := os.Pipe()
	if err != nil {
		return nil, nil, errors.Join(err, in.Close(), clientOut.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() {
		served <- serve(ctx, in, out)
		cancel() // a client that still connects would wait for ever
	}()
	cs, err = mcp.NewClient(&mcp.Implementation{Name: "bench", Version: "1"}, nil).Connect(ctx, &mcp.IOTransport{Reader: clientIn, Writer: clientOut}, nil)
	if err != nil {
		cancel()
		return nil, nil, errors.Join(err, <-served)
	}
	return cs, func() error {
		err := cs.Close()
		if bad := <-served; !errors.Is(bad, context.Canceled) {
			err = errors.Join(err, bad)
		}
		return err
	}, nil
}

// httpWay puts all agents before one proxy and before one hub, each with one tool server for all, over the newest protocol. The hub
// stands behind the same doors as in `serve`: Host and Origin, and tokens.
func (r *run) httpWay(ctx context.Context, n *node, s *hypervisor.Session, agents int) (*way, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &way{ends: []func() error{func() error { cancel(); return nil }}}
	serve := func(serve func(net.Listener) error) (string, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		served := make(chan error, 1)
		go func() { served <- serve(l) }() // ends with ctx, for which the end waits
		w.ends = append(w.ends, func() error {
			cancel()
			if err := <-served; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		})
		return "http://" + l.Addr().String(), nil
	}
	bare, err := serve(func(l net.Listener) error { return passthrough.Serve(ctx, r.toolServer(ctx), l) })
	if err != nil {
		return nil, errors.Join(err, w.end())
	}
	hub, err := gateway.NewHub(n.hv, &gateway.HubOptions{Claims: func(_, tool string) []action.Claim { return claims(tool) },
		Servers: []gateway.ServerSpec{{Name: "up", Command: &r.server, Shared: true, TrustAnnotations: true}}})
	if err != nil {
		return nil, errors.Join(err, w.end())
	}
	door := auth.NewDoor(n.hv)
	governed, err := serve(func(l net.Listener) error { return serveHub(ctx, hub, door, l) })
	if err != nil {
		return nil, errors.Join(err, w.end())
	}
	<-hub.Serving()
	transport := &http.Transport{MaxIdleConnsPerHost: 2 * agents}
	w.ends = append(w.ends, func() error { transport.CloseIdleConnections(); return nil })
	for i := range agents {
		secret, _, err := door.Issue(ctx, admin, system.Token{Subject: policy.DID(agentNo(i)), Role: policy.AgentRole, Session: s.ID(), ID: "tok-" + strconv.Itoa(i) + "-" + s.ID()}, 0)
		if err != nil {
			return nil, errors.Join(err, w.end())
		}
		for _, to := range []struct {
			hands           *[]hand
			address, prefix string
		}{{&w.bare, bare, ""}, {&w.governed, governed, "up__"}} {
			cs, err := connectTo(ctx, to.address, agentClient(secret.Reveal(), transport), "")
			if err != nil {
				return nil, errors.Join(fmt.Errorf("connecting to %s: %w", to.address, err), w.end())
			}
			*to.hands, w.ends = append(*to.hands, hand{cs, to.prefix}), append(w.ends, cs.Close)
		}
	}
	return w, nil
}

// serveHub serves a hub as `serve` does, until ctx ends.
func serveHub(ctx context.Context, hub *gateway.Hub, door *auth.Door, l net.Listener) error {
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(ctx) }() // ends with ctx
	handler := hub.Handler(func(r *http.Request) (gateway.Seat, error) {
		agent, s, err := door.Seat(r)
		return gateway.Seat{Agent: agent, Session: s}, err
	})
	address := l.Addr()
	err := httpapi.Serve(ctx, l, httpapi.Guard(auth.NewListener(address, address.String(), nil).Check, handler))
	if bad := <-ran; !errors.Is(bad, context.Canceled) {
		err = errors.Join(err, bad)
	}
	return err
}
