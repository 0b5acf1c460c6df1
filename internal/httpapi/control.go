package httpapi

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/manifest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// control.go: the routes that make sessions and act in them.

// mustRun refuses who does not run the place, before anything is looked up.
func mustRun(caller policy.Caller) error {
	if caller.Runs() {
		return nil
	}
	return forbidden("%s is %s; an operator does this", caller.DID, caller.Role)
}

func invalid(format string, args ...any) error {
	return &hypervisor.Refused{Decision: policy.Refuse(policy.InvalidArguments, format, args...)}
}

func (a *API) create(ctx context.Context, caller policy.Caller, in request[api.SessionConfig]) (api.Session, error) {
	if err := mustRun(caller); err != nil {
		return api.Session{}, err
	}
	cfg, err := a.settings(in.body)
	if err != nil {
		return api.Session{}, err
	}
	var s *hypervisor.Session
	if in.key != "" {
		s, err = a.hv.CreateSessionOnce(ctx, caller, in.key, &cfg)
	} else {
		s, err = a.hv.CreateSession(ctx, caller, &cfg)
	}
	if err != nil {
		return api.Session{}, err
	}
	return a.view(ctx, s)
}

// settings returns what a body says of a session, and the defaults where it says nothing.
func (a *API) settings(in api.SessionConfig) (cfg session.Config, err error) {
	if a.opts.Defaults != nil {
		cfg = a.opts.Defaults()
	}
	cfg.Name = in.Name
	if in.Consistency != "" {
		if err := cfg.Consistency.UnmarshalText([]byte(in.Consistency)); err != nil {
			return cfg, invalid("%v", err)
		}
	}
	if in.MaxParticipants != 0 {
		cfg.MaxParticipants = in.MaxParticipants
	}
	if in.Audit != nil {
		cfg.NoAudit = !*in.Audit
	}
	if in.NetworkAllow != nil {
		if cfg.NetworkAllow, err = each("network_allow", in.NetworkAllow, action.ParseHost); err != nil {
			return cfg, err
		}
	}
	if in.FilesScope != nil { // what resources are under
		if cfg.FilesScope, err = each("files_scope", in.FilesScope, action.NormaliseResource); err != nil {
			return cfg, err
		}
	}
	if err := duration("max_duration", in.MaxDuration, &cfg.MaxDuration); err != nil {
		return cfg, err
	}
	if err := duration("approval_ttl", in.ApprovalTTL, &cfg.ApprovalTTL); err != nil {
		return cfg, err
	}
	sigma, err := figure("min_sigma_eff", in.MinSigmaEff)
	if err != nil {
		return cfg, err
	}
	if sigma != nil {
		cfg.MinSigmaEff = sigma
	}
	weight, err := figure("vouch_weight", in.VouchWeight)
	if weight != nil {
		w := action.Omega(*weight)
		cfg.VouchWeight = &w
	}
	return cfg, err
}

// each reads the entries of a setting.
func each(name string, texts []string, read func(string) (string, error)) ([]string, error) {
	out := make([]string, len(texts))
	for i, text := range texts {
		var err error
		if out[i], err = read(text); err != nil {
			return nil, invalid("%s: %v, got %q", name, err, text)
		}
	}
	return out, nil
}

// duration reads a duration such as 90s or 7d into *to, which keeps what it has where nothing is said.
func duration(name, text string, to *time.Duration) error {
	if text == "" {
		return nil
	}
	d, err := document.ParseDuration(text)
	if err != nil || d <= 0 {
		return invalid("%s: want a duration such as 30s, 15m, 24h or 7d, got %q", name, text)
	}
	*to = d
	return nil
}

// figure reads a figure from 0 to 1; nil where nothing is said.
func figure(name string, d api.Decimal) (*ring.Sigma, error) {
	if d == "" {
		return nil, nil
	}
	v, err := ring.ParseSigma(string(d))
	if err != nil {
		return nil, invalid("%s: %v", name, err)
	}
	return &v, nil
}

// amount reads a figure that is none where it is zero: what is left out has a value of its own, and zero must not mean that.
func amount(name string, d api.Decimal) (ring.Sigma, error) {
	v, err := figure(name, d)
	switch {
	case err != nil || v == nil:
		return 0, err
	case *v == 0:
		return 0, invalid("%s: want a figure above 0, up to 1; leave it out for the usual one", name)
	}
	return *v, nil
}

func (a *API) join(ctx context.Context, caller policy.Caller, in request[api.Join]) (api.Joined, error) {
	s, err := a.ownOr(ctx, in.who, in.path("id"), mustRun)
	if err != nil {
		return api.Joined{}, err
	}
	did, err := policy.ParseDID(in.body.Agent)
	if err != nil {
		return api.Joined{}, err
	}
	sigma, err := figure("sigma", in.body.Sigma)
	if err != nil {
		return api.Joined{}, err
	}
	c := session.Join{Agent: did, Key: in.key}
	if sigma != nil {
		c.Sigma = *sigma
	}
	if in.body.Manifest != nil {
		if c.Manifest, err = manifest.Parse(in.body.Manifest); err != nil {
			return api.Joined{}, err
		}
	}
	if c.Receipts, err = receipts(in.body.Receipts); err != nil {
		return api.Joined{}, err
	}
	if sigma != nil && caller.Role == policy.AgentRole {
		return api.Joined{}, forbidden("only an operator says an agent's σ")
	}
	if sigma != nil && *sigma == 0 { // which a Join takes for nothing said
		if _, err := a.hv.RegisterAgent(ctx, caller, did, sigma); err != nil {
			return api.Joined{}, err
		}
	}
	p, err := s.Join(ctx, caller, c)
	if err != nil {
		return api.Joined{}, err
	}
	out := api.Joined{Agent: string(p.Agent), Ring: int(p.Ring), SigmaEff: api.Decimal(p.SigmaEff.String()), History: historyView(p.History)}
	if c.Manifest != nil {
		out.Manifest = audit.Hash(c.Manifest.Digest).String()
	}
	return out, nil
}

// receipts reads the receipts of a join; what they say is the session's to judge.
func receipts(in []api.Receipt) ([]session.Receipt, error) {
	if len(in) > session.MaxReceipts {
		return nil, invalid("%d receipts are more than %d", len(in), session.MaxReceipts)
	}
	var out []session.Receipt
	for i, r := range in {
		summary, err := audit.ParseHash(r.SummaryHash)
		if err != nil {
			return nil, invalid("receipt %d: summary_hash: %v", i+1, err)
		}
		out = append(out, session.Receipt{Hypervisor: r.Hypervisor, Session: r.Session, Agent: policy.DID(r.Agent), Opened: r.Opened.UTC(), Ended: r.Ended.UTC(),
			Summary: summary, Records: r.Records, Proof: r.Proof})
	}
	return out, nil
}

func (a *API) leave(ctx context.Context, caller policy.Caller, in request[api.Leave]) (api.Session, error) {
	c := session.Leave{Agent: policy.DID(in.body.Agent)}
	if caller.Role == policy.AgentRole {
		if err := a.isOwn(in.who, in.path("id")); err != nil {
			return api.Session{}, err
		}
	} else if err := mustRun(caller); err != nil {
		return api.Session{}, err
	} else if c.Agent == "" {
		return api.Session{}, invalid("agent is missing")
	}
	s, err := a.named(ctx, in.path("id"))
	if err == nil {
		err = s.Leave(ctx, caller, c)
	}
	if err != nil {
		return api.Session{}, err
	}
	return a.view(ctx, s)
}

func (a *API) activate(ctx context.Context, caller policy.Caller, in request[none]) (api.Session, error) {
	if err := mustRun(caller); err != nil {
		return api.Session{}, err
	}
	s, err := a.named(ctx, in.path("id"))
	if err == nil {
		err = s.Activate(ctx, caller)
	}
	if err != nil {
		return api.Session{}, err
	}
	return a.view(ctx, s)
}

func (a *API) act(ctx context.Context, caller policy.Caller, in request[api.Act]) (api.Outcome, error) {
	if !a.acts.enter() {
		return api.Outcome{}, fmt.Errorf("%w: it takes no more actions", hypervisor.ErrClosed)
	}
	defer a.acts.leave()
	dry, err := in.query.flag("dry_run")
	if err != nil {
		return api.Outcome{}, err
	}
	s, err := a.stage(ctx, caller, in)
	if err != nil {
		return api.Outcome{}, err
	}
	c := session.Act{Action: in.body.Action, Args: in.body.Args, Key: in.key}
	if dry {
		d, err := s.DryRun(ctx, caller, c)
		return api.Outcome{Decision: decision(a.unlisted(s, caller, c.Action, d))}, err
	}
	var out hypervisor.Outcome
	if in.body.Wait != nil && !*in.body.Wait {
		out, err = s.Begin(context.WithoutCancel(ctx), caller, c)
	} else {
		out, err = s.Act(ctx, caller, c)
	}
	if err != nil {
		return api.Outcome{}, err
	}
	if !out.Allowed {
		return api.Outcome{}, &hypervisor.Refused{Decision: a.unlisted(s, caller, c.Action, out.Decision)}
	}
	reply := api.Outcome{ID: out.ID, Decision: decision(out.Decision), Outcome: out.State, Result: out.Result}
	if out.Err != nil {
		reply.Why = out.Err.Error()
	}
	return reply, nil
}

// unlisted says of an action that is refused as unknown why it may be there all the same.
func (a *API) unlisted(s *hypervisor.Session, caller policy.Caller, action string, d policy.Decision) policy.Decision {
	if d.Code == policy.UnknownAction && a.opts.Unlisted != nil {
		if why := a.opts.Unlisted(s, caller, action); why != nil {
			d.Reason = why.Error()
		}
	}
	return d
}

// stage returns the session that a caller may act in, with its tools there: an operator in any, an agent in its own, which is
// entered as over MCP.
func (a *API) stage(ctx context.Context, caller policy.Caller, in request[api.Act]) (s *hypervisor.Session, err error) {
	switch caller.Role {
	case policy.OperatorRole:
		s, err = a.named(ctx, in.path("id"))
	case policy.AgentRole:
		if err := a.isOwn(in.who, in.path("id")); err != nil {
			return nil, err
		}
		s, err = a.hv.Enter(ctx, in.who.Token)
	default:
		return nil, forbidden("%s is %s; operators and agents act", caller.DID, caller.Role)
	}
	if err != nil {
		return nil, err
	}
	if in.body.Action == "" {
		return nil, invalid("action is missing")
	}
	if a.opts.Tools != nil {
		if err := a.opts.Tools(ctx, s, caller); err != nil {
			return nil, fmt.Errorf("looking for the tools of %s: %w", caller.DID, err)
		}
	}
	return s, nil
}

// Drain takes no more actions and returns once those under way are answered, or ctx ends. It is called before the server is shut
// down, which cancels them.
func (a *API) Drain(ctx context.Context) {
	select {
	case <-a.acts.end():
	case <-ctx.Done():
	}
}

// underWay counts what is under way until it is told that no more comes. The zero value counts from nought.
type underWay struct {
	mu    sync.Mutex
	n     int
	ended chan struct{} // nil: more may come; closed when the last has left
}

func (u *underWay) enter() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended != nil {
		return false
	}
	u.n++
	return true
}

func (u *underWay) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.n--; u.n == 0 && u.ended != nil {
		close(u.ended)
	}
}

func (u *underWay) end() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended == nil {
		u.ended = make(chan struct{})
		if u.n == 0 {
			close(u.ended)
		}
	}
	return u.ended
}
