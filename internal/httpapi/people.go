package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

// people.go: agents, who may come through the door, and the tools that are known.

// page returns the entries whose names come behind the cursor. It sorts names.
func page(q query, names []string) (part []string, cursor string, err error) {
	limit, err := pageLimit(q)
	if err != nil {
		return nil, "", err
	}
	after := q.text("cursor")
	names = slices.DeleteFunc(names, func(name string) bool { return name <= after })
	slices.Sort(names)
	if len(names) > limit {
		return names[:limit], names[limit-1], nil
	}
	return names, "", nil
}

// sorted returns a page of a list in the order of its ids.
func sorted[V, W any](q query, all []V, id func(V) string, view func(V) W) (api.Page[W], error) {
	out := api.Page[W]{Items: []W{}}
	byID := map[string]V{}
	for _, v := range all {
		byID[id(v)] = v
	}
	ids, cursor, err := page(q, slices.Collect(maps.Keys(byID)))
	out.Cursor = cursor
	for _, id := range ids {
		out.Items = append(out.Items, view(byID[id]))
	}
	return out, err
}

// part returns a page of a list that stands in an order of its own. Its cursor is the id of the page's last; one that has gone since is
// refused, for nobody knows what comes behind it.
func part[V, W any](q query, all []V, view func(V) W, id func(W) string) (api.Page[W], error) {
	out := api.Page[W]{Items: []W{}}
	limit, err := pageLimit(q)
	if err != nil {
		return out, err
	}
	cursor := q.text("cursor")
	behind := cursor == ""
	for _, v := range all {
		w := view(v)
		switch {
		case !behind:
			behind = id(w) == cursor
		case len(out.Items) == limit:
			out.Cursor = id(out.Items[limit-1])
			return out, nil
		default:
			out.Items = append(out.Items, w)
		}
	}
	if !behind {
		return out, malformed("cursor %q is not of the list as it is now; begin again without one", document.Clip(cursor))
	}
	return out, nil
}

func (a *API) agents(ctx context.Context, caller policy.Caller, in request[none]) (api.Page[api.Agent], error) {
	out := api.Page[api.Agent]{Items: []api.Agent{}}
	if err := mayRead(caller); err != nil {
		return out, err
	}
	var dids []string
	for did, err := range a.hv.Agents(ctx) {
		if err != nil {
			return out, err
		}
		dids = append(dids, string(did))
	}
	dids, cursor, err := page(in.query, dids)
	if err != nil {
		return out, err
	}
	out.Cursor = cursor
	for _, did := range dids {
		v, err := a.hv.Agent(ctx, policy.DID(did))
		if err != nil {
			return out, err
		}
		out.Items = append(out.Items, agentView(v))
	}
	return out, nil
}

// known returns the DID that a path names, if its caller may look at that agent: an agent at itself.
func known(caller policy.Caller, path func(string) string) (policy.DID, error) {
	did, err := policy.ParseDID(path("did"))
	if caller.Role == policy.AgentRole {
		if did != caller.DID {
			return "", forbidden("%s looks at itself only", caller.DID)
		}
		return did, nil
	}
	if denied := mayRead(caller); denied != nil {
		return "", denied
	}
	return did, err
}

func (a *API) ledger(ctx context.Context, caller policy.Caller, in request[none]) (api.Page[api.LedgerEntry], error) {
	out := api.Page[api.LedgerEntry]{Items: []api.LedgerEntry{}}
	did, err := known(caller, in.path)
	if err != nil {
		return out, err
	}
	limit, err := pageLimit(in.query)
	if err != nil {
		return out, err
	}
	after, err := in.query.number("cursor", 0, 0, math.MaxInt64)
	if err != nil {
		return out, err
	}
	if _, err := a.hv.Agent(ctx, did); err != nil {
		return out, err
	}
	last := after
	for e, err := range a.hv.Ledger(ctx, did, after+1) {
		if err != nil {
			return out, err
		}
		if len(out.Items) >= limit && e.Seq > last { // a page ends between two records
			out.Cursor = strconv.FormatUint(last, 10)
			break
		}
		last = e.Seq
		out.Items = append(out.Items, ledgerView(e))
	}
	return out, nil
}

func (a *API) register(ctx context.Context, caller policy.Caller, in request[api.Registration]) (api.Agent, error) {
	if err := mustRun(caller); err != nil {
		return api.Agent{}, err
	}
	did, err := policy.ParseDID(in.body.DID)
	if err != nil {
		return api.Agent{}, err
	}
	sigma, err := figure("sigma", in.body.Sigma)
	if err != nil {
		return api.Agent{}, err
	}
	d, err := a.hv.RegisterAgent(ctx, caller, did, sigma)
	if err == nil && !d.Allowed {
		err = &hypervisor.Refused{Decision: d}
	}
	if err != nil {
		return api.Agent{}, err
	}
	v, err := a.hv.Agent(ctx, did)
	return agentView(v), err
}

// seat issues an agent's token.
func (a *API) seat(ctx context.Context, caller policy.Caller, in request[api.SeatRequest]) (api.IssuedToken, error) {
	did, err := policy.ParseDID(in.path("did"))
	if caller.Role == policy.AgentRole && err == nil {
		return a.seatChild(ctx, in, did)
	}
	if denied := mustRun(caller); denied != nil {
		err = denied
	}
	if err != nil {
		return api.IssuedToken{}, err
	}
	t := system.Token{Subject: did, Role: policy.AgentRole, Session: in.body.Session, Alias: in.body.Alias}
	if t.Session != "" {
		if t.Session, t.Alias, err = a.seatIn(ctx, t.Session, t.Alias); err != nil {
			return api.IssuedToken{}, err
		}
	}
	return a.give(ctx, caller, caller.DID, in.key, t, in.body.For)
}

// seatIn tells an id from a name. A session that has ended is refused: a token for it would let nobody in.
func (a *API) seatIn(ctx context.Context, text, alias string) (id, name string, err error) {
	s, err := a.hv.Session(ctx, text)
	if _, named := a.hv.Named(text); errors.Is(err, hypervisor.ErrNotFound) && named {
		if alias != "" {
			return "", "", invalid("session and alias are both said")
		}
		return "", text, nil
	}
	if err != nil {
		return "", "", err
	}
	state, err := s.State(ctx)
	if err == nil && state.Lifecycle >= session.Terminating {
		err = &hypervisor.Refused{Decision: policy.Refuse(policy.SessionNotActive, "session %s is %s", text, state.Lifecycle)}
	}
	return text, alias, err
}

func (a *API) issue(ctx context.Context, caller policy.Caller, in request[api.RoleRequest]) (api.IssuedToken, error) {
	if err := mustRun(caller); err != nil {
		return api.IssuedToken{}, err
	}
	did, err := policy.ParseDID(in.body.DID)
	if err != nil {
		return api.IssuedToken{}, err
	}
	t := system.Token{Subject: did}
	if err := t.Role.UnmarshalText([]byte(in.body.Role)); err != nil || t.Role == policy.SystemRole {
		return api.IssuedToken{}, invalid("role: want operator, approver, auditor or service, got %q", in.body.Role)
	}
	if t.Role == policy.AgentRole {
		return api.IssuedToken{}, invalid("an agent's token is for a session: make it with 'agent token', or POST /v1/agents/%s/tokens", did)
	}
	return a.give(ctx, caller, caller.DID, in.key, t, in.body.For)
}

// give issues a token, as caller. With an idempotency key its id derives from that and from who asks, so that a repeat is refused
// rather than answered with another secret: the first is kept nowhere.
func (a *API) give(ctx context.Context, caller policy.Caller, asks policy.DID, key string, t system.Token, text string) (api.IssuedToken, error) {
	var life time.Duration
	if err := duration("for", text, &life); err != nil {
		return api.IssuedToken{}, err
	}
	if key != "" {
		sum := sha256.Sum256([]byte(string(asks) + "\x00" + key))
		t.ID = "tok-" + hex.EncodeToString(sum[:10])
	}
	secret, t, err := a.door.Issue(ctx, caller, t, life)
	if err != nil {
		return api.IssuedToken{}, err
	}
	return api.IssuedToken{Token: secret.Reveal(), ID: t.ID, Expires: t.Expires}, nil
}

func (a *API) tokens(_ context.Context, caller policy.Caller, in request[none]) (api.Page[api.Token], error) {
	if caller.Role != policy.OperatorRole && caller.Role != policy.AuditorRole {
		return api.Page[api.Token]{}, forbidden("%s is %s; operators and auditors see tokens", caller.DID, caller.Role)
	}
	return sorted(in.query, a.hv.Tokens(), func(t system.Token) string { return t.ID }, func(t system.Token) api.Token {
		return api.Token{ID: t.ID, DID: string(t.Subject), Role: t.Role.String(), Session: t.Session, Alias: t.Alias, Expires: t.Expires}
	})
}

func (a *API) revoke(ctx context.Context, caller policy.Caller, in request[none]) (api.Decision, error) {
	if err := mustRun(caller); err != nil {
		return api.Decision{}, err
	}
	return decided(a.hv.RevokeToken(ctx, caller, in.path("tid")))
}

// decided makes an answer of a decision, and an error of a refusal.
func decided(d policy.Decision, err error) (api.Decision, error) {
	if err == nil && !d.Allowed {
		err = &hypervisor.Refused{Decision: d}
	}
	return decision(d), err
}

func (a *API) tools(ctx context.Context, caller policy.Caller, in request[none]) (api.Page[api.Tool], error) {
	out := api.Page[api.Tool]{Items: []api.Tool{}}
	if err := mayRead(caller); err != nil {
		return out, err
	}
	prefix := ""
	if server := in.query.text("server"); server != "" {
		prefix = server + "."
	}
	pins, err := a.hv.ToolPins(ctx, prefix)
	if err != nil {
		return out, err
	}
	return sorted(in.query, pins, func(p hypervisor.ToolPin) string { return p.Tool }, toolView)
}

func toolView(p hypervisor.ToolPin) api.Tool {
	t := api.Tool{Tool: p.Tool, Changed: p.Changed, Pinned: digestText(p.Pinned), Seen: digestText(p.Seen)}
	if p.Changed {
		t.Was, t.Is = p.Was, p.Is
	}
	return t
}

func digestText(h audit.Hash) string {
	if h == (audit.Hash{}) {
		return ""
	}
	return h.String()
}

func (a *API) accept(ctx context.Context, caller policy.Caller, in request[api.Acceptance]) (api.Decision, error) {
	if err := mustRun(caller); err != nil {
		return api.Decision{}, err
	}
	var digest audit.Hash
	if err := digest.UnmarshalText([]byte(in.body.Digest)); err != nil || in.body.Tool == "" {
		return api.Decision{}, invalid("want a tool and the digest of the definition that was seen: %s", fmt.Sprint(err))
	}
	return decided(a.hv.Accept(ctx, caller, in.body.Tool, digest))
}
