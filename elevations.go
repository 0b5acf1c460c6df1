package hypervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// elevations.go: a ring for a while, and what holds an agent below one.

// An AskedElevation is the answer to a request for an elevation.
type AskedElevation struct {
	policy.Decision        // approval_required, with the approval that the sponsor grants; or why there can be none
	ID              string // of the elevation it will be; empty: of none
}

// Elevate asks for a more privileged ring for a while. It opens an approval; the elevation takes effect with the sponsor's grant.
// The agent's, or an operator's for it.
func (s *Session) Elevate(ctx context.Context, caller policy.Caller, c session.Elevate) (AskedElevation, error) {
	out, err := s.command(ctx, caller, c, nil)
	return AskedElevation{out.Decision, out.ID}, err
}

// EndElevation revokes an elevation, or withdraws the request for one. The agent's own, its sponsor's, an approver's or an
// operator's.
func (s *Session) EndElevation(ctx context.Context, caller policy.Caller, id string) (policy.Decision, error) {
	out, err := s.command(ctx, caller, session.EndElevation{ID: id}, nil)
	return out.Decision, err
}

// LiftDemotion ends what holds an agent in a ring since a breach or drift. An operator's.
func (s *Session) LiftDemotion(ctx context.Context, caller policy.Caller, did policy.DID) (policy.Decision, error) {
	out, err := s.command(ctx, caller, session.LiftDemotion{Agent: did}, nil)
	return out.Decision, err
}

// Reach returns the most privileged ring that an agent has in the session, or that an elevation could give it as things are; ring 1
// for who takes no part. What no approval could allow from there is not worth showing it.
func (s *Session) Reach(ctx context.Context, did policy.DID) (ring.Ring, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return ring.Sandbox, err
	}
	if s.live.state.Participants[did] == nil {
		return ring.Privileged, nil
	}
	env, _, err := s.env(policy.System)
	if err != nil {
		return ring.Sandbox, err
	}
	return s.live.state.Reach(env, did), nil
}

// An ElevationView is an elevation that is asked for or in effect. One that has ended stands in the log alone.
type ElevationView struct {
	ID       string
	Session  string
	Agent    policy.DID
	Ring     ring.Ring
	Active   bool // else it waits for its sponsor
	For      time.Duration
	Reason   string
	Since    time.Time // when it took effect; zero: it waits
	Until    time.Time // when it ends by itself; of one that waits, when the approval does
	By       policy.DID
	Approval policy.ApprovalRef // of one that waits: what its sponsor grants
}

// Elevations returns the session's elevations in the order they were asked for.
func (s *Session) Elevations(ctx context.Context) ([]ElevationView, error) {
	state, err := s.State(ctx)
	if err != nil {
		return nil, err
	}
	now := s.hv.now(state.Time)
	var views []ElevationView
	for did, e := range state.Elevations {
		if now.Before(e.Until) {
			views = append(views, ElevationView{ID: e.ID, Session: s.id, Agent: did, Ring: e.Ring, Active: true, For: e.Until.Sub(e.Since),
				Since: e.Since, Until: e.Until, By: e.By, Approval: policy.ApprovalRef{ID: e.Approval}})
		}
	}
	for _, ap := range state.Approvals {
		if ap.Elevation == nil || ap.Status != session.Open || !now.Before(ap.Expires) {
			continue
		}
		v := ElevationView{ID: ap.Elevation.ID, Session: s.id, Agent: ap.Agent, Ring: ap.Elevation.Ring, Until: ap.Expires,
			For:      time.Duration(ap.Elevation.Seconds) * time.Second,
			Approval: policy.ApprovalRef{ID: ap.ID, Digest: ap.Digest.String(), By: ap.By}}
		args, err := s.approvalArgs(ctx, ap.Seq)
		if err != nil {
			return nil, err
		}
		var said struct{ Reason string }
		if args != nil {
			if err := json.Unmarshal(args, &said); err != nil {
				return nil, fmt.Errorf("approval %s: %w", ap.ID, err)
			}
		}
		v.Reason = said.Reason
		views = append(views, v)
	}
	slices.SortFunc(views, func(a, b ElevationView) int {
		x, _ := seqOf(a.ID)
		y, _ := seqOf(b.ID)
		return cmp.Or(cmp.Compare(x, y), cmp.Compare(a.ID, b.ID))
	})
	return views, nil
}
