package sim

import (
	"context"
	"errors"
	"fmt"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// deeds_test.go: what is asked of the hypervisor, and what its answers promise.

var admin = hypervisortest.Admin

// deeds are what can be done, and how often each is.
var deeds []struct {
	often int
	do    func(*world)
}

func init() {
	deed := func(often int, do func(*world)) {
		deeds = append(deeds, struct {
			often int
			do    func(*world)
		}{often, do})
	}
	deed(12, (*world).call)
	deed(1, (*world).burst)
	deed(3, (*world).openSession)
	deed(3, (*world).join)
	deed(1, (*world).leave)
	deed(1, (*world).terminate)
	deed(5, (*world).runSaga)
	deed(1, (*world).cancelSaga)
	deed(2, (*world).resolveSaga)
	deed(1, (*world).replaySaga)
	deed(4, (*world).approval)
	deed(4, (*world).vouch)
	deed(1, (*world).withdraw)
	deed(1, (*world).slash)
	deed(1, (*world).reinstate)
	deed(1, (*world).incident)
	deed(1, (*world).drift)
	deed(1, (*world).spawn)
	deed(2, (*world).elevate)
	deed(1, (*world).kill)
	deed(1, (*world).liftAny)
	deed(1, (*world).quarantine)
	deed(1, (*world).release)
	deed(4, (*world).changeFile)
	deed(2, (*world).undo)
}

const mostSessions = 12 // that are made in one history

// anySession draws a session, equipped mostly; nil: it cannot be had.
func (w *world) anySession() *hypervisor.Session {
	if len(w.ids) == 0 {
		return nil
	}
	id := w.ids[w.deeds.IntN(len(w.ids))]
	for range 3 { // mostly one in which something can be done
		if w.book.session(id).state.Lifecycle == session.Active {
			break
		}
		id = w.ids[w.deeds.IntN(len(w.ids))]
	}
	s, err := w.hv.Session(context.Background(), id)
	if err != nil {
		w.must(acknowledged, !errors.Is(err, hypervisor.ErrNotFound), "the session %s, which was acknowledged, is not there: %v", id, err)
		return nil
	}
	if w.deeds.IntN(5) > 0 {
		w.equip(s)
	}
	return s
}

// anyone draws an agent, mostly one that takes part in the session.
func (w *world) anyone(s *hypervisor.Session) policy.DID {
	if in := w.book.session(s.ID()).present(); len(in) > 0 && w.deeds.IntN(20) > 0 {
		return in[w.deeds.IntN(len(in))]
	}
	return w.agents[w.deeds.IntN(len(w.agents))]
}

func (w *world) openSession() {
	if len(w.ids) >= mostSessions {
		return
	}
	ctx := context.Background()
	cfg := &session.Config{Consistency: session.Consistency(w.deeds.IntN(2)), MaxParticipants: 20, NetworkAllow: []string{"*.sim"}}
	s, err := w.hv.CreateSession(ctx, admin, cfg)
	if err != nil {
		w.did("create", "error", err)
		return
	}
	w.did("create", "ok", s.ID())
	book := w.book.session(s.ID())
	w.must(acknowledged, book.state.Seq > 0 && w.book.opened[s.ID()], "the session %s is acknowledged, and its opening is not recorded", s.ID())
	w.ids = append(w.ids, s.ID())
	for range 2 + w.deeds.IntN(6) {
		w.joins(s, w.agents[w.deeds.IntN(len(w.agents))])
	}
	if err := s.Activate(ctx, admin); err != nil { // a session that stays in handshaking is part of the weather
		w.did("activate", "error", err)
		return
	}
	w.must(acknowledged, book.active, "the activation of %s is not recorded", s.ID())
	w.did("activate", "ok")
}

func (w *world) join() {
	if s := w.anySession(); s != nil {
		w.joins(s, w.agents[w.deeds.IntN(len(w.agents))])
	}
}

// joins brings an agent, whose σ an operator says where it is not known yet: from 0.55 to 1.00.
func (w *world) joins(s *hypervisor.Session, did policy.DID) {
	c := session.Join{Agent: did}
	if w.book.agent(did).state.Seq == 0 {
		c.Sigma = ring.Sigma(550_000 + 37_500*w.deeds.IntN(13))
	}
	p, err := s.Join(context.Background(), admin, c)
	if err != nil {
		w.did("join", refusal(err), err)
		return
	}
	m := w.book.session(s.ID()).members[did]
	w.must(acknowledged, m != nil && m.present, "%s is said to have joined %s, and no record says so", did, s.ID())
	w.did("join", "ok", did, p.Ring)
}

func (w *world) leave() {
	s := w.anySession()
	if s == nil {
		return
	}
	did := w.anyone(s)
	if err := s.Leave(context.Background(), policy.Agent(did), session.Leave{}); err != nil {
		w.did("leave", refusal(err), err)
		return
	}
	m := w.book.session(s.ID()).members[did]
	w.must(acknowledged, m != nil && !m.present, "%s is said to have left %s, and no record says so", did, s.ID())
	w.did("leave", "ok", did)
}

func (w *world) terminate() {
	s := w.anySession()
	if s == nil {
		return
	}
	sum, err := s.Terminate(context.Background(), admin)
	if err != nil {
		w.did("terminate", refusal(err), err)
		return
	}
	hash, there := w.book.summed[s.ID()]
	w.must(acknowledged, there && hash == sum.Hash, "%s is said to have ended with %s, and its recorded summary is %s", s.ID(), sum.Hash, hash)
	w.did("terminate", "ok")
}

// call has an agent do something, and holds the answer against the log. One in three has an idempotency key, and may be asked again
// by a client that heard nothing: then it is answered from the record, and not done again.
func (w *world) call() {
	s := w.anySession()
	if s == nil {
		return
	}
	w.number++
	did := w.anyone(s)
	c := session.Act{Action: []string{"read", "write", "write", "put", "destroy", "nothing", plain + "write", keyed + "put"}[w.deeds.IntN(8)], Args: argsOf(w.number, 0)}
	if w.deeds.IntN(40) == 0 {
		c.Args = largeArgs(w.number)
	}
	if w.deeds.IntN(3) == 0 {
		c.Key = fmt.Sprintf("key-%d", w.number)
	}
	out := w.asks(s, did, c)
	if c.Key == "" || !w.hits(asksTwice) {
		return
	}
	again := w.asks(s, did, c)
	// What was refused, or is in no record, is asked for the first time.
	same := out.ID == "" || again.ID == "" || again.ID == out.ID || w.book.session(s.ID()).deeds[out.ID] == nil
	w.must(harmOnce, same, "%s was asked for twice with one key, and done as %s and %s", c.Args, out.ID, again.ID)
}

func (w *world) asks(s *hypervisor.Session, did policy.DID, c session.Act) hypervisor.Outcome {
	out, err := s.Act(context.Background(), policy.Agent(did), c)
	switch {
	case err != nil:
		w.did("call "+c.Action, "error", err)
		return hypervisor.Outcome{}
	case !out.Allowed:
		w.did("call "+c.Action, string(out.Code), out.Reason)
		if out.Approval != nil {
			w.asked = append(w.asked, asked{s.ID(), did, c})
			if w.deeds.IntN(2) == 0 {
				w.decides(s, out.Approval.ID, out.Approval.Digest)
			}
		}
		return hypervisor.Outcome{}
	}
	book := w.book.session(s.ID())
	d := book.deeds[out.ID]
	lossy := book.eventual && c.Action == "read" && (d == nil || d.outcome == "") // such a read may be lost
	running := out.State == "running" && d != nil && d.outcome == ""              // a repeat finds what is in a record, and no more
	w.must(acknowledged, lossy || running || d != nil && d.outcome == out.State, "%s/%s is answered as %s, and recorded as %s: %+v", s.ID(), out.ID, out.State, d, d)
	key := s.ID() + "/" + out.ID
	w.must(idsOnce, w.given[key] == "" || w.given[key] == string(c.Args), "%s was answered to two", key)
	w.given[key] = string(c.Args)
	w.did("call "+c.Action, out.State, out.ID)
	return out
}

// burst is an agent that asks as fast as it can.
func (w *world) burst() {
	s := w.anySession()
	if s == nil {
		return
	}
	did := w.anyone(s)
	for range 12 + w.deeds.IntN(40) {
		w.number++
		w.asks(s, did, session.Act{Action: "read", Args: argsOf(w.number, 0)})
	}
}

// refusal is the code of a refusal; another error is just that.
func refusal(err error) string {
	var refused *hypervisor.Refused
	if errors.As(err, &refused) {
		return string(refused.Decision.Code)
	}
	return "error"
}
