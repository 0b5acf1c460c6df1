package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/internal/auth"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// routes.go: one method a route.

const (
	defaultPage = 100
	// pageBytes is how large a page of actions may grow before it ends early; arguments and results can be large.
	pageBytes = 4 << 20
	// maxCandidates bounds what is listed of an ambiguous id.
	maxCandidates = 8
)

// ready reports whether the hypervisor can read its store, and is not about to end.
func (a *API) ready(ctx context.Context) error {
	if a.opts.Ready != nil {
		if err := a.opts.Ready(); err != nil {
			return err
		}
	}
	for _, err := range a.hv.Sessions(ctx) {
		return err
	}
	return nil
}

// mayRead refuses who may not look at everything: only those who run, audit or approve may.
func mayRead(caller policy.Caller) error {
	switch caller.Role {
	case policy.OperatorRole, policy.AuditorRole, policy.ApproverRole:
		return nil
	}
	return forbidden("%s is %s; operators, approvers and auditors read", caller.DID, caller.Role)
}

func (a *API) sessions(ctx context.Context, caller policy.Caller, in request[none]) (api.Page[api.Session], error) {
	page := api.Page[api.Session]{Items: []api.Session{}}
	limit, err := pageLimit(in.query)
	if err == nil {
		err = mayRead(caller)
	}
	if err != nil {
		return page, err
	}
	var ids []string
	for id, err := range a.hv.Sessions(ctx) {
		if err != nil {
			return page, err
		}
		if id > in.query.text("cursor") {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	if len(ids) > limit {
		ids, page.Cursor = ids[:limit], ids[limit-1]
	}
	for _, id := range ids {
		s, err := a.hv.Session(ctx, id)
		if err != nil {
			return page, err
		}
		view, err := a.view(ctx, s)
		if err != nil {
			return page, fmt.Errorf("session %s: %w", id, err)
		}
		page.Items = append(page.Items, view)
	}
	return page, nil
}

func pageLimit(q query) (int, error) {
	n, err := q.number("limit", defaultPage, 1, api.MaxPage)
	return int(n), err
}

func (a *API) view(ctx context.Context, s *hypervisor.Session) (api.Session, error) {
	state, err := s.State(ctx)
	if err != nil {
		return api.Session{}, err
	}
	out, err := sessionView(state)
	for i := range out.Participants {
		p := &out.Participants[i]
		p.Killed = a.hv.KilledIn(out.ID, policy.DID(p.Agent))
	}
	return out, err
}

// named returns the session of an id, or the newest of a name.
func (a *API) named(ctx context.Context, text string) (*hypervisor.Session, error) {
	s, err := a.hv.Session(ctx, text)
	if errors.Is(err, hypervisor.ErrNotFound) {
		if id, ok := a.hv.Named(text); ok {
			return a.hv.Session(ctx, id)
		}
	}
	return s, err
}

// readable returns the session that a path names, if its caller may look at it: an agent at its own.
func (a *API) readable(ctx context.Context, in request[none]) (*hypervisor.Session, error) {
	if in.who.Caller.Role == policy.AgentRole {
		if err := a.isOwn(in.who, in.path("id")); err != nil {
			return nil, err
		}
	} else if err := mayRead(in.who.Caller); err != nil {
		return nil, err
	}
	return a.named(ctx, in.path("id"))
}

// isOwn refuses an agent a session that its token is not for, whether there is one or not.
func (a *API) isOwn(who auth.Identity, text string) error {
	t := who.Token
	own := t.Session
	if t.Alias != "" {
		own, _ = a.hv.Named(t.Alias)
	}
	named, _ := a.hv.Named(text)
	if text == "" || text != t.Alias && text != own && (own == "" || named != own) {
		return forbidden("the token of %s is for another session", who.Caller.DID)
	}
	return nil
}

func (a *API) session(ctx context.Context, _ policy.Caller, in request[none]) (api.Session, error) {
	s, err := a.readable(ctx, in)
	if err != nil {
		return api.Session{}, err
	}
	return a.view(ctx, s)
}

func (a *API) terminate(ctx context.Context, caller policy.Caller, in request[none]) (api.Summary, error) {
	if err := mustRun(caller); err != nil {
		return api.Summary{}, err
	}
	s, err := a.named(ctx, in.path("id"))
	if err != nil {
		return api.Summary{}, err
	}
	sum, err := s.Terminate(ctx, caller)
	if err != nil {
		return api.Summary{}, err
	}
	return api.Summary{SummaryHash: sum.Hash.String(), Records: sum.Records}, nil
}

// log yields the session's records, and with follow those that come until the session ends. A nil line says that there is no
// more for now.
func (a *API) log(ctx context.Context, caller policy.Caller, in request[none]) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		from, err := in.query.number("from", 1, 1, math.MaxInt64)
		follow, bad := in.query.flag("follow")
		s, missing := a.named(ctx, in.path("id"))
		for _, err := range []error{err, bad, mayRead(caller), missing} {
			if err != nil {
				yield(nil, err)
				return
			}
		}
		f := &follower{hv: a.hv, s: s, next: from, yield: yield}
		if f.read(ctx) && follow {
			f.follow(ctx)
		}
	}
}

// A follower hands out a session's records in order.
type follower struct {
	hv    *hypervisor.Hypervisor
	s     *hypervisor.Session
	next  uint64 // the sequence number due
	at    uint64 // position of the newest record seen
	yield func(json.RawMessage, error) bool
}

// read hands out what there is. It returns false when there is nothing more to do.
func (f *follower) read(ctx context.Context) bool {
	for r, err := range f.s.Records(ctx, f.next) {
		if err != nil {
			f.yield(nil, err)
			return false
		}
		f.next, f.at = r.Seq+1, r.Position
		if !f.yield(r.Body, nil) {
			return false
		}
	}
	return f.yield(nil, nil)
}

// follow hands out what comes, up to the session's last record.
func (f *follower) follow(ctx context.Context) {
	state, err := f.s.State(ctx)
	if err != nil {
		f.yield(nil, err)
		return
	}
	if state.Lifecycle == session.Archived && state.Seq < f.next {
		return
	}
	stream := audit.SessionPrefix + f.s.ID()
	for e, err := range f.hv.Follow(ctx, f.at) {
		if err != nil {
			f.yield(nil, err)
			return
		}
		_, last := e.Value.(session.SessionArchived)
		if e.Stream != stream || e.Seq < f.next && !last {
			continue
		}
		if e.Seq >= f.next && !f.read(ctx) || last {
			return
		}
	}
}

func (a *API) actions(ctx context.Context, caller policy.Caller, in request[none]) (api.Page[api.Action], error) {
	page := api.Page[api.Action]{Items: []api.Action{}}
	limit, err := pageLimit(in.query)
	if err != nil {
		return page, err
	}
	after, err := in.query.number("cursor", 0, 0, math.MaxInt64)
	if err != nil {
		return page, err
	}
	s, err := a.readable(ctx, in)
	if err != nil {
		return page, err
	}
	const step = 16 // so that a page of large ones ends soon after it is full
	size := 0
	for len(page.Items) < limit && size < pageBytes {
		n := min(step, limit-len(page.Items))
		views, err := s.Actions(ctx, after, n)
		if err != nil {
			return page, err
		}
		for _, v := range views {
			after = v.Seq
			if caller.Role == policy.AgentRole && v.Agent != caller.DID { // what others ask is theirs
				continue
			}
			page.Items = append(page.Items, actionView(v))
			size += len(v.Args) + len(v.Result)
		}
		if len(views) < n {
			return page, nil
		}
	}
	page.Cursor = strconv.FormatUint(after, 10)
	return page, nil
}

func (a *API) action(ctx context.Context, caller policy.Caller, in request[none]) (api.Action, error) {
	s, err := a.readable(ctx, in)
	if err != nil {
		return api.Action{}, err
	}
	v, err := s.Action(ctx, in.path("aid"))
	if err == nil && caller.Role == policy.AgentRole && v.Agent != caller.DID {
		err = fmt.Errorf("action %s: %w", in.path("aid"), hypervisor.ErrNotFound)
	}
	if err != nil {
		return api.Action{}, fmt.Errorf("session %s: %w", s.ID(), err)
	}
	return explained(ctx, s, v)
}

// explained is an action with why it was decided as it was.
func explained(ctx context.Context, s *hypervisor.Session, v hypervisor.ActionView) (api.Action, error) {
	e, err := s.Explain(ctx, v)
	if err != nil {
		return api.Action{}, fmt.Errorf("session %s: %w", s.ID(), err)
	}
	out := actionView(v)
	out.Explanation = explanation(e)
	return out, nil
}

// actionAnywhere finds an action by its id alone, if only one session has it.
func (a *API) actionAnywhere(ctx context.Context, caller policy.Caller, in request[none]) (api.Action, error) {
	if err := mayRead(caller); err != nil {
		return api.Action{}, err
	}
	id := in.path("aid")
	found, err := a.hv.FindAction(ctx, id, maxCandidates)
	switch {
	case err != nil:
		return api.Action{}, err
	case len(found) == 0:
		return api.Action{}, fmt.Errorf("action %s: %w in any session", id, hypervisor.ErrNotFound)
	case len(found) > 1:
		return api.Action{}, ambiguous(id, candidates(id, found))
	}
	s, err := a.hv.Session(ctx, found[0])
	if err != nil {
		return api.Action{}, err
	}
	v, err := s.Action(ctx, id)
	if err != nil {
		return api.Action{}, err
	}
	return explained(ctx, s, v)
}

func candidates(id string, sessions []string) []string {
	var out []string
	for _, s := range sessions {
		out = append(out, s+"/"+id)
	}
	return out
}

// approvals lists those of one session, or of all that have not ended. A page ends between two sessions.
func (a *API) approvals(ctx context.Context, caller policy.Caller, in request[none]) (api.Page[api.Approval], error) {
	page := api.Page[api.Approval]{Items: []api.Approval{}}
	limit, err := pageLimit(in.query)
	switch {
	case err != nil:
		return page, err
	case caller.Role == policy.AgentRole:
		return a.ownApprovals(ctx, in)
	}
	if err := mayRead(caller); err != nil {
		return page, err
	}
	ids := a.hv.OpenSessions()
	if one := in.query.text("session"); one != "" {
		s, err := a.named(ctx, one)
		if err != nil {
			return page, err
		}
		ids = []string{s.ID()}
	}
	for i, id := range ids {
		if id <= in.query.text("cursor") {
			continue
		}
		s, err := a.hv.Session(ctx, id)
		if err != nil {
			return page, err
		}
		views, err := s.Approvals(ctx)
		if err != nil {
			return page, err
		}
		for _, v := range views {
			page.Items = append(page.Items, approvalView(v))
		}
		if len(page.Items) >= limit && i+1 < len(ids) {
			page.Cursor = id
			break
		}
	}
	return page, nil
}

// find returns the approval a request names, with its session: said, in the id, or found if only one has it open.
func (a *API) find(ctx context.Context, q query, text string) (*hypervisor.Session, hypervisor.ApprovalView, error) {
	in, id := api.SplitID(text)
	ids := a.hv.OpenSessions()
	if in = cmp.Or(in, q.text("session")); in != "" {
		ids = []string{in}
	}
	type hit struct {
		s *hypervisor.Session
		v hypervisor.ApprovalView
	}
	var hits []hit
	for _, sid := range ids {
		s, err := a.named(ctx, sid)
		if err != nil {
			return nil, hypervisor.ApprovalView{}, err
		}
		views, err := s.Approvals(ctx)
		if err != nil {
			return nil, hypervisor.ApprovalView{}, err
		}
		for _, v := range views {
			if v.ID == id {
				hits = append(hits, hit{s, v})
			}
		}
	}
	if open := slices.DeleteFunc(slices.Clone(hits), func(h hit) bool { return h.v.Status != session.Open }); len(open) > 0 {
		hits = open
	}
	switch len(hits) {
	case 0:
		return nil, hypervisor.ApprovalView{}, fmt.Errorf("approval %s, which was used, has ended or never was: %w", text, hypervisor.ErrNotFound)
	case 1:
		return hits[0].s, hits[0].v, nil
	}
	var sessions []string
	for _, h := range hits[:min(len(hits), maxCandidates)] {
		sessions = append(sessions, h.s.ID())
	}
	return nil, hypervisor.ApprovalView{}, ambiguous(id, candidates(id, sessions))
}

func (a *API) approval(ctx context.Context, caller policy.Caller, in request[none]) (api.Approval, error) {
	if err := mayRead(caller); err != nil {
		return api.Approval{}, err
	}
	_, v, err := a.find(ctx, in.query, in.path("aid"))
	if err != nil {
		return api.Approval{}, err
	}
	return approvalView(v), nil
}

func (a *API) grant(ctx context.Context, caller policy.Caller, in request[api.Ballot]) (api.Decision, error) {
	if caller.Role == policy.AgentRole {
		return a.vote(ctx, caller, in, false)
	}
	return a.decide(ctx, caller, in, func(s *hypervisor.Session, id string) (policy.Decision, error) {
		return s.Grant(ctx, caller, session.Grant{Approval: id, Digest: in.body.Digest})
	})
}

func (a *API) deny(ctx context.Context, caller policy.Caller, in request[api.Ballot]) (api.Decision, error) {
	if caller.Role == policy.AgentRole {
		return a.vote(ctx, caller, in, true)
	}
	return a.decide(ctx, caller, in, func(s *hypervisor.Session, id string) (policy.Decision, error) {
		return s.Deny(ctx, caller, session.Deny{Approval: id, Digest: in.body.Digest})
	})
}

func (a *API) decide(ctx context.Context, caller policy.Caller, in request[api.Ballot], do func(*hypervisor.Session, string) (policy.Decision, error)) (api.Decision, error) {
	if !caller.MayApprove() { // before anything is looked up: who may not decide need not know what there is
		return api.Decision{}, forbidden("%s is %s; an approver or an operator grants and denies", caller.DID, caller.Role)
	}
	if in.body.Digest == "" {
		return api.Decision{}, &hypervisor.Refused{Decision: policy.Refuse(policy.InvalidArguments, "digest is missing: repeat the one the approval shows")}
	}
	s, v, err := a.find(ctx, in.query, in.path("aid"))
	if err != nil {
		return api.Decision{}, err
	}
	d, err := do(s, v.ID)
	if err == nil && !d.Allowed {
		err = &hypervisor.Refused{Decision: d}
	}
	return decision(d), err
}
