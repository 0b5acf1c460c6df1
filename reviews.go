package hypervisor

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// reviews.go: when a standing moves, the rings that follow from it are recorded at once in the sessions that are in memory
// (SPEC §2 "Demotion"). Every decision computes them anew; the others' records say so with their next command.

// A reviewing knows whose rings are to be looked at. One task at a time does.
type reviewing struct {
	mu      sync.Mutex
	agents  map[policy.DID]struct{}
	running bool
}

// review has an agent's rings looked at soon. It may be called with any lock held.
func (hv *Hypervisor) review(did policy.DID) {
	r := &hv.reviews
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.agents == nil {
		r.agents = map[policy.DID]struct{}{}
	}
	r.agents[did] = struct{}{}
	if !r.running {
		r.running = true
		hv.offer(hv.reviewAll)
	}
}

// take returns the agents to look at, and none once there is no more to do.
func (r *reviewing) take() map[policy.DID]struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	agents := r.agents
	r.agents, r.running = nil, len(agents) > 0
	return agents
}

func (hv *Hypervisor) reviewAll(ctx context.Context) {
	for agents := hv.reviews.take(); len(agents) > 0; agents = hv.reviews.take() {
		for _, s := range hv.inMemory(func(s *Session) bool { return s.hasAny(agents) }) {
			if err := s.reviewRings(ctx); err != nil && !hv.closing.Load() {
				hv.opts.Logger.Warn("a change of ring could not be recorded at once; it counts all the same", "session", s.id, "error", err)
			}
		}
	}
}

// inMemory returns the sessions in memory of which something is so, in the order of their ids: records follow from it.
func (hv *Hypervisor) inMemory(of func(*Session) bool) []*Session {
	hv.mu.Lock()
	all := make([]*Session, 0, len(hv.loaded))
	for s := range hv.loaded {
		all = append(all, s)
	}
	hv.mu.Unlock()
	all = slices.DeleteFunc(all, func(s *Session) bool { return !of(s) })
	slices.SortFunc(all, func(a, b *Session) int { return strings.Compare(a.id, b.id) })
	return all
}

// reviewRings records the rings that are otherwise now.
func (s *Session) reviewRings(ctx context.Context) error {
	_, _, err := s.propose(ctx, policy.System, session.Tick{}, errand{})
	if errors.Is(err, ErrNotFound) || errors.Is(err, errForgotten) {
		return nil
	}
	return err
}

func (s *Session) hasAny(agents map[policy.DID]struct{}) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil || s.live.state.Lifecycle >= session.Terminating {
		return false
	}
	for did := range agents {
		if s.live.state.Participants[did] != nil {
			return true
		}
	}
	return false
}
