package httpapi

import (
	"context"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/drift"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// drift.go: what a drift service reports.

func (a *API) reportDrift(ctx context.Context, caller policy.Caller, in request[api.DriftReport]) (api.Drift, error) {
	if caller.Role != policy.ServiceRole && !caller.Runs() {
		return api.Drift{}, forbidden("%s is %s; a service reports drift", caller.DID, caller.Role)
	}
	did, err := policy.ParseDID(in.body.Agent)
	if err != nil {
		return api.Drift{}, err
	}
	c := session.ReportDrift{Agent: did, Reason: in.body.Reason, Key: in.key}
	if err := measured(&c, in.body); err != nil {
		return api.Drift{}, err
	}
	s, err := a.named(ctx, in.path("id"))
	if err != nil {
		return api.Drift{}, err
	}
	d, err := s.ReportDrift(ctx, caller, c)
	return api.Drift{ID: d.ID, Level: d.Level.String(), Distance: api.Decimal(d.Distance.String()), Metric: d.Metric}, err
}

// measured takes in what is reported: a distance, or two embeddings to measure.
func measured(c *session.ReportDrift, body api.DriftReport) error {
	distance, err := figure("distance", body.Distance)
	switch {
	case err != nil:
		return err
	case (distance != nil) == (body.Claimed != nil || body.Observed != nil):
		return invalid("a report has either a distance or two embeddings, claimed and observed")
	case distance != nil && body.Metric != "":
		return invalid("metric: it says how two embeddings are compared, and a distance is measured already")
	case distance != nil:
		c.Distance = *distance
		return nil
	}
	if c.Metric = body.Metric; c.Metric == "" {
		c.Metric = drift.Cosine
	}
	if c.Claimed, err = drift.ParseVector(body.Claimed); err != nil {
		return invalid("claimed: %v", err)
	}
	if c.Observed, err = drift.ParseVector(body.Observed); err != nil {
		return invalid("observed: %v", err)
	}
	return nil
}
