package hypervisor

import "github.com/agenthypervisor/hypervisor/policy"

// Handles returns how many sessions have a handle, and how many a state in memory.
func (hv *Hypervisor) Handles() (handles, loaded int) {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	return len(hv.sessions), len(hv.loaded)
}

// FillExecutor takes the places for calls that are left; the function gives them back.
func (hv *Hypervisor) FillExecutor() (release func()) {
	return fill(hv.exec.Reserve, hv.exec.Release)
}

// FillCommitter takes the places for records that are left; the function gives them back.
func (hv *Hypervisor) FillCommitter() (release func()) {
	return fill(hv.committer.Reserve, hv.committer.Release)
}

func fill(reserve func() error, release func()) func() {
	n := 0
	for reserve() == nil {
		n++
	}
	return func() {
		for range n {
			release()
		}
	}
}

// InQuarantine reports whether sessions are told that an agent is in quarantine.
func (hv *Hypervisor) InQuarantine(did policy.DID) bool {
	standing := hv.agents.handle(did).standing.Load()
	return standing != nil && standing.Quarantine != nil
}

// StampStandings is what a command costs for having its agents' standings before it. The session is loaded and nobody else uses it.
func (s *Session) StampStandings() int {
	return len(s.live.agents.current(s.hv.agents, s.live.state))
}

// MoveStanding publishes an agent's standing anew.
func (hv *Hypervisor) MoveStanding(did policy.DID) {
	h := hv.agents.handle(did)
	h.mu.Lock()
	defer h.mu.Unlock()
	hv.agents.publish(h)
}
