package hypervisor

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// standings are the agents' streams, and what every session may know of them: σ_raw at each stream's durable head.
type standings struct {
	hv *Hypervisor

	mu      sync.Mutex
	handles map[policy.DID]*agentHandle
	sigmas  atomic.Pointer[map[policy.DID]ring.Sigma] // of all agents in handles; immutable, replaced when one changes
}

type agentHandle struct {
	mu    sync.Mutex
	state *agent.State
	st    *stream // nil: to be loaded
}

// current returns the standings of all agents that were asked for. The map is never written to.
func (a *standings) current() map[policy.DID]ring.Sigma {
	if m := a.sigmas.Load(); m != nil {
		return *m
	}
	return nil
}

// know loads agents' streams, so that current has them.
func (a *standings) know(ctx context.Context, dids ...policy.DID) error {
	for _, did := range dids {
		if _, known := a.current()[did]; known {
			continue
		}
		h := a.handle(did)
		h.mu.Lock()
		err := a.load(ctx, h, did)
		h.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *standings) handle(did policy.DID) *agentHandle {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.handles[did]
	if h == nil {
		h = &agentHandle{}
		a.handles[did] = h
	}
	return h
}

// load reads an agent's stream unless it is loaded and sound. The handle's lock is held.
func (a *standings) load(ctx context.Context, h *agentHandle, did policy.DID) error {
	if h.st != nil && h.st.lane.Err() == nil {
		return nil
	}
	state := &agent.State{DID: did}
	st := &stream{hv: a.hv, name: audit.AgentPrefix + string(did), lane: &eventlog.Lane{}}
	for r, err := range a.hv.read(ctx, st.name, 1) {
		if err != nil {
			return err
		}
		events, err := agent.ParseEvents(r.Events)
		if err != nil {
			return fmt.Errorf("%s, record %d: %w", st.name, r.Seq, err)
		}
		agent.Apply(state, r.Seq, r.Time, events)
		st.seq, st.head = r.Seq, r.Leaf
		st.tree.Add(r.Leaf)
	}
	h.state, h.st = state, st
	a.publish(did, state.Sigma())
	return nil
}

func (a *standings) publish(did policy.DID, sigma ring.Sigma) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := maps.Clone(a.current())
	if next == nil {
		next = map[policy.DID]ring.Sigma{}
	}
	next[did] = sigma
	a.sigmas.Store(&next)
}

// set gives an agent's stream the command, waits until it is durable and publishes the standing.
func (a *standings) set(ctx context.Context, caller policy.Caller, did policy.DID, c agent.SetSigma) (policy.Decision, error) {
	h := a.handle(did)
	h.mu.Lock()
	defer h.mu.Unlock() // over the wait too: an agent's entries are rare, and nobody reads one that is not durable
	if err := a.load(ctx, h, did); err != nil {
		return policy.Decision{}, err
	}
	out := agent.Decide(h.state, caller, c)
	if len(out.Events) == 0 {
		return out.Decision, nil
	}
	if err := a.hv.reserve(); err != nil {
		return policy.Decision{}, err
	}
	at := a.hv.now(h.state.Time)
	trace, err := a.hv.newTrace()
	if err != nil {
		a.hv.committer.Release()
		return policy.Decision{}, err
	}
	agent.Apply(h.state, h.st.seq+1, at, out.Events)
	t := h.st.write(draft{at: at, caller: caller, trace: trace, events: agent.AppendEvents(nil, out.Events), durable: true})
	if err := a.hv.wait(ctx, t); err != nil {
		h.st = nil // forget what was applied; the next use reads the stream
		return policy.Decision{}, err
	}
	a.publish(did, h.state.Sigma())
	return out.Decision, nil
}

// newTrace begins a trace of its own.
func (hv *Hypervisor) newTrace() (string, error) {
	var b [24]byte
	if err := hv.random(b[:]); err != nil {
		return "", err
	}
	return traceParent([16]byte(b[:16]), [8]byte(b[16:])), nil
}

// SetSigma sets an agent's σ by the configuration: at first sight, or when the figure differs from what the configuration
// said last. An operator's.
func (hv *Hypervisor) SetSigma(ctx context.Context, caller policy.Caller, did policy.DID, sigma ring.Sigma) (policy.Decision, error) {
	if err := hv.enter(); err != nil {
		return policy.Decision{}, err
	}
	defer hv.leave()
	return hv.agents.set(ctx, caller, did, agent.SetSigma{Sigma: sigma, Source: agent.FromConfig})
}
