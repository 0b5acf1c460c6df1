package gateway

import (
	"context"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
)

// Equip is a hypervisor.Equipper: the tools of all servers, through connections of the hypervisor's own in that session.
func (h *Hub) Equip(ctx context.Context, s *hypervisor.Session, _ policy.DID) error {
	return h.Offer(ctx, Seat{Agent: policy.System.Through("undo"), Session: s})
}

// Offer has the tools of all servers registered for an agent in a session that acts through another door than MCP. A server that
// does not start, or takes long, is passed over, as in a first tools/list.
func (h *Hub) Offer(ctx context.Context, who Seat) error {
	h.mu.Lock()
	s, err := h.seatOf(ctx, who)
	if err == nil {
		s.used = h.opt.Clock.Now()
	}
	h.mu.Unlock()
	if err != nil {
		return err
	}
	s.prepare(ctx)
	return nil
}

// Unlisted returns why an action (server.tool) that nobody knows may be there all the same: its server does not say what it has; or nil,
// where it does.
func (h *Hub) Unlisted(who Seat, action string) error {
	h.mu.Lock()
	s := h.seats[seatKey{who.Agent.DID, who.Session.ID()}]
	h.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.unlisted(action, ".")
}
