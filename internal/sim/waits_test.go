package sim

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// waits_test.go: what the steps of sagas wait for. Each wait is judged when it begins, by its records; and when the weather has cleared
// it is ended, by the very command that its reason names, or by its deadline.

// A wait is what a step of a saga waits for.
type wait struct {
	session, saga, step string
	reason              string // as records say it: approval apr-3, kill, quarantine, tool, unreachable; or outcome, of an unknown one
	undo                bool   // it is the step's undo that waits
	since               uint64 // the record that began it
	until               time.Time
}

func (t *wait) String() string {
	return fmt.Sprintf("%s of %s/%s waits for %s since record %d, until %s", t.step, t.session, t.saga, t.reason, t.since, t.until.Format(time.TimeOnly))
}

// kind is the reason without its id.
func (t *wait) kind() string {
	kind, _, _ := strings.Cut(t.reason, " ")
	return kind
}

// key is one step's.
func (t *wait) key() string { return t.saga + "/" + t.step }

// ending holds, for each kind of wait, the command that ends it (docs/saga.md); it reports what it answered. What it does not say is
// that the wait is over.
var ending = map[string]func(*world, *wait) (policy.Decision, error){
	"outcome":     (*world).findOut,
	"approval":    (*world).grantStep,
	"quarantine":  (*world).releaseStep,
	"kill":        (*world).liftAll,
	"tool":        (*world).bringTool,
	"unreachable": (*world).answersAgain,
}

// waitEvent keeps track of waits.
func (b *book) waitEvent(s *sessionBook, seq uint64, at time.Time, e session.Event) {
	switch e := e.(type) {
	case session.SagaStepHeld:
		b.waits(s, at, &wait{saga: e.Saga, step: e.Step, reason: e.For, since: seq, until: e.Until})
	case session.SagaStepSettled:
		delete(s.waits, e.Saga+"/"+e.Step)
		if e.To == saga.Unknown || e.To == saga.CompensationUnknown {
			b.waits(s, at, &wait{saga: e.Saga, step: e.Step, reason: "outcome", since: seq, until: e.Until})
		}
	case session.SagaStepRetried:
		delete(s.waits, e.Saga+"/"+e.Step)
	case session.SagaStepStarted:
		delete(s.waits, e.Saga+"/"+e.Step)
		s.sagas[e.Saga].undoing[e.Step] = e.Undo
	case session.SagaStepGivenUp:
		t := s.waits[e.Saga+"/"+e.Step]
		b.w.must(waitsEnd, t != nil && !at.Before(t.until), "%s of %s/%s is given up before its time: %v", e.Step, s.id, e.Saga, t)
		delete(s.waits, e.Saga+"/"+e.Step)
	case session.SagaWaiting:
		some := slices.ContainsFunc(slices.Collect(maps.Values(s.waits)), func(t *wait) bool { return t.saga == e.Saga })
		b.w.must(waitsEnd, some, "%s/%s is said to wait, and none of its steps waits for anything", s.id, e.Saga)
	case session.SagaEnded:
		maps.DeleteFunc(s.waits, func(_ string, t *wait) bool { return t.saga == e.Saga })
	default: // ends no wait, and begins none
	}
}

// waitsLast checks that none of the waits that a record began is over already: their ends stand in it too.
func (b *book) waitsLast(s *sessionBook, seq uint64, at time.Time) {
	for _, t := range s.waits {
		b.w.must(waitsEnd, t.since != seq || t.until.After(at), "%s, and it is %s", t, at.Format(time.TimeOnly))
	}
}

// waits judges a wait that begins: it has a deadline, and there is a command that ends it.
func (b *book) waits(s *sessionBook, at time.Time, t *wait) {
	t.session, t.undo = s.id, s.sagas[t.saga].undoing[t.step]
	b.w.must(waitsEnd, ending[t.kind()] != nil, "%s, which no command ends", t)
	b.w.must(waitsEnd, !t.until.IsZero() && !t.until.After(at.Add(saga.ResolveWithin)), "%s, which is no time, at %s", t, at.Format(time.TimeOnly))
	if id, ok := strings.CutPrefix(t.reason, "approval "); ok {
		p := s.state.Approvals[id]
		b.w.must(waitsEnd, p != nil && p.Expires.Equal(t.until), "%s, which is %+v", t, p)
	}
	s.waits[t.key()] = t
	b.w.stats.waits[t.kind()]++
}

// allWaits returns what steps wait for now, oldest first in each session.
func (b *book) allWaits() (all []*wait) {
	for _, id := range slices.Sorted(maps.Keys(b.sessions)) {
		all = slices.AppendSeq(all, maps.Values(b.sessions[id].waits))
	}
	slices.SortFunc(all, func(x, y *wait) int {
		return cmp.Or(cmp.Compare(x.session, y.session), cmp.Compare(x.since, y.since), cmp.Compare(x.key(), y.key()))
	})
	return all
}

// over reports whether a step waits no more for what it waited for.
func (b *book) over(t *wait) bool {
	is := b.session(t.session).waits[t.key()]
	return is == nil || is.reason != t.reason
}

// resolveSaga ends something that a saga waits for while all kinds of things fail, or tries to.
func (w *world) resolveSaga() {
	waits := w.book.allWaits()
	if len(waits) == 0 {
		return
	}
	t := waits[w.deeds.IntN(len(waits))]
	if w.deeds.IntN(4) == 0 {
		d, err := w.resolve(t, "retry")
		w.answered("resolve saga retry", d, err)
		return
	}
	d, err := ending[t.kind()](w, t)
	w.answered("end wait for "+t.kind(), d, err)
	recorded := t.kind() == "outcome" || t.kind() == "approval" // the others end in records of their own, and the step follows
	is := w.book.session(t.session).waits[t.key()]
	w.must(waitsEnd, err != nil || !d.Allowed || !recorded || is == nil || is.since != t.since, "%s, which is said to have ended", t)
}

func (w *world) sessionOf(t *wait) (*hypervisor.Session, error) {
	return w.hv.Session(context.Background(), t.session)
}

func (w *world) resolve(t *wait, how string) (policy.Decision, error) {
	s, err := w.sessionOf(t)
	if err != nil {
		return policy.Decision{}, err
	}
	return s.ResolveSaga(context.Background(), admin, t.saga, t.step, how)
}

// findOut says of an unknown outcome what it is.
func (w *world) findOut(t *wait) (policy.Decision, error) {
	how := "not"
	if w.tookEffect(t.session, t.saga, t.step, t.undo) {
		how = "happened"
	}
	return w.resolve(t, how)
}

// grantStep grants the approval that a step waits for, or denies it now and then: either ends the wait.
func (w *world) grantStep(t *wait) (policy.Decision, error) {
	ctx, by, id := context.Background(), policy.Approver("did:mesh:approver"), strings.TrimPrefix(t.reason, "approval ")
	p := w.book.session(t.session).state.Approvals[id]
	if p == nil {
		return policy.Decision{}, fmt.Errorf("there is no %s", id)
	}
	s, err := w.sessionOf(t)
	if err != nil {
		return policy.Decision{}, err
	}
	if w.order.IntN(4) == 0 {
		return s.Deny(ctx, by, session.Deny{Approval: id, Digest: p.Digest.String()})
	}
	return s.Grant(ctx, by, session.Grant{Approval: id, Digest: p.Digest.String()})
}

// releaseStep ends the quarantine of the step's agent, and of those who brought it.
func (w *world) releaseStep(t *wait) (d policy.Decision, err error) {
	book := w.book.session(t.session)
	for _, did := range book.line(book.sagas[t.saga].step(t.step).Agent) {
		if w.book.agent(did).state.Quarantine == nil {
			continue
		}
		if d, err = w.hv.Release(context.Background(), admin, did, agent.EndQuarantine{Note: "for its saga"}); err != nil || !d.Allowed {
			return d, err
		}
	}
	return d, nil
}

func (w *world) liftAll(*wait) (policy.Decision, error) {
	delete(w.stops, policy.Scope{All: true})
	return w.hv.LiftKill(context.Background(), admin, policy.Scope{All: true})
}

// bringTool brings the session its tools, which lets a step go on by itself, or because somebody says so.
func (w *world) bringTool(t *wait) (policy.Decision, error) {
	s, err := w.sessionOf(t)
	if err != nil {
		return policy.Decision{}, err
	}
	w.equip(s)
	return w.tryAgain(t)
}

// answersAgain lets somebody answer at the addresses.
func (w *world) answersAgain(t *wait) (policy.Decision, error) {
	w.dark = 0
	return w.tryAgain(t)
}

// tryAgain says that a step is to be tried again, or waits until it is by itself.
func (w *world) tryAgain(t *wait) (policy.Decision, error) {
	if w.order.IntN(2) == 0 {
		w.clock.Advance(lookedForEach)
		return policy.Allow(), nil
	}
	return w.resolve(t, "retry")
}

const (
	lookedForEach = 10 * time.Second // docs/saga.md: how often it is looked for a tool, or for who answers
	mostRounds    = 12               // of waits that follow each other, in one saga
)

// endWaits ends what sagas wait for, in good weather: each by the command that its reason names, and one in three by its deadline, which
// overdue judges. Then nothing waits but for its deadline.
func (w *world) endWaits() {
	left := map[string]bool{} // to their deadlines
	for round := range mostRounds {
		ended := 0
		for _, t := range w.book.allWaits() {
			if w.book.over(t) || left[t.session+t.key()] {
				continue // with another
			}
			if near := w.clock.Now().Add(2 * lookedForEach).After(t.until); near || round == 0 && w.order.IntN(3) == 0 {
				left[t.session+t.key()] = true
				continue
			}
			w.endWait(t)
			ended++
		}
		if ended == 0 {
			return
		}
	}
	w.must(waitsEnd, false, "there is no end of waits: %v", w.book.allWaits())
}

// endWait ends a wait by its command, and sees that it is over before its deadline.
func (w *world) endWait(t *wait) {
	if elsewhere := t.kind() == "kill" || t.kind() == "quarantine"; !elsewhere || w.order.IntN(4) == 0 { // somebody looks first
		w.waitShown(t)
	} else { // or nobody has to, and others are busy: this session may be let go
		for _, id := range w.ids {
			if id != t.session {
				_, err := w.hv.Session(context.Background(), id)
				w.must(acknowledged, err == nil, "the session %s, which was acknowledged, is not to be had: %v", id, err)
			}
		}
	}
	w.quieten()
	if w.book.over(t) {
		return
	}
	d, err := ending[t.kind()](w, t)
	w.did("end wait for "+t.kind(), fmt.Sprintf("%t %v", d.Allowed, err), t)
	w.must(waitsEnd, err == nil && d.Allowed, "%s, and what ends it is refused: %+v %v", t, d, err)
	w.quieten()
	w.must(waitsEnd, w.book.over(t) && w.clock.Now().Before(t.until), "%s, also after it was ended", t)
	w.stats.ended[t.kind()]++
}

// waitShown checks that who looks at the saga is told what it waits for, and until when.
func (w *world) waitShown(t *wait) {
	s, err := w.sessionOf(t)
	var v hypervisor.SagaView
	if err == nil {
		v, err = s.Saga(context.Background(), t.saga)
	}
	w.must(waitsEnd, err == nil, "%s, and the saga is not to be had: %v", t, err)
	i := slices.IndexFunc(v.Steps, func(step hypervisor.SagaStepView) bool { return step.ID == t.step })
	w.must(waitsEnd, v.Steps[i].Waits == t.reason && v.Steps[i].Until.Equal(t.until), "%s, and is shown as %+v", t, v.Steps[i])
}

// overdue checks that no wait outlasts its deadline.
func (w *world) overdue() {
	for _, t := range w.book.allWaits() {
		w.must(waitsEnd, w.clock.Now().Before(t.until), "%s, and it is %s", t, w.clock.Now().Format(time.TimeOnly))
	}
}
