package session

import (
	"iter"
	"slices"

	"github.com/agenthypervisor/hypervisor/policy"
)

// kin.go: agents that agents bring (SPEC §2 "Inheritance"). A spawned agent does not outlast its parent in the session, is never
// above it, and for blame, votes and vouches it is its parent.

// root returns who answers for an agent: the one at the root of its descent, also once they have left.
func (s *State) root(did policy.DID) policy.DID {
	for p := s.took(did); p != nil && p.Parent != ""; p = s.took(did) {
		did = p.Parent
	}
	return did
}

// Line returns an agent and those who brought it, to the root.
func (s *State) Line(did policy.DID) []policy.DID { return slices.Collect(s.line(did)) }

// line yields what Line returns.
func (s *State) line(did policy.DID) iter.Seq[policy.DID] {
	return func(yield func(policy.DID) bool) {
		more := yield(did)
		for p := s.Participants[did]; more && p != nil && p.Parent != ""; p = s.Participants[p.Parent] {
			more = yield(p.Parent)
		}
	}
}

// kin reports whether two agents answer as one.
func (s *State) kin(a, b policy.DID) bool { return s.root(a) == s.root(b) }

// descendants returns the agents that an agent brought, and those that they did, the nearest last.
func (s *State) descendants(did policy.DID) []policy.DID {
	var all []policy.DID
	for _, child := range s.participantIDs() {
		if s.Participants[child].Parent == did {
			all = append(append(all, s.descendants(child)...), child)
		}
	}
	return all
}

// decideSpawn answers a join that an agent asks for.
func decideSpawn(s *State, env *Env, c Join) *policy.Decision {
	parent := env.Caller.DID
	child, there := s.Participants[c.Agent]
	switch {
	case s.Participants[parent] == nil:
		return deny(policy.NotAParticipant, "%s is not in session %s, so it brings nobody", parent, s.ID)
	case c.Agent == parent:
		return deny(policy.Forbidden, "%s is in session %s already", parent, s.ID)
	case c.Sigma != 0:
		return deny(policy.Forbidden, "only an operator says an agent's σ")
	case there && child.Parent != parent:
		return deny(policy.Forbidden, "%s is in session %s already, and not brought by %s", c.Agent, s.ID, parent)
	case there:
		return nil
	case s.Left[c.Agent] != nil && s.Left[c.Agent].Parent != parent:
		return deny(policy.Forbidden, "%s was in session %s before, and not brought by %s", c.Agent, s.ID, parent)
	case s.Left[c.Agent] == nil && len(s.Participants)+len(s.Left) >= s.Config.MaxParticipants:
		// Who left counts too, or an agent could bring one after the other without end.
		return deny(policy.SessionFull, "session %s has had its %d participants; an agent brings no more", s.ID, s.Config.MaxParticipants)
	}
	return nil
}
