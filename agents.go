package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"iter"
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

// An AgentView is an agent as its stream tells it.
type AgentView struct {
	DID     policy.DID
	Sigma   ring.Sigma // σ_raw
	Records uint64     // in its stream
	Changed time.Time  // of the newest
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

// Agent returns an agent, or ErrNotFound for one without a ledger.
func (hv *Hypervisor) Agent(ctx context.Context, did policy.DID) (AgentView, error) {
	v := AgentView{DID: did}
	for e, err := range hv.Ledger(ctx, did, 1) {
		if err != nil {
			return v, err
		}
		v.Sigma, v.Records, v.Changed = e.Sigma, e.Seq, e.Time
	}
	if v.Records == 0 {
		return v, fmt.Errorf("agent %s: %w", did, ErrNotFound)
	}
	return v, nil
}

// A LedgerEntry is one thing that moved an agent's standing, and who did it.
type LedgerEntry struct {
	Seq    uint64
	Time   time.Time
	Caller audit.Caller
	Sigma  ring.Sigma // σ_raw from then on
	Source agent.Source
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
				if e, ok := e.(agent.SigmaSet); ok && !yield(LedgerEntry{r.Seq, r.Time, r.Caller, e.Sigma, e.Source}, nil) {
					return
				}
			}
		}
	}
}
