package httpapi

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// views.go: what the hypervisor shows, in the words of the wire.

func decision(d policy.Decision) api.Decision {
	out := api.Decision{Allowed: d.Allowed, Code: string(d.Code), Reason: d.Reason, RequiredRing: ringNumber(d.RequiredRing),
		Ring: ringNumber(d.Ring), RetryAfterMS: d.RetryAfterMS, Policy: d.Policy, Seq: d.Seq}
	if d.Explanation != nil {
		out.Explanation = explanation(*d.Explanation)
	}
	if d.SigmaEff != nil {
		out.SigmaEff = api.Decimal(d.SigmaEff.String())
	}
	if d.RiskWeight != 0 {
		out.RiskWeight = api.Decimal(d.RiskWeight.String())
	}
	if d.Approval != nil {
		out.Approval = &api.ApprovalRef{ID: d.Approval.ID, Digest: d.Approval.Digest, By: d.Approval.By}
	}
	return out
}

func explanation(e policy.Explanation) *api.Explanation {
	out := &api.Explanation{Requires: e.Requires, ByScore: ringNumber(e.ByScore), Elevated: ringNumber(e.Elevated), RefusedBy: e.RefusedBy, ToPass: e.ToPass}
	for _, c := range e.Ceilings {
		out.Ceilings = append(out.Ceilings, api.Ceiling{Ring: int(c.Ring), Why: c.Why})
	}
	return out
}

func ringNumber(r *ring.Ring) *int {
	if r == nil {
		return nil
	}
	n := int(*r)
	return &n
}

func sessionView(s *session.State) (api.Session, error) {
	cfg, err := json.Marshal(s.Config)
	if err != nil {
		return api.Session{}, err
	}
	out := api.Session{ID: s.ID, Lifecycle: s.Lifecycle.String(), Opener: string(s.Opener), Kind: s.Kind, Of: s.Of, Opened: s.Opened, Ends: s.Ends,
		Records: s.Seq, Changed: s.Time, Epoch: s.Epoch, Config: cfg,
		Participants: []api.Participant{}, Running: []string{}, OpenApprovals: []string{}}
	for _, did := range slices.Sorted(maps.Keys(s.Participants)) {
		p := s.Participants[did]
		row := api.Participant{Agent: string(did), Ring: int(p.Ring), Joined: p.Joined, Running: p.Running, Held: int(p.Held)}
		if p.Manifest != nil {
			row.Manifest = p.Manifest.Digest.String()
		}
		row.History = historyView(p.History)
		out.Participants = append(out.Participants, row)
	}
	bySeq := func(a, b *session.Approval) int { return cmp.Compare(a.Seq, b.Seq) }
	for _, a := range slices.SortedFunc(maps.Values(s.Approvals), bySeq) {
		if a.Status == session.Open {
			out.OpenApprovals = append(out.OpenApprovals, a.ID)
		}
	}
	out.Running = append(out.Running, slices.SortedFunc(maps.Keys(s.Running), func(a, b string) int {
		return cmp.Compare(s.Running[a].Seq, s.Running[b].Seq)
	})...)
	return out, nil
}

// historyView shows a history; nil: there is none.
func historyView(h *session.History) *api.History {
	if h == nil {
		return nil
	}
	return &api.History{Result: h.Result, Why: h.Why, Until: h.Until}
}

func actionView(v hypervisor.ActionView) api.Action {
	return api.Action{ID: v.ID, Session: v.Session, Agent: string(v.Agent), Action: v.Action, Seq: v.Seq, Time: v.Time,
		Ring: int(v.Ring), RequiredRing: int(v.RequiredRing), SigmaEff: api.Decimal(v.SigmaEff.String()),
		RiskWeight: api.Decimal(v.RiskWeight.String()), Reversibility: v.Reversibility.String(), ReadOnly: v.ReadOnly,
		Resource: v.Resource, UndoUntil: v.UndoUntil, Undoes: v.Undoes, Approval: v.Approval, During: v.During, Saga: v.Saga, Args: v.Args, Outcome: v.Outcome, Why: v.Why,
		Result: v.Result, OutcomeSeq: v.OutcomeSeq, Ended: v.Ended}
}

func approvalView(v hypervisor.ApprovalView) api.Approval {
	return api.Approval{ID: v.ID, Session: v.Session, Agent: string(v.Agent), Action: v.Action, Args: v.Args,
		Digest: v.Digest.String(), Status: string(v.Status), By: v.By, Policy: v.Rule, Electors: texts(v.Electors),
		For: texts(v.For), Against: texts(v.Against), Opened: v.Opened, Expires: v.Expires, GrantedBy: v.GrantedBy, Seq: v.Seq,
		Descriptor: v.Descriptor.String()}
}

func texts(dids []policy.DID) []string {
	var out []string
	for _, d := range dids {
		out = append(out, string(d))
	}
	return out
}
