package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// agents.go: the agents a node knows, and what their ledgers say.

// RegisterAgent makes an agent known, with a σ that an operator says; nil leaves the σ it has, a newcomer's at first. To register
// again what is so records nothing. An operator's.
func (hv *Hypervisor) RegisterAgent(ctx context.Context, caller policy.Caller, did policy.DID, sigma *ring.Sigma) (policy.Decision, error) {
	if _, err := policy.ParseDID(string(did)); err != nil {
		return policy.Decision{}, fmt.Errorf("registering an agent: %w", err)
	}
	c := agent.SetSigma{Sigma: ring.Newcomer, Source: agent.FromOperator}
	if sigma != nil {
		c.Sigma = *sigma
	} else if caller.Runs() {
		v, err := hv.Agent(ctx, did)
		if err == nil {
			c.Sigma = v.Sigma
		} else if !errors.Is(err, ErrNotFound) {
			return policy.Decision{}, err
		}
	}
	return hv.agents.submit(ctx, caller, did, c)
}

// Reinstate lifts an agent's blacklist and sets its σ. An operator's; with two operators configured it is done when the second
// asks for the same, and refused with witness_required until then.
func (hv *Hypervisor) Reinstate(ctx context.Context, caller policy.Caller, did policy.DID, c agent.Reinstate) (policy.Decision, error) {
	return hv.enterAgent(ctx, caller, did, c)
}

// Slash takes an agent's standing outside any session. An operator's, and witnessed as Reinstate is.
func (hv *Hypervisor) Slash(ctx context.Context, caller policy.Caller, did policy.DID, c agent.Slash) (policy.Decision, error) {
	return hv.enterAgent(ctx, caller, did, c)
}

// Report notes how a service rates an agent: the start of one without entries, later the lower of ours and theirs. A service's.
func (hv *Hypervisor) Report(ctx context.Context, caller policy.Caller, did policy.DID, c agent.Report) (policy.Decision, error) {
	return hv.enterAgent(ctx, caller, did, c)
}

func (hv *Hypervisor) enterAgent(ctx context.Context, caller policy.Caller, did policy.DID, c agent.Command) (policy.Decision, error) {
	if _, err := policy.ParseDID(string(did)); err != nil {
		return policy.Decision{}, fmt.Errorf("an agent's ledger: %w", err)
	}
	if err := hv.enter(); err != nil {
		return policy.Decision{}, err
	}
	defer hv.leave()
	return hv.agents.submit(ctx, caller, did, c)
}

// An AgentView is an agent as its stream tells it.
type AgentView struct {
	DID         policy.DID
	Sigma       ring.Sigma // σ_raw
	Risk        ring.Sigma
	Blacklisted bool
	Quarantine  *agent.Quarantined // not to be changed; nil: none
	Killed      *policy.Kill       // everywhere; nil: it is not
	Bonds       []agent.Bond       // outstanding, oldest first
	Records     uint64             // in its stream
	Changed     time.Time          // of the newest; zero: there is none
}

// Agents yields the agents that have a ledger, in no order.
func (hv *Hypervisor) Agents(ctx context.Context) iter.Seq2[policy.DID, error] {
	return func(yield func(policy.DID, error) bool) {
		for head, err := range hv.store.Heads(ctx) {
			if err != nil {
				yield("", fmt.Errorf("%w: reading the heads: %w", ErrStoreUnavailable, err))
				return
			}
			if did, ok := strings.CutPrefix(head.Stream, audit.AgentPrefix); ok && !yield(policy.DID(did), nil) {
				return
			}
		}
	}
}

// Agent returns an agent. One without a ledger that takes part in a session in memory has the standing of a newcomer and no records;
// of any other without one nothing is known: ErrNotFound.
func (hv *Hypervisor) Agent(ctx context.Context, did policy.DID) (AgentView, error) {
	v, err := hv.agentView(ctx, did)
	if err != nil || v.Records > 0 {
		return v, err
	}
	seats, err := hv.Seats(did)
	if err == nil && len(seats) == 0 {
		err = fmt.Errorf("agent %s: %w: nothing has been said of it, nothing has moved its standing, and it is in no session in memory", did, ErrNotFound)
	}
	if err != nil {
		return AgentView{}, err
	}
	return v, nil
}

func (hv *Hypervisor) agentView(ctx context.Context, did policy.DID) (AgentView, error) {
	h := hv.agents.handle(did)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := hv.agents.load(ctx, h, did); err != nil {
		return AgentView{}, err
	}
	s := h.state
	v := AgentView{DID: did, Sigma: s.Sigma(), Risk: s.Risk, Blacklisted: s.Blacklisted, Quarantine: s.Quarantine, Bonds: slices.Clone(s.Bonds), Records: s.Seq, Changed: s.Time}
	if k, killed := hv.kills.current().In(policy.Scope{Agent: did}); killed {
		v.Killed = &k
	}
	return v, nil
}

// A Seat is where an agent stands in one session now, and why.
type Seat struct {
	Session  string
	Ring     ring.Ring
	SigmaEff ring.Sigma
	Why      policy.Explanation // ByScore, Elevated and Ceilings
}

// Seats returns where an agent stands in the sessions that are in memory, in the order of their ids.
func (hv *Hypervisor) Seats(did policy.DID) (seats []Seat, err error) {
	for _, s := range hv.inMemory(func(s *Session) bool { return s.hasAny(map[policy.DID]struct{}{did: {}}) }) {
		seat, there, err := s.seat(did)
		if err != nil {
			return nil, err
		}
		if there {
			seats = append(seats, seat)
		}
	}
	return seats, nil
}

func (s *Session) seat(did policy.DID) (seat Seat, there bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil || s.live.state.Participants[did] == nil {
		return Seat{}, false, nil // it has been let go, or the agent has left
	}
	env, _, err := s.env(policy.System)
	if err != nil {
		return Seat{}, false, err
	}
	seat = Seat{Session: s.id, Why: s.live.state.WhyRing(env, did)}
	seat.Ring, seat.SigmaEff = s.live.state.RingOf(env, did)
	return seat, true, nil
}

// A LedgerEntry is one thing that moved an agent's standing, and who did it.
type LedgerEntry struct {
	Seq    uint64
	Time   time.Time
	Caller audit.Caller
	Source agent.Source // of a σ that an operator set; empty: Moved.Kind says what it was
	agent.Moved
}

// Ledger yields an agent's entries from a record on, oldest first.
func (hv *Hypervisor) Ledger(ctx context.Context, did policy.DID, from uint64) iter.Seq2[LedgerEntry, error] {
	return func(yield func(LedgerEntry, error) bool) {
		for r, err := range hv.read(ctx, audit.AgentPrefix+string(did), from) {
			if err != nil {
				yield(LedgerEntry{}, err)
				return
			}
			events, err := agent.ParseEvents(r.Events)
			if err != nil {
				yield(LedgerEntry{}, fmt.Errorf("%s, record %d: %w", r.Stream, r.Seq, err))
				return
			}
			for _, e := range events {
				entry := LedgerEntry{Seq: r.Seq, Time: r.Time, Caller: r.Caller}
				switch e := e.(type) {
				case agent.SigmaSet:
					entry.Source, entry.Sigma = e.Source, e.Sigma
				case agent.Moved:
					entry.Moved = e
				default:
					continue // it moved no standing
				}
				if !yield(entry, nil) {
					return
				}
			}
		}
	}
}
