package httpapi

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/internal/auth"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

// elevations.go: a ring for a while, what agents decide among themselves, and whom they bring.

// ownOr returns the session that a path names for an agent whose token is for it, or for whom may lets in.
func (a *API) ownOr(ctx context.Context, in auth.Identity, text string, may func(policy.Caller) error) (*hypervisor.Session, error) {
	if in.Caller.Role == policy.AgentRole {
		if err := a.isOwn(in, text); err != nil {
			return nil, err
		}
	} else if err := may(in.Caller); err != nil {
		return nil, err
	}
	return a.named(ctx, text)
}

func mayApprove(caller policy.Caller) error {
	if !caller.MayApprove() {
		return forbidden("%s is %s; an approver or an operator does that", caller.DID, caller.Role)
	}
	return nil
}

func (a *API) elevate(ctx context.Context, caller policy.Caller, in request[api.ElevationRequest]) (api.Elevation, error) {
	s, err := a.ownOr(ctx, in.who, in.path("id"), mustRun)
	if err != nil {
		return api.Elevation{}, err
	}
	if in.body.Ring < int(ring.Root) || in.body.Ring > int(ring.Sandbox) {
		return api.Elevation{}, invalid("ring: want 1 or 2, got %d", in.body.Ring)
	}
	c := session.Elevate{Agent: policy.DID(in.body.Agent), Ring: ring.Ring(in.body.Ring), Reason: in.body.Reason}
	if err := duration("for", in.body.For, &c.For); err != nil {
		return api.Elevation{}, err
	}
	asked, err := s.Elevate(ctx, caller, c)
	if err == nil && asked.ID == "" {
		err = &hypervisor.Refused{Decision: asked.Decision}
	}
	if err != nil {
		return api.Elevation{}, err
	}
	views, err := s.Elevations(ctx)
	if err != nil {
		return api.Elevation{}, err
	}
	for _, v := range views {
		if v.ID == asked.ID {
			out := elevationView(v)
			d := decision(asked.Decision)
			out.Decision = &d
			return out, nil
		}
	}
	return api.Elevation{}, fmt.Errorf("elevation %s, which has ended already: %w", asked.ID, hypervisor.ErrNotFound)
}

func (a *API) elevations(ctx context.Context, _ policy.Caller, in request[none]) (api.Page[api.Elevation], error) {
	s, err := a.ownOr(ctx, in.who, in.path("id"), mayRead)
	if err != nil {
		return api.Page[api.Elevation]{}, err
	}
	views, err := s.Elevations(ctx)
	if err != nil {
		return api.Page[api.Elevation]{}, err
	}
	return part(in.query, views, elevationView, func(e api.Elevation) string { return e.ID })
}

func (a *API) endElevation(ctx context.Context, caller policy.Caller, in request[none]) (api.Decision, error) {
	s, err := a.ownOr(ctx, in.who, in.path("id"), mayApprove)
	if err != nil {
		return api.Decision{}, err
	}
	return decided(s.EndElevation(ctx, caller, in.path("eid")))
}

func (a *API) liftDemotion(ctx context.Context, caller policy.Caller, in request[none]) (api.Decision, error) {
	if err := mustRun(caller); err != nil {
		return api.Decision{}, err
	}
	did, err := policy.ParseDID(in.path("did"))
	if err != nil {
		return api.Decision{}, err
	}
	s, err := a.named(ctx, in.path("id"))
	if err != nil {
		return api.Decision{}, err
	}
	return decided(s.LiftDemotion(ctx, caller, did))
}

func elevationView(v hypervisor.ElevationView) api.Elevation {
	out := api.Elevation{ID: v.ID, Session: v.Session, Agent: string(v.Agent), Ring: int(v.Ring), Status: "asked", For: v.For.String(),
		Reason: v.Reason, Until: v.Until, By: string(v.By), Approval: api.ApprovalRef{ID: v.Approval.ID, Digest: v.Approval.Digest, By: v.Approval.By}}
	if v.Active {
		out.Status, out.Since = "active", &v.Since
	}
	return out
}

// ownSession returns the session that an agent's token is for.
func (a *API) ownSession(ctx context.Context, who auth.Identity) (*hypervisor.Session, error) {
	if who.Token.Alias != "" {
		return a.named(ctx, who.Token.Alias)
	}
	return a.hv.Session(ctx, who.Token.Session)
}

// concerns reports whether an approval is one that an agent asked for, votes on or can sponsor.
func concerns(v hypervisor.ApprovalView, agent policy.DID) bool {
	return v.Agent == agent || slices.Contains(v.Electors, agent) || v.Elevation != nil
}

// ownApprovals lists the approvals of its session that concern an agent.
func (a *API) ownApprovals(ctx context.Context, in request[none]) (api.Page[api.Approval], error) {
	page := api.Page[api.Approval]{Items: []api.Approval{}}
	if one := in.query.text("session"); one != "" {
		if err := a.isOwn(in.who, one); err != nil {
			return page, err
		}
	}
	s, err := a.ownSession(ctx, in.who)
	if err != nil {
		return page, err
	}
	views, err := s.Approvals(ctx)
	for _, v := range views {
		if concerns(v, in.who.Caller.DID) {
			page.Items = append(page.Items, approvalView(v))
		}
	}
	return page, err
}

// vote is what a grant or a denial of an agent's is.
func (a *API) vote(ctx context.Context, caller policy.Caller, in request[api.Ballot], against bool) (api.Decision, error) {
	of, id := api.SplitID(in.path("aid"))
	if of == "" {
		of = in.query.text("session")
	}
	if of != "" {
		if err := a.isOwn(in.who, of); err != nil {
			return api.Decision{}, err
		}
	}
	s, err := a.ownSession(ctx, in.who)
	if err != nil {
		return api.Decision{}, err
	}
	return decided(s.Vote(ctx, caller, session.Vote{Approval: id, Digest: in.body.Digest, Against: against}))
}

// maxChildTokens bounds the tokens of one child that count, so that no agent uses up those that a hypervisor can have.
const maxChildTokens = 16

// seatChild issues the token of an agent that its caller has brought, for the same session and no longer than its own.
func (a *API) seatChild(ctx context.Context, in request[api.SeatRequest], child policy.DID) (api.IssuedToken, error) {
	if in.body.Session == "" || in.body.Alias != "" {
		return api.IssuedToken{}, invalid("session is missing: an agent that was brought comes to one session")
	}
	if err := a.isOwn(in.who, in.body.Session); err != nil {
		return api.IssuedToken{}, err
	}
	s, err := a.ownSession(ctx, in.who)
	if err != nil {
		return api.IssuedToken{}, err
	}
	state, err := s.State(ctx)
	if err != nil {
		return api.IssuedToken{}, err
	}
	if p := state.Participants[child]; p == nil || p.Parent != in.who.Caller.DID {
		return api.IssuedToken{}, forbidden("%s was not brought to session %s by %s; join it first", child, s.ID(), in.who.Caller.DID)
	}
	life := auth.DefaultLife
	if err := duration("for", in.body.For, &life); err != nil {
		return api.IssuedToken{}, err
	}
	alive := 0
	for _, t := range a.hv.Tokens() {
		if t.Subject == child && t.Session == s.ID() {
			alive++
		}
	}
	if alive >= maxChildTokens {
		return api.IssuedToken{}, &hypervisor.Refused{Decision: policy.Refuse(policy.QuotaExceeded, "%s has %d tokens for session %s, and no agent's child has more; wait for their end, or have an operator revoke some", child, alive, s.ID())}
	}
	const margin = time.Second // a token's life is counted from when it is recorded, which is later
	if life = min(life, in.who.Token.Expires.Sub(a.hv.Now())-margin); life <= 0 {
		return api.IssuedToken{}, forbidden("the token of %s is about to run out", in.who.Caller.DID)
	}
	return a.give(ctx, policy.System.Through("parent "+string(in.who.Caller.DID)), in.who.Caller.DID, in.key, system.Token{Subject: child, Role: policy.AgentRole, Session: s.ID()}, life.String())
}
