package hypervisor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// sagaview.go: what a saga looks like from outside.

// A SagaView is a saga as it is now.
type SagaView struct {
	ID      string
	Session string
	Seq     uint64 // of the record that began it
	AsOf    uint64 // of the session's newest record when it was so
	Name    string
	Replays string     // the saga of which what stands is not done again; empty: none
	By      policy.DID // who runs it
	State   string     // running, waiting, compensating, completed, compensated, escalated
	Why     string     // it turned; empty: it did not
	Ended   time.Time  // zero: it has not
	On      string     // the step on whose account it turned; empty: none
	Steps   []SagaStepView
	Groups  []SagaGroupView

	Failed    string                   // the action by which it failed, where that is attributed; empty: it is not
	Faultless string                   // why nobody bears that it failed
	Blame     *session.FaultAttributed // who bears how much of it; nil: nobody does, or it is not found out yet
}

// Rests reports whether nothing moves any more by itself: the saga waits for somebody, or has ended and it is found out who bears it
// if it failed.
func (v *SagaView) Rests() bool {
	return v.State == "waiting" || !v.Ended.IsZero() && (v.Failed == "" || v.Blame != nil)
}

// A SagaStepView is one step of a saga.
type SagaStepView struct {
	ID    string
	Agent policy.DID
	Does  string // the action
	// InPlaceOf is the agent from whom Agent has the step, since that could not do it any more; empty: it was Agent's from the start.
	InPlaceOf policy.DID
	Needs     []string
	State     string    // pending, executing, committed, failed, unknown, compensating, compensated, compensation_failed, compensation_unknown
	Action    string    // the newest action that it was; empty: none yet
	Tries     int       // begun, its undo's too
	Waits     string    // what for: approval apr-12, tool, unreachable, quarantine, kill, outcome; empty: for nothing
	Until     time.Time // how long, or when the next try begins; zero: neither
	Why       string    // it came to this state; empty: there is no more to say
	Goal      string    // its checkpoint; empty: none
}

// A SagaGroupView is a fan-out group.
type SagaGroupView struct {
	Policy   saga.Policy
	Branches []string
	Verdict  string // open, satisfied, lost
}

// Saga returns a saga of the session, or ErrNotFound: also for one that ended so long ago that only the log tells of it.
func (s *Session) Saga(ctx context.Context, id string) (SagaView, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return SagaView{}, err
	}
	g := s.live.state.Sagas[id]
	if g == nil {
		return SagaView{}, fmt.Errorf("saga %s of session %s: %w", id, s.id, ErrNotFound)
	}
	return s.sagaView(id, g), nil
}

// Sagas returns the session's sagas, oldest first: those that have not ended, and the last that have.
func (s *Session) Sagas(ctx context.Context) ([]SagaView, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	var views []SagaView
	at := map[string]uint64{}
	for id, g := range s.live.state.Sagas {
		views = append(views, s.sagaView(id, g))
		at[id] = g.Seq
	}
	slices.SortFunc(views, func(a, b SagaView) int { return cmp.Compare(at[a.ID], at[b.ID]) })
	return views, nil
}

// AwaitSaga returns a saga once it rests: it has ended, or waits for somebody.
func (s *Session) AwaitSaga(ctx context.Context, id string) (SagaView, error) {
	for {
		rested := s.nextRest()
		if s.goesOn(id) { // else there is an answer, or the session must be read
			if err := s.hv.await(ctx, rested); err == nil {
				continue
			}
		}
		v, err := s.Saga(ctx, id)
		if err != nil || v.Rests() {
			return v, err
		}
		if err := s.hv.await(ctx, rested); err != nil {
			return v, err
		}
	}
}

// goesOn reports whether a saga is in memory and neither waits nor has ended.
func (s *Session) goesOn(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		return false
	}
	g := s.live.state.Sagas[id]
	return g != nil && !g.Run.Waits && !g.Run.State.Ended()
}

// nextRest returns a channel that is closed when a saga of the session rests.
func (s *Session) nextRest() <-chan struct{} {
	s.sagaMu.Lock()
	defer s.sagaMu.Unlock()
	if s.resting == nil {
		s.resting = make(chan struct{})
	}
	return s.resting
}

// sagaRested tells who waits, and forgets what an ended saga's steps are called with.
func (s *Session) sagaRested(r session.Rest) {
	s.sagaMu.Lock()
	defer s.sagaMu.Unlock()
	delete(s.sagaKept, r.Saga) // of one that only waits they are read again
	if s.resting != nil {
		close(s.resting)
		s.resting = nil
	}
}

// sagaView is a saga as it is now. The lock is held.
func (s *Session) sagaView(id string, g *session.Saga) SagaView {
	v := SagaView{ID: id, Session: s.id, Seq: g.Seq, AsOf: s.live.st.seq, Name: g.Name, Replays: g.Replays, By: g.By, State: g.Run.State.String(), Why: g.Why, On: g.On, Ended: g.Ended, Failed: g.Failed, Faultless: g.Faultless, Blame: g.Blame}
	if g.Run.Waits {
		v.State = "waiting"
	}
	v.Steps = make([]SagaStepView, 0, len(g.Steps))
	for i := range g.Steps {
		step, r := &g.Steps[i], &g.Run.Steps[i]
		sv := SagaStepView{ID: step.ID, Agent: step.Agent, InPlaceOf: step.InPlaceOf, Does: step.Action, Needs: step.Needs, State: r.State.String(), Action: g.Actions[i], Tries: r.No,
			Waits: r.Hold, Until: r.After, Why: g.Whys[i], Goal: step.Checkpoint}
		if (r.State == saga.Unknown || r.State == saga.CompensationUnknown) && !r.GaveUp && !g.Run.State.Ended() {
			sv.Waits = "outcome"
		}
		switch {
		case r.Invalid:
			sv.Why = "invalidated"
		case r.Skipped:
			sv.Why = "stands since " + g.Replays
		}
		v.Steps = append(v.Steps, sv)
	}
	for i, group := range g.FanOut {
		v.Groups = append(v.Groups, SagaGroupView{group.Policy, group.Branches, g.Run.Groups[i].String()})
	}
	return v
}
