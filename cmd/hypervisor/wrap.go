package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/client"
	"github.com/agenthypervisor/hypervisor/internal/config"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/internal/gateway"
	"github.com/agenthypervisor/hypervisor/internal/httpapi"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/sqlitelog"
)

const (
	localAgent = policy.DID("did:mesh:local")
	localSigma = ring.Sigma(800_000)
	// maxStateDirs is how many hypervisors may wrap the same command at once without being told a directory.
	maxStateDirs = 100
	// drainTime is how long the end waits for calls that run: the session's own grace time, and a little more.
	drainTime = 35 * time.Second
)

// A wrapping is what `wrap` was told.
type wrapping struct {
	name, data, agent, config string
	command                   []string

	stdin  io.ReadCloser
	stdout io.WriteCloser
	stderr io.Writer
}

func newWrapCommand(g *globals) *cobra.Command {
	w := &wrapping{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	cmd := &cobra.Command{
		Use:   "wrap [--name N] [--data DIR] [--agent DID] [-c FILE] -- CMD ARG…",
		Short: "Put a governed MCP server on stdin and stdout before one stdio MCP server",
		Long: `wrap starts CMD as a stdio MCP server and stands before it as one: put "hypervisor wrap --" before any
command in any MCP client's configuration. Every call is admitted or refused by the session's rules, recorded before it goes
out and after it came back.

Without -c the agent is did:mesh:local with σ 0.80 (ring 2), and the server's own annotations are believed. The end of
stdin ends the session. After a crash the next start ends what was left and opens a successor.`,
		Example: `  hypervisor wrap -- npx -y @modelcontextprotocol/server-filesystem /srv/work
  hypervisor wrap --name files -c hypervisor.yaml -- npx -y @modelcontextprotocol/server-filesystem /srv/work`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("wrap wants the command it stands before: hypervisor wrap -- CMD ARG…")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			w.command, w.data = args, g.data
			return w.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&w.name, "name", "upstream", "the server's name in configuration, policies and records")
	cmd.Flags().StringVar(&w.agent, "agent", "", "the DID of the agent that calls (default did:mesh:local, or the configuration's)")
	cmd.Flags().StringVarP(&w.config, "config", "c", "", "a configuration file")
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// A setting is what a wrap runs under, from the configuration or without one.
type setting struct {
	agent    policy.DID
	sigma    *ring.Sigma // nil: not said
	cfg      *config.Config
	trusting bool
}

func (w *wrapping) run(ctx context.Context) error {
	set, err := w.setting()
	if err != nil {
		return w.misconfigured(err)
	}
	hv, dir, err := w.open(ctx, set)
	if err != nil {
		return unopened(err)
	}
	err = w.serve(ctx, hv, dir, set)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	return errors.Join(err, hv.Close(end))
}

// misconfigured prints the faults of a configuration, a line each.
func (w *wrapping) misconfigured(err error) error {
	var faults document.Faults
	if !errors.As(err, &faults) {
		return usage("%w", err)
	}
	for _, f := range faults {
		fmt.Fprintln(w.stderr, clean(f.Error()))
	}
	return usage("%w", silent{err})
}

// setting reads the configuration, if there is one, and finds out for whom the calls are made.
func (w *wrapping) setting() (setting, error) {
	set := setting{agent: localAgent}
	if err := config.CheckServerName(w.name); err != nil {
		return set, fmt.Errorf("--name: %w", err)
	}
	if w.agent != "" {
		did, err := policy.ParseDID(w.agent)
		if err != nil {
			return set, fmt.Errorf("--agent: %w", err)
		}
		set.agent = did
	}
	if w.config == "" {
		cfg, err := config.Parse("(none)", nil, &config.Options{Wrapped: w.name, Environ: os.LookupEnv})
		if err != nil {
			return set, fmt.Errorf("--name: %w", err)
		}
		sigma := localSigma
		set.sigma, set.cfg, set.trusting = &sigma, cfg, true
		fmt.Fprintf(w.stderr, "hypervisor: no -c FILE: %s has σ %s, and the annotations of %s are believed\n", set.agent, sigma, w.name)
		return set, nil
	}
	cfg, err := config.Load(w.config, &config.Options{Wrapped: w.name, Environ: os.LookupEnv})
	if err != nil {
		return set, err
	}
	set.cfg, set.trusting = cfg, cfg.Servers[w.name].TrustAnnotations
	if a := cfg.AnonymousAgent; a != nil && w.agent == "" {
		set.agent, set.sigma = a.DID, a.Sigma
	}
	if w.agent == "" && cfg.AnonymousAgent == nil && len(cfg.Agents) == 1 {
		set.agent = cfg.Agents[0].DID
	}
	for _, a := range cfg.Agents {
		if a.DID == set.agent {
			set.sigma = a.Sigma
		}
	}
	return set, nil
}

// open takes the data directory: the one that was named, else the first free one of this command.
func (w *wrapping) open(ctx context.Context, set setting) (*hypervisor.Hypervisor, string, error) {
	opts := hypervisor.Options{Operators: operators(set.cfg), Program: "wrap " + version().Version, Logger: slog.New(slog.NewTextHandler(w.stderr, nil))}
	if w.data != "" {
		opts.Dir = w.data
		hv, err := hypervisor.Open(ctx, &opts)
		return hv, w.data, err
	}
	state, err := client.StateDir()
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256([]byte(w.name + "\x00" + strings.Join(w.command, "\x00")))
	base := filepath.Join(state, fmt.Sprintf("%s-%s", w.name, hex.EncodeToString(sum[:4])))
	for n := 1; n <= maxStateDirs; n++ {
		if opts.Dir = base; n > 1 {
			opts.Dir = fmt.Sprintf("%s-%d", base, n)
		}
		hv, err := hypervisor.Open(ctx, &opts)
		var held *sqlitelog.HeldError
		if !errors.As(err, &held) {
			return hv, opts.Dir, err
		}
		fmt.Fprintf(w.stderr, "hypervisor: %s is held by another process; taking the next\n", opts.Dir)
	}
	return nil, "", fmt.Errorf("%d hypervisors wrap this command already; name a directory with --data", maxStateDirs)
}

func operators(cfg *config.Config) []policy.DID {
	var dids []policy.DID
	for _, o := range cfg.Roles.Operator {
		dids = append(dids, policy.DID(o))
	}
	return dids
}

// serve opens a session and stands before the server until the agent ends its input.
func (w *wrapping) serve(ctx context.Context, hv *hypervisor.Hypervisor, dir string, set setting) error {
	admin := policy.Operator("did:mesh:operator").Through("config")
	s, p, err := w.prepare(ctx, hv, admin, dir, set)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	socket, err := httpapi.Listen(dir)
	if err != nil {
		return unopened(err)
	}
	control := make(chan error, 1)
	go func() {
		err := socket.Run(ctx, httpapi.New(hv, httpapi.SocketOperator, &httpapi.Options{Logger: hv.Logger()}))
		if ctx.Err() == nil {
			stop(fmt.Errorf("control socket: %w", err))
		}
		control <- err
	}()
	fmt.Fprintf(w.stderr, "hypervisor: session %s: %s in ring %d (σ %s) before %s; data in %s\n", s.ID(), p.Agent, p.Ring, p.SigmaEff, w.name, dir)

	up := gateway.NewUpstream(w.name, gateway.Command{Path: w.command[0], Args: w.command[1:], Env: gateway.InheritedEnvironment(os.Environ())},
		&gateway.UpstreamOptions{Stderr: w.stderr, Log: hv.Logger(), Version: version().Version, Questions: questions(set.cfg.Servers[w.name])})
	front := gateway.NewFront(hv, s, policy.Agent(p.Agent).Through("stdio"), up, &gateway.FrontOptions{
		Claims:           func(tool string) []action.Claim { return set.cfg.Claims(w.name, tool) },
		TrustAnnotations: set.trusting, Version: version().Version, Log: hv.Logger(),
	})
	hv.Equip(front.Equip)
	hv.SetAddresses(set.cfg.Addresses)
	served := front.Run(ctx, w.stdin, w.stdout)
	reason := "end_of_input"
	if served != nil {
		reason = "stopped"
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	_, ended := s.End(end, admin, session.Terminate{Reason: reason})
	stop(nil)
	<-control
	switch {
	case errors.Is(served, gateway.ErrUpstream):
		return unopened(served)
	case errors.Is(served, context.Canceled):
		served = nil // a signal: the session was ended as it should be
	}
	return errors.Join(served, ended)
}

// prepare puts the policies in force, ends what an earlier process left, and opens the session.
func (w *wrapping) prepare(ctx context.Context, hv *hypervisor.Hypervisor, admin policy.Caller, dir string, set setting) (*hypervisor.Session, hypervisor.Participant, error) {
	var none hypervisor.Participant
	rates, err := ratingOf(set.cfg)
	if err != nil {
		return nil, none, usage("%w", err)
	}
	rates.set(hv)
	if _, err := hv.SetRules(ctx, admin, set.cfg.Rules, set.cfg.Rules.Version()); err != nil {
		return nil, none, err
	}
	for _, id := range hv.OpenSessions() {
		old, err := hv.Session(ctx, id)
		if err != nil {
			return nil, none, err
		}
		if _, err := old.End(ctx, admin, session.Terminate{Reason: "process_ended"}); err != nil {
			return nil, none, err
		}
		fmt.Fprintf(w.stderr, "hypervisor: session %s was left by a process that ended; it is ended, and a new one opened\n", id)
	}
	for _, a := range append([]config.Agent{{DID: set.agent, Sigma: set.sigma}}, set.cfg.Agents...) {
		if a.Sigma == nil {
			continue
		}
		if _, err := hv.SetSigma(ctx, admin, a.DID, *a.Sigma); err != nil {
			return nil, none, err
		}
	}
	if err := w.notKilled(ctx, hv, dir, set.agent); err != nil {
		return nil, none, err
	}
	cfg, err := sessionConfig(set.cfg.Session)
	if err != nil {
		return nil, none, usage("%w", err)
	}
	if cfg.MaxDuration == 0 {
		cfg.MaxDuration = session.MaxDuration // a client's server runs as long as the client
	}
	s, err := hv.CreateSession(ctx, admin, &cfg)
	if err != nil {
		return nil, none, err
	}
	p, err := s.Join(ctx, admin, session.Join{Agent: set.agent})
	if err != nil {
		return nil, none, err
	}
	return s, p, s.Activate(ctx, admin)
}

// notKilled returns, for an agent that is killed, that it is and how to lift it: what runs here is for it alone.
func (w *wrapping) notKilled(ctx context.Context, hv *hypervisor.Hypervisor, dir string, agent policy.DID) error {
	k, stopped, err := hv.Stopped(ctx, agent)
	if err != nil || !stopped {
		return err
	}
	what := "--all"
	if !k.All {
		what = "--agent " + string(k.Agent)
	}
	d := k.Refusal()
	return fmt.Errorf("%s: with 'hypervisor serve --data %s' running, 'hypervisor kill --lift %s --data %s'", d.Reason, dir, what, dir)
}

// sessionConfig makes of the file's settings what a session is created with.
func sessionConfig(c config.Session) (session.Config, error) {
	out := session.Config{MaxParticipants: c.MaxParticipants, MaxDuration: c.MaxDuration, MinSigmaEff: c.MinSigmaEff, VouchWeight: c.VouchWeight,
		NoAudit: c.NoAudit, ApprovalTTL: c.ApprovalTTL, NetworkAllow: c.NetworkAllow, FilesScope: c.FilesScope}
	err := out.Consistency.UnmarshalText([]byte(c.Consistency))
	return out, err
}
