package httpapi

import (
	"context"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// vouches.go: bonds between a session's agents, and the slash that takes them.

func (a *API) vouch(ctx context.Context, caller policy.Caller, in request[api.Vouch]) (api.Bond, error) {
	s, err := a.ownOr(ctx, in.who, in.path("id"), func(caller policy.Caller) error {
		return forbidden("%s is %s; an agent vouches with its own σ", caller.DID, caller.Role)
	})
	if err != nil {
		return api.Bond{}, err
	}
	vouchee, err := policy.ParseDID(in.body.Vouchee)
	if err != nil {
		return api.Bond{}, err
	}
	bond, err := amount("bond", in.body.Bond)
	if err != nil {
		return api.Bond{}, err
	}
	c := session.Vouch{Vouchee: vouchee, Bond: bond, Key: in.key}
	if in.body.Expires != nil {
		c.Expires = in.body.Expires.UTC().Truncate(time.Microsecond)
	}
	b, err := s.Vouch(ctx, caller, c)
	return bondView(s.ID(), b), err
}

func (a *API) vouches(ctx context.Context, _ policy.Caller, in request[none]) (api.Page[api.Bond], error) {
	s, err := a.ownOr(ctx, in.who, in.path("id"), mayRead)
	if err != nil {
		return api.Page[api.Bond]{}, err
	}
	bonds, err := s.Bonds(ctx)
	if err != nil {
		return api.Page[api.Bond]{}, err
	}
	return part(in.query, bonds, func(b hypervisor.Bond) api.Bond { return bondView(s.ID(), b) }, func(b api.Bond) string { return b.ID })
}

func (a *API) withdraw(ctx context.Context, caller policy.Caller, in request[none]) (api.Decision, error) {
	s, err := a.ownOr(ctx, in.who, in.path("id"), mustRun)
	if err != nil {
		return api.Decision{}, err
	}
	return decided(s.Withdraw(ctx, caller, session.Withdraw{ID: in.path("vid")}))
}

func bondView(id string, b hypervisor.Bond) api.Bond {
	v := api.Bond{ID: b.ID, Session: id, Voucher: string(b.Voucher), Vouchee: string(b.Vouchee), Bond: api.Decimal(b.Amount.String()), Status: b.Status.String()}
	if !b.Expires.IsZero() {
		v.Expires = &b.Expires
	}
	return v
}

func (a *API) slashIn(ctx context.Context, caller policy.Caller, in request[api.SessionSlash]) (api.Decision, error) {
	if err := mustRun(caller); err != nil {
		return api.Decision{}, err
	}
	did, err := policy.ParseDID(in.body.Agent)
	if err != nil {
		return api.Decision{}, err
	}
	severity, err := amount("severity", in.body.Severity)
	if err != nil {
		return api.Decision{}, err
	}
	s, err := a.named(ctx, in.path("id"))
	if err != nil {
		return api.Decision{}, err
	}
	return decided(s.Slash(ctx, caller, session.Slash{Agent: did, Severity: severity, Cause: in.body.Reason}))
}
