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

func agentView(v hypervisor.AgentView) api.Agent {
	var bonded, may ring.Sigma
	for _, b := range v.Bonds {
		bonded += b.Amount
	}
	if most := agent.MostBonded(v.Sigma); v.Sigma > agent.VoucherAbove && !v.Blacklisted {
		may = most - min(bonded, most)
	}
	out := api.Agent{DID: string(v.DID), Sigma: api.Decimal(v.Sigma.String()), Risk: api.Decimal(v.Risk.String()), Blacklisted: v.Blacklisted,
		Ring: int(ring.ByScore(v.Sigma)), Admission: admission(v), Bonded: api.Decimal(bonded.String()), MayBond: api.Decimal(may.String()),
		Records: v.Records, Changed: v.Changed}
	if q := v.Quarantine; q != nil {
		out.Quarantine = &api.Quarantine{Since: q.Since, Until: q.Until, Reasons: q.Reasons, Severity: api.Decimal(q.Severity.String()), Kills: q.Kills}
	}
	if v.Killed != nil {
		k := killView(*v.Killed)
		out.Killed = &k
	}
	return out
}

func (a *API) agent(ctx context.Context, caller policy.Caller, in request[none]) (api.Agent, error) {
	did, err := known(caller, in.path)
	if err != nil {
		return api.Agent{}, err
	}
	v, err := a.hv.Agent(ctx, did)
	if err != nil {
		return api.Agent{}, err
	}
	out := agentView(v)
	for _, b := range v.Bonds {
		out.Bonds = append(out.Bonds, api.AgentBond{ID: b.ID, Session: b.Session, Vouchee: string(b.Vouchee), Bond: api.Decimal(b.Amount.String()), Cut: b.Cut})
	}
	for e, err := range a.hv.Ledger(ctx, did, max(v.Records, newestRecords)-newestRecords+1) {
		if err != nil {
			return out, err
		}
		out.Entries = append(out.Entries, ledgerView(e))
	}
	out.Entries = out.Entries[max(0, len(out.Entries)-newestEntries):]
	if caller.Role == policy.AgentRole {
		return out, nil // it sees its own session, and nothing of another
	}
	seats, err := a.hv.Seats(did)
	for _, s := range seats {
		out.Seats = append(out.Seats, api.Seat{Session: s.Session, Ring: int(s.Ring), SigmaEff: api.Decimal(s.SigmaEff.String()), Explanation: explanation(s.Why)})
	}
	return out, err
}

const (
	newestEntries = 20 // shown with an agent
	newestRecords = 64 // looked through for them; the ledger has all
)

// admission says how sessions admit an agent.
func admission(v hypervisor.AgentView) string {
	switch {
	case v.Blacklisted:
		return string(policy.Blacklisted)
	case v.Risk >= agent.RiskDenied:
		return string(policy.RiskDenied)
	case v.Risk >= agent.RiskProbation:
		return "probation"
	}
	return "yes"
}

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
	severity, err := amount("severity", in.body.Severity)
	if err != nil {
		return api.Decision{}, err
	}
	return decided(a.hv.Slash(ctx, caller, did, agent.Slash{Severity: severity, Cause: in.body.Reason}))
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
