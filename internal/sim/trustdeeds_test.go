package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// trustdeeds_test.go: vouches, incidents, slashes, drift: what moves standings.

func (w *world) vouch() {
	s := w.anySession()
	if s == nil {
		return
	}
	by := w.anyone(s)
	for range 3 { // the one of some that is trusted most
		if other := w.anyone(s); w.book.agent(by).sigma < w.book.agent(other).sigma {
			by = other
		}
	}
	for range 1 + w.deeds.IntN(4) {
		w.vouches(s, by)
	}
}

func (w *world) vouches(s *hypervisor.Session, by policy.DID) {
	c := session.Vouch{Vouchee: w.anyone(s), Bond: ring.Sigma(w.deeds.IntN(5) * 100_000)}
	if w.deeds.IntN(3) == 0 {
		c.Expires = w.clock.Now().Add(time.Duration(1+w.deeds.IntN(20)) * time.Minute)
	}
	b, err := s.Vouch(context.Background(), policy.Agent(by), c)
	if err != nil {
		w.did("vouch", refusal(err), err)
		return
	}
	w.must(acknowledged, b.Status != session.BondActive || w.book.reserved[s.ID()+"/"+b.ID], "%s/%s is said to count, and nothing was set aside", s.ID(), b.ID)
	w.did("vouch", b.Status.String(), b.ID, by, c.Vouchee)
}

func (w *world) withdraw() {
	s := w.anySession()
	if s == nil {
		return
	}
	bonds, err := s.Bonds(context.Background())
	if err != nil || len(bonds) == 0 {
		return
	}
	b := bonds[w.deeds.IntN(len(bonds))]
	d, err := s.Withdraw(context.Background(), policy.Agent(b.Voucher), session.Withdraw{ID: b.ID})
	w.answered("withdraw", d, err)
}

func (w *world) slash() {
	s := w.anySession()
	if s == nil {
		return
	}
	did := w.anyone(s)
	d, err := s.Slash(context.Background(), admin, session.Slash{Agent: did, Cause: "seen"})
	w.answered("slash", d, err)
	if err == nil && d.Allowed {
		w.must(acknowledged, w.book.session(s.ID()).slashed[did] || w.book.agent(did).state.Blacklisted, "%s is said to be slashed, and no record says so", did)
	}
}

func (w *world) reinstate() {
	did := w.agents[w.deeds.IntN(len(w.agents))]
	for _, other := range w.agents {
		if w.book.agent(other).state.Blacklisted {
			did = other
		}
	}
	sigma := ring.Sigma(700_000)
	d, err := w.hv.Reinstate(context.Background(), admin, did, agent.Reinstate{Sigma: &sigma, Cause: "again"})
	w.answered("reinstate", d, err)
}

// incident raises one about an action or an agent: an operator's is attributed, an agent's own moves nobody.
func (w *world) incident() {
	s := w.anySession()
	if s == nil {
		return
	}
	by := admin
	if w.deeds.IntN(2) == 0 {
		by = policy.Agent(w.anyone(s))
	}
	w.number++
	c := session.RaiseIncident{Agent: w.anyone(s), Reason: fmt.Sprintf("incident %d", w.number), Key: fmt.Sprintf("incident-%d", w.number)}
	if views, err := s.Actions(context.Background(), 0, 20); err == nil && len(views) > 0 && w.deeds.IntN(2) == 0 {
		c.Agent, c.Action = "", views[w.deeds.IntN(len(views))].ID
	}
	v, err := s.RaiseIncident(context.Background(), by, c)
	if err != nil {
		w.did("incident", refusal(err), err)
		return
	}
	w.must(acknowledged, w.book.session(s.ID()).ids[v.ID], "the incident %s is acknowledged and not recorded", v.ID)
	w.did("incident", "ok", v.ID)
	if w.hits(asksTwice) {
		again, err := s.RaiseIncident(context.Background(), by, c)
		w.must(idsOnce, err != nil || again.ID == v.ID, "one incident is recorded as %s and %s", v.ID, again.ID)
	}
}

func (w *world) drift() {
	s := w.anySession()
	if s == nil {
		return
	}
	c := session.ReportDrift{Agent: w.anyone(s), Reason: "watched", Distance: ring.Sigma(w.deeds.IntN(1_000_000))}
	if _, err := s.ReportDrift(context.Background(), admin, c); err != nil {
		w.did("drift", refusal(err), err)
		return
	}
	w.did("drift", "ok", c.Agent, c.Distance)
}

// spawn has an agent bring another.
func (w *world) spawn() {
	s := w.anySession()
	if s == nil {
		return
	}
	parent, child := w.anyone(s), w.agents[w.deeds.IntN(len(w.agents))]
	if _, err := s.Join(context.Background(), policy.Agent(parent), session.Join{Agent: child}); err != nil {
		w.did("spawn", refusal(err), err)
		return
	}
	w.did("spawn", "ok", parent, child)
}

func (w *world) elevate() {
	s := w.anySession()
	if s == nil {
		return
	}
	c := session.Elevate{Ring: ring.Ring(1 + w.deeds.IntN(2)), For: time.Duration(1+w.deeds.IntN(600)) * time.Second, Reason: "once"}
	out, err := s.Elevate(context.Background(), policy.Agent(w.anyone(s)), c)
	w.answered("elevate", out.Decision, err)
	if err == nil && out.Approval != nil && w.deeds.IntN(4) > 0 {
		w.decides(s, out.Approval.ID, out.Approval.Digest)
	}
}

// approval has one that is open decided, or lets a call that was granted be made.
func (w *world) approval() {
	if len(w.asked) > 0 && w.deeds.IntN(2) == 0 {
		i := w.deeds.IntN(len(w.asked))
		a := w.asked[i]
		w.asked = slices.Delete(w.asked, i, i+1)
		if s, err := w.hv.Session(context.Background(), a.session); err == nil {
			w.equip(s)
			w.asks(s, a.by, a.act)
		}
		return
	}
	s := w.anySession()
	if s == nil {
		return
	}
	views, err := s.Approvals(context.Background())
	if err != nil || len(views) == 0 {
		return
	}
	v := views[w.deeds.IntN(len(views))]
	w.decides(s, v.ID, v.Digest.String())
}

// decides grants, denies or votes on an approval, and holds the answer against the log.
func (w *world) decides(s *hypervisor.Session, id, digest string) {
	ctx, by := context.Background(), policy.Approver("did:mesh:approver")
	book := w.book.session(s.ID())
	switch w.deeds.IntN(5) {
	case 0:
		d, err := s.Deny(ctx, by, session.Deny{Approval: id, Digest: digest})
		w.answered("deny", d, err)
		w.must(acknowledged, err != nil || !d.Allowed || book.approvals[id] == "denied", "%s/%s is said to be denied, and is recorded as %q", s.ID(), id, book.approvals[id])
	case 1:
		for _, did := range book.present() {
			d, err := s.Vote(ctx, policy.Agent(did), session.Vote{Approval: id, Digest: digest, Against: w.deeds.IntN(4) == 0})
			w.answered("vote", d, err)
		}
	default:
		d, err := s.Grant(ctx, by, session.Grant{Approval: id, Digest: digest})
		w.answered("grant", d, err)
		w.must(acknowledged, err != nil || !d.Allowed || book.approvals[id] == "granted", "%s/%s is said to be granted, and is recorded as %q", s.ID(), id, book.approvals[id])
	}
}
