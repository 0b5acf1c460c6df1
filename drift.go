package hypervisor

import (
	"context"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// drift.go: a service that watches agents says that one has moved from what it claims.

// ReportDrift says how far an agent has moved from what it claims to do: medium holds it one ring lower, high slashes it, critical
// quarantines it besides. A service's, or an operator's. The agents' own streams are told before it returns, unless the store is
// away. It returns the event that was recorded; where the level is none, nothing is recorded and the event has no ID and no By. The
// error is *Refused where the rules say no.
func (s *Session) ReportDrift(ctx context.Context, caller policy.Caller, c session.ReportDrift) (session.BehaviorDrift, error) {
	if err := s.hv.enter(); err != nil {
		return session.BehaviorDrift{}, err
	}
	defer s.hv.leave()
	known, err := s.hv.agents.know(ctx, c.Agent)
	if err != nil {
		return session.BehaviorDrift{}, err
	}
	out, err := s.submit(ctx, caller, c, func(e *session.Env) {
		e.Key = key(e, c.Key, c)
		s.live.agents.watch(c.Agent, known[0])
	})
	if err := refusedOr(out.Decision, err); err != nil {
		return session.BehaviorDrift{}, err
	}
	switch {
	case out.Repeats != nil:
		return s.driftAt(ctx, out.Repeats.Seq)
	case out.Seq == 0:
		distance, err := c.Measured()
		return session.BehaviorDrift{Agent: c.Agent, Distance: distance, Metric: c.Metric}, err
	case len(out.Events) > 0:
		s.tell(ctx)
	}
	return s.driftAt(ctx, out.Seq)
}

// driftAt returns the report that a record tells of.
func (s *Session) driftAt(ctx context.Context, seq uint64) (session.BehaviorDrift, error) {
	for r, err := range s.hv.read(ctx, audit.SessionPrefix+s.id, seq) {
		if err != nil {
			return session.BehaviorDrift{}, err
		}
		events, err := session.ParseEvents(r.Events)
		if err != nil {
			return session.BehaviorDrift{}, err
		}
		for _, e := range events {
			if d, ok := e.(session.BehaviorDrift); ok {
				return d, nil
			}
		}
		break
	}
	return session.BehaviorDrift{}, nil
}
