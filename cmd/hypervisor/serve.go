package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/internal/auth"
	"github.com/agenthypervisor/hypervisor/internal/config"
	"github.com/agenthypervisor/hypervisor/internal/gateway"
	"github.com/agenthypervisor/hypervisor/internal/httpapi"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// A daemon is what `serve` runs: one hypervisor, its doors, and the servers behind them.
type daemon struct {
	g      *globals
	file   string // the configuration; empty: none
	listen string // as the command line says; empty: as the configuration does
	check  bool
	stderr io.Writer

	cfg      atomic.Pointer[config.Config] // as it is in force
	draining atomic.Bool
	reload   chan os.Signal // told of each SIGHUP, from the first moment: one that nobody takes ends a process

	dir  string
	hv   *hypervisor.Hypervisor
	door *auth.Door
	hub  *gateway.Hub
	own  sync.WaitGroup
}

// configOperator is in whose name the configuration is put in force.
var configOperator = policy.Operator("did:mesh:operator").Through("config")

func newServeCommand(g *globals) *cobra.Command {
	d := &daemon{g: g}
	cmd := &cobra.Command{
		Use:   "serve [-c FILE] [--data DIR] [--listen ADDR]",
		Short: "Be the daemon: many agents, many MCP servers, one address",
		Long: `serve stands before all MCP servers of a configuration, for any number of agents: MCP at /mcp, the API at /v1.
Whoever comes shows a token; it says which agent in which session. The first start makes operator.token (mode 0600) in the data
directory, with which an operator comes over HTTP; on this machine the client commands use DIR/control.sock and need none.

A SIGHUP reads the configuration again and puts all of it in force, or nothing. A SIGTERM lets running calls finish.
--check reads the configuration, looks for the servers' commands, and starts nothing.`,
		Example: `  hypervisor serve
  hypervisor serve -c hypervisor.yaml --data /var/lib/hypervisor
  hypervisor serve -c hypervisor.yaml --check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.stderr = g.err
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().StringVarP(&d.file, "config", "c", "", "a configuration file")
	cmd.Flags().StringVar(&d.listen, "listen", "", "host:port to listen on (default: the configuration's, else "+config.DefaultListen+")")
	cmd.Flags().BoolVar(&d.check, "check", false, "only say whether the configuration is sound")
	return cmd
}

func (d *daemon) run(ctx context.Context) error {
	cfg, err := d.load()
	if err != nil {
		return err
	}
	if d.check {
		return d.report(cfg)
	}
	if d.dir = d.g.data; d.dir == "" {
		d.dir = cfg.Data
	}
	d.reload = make(chan os.Signal, 1)
	signal.Notify(d.reload, syscall.SIGHUP)
	defer signal.Stop(d.reload)
	_, err = os.Stat(filepath.Join(d.dir, auth.OperatorFile))
	first := errors.Is(err, os.ErrNotExist)
	d.hv, err = hypervisor.Open(ctx, &hypervisor.Options{Dir: d.dir, Operators: operators(cfg), Program: "serve " + version().Version,
		Logger: slog.New(slog.NewTextHandler(d.stderr, nil))})
	if err != nil {
		return unopened(err)
	}
	err = d.serve(ctx, cfg, first)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	return errors.Join(err, d.hv.Close(end))
}

// serve opens the doors and keeps them open until ctx ends.
func (d *daemon) serve(ctx context.Context, cfg *config.Config, first bool) error {
	d.door = auth.NewDoor(d.hv)
	hub, err := gateway.NewHub(d.hv, &gateway.HubOptions{Servers: specs(cfg), Claims: cfg.Claims, Version: version().Version, Stderr: d.stderr, Log: d.hv.Logger()})
	if err != nil {
		return usage("%w", err)
	}
	d.hub = hub
	if err := d.enforce(ctx, cfg); err != nil {
		return err
	}
	token, _, err := d.door.OperatorToken(ctx, d.dir)
	if err != nil {
		return unopened(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return unopened(fmt.Errorf("listening on %s: %w; end what listens there, or name another address with --listen", cfg.Listen, err))
	}
	at := auth.NewListener(listener.Addr(), cfg.Listen, cfg.Hosts)
	if cfg.AnonymousAgent != nil && !at.Loopback() {
		return errors.Join(usage("anonymous_agent: %s is no loopback address", listener.Addr()), listener.Close())
	}
	socket, err := httpapi.Listen(d.dir)
	if err != nil {
		return errors.Join(unopened(err), listener.Close())
	}
	return d.open(ctx, doors{listener, socket, at}, greeting{Listen: listener.Addr().String(), Data: d.dir, TokenFile: token, First: first, Servers: len(cfg.MCPServers)})
}

// doors are where requests come in.
type doors struct {
	tcp    net.Listener
	socket *httpapi.Socket
	rules  *auth.Listener
}

// open serves until ctx ends or a door breaks. At the end running calls finish while the doors still answer; then they close.
func (d *daemon) open(ctx context.Context, at doors, hello greeting) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	open, shut := context.WithCancel(context.WithoutCancel(ctx))
	defer shut()
	byToken, bySocket := d.api(d.door.Identify), d.api(httpapi.SocketOperator)
	var failed [2]error
	d.own.Go(func() {
		if failed[0] = httpapi.Serve(open, at.tcp, httpapi.Guard(at.rules.Check, d.network(byToken))); failed[0] != nil {
			stop(failed[0])
		}
	})
	d.own.Go(func() {
		if failed[1] = at.socket.Run(open, bySocket); failed[1] != nil {
			stop(failed[1])
		}
	})
	d.own.Go(func() { _ = d.door.KeepOperatorToken(ctx, d.dir) })
	d.own.Go(func() { d.followAccepted(ctx) })
	d.own.Go(func() { d.followSignals(ctx) })
	d.own.Go(func() { giveBack(ctx) })
	calling, hangUp := context.WithCancel(open)
	defer hangUp()
	ended := make(chan struct{})
	go func() { // ends with calling
		defer close(ended)
		_ = d.hub.Run(calling)
	}()
	<-d.hub.Serving()
	d.hv.Equip(d.hub.Equip) // not before: a step that an earlier process left would find nobody, and wait
	hello.print(d.g, at.rules.Loopback())
	<-ctx.Done()
	d.draining.Store(true)
	d.hv.Logger().Info("ending: running calls finish")
	end, cancel := context.WithTimeout(open, drainTime)
	defer cancel()
	byToken.Drain(end) // before the hub: their calls go out through its servers
	bySocket.Drain(end)
	hangUp()
	<-ended
	shut()
	d.own.Wait()
	return errors.Join(failed[0], failed[1])
}

// network is what the TCP listener serves.
func (d *daemon) network(api http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/mcp", d.hub.Handler(d.seat))
	mux.Handle("/", api)
	return mux
}

func (d *daemon) api(identify httpapi.Identify) *httpapi.API {
	return httpapi.New(d.hv, identify, &httpapi.Options{
		Defaults: d.defaults,
		Tools: func(ctx context.Context, s *hypervisor.Session, caller policy.Caller) error {
			return d.hub.Offer(ctx, gateway.Seat{Agent: caller, Session: s})
		},
		Unlisted: func(s *hypervisor.Session, caller policy.Caller, action string) error {
			return d.hub.Unlisted(gateway.Seat{Agent: caller, Session: s}, action)
		},
		Ready: func() error {
			if d.draining.Load() {
				return fmt.Errorf("%w: the hypervisor is ending", hypervisor.ErrClosed)
			}
			return nil
		},
		Logger: d.hv.Logger(),
	})
}

// defaults are the settings of new sessions, as the configuration in force says.
func (d *daemon) defaults() session.Config {
	cfg, err := sessionConfig(d.cfg.Load().Session)
	if err != nil {
		panic("hypervisor: a configuration was taken that cannot be: " + err.Error())
	}
	return cfg
}

// seat is the door's answer in the gateway's words.
func (d *daemon) seat(r *http.Request) (gateway.Seat, error) {
	agent, s, err := d.door.Seat(r)
	if errors.Is(err, auth.ErrForbidden) {
		err = notLetIn{err}
	}
	return gateway.Seat{Agent: agent, Session: s}, err
}

// notLetIn makes the gateway answer 403.
type notLetIn struct{ error }

func (notLetIn) Is(target error) bool { return target == gateway.ErrForbidden }

// followAccepted has lists made anew whenever an operator accepts a definition, until ctx ends.
func (d *daemon) followAccepted(ctx context.Context) {
	for {
		accepted := d.hv.Accepted()
		select {
		case <-ctx.Done():
			return
		case <-accepted:
			d.hub.Refresh()
		}
	}
}
