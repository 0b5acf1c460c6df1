package httpapi

import (
	"context"
	"errors"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/policy"
)

// kill.go: the routes of the kill switch, and of quarantine.

func (a *API) kill(ctx context.Context, caller policy.Caller, in request[api.Killing]) (api.KillReport, error) {
	return a.doKill(ctx, caller, in.body)
}

func (a *API) killAgent(ctx context.Context, caller policy.Caller, in request[api.Killing]) (api.KillReport, error) {
	body := in.body
	if body.Agent != "" || body.All {
		return api.KillReport{}, invalid("the path names the agent; the body says session, reason and substitute at most")
	}
	body.Agent = in.path("did")
	return a.doKill(ctx, caller, body)
}

func (a *API) doKill(ctx context.Context, caller policy.Caller, body api.Killing) (api.KillReport, error) {
	if err := mustRun(caller); err != nil {
		return api.KillReport{}, err
	}
	scope, err := a.scope(ctx, body)
	if err != nil {
		return api.KillReport{}, err
	}
	k := policy.Kill{Scope: scope, Substitute: policy.DID(body.Substitute)}
	k.Reason, k.Note = policy.Because(body.Reason)
	report, err := a.hv.Kill(ctx, caller, k)
	return reportView(report), err
}

// scope returns what a body is of. A session's name stands for its newest.
func (a *API) scope(ctx context.Context, body api.Killing) (policy.Scope, error) {
	scope := policy.Scope{All: body.All, Session: body.Session, Agent: policy.DID(body.Agent)}
	if body.Session == "" {
		return scope, nil
	}
	s, err := a.named(ctx, body.Session)
	switch {
	case err == nil:
		scope.Session = s.ID()
	case errors.Is(err, hypervisor.ErrNotFound):
		return scope, err
	default: // the store cannot be read: the kill does not wait for that
		if id, ok := a.hv.Named(body.Session); ok {
			scope.Session = id
		}
	}
	return scope, nil
}

func (a *API) lift(ctx context.Context, caller policy.Caller, in request[api.Killing]) (api.Decision, error) {
	if err := mustRun(caller); err != nil {
		return api.Decision{}, err
	}
	if in.body.Reason != "" || in.body.Substitute != "" {
		return api.Decision{}, invalid("lifting takes no reason and no substitute")
	}
	scope, err := a.scope(ctx, in.body)
	if err != nil {
		return api.Decision{}, err
	}
	return decided(a.hv.LiftKill(ctx, caller, scope))
}

func (a *API) kills(_ context.Context, caller policy.Caller, in request[none]) (api.Page[api.Kill], error) {
	if err := mayRead(caller); err != nil {
		return api.Page[api.Kill]{}, err
	}
	return sorted(in.query, a.hv.Kills(), func(k policy.Kill) string { return k.ID }, killView)
}

func killView(k policy.Kill) api.Kill {
	return api.Kill{ID: k.ID, All: k.All, Session: k.Session, Agent: string(k.Agent), Reason: string(k.Reason), Note: k.Note, By: string(k.By), At: k.At, Substitute: string(k.Substitute)}
}

func reportView(r hypervisor.KillReport) api.KillReport {
	out := api.KillReport{Kill: killView(r.Kill), Cancelled: killedViews(r.Cancelled), StillRunning: killedViews(r.StillRunning),
		TokensRevoked: r.TokensRevoked, ApprovalsClosed: r.ApprovalsClosed, Recorded: r.Recorded, Tasks: []api.KilledTask{}, Work: []api.KilledWork{}}
	for _, t := range r.Tasks {
		out.Tasks = append(out.Tasks, api.KilledTask{Session: t.Session, Saga: t.Saga, Step: t.Step, Agent: string(t.Agent), To: string(t.To), State: t.State})
	}
	for _, w := range r.Work {
		out.Work = append(out.Work, api.KilledWork{Session: w.Session, Agent: string(w.Agent), Stands: w.Stands})
	}
	return out
}

func killedViews(calls []hypervisor.KilledCall) []api.KilledCall {
	out := make([]api.KilledCall, len(calls))
	for i, c := range calls {
		out[i] = api.KilledCall(c)
	}
	return out
}

func (a *API) quarantine(ctx context.Context, caller policy.Caller, in request[api.QuarantineRequest]) (api.Decision, error) {
	if err := mustRun(caller); err != nil {
		return api.Decision{}, err
	}
	did, err := policy.ParseDID(in.path("did"))
	if err != nil {
		return api.Decision{}, err
	}
	var c agent.EnterQuarantine
	c.Reason, c.Note = policy.Because(in.body.Reason)
	if c.Severity, err = amount("severity", in.body.Severity); err != nil {
		return api.Decision{}, err
	}
	if err := duration("for", in.body.For, &c.For); err != nil {
		return api.Decision{}, err
	}
	return decided(a.hv.Quarantine(ctx, caller, did, c))
}

func (a *API) release(ctx context.Context, caller policy.Caller, in request[api.Release]) (api.Decision, error) {
	if err := mustRun(caller); err != nil {
		return api.Decision{}, err
	}
	did, err := policy.ParseDID(in.path("did"))
	if err != nil {
		return api.Decision{}, err
	}
	return decided(a.hv.Release(ctx, caller, did, agent.EndQuarantine{Note: in.body.Reason}))
}
