package gateway

import "context"

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
