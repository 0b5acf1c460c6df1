package hypervisor

import (
	"slices"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// gallery.go: the standings that a session has before it when it decides.

// A gallery is what one session knows of standings: of its participants, and of who is joining. The session's lock guards it.
type gallery struct {
	known   map[policy.DID]agent.Standing // what decisions read
	scores  *session.Scores               // what stands behind whom; nil: nothing does
	watched []watchedAgent
	changes uint64 // of standings, when they were looked at last
}

type watchedAgent struct {
	did  policy.DID
	h    *agentHandle
	seen *agent.Standing // what known has
}

// watch adds an agent.
func (g *gallery) watch(did policy.DID, h *agentHandle) {
	if _, there := g.known[did]; there {
		return
	}
	seen := h.standing.Load()
	g.known[did] = *seen
	g.watched = append(g.watched, watchedAgent{did, h, seen})
}

// current returns the standings as they are now.
func (g *gallery) current(a *standings, state *session.State) map[policy.DID]agent.Standing {
	changes := a.changes.Load() // before the standings: one that is published meanwhile is seen now or at the next command
	if changes == g.changes {
		return g.known
	}
	g.changes = changes
	for i := range g.watched {
		w := &g.watched[i]
		if now := w.h.standing.Load(); now != w.seen {
			w.seen, g.known[w.did] = now, *now
			if g.scores != nil {
				g.scores.Stand(state, w.did, *now)
			}
		}
	}
	return g.known
}

// keep forgets agents that are neither participants nor joining any more, once they are many.
func (g *gallery) keep(participants map[policy.DID]*session.Participant) {
	const spare = 16
	if len(g.watched) <= len(participants)+spare {
		return
	}
	g.watched = slices.DeleteFunc(g.watched, func(w watchedAgent) bool {
		_, there := participants[w.did]
		if !there {
			delete(g.known, w.did)
		}
		return !there
	})
}

// follow takes in what a record has changed of who stands behind whom; the state has it already.
func (g *gallery) follow(state *session.State, events []session.Event) {
	switch {
	case g.scores != nil:
		g.scores.Follow(state, events, g.known)
	case len(state.Bonds) > 0:
		g.scores = session.NewScores(state, g.known)
	}
}
