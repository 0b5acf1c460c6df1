package httpapi

import (
	"cmp"
	"context"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// standing.go: what moves an agent's standing from outside a session, and how it is shown.

func ledgerView(e hypervisor.LedgerEntry) api.LedgerEntry {
	return api.LedgerEntry{Seq: e.Seq, Time: e.Time, Caller: api.Caller(e.Caller), Sigma: api.Decimal(e.Sigma.String()),
		Source: cmp.Or(string(e.Source), string(e.Kind)), Session: e.Session, Share: shown(e.Share), Severity: shown(e.Severity),
		Risk: shown(e.Risk), Cause: e.Cause, Witness: string(e.Witness), Unwitnessed: e.Unwitnessed}
}

// shown returns a figure that is shown unless it is nothing.
func shown(s ring.Sigma) api.Decimal {
	if s == 0 {
		return ""
	}
	return api.Decimal(s.String())
}

// pathAgent returns the DID that a path names.
func pathAgent(path func(string) string) (policy.DID, error) { return policy.ParseDID(path("did")) }

func (a *API) reinstate(ctx context.Context, caller policy.Caller, in request[api.Reinstatement]) (api.Decision, error) {
	if err := mustRun(caller); err != nil {
		return api.Decision{}, err
	}
	did, err := pathAgent(in.path)
	if err != nil {
		return api.Decision{}, err
	}
	sigma, err := figure("sigma", in.body.Sigma)
	if err != nil {
		return api.Decision{}, err
	}
	return decided(a.hv.Reinstate(ctx, caller, did, agent.Reinstate{Sigma: sigma, Cause: in.body.Reason}))
}

func (a *API) slash(ctx context.Context, caller policy.Caller, in request[api.Slash]) (api.Decision, error) {
	if err := mustRun(caller); err != nil {
		return api.Decision{}, err
	}
	did, err := pathAgent(in.path)
	if err != nil {
		return api.Decision{}, err
	}
	severity, err := figure("severity", in.body.Severity)
	if err != nil {
		return api.Decision{}, err
	}
	c := agent.Slash{Cause: in.body.Reason}
	if severity != nil {
		c.Severity = *severity
	}
	return decided(a.hv.Slash(ctx, caller, did, c))
}

// score takes a service's report.
func (a *API) score(ctx context.Context, caller policy.Caller, in request[api.Score]) (api.Decision, error) {
	if caller.Role != policy.ServiceRole && !caller.Runs() {
		return api.Decision{}, forbidden("%s is %s; a service reports scores", caller.DID, caller.Role)
	}
	did, err := pathAgent(in.path)
	if err != nil {
		return api.Decision{}, err
	}
	sigma, err := figure("sigma", in.body.Sigma)
	if err != nil {
		return api.Decision{}, err
	}
	if sigma == nil {
		return api.Decision{}, invalid("sigma is missing: the score, from 0 to 1")
	}
	return decided(a.hv.Report(ctx, caller, did, agent.Report{Sigma: *sigma, Cause: in.body.Reason}))
}
