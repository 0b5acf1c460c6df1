package httpapi

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// incidents.go: something went wrong, and who bears how much of it.

func (a *API) raiseIncident(ctx context.Context, caller policy.Caller, in request[api.IncidentRequest]) (api.Incident, error) {
	s, err := a.ownOr(ctx, in.who, in.path("id"), mustRun)
	if err != nil {
		return api.Incident{}, err
	}
	severity, err := figure("severity", in.body.Severity)
	if err != nil {
		return api.Incident{}, err
	}
	of, id := api.SplitID(in.body.Action)
	if of != "" && of != s.ID() {
		return api.Incident{}, invalid("action: %s is of another session", in.body.Action)
	}
	c := session.RaiseIncident{Action: id, Agent: policy.DID(in.body.Agent), Severity: severity, Reason: in.body.Reason, Key: in.key}
	v, err := s.RaiseIncident(ctx, caller, c)
	return incidentView(v), err
}

func (a *API) incidents(ctx context.Context, caller policy.Caller, in request[none]) (api.Page[api.Incident], error) {
	page := api.Page[api.Incident]{Items: []api.Incident{}}
	limit, err := pageLimit(in.query)
	if err != nil {
		return page, err
	}
	after, err := in.query.number("cursor", 0, 0, math.MaxInt64)
	if err != nil {
		return page, err
	}
	if err := mayRead(caller); err != nil {
		return page, err
	}
	s, err := a.named(ctx, in.path("id"))
	if err != nil {
		return page, err
	}
	for v, err := range s.Incidents(ctx, after+1) {
		if err != nil {
			return page, err
		}
		if len(page.Items) == limit {
			page.Cursor = strconv.FormatUint(after, 10)
			break
		}
		after = v.Seq
		page.Items = append(page.Items, incidentView(v))
	}
	return page, nil
}

func (a *API) incident(ctx context.Context, caller policy.Caller, in request[none]) (api.Incident, error) {
	if err := mayRead(caller); err != nil {
		return api.Incident{}, err
	}
	s, err := a.named(ctx, in.path("id"))
	if err != nil {
		return api.Incident{}, err
	}
	id := in.path("iid")
	for v, err := range s.Incidents(ctx, 1) {
		if err != nil || v.ID == id {
			return incidentView(v), err
		}
	}
	return api.Incident{}, fmt.Errorf("incident %s in session %s: %w", id, s.ID(), hypervisor.ErrNotFound)
}

func incidentView(v hypervisor.IncidentView) api.Incident {
	out := api.Incident{ID: v.ID, Session: v.Session, Action: v.Action, Agent: string(v.Agent), Severity: api.Decimal(v.Severity.String()),
		Reason: v.Reason, By: string(v.By), Seq: v.Seq, Time: v.Time, Faultless: v.Faultless, Shares: []api.Share{}, Slashed: texts(v.Slashed)}
	if v.Blame == nil {
		return out
	}
	out.Chains, out.Drawn, out.Seed = v.Blame.Chains, v.Blame.Drawn, v.Blame.Seed
	if v.Blame.Drawn {
		out.StandardError = api.Decimal(v.Blame.StandardError.String())
	}
	out.Shares = shares(v.Blame)
	return out
}

func shares(blame *session.FaultAttributed) (out []api.Share) {
	for _, b := range blame.Shares {
		out = append(out, api.Share{Agent: string(b.Agent), Share: api.Decimal(b.Share.String()), Why: b.Why})
	}
	return out
}
