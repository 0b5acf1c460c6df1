package hypervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// watch.go: a drift service is asked about agents (SPEC §9 "Drift"): when one joins, and after what it does. Nobody waits for its
// answer, and where there is none nothing follows.

// A DriftSource says how far an agent has moved from what it claims. Implementations are quick in Wants, bound how long Observe takes,
// and are safe for concurrent use.
type DriftSource interface {
	// Wants reports whether it is to be asked about an agent in a session now. Observe follows.
	Wants(id string, did policy.DID) bool
	// Observe says what was observed. An error means that this is not known, which raises and lowers nobody.
	Observe(ctx context.Context, id string, did policy.DID) (session.ReportDrift, error)
}

// driftService is in whose name what it was asked is recorded.
var driftService = policy.Caller{DID: "did:mesh:drift", Role: policy.ServiceRole}

// SetDriftSource has a service asked from now on. Nil: none is.
func (hv *Hypervisor) SetDriftSource(d DriftSource) { hv.drifts.Store(&d) }

// watched has the service asked about an agent, unless what it said is not old.
func (s *Session) watched(did policy.DID) {
	d := s.hv.drifts.Load()
	if d == nil || *d == nil || !(*d).Wants(s.id, did) {
		return
	}
	s.hv.offer(func(ctx context.Context) {
		seen, err := (*d).Observe(ctx, s.id, did)
		if err != nil {
			s.hv.opts.Logger.Debug("how far an agent has moved from what it claims is not known", "session", s.id, "agent", did, "error", err)
			return
		}
		// The same finding, said again, is the same report: it demotes once, also after a restart.
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d %v %v", did, seen.Metric, seen.Distance, seen.Claimed, seen.Observed))
		seen.Agent, seen.Key = did, "asked-"+hex.EncodeToString(sum[:16])
		var refused *Refused
		if _, err := s.ReportDrift(ctx, driftService, seen); err != nil && !errors.As(err, &refused) && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrNotFound) {
			s.hv.opts.Logger.Warn("what a drift service said could not be recorded", "session", s.id, "agent", did, "error", err)
		}
	})
}
