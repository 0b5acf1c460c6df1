package hypervisor

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// standings are the agents' streams, and what every session may know of them: σ_raw at each stream's durable head.
type standings struct {
	hv *Hypervisor

	mu      sync.Mutex
	handles map[policy.DID]*agentHandle

	changes atomic.Uint64 // standings published, ever: who has looked since the newest need not look again
}

type agentHandle struct {
	standing atomic.Pointer[agent.Standing] // at the stream's durable head; nil: not read yet

	mu    sync.Mutex
	state *agent.State
	st    *stream // nil: to be loaded
}

// know loads agents' streams and returns their handles, whose standings are there from then on.
func (a *standings) know(ctx context.Context, dids ...policy.DID) ([]*agentHandle, error) {
	handles := make([]*agentHandle, len(dids))
	for i, did := range dids {
		h := a.handle(did)
		handles[i] = h
		if h.standing.Load() != nil {
			continue
		}
		h.mu.Lock()
		err := a.load(ctx, h, did)
		h.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
	return handles, nil
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
	a.publish(h)
	return nil
}

// publish tells every session the agent's standing: each looks at its next command. The handle's lock is held.
func (a *standings) publish(h *agentHandle) {
	standing := h.state.Standing()
	h.standing.Store(&standing)
	a.changes.Add(1)
}

// A gallery is what one session knows of standings: of its participants, and of who is joining. The session's lock guards it.
type gallery struct {
	known   map[policy.DID]agent.Standing // what decisions read
	watched []watchedAgent
	changes uint64 // of standings, when they were looked at last
}

type watchedAgent struct {
	did  policy.DID
	h    *agentHandle
	seen *agent.Standing // what known has
}

// watch adds an agent.
func (g *gallery) watch(did policy.DID, h *agentHandle) {
	if _, there := g.known[did]; there {
		return
	}
	seen := h.standing.Load()
	g.known[did] = *seen
	g.watched = append(g.watched, watchedAgent{did, h, seen})
}

// current returns the standings as they are now.
func (g *gallery) current(a *standings) map[policy.DID]agent.Standing {
	changes := a.changes.Load() // before the standings: one that is published meanwhile is seen now or at the next command
	if changes == g.changes {
		return g.known
	}
	g.changes = changes
	for i := range g.watched {
		w := &g.watched[i]
		if now := w.h.standing.Load(); now != w.seen {
			w.seen, g.known[w.did] = now, *now
		}
	}
	return g.known
}

// keep forgets agents that are neither participants nor joining any more, once they are many.
func (g *gallery) keep(participants map[policy.DID]*session.Participant) {
	const spare = 16
	if len(g.watched) <= len(participants)+spare {
		return
	}
	g.watched = slices.DeleteFunc(g.watched, func(w watchedAgent) bool {
		_, there := participants[w.did]
		if !there {
			delete(g.known, w.did)
		}
		return !there
	})
}

// submit gives an agent's stream the command, waits until it is durable and publishes the standing.
func (a *standings) submit(ctx context.Context, caller policy.Caller, did policy.DID, c agent.Command) (policy.Decision, error) {
	h := a.handle(did)
	h.mu.Lock()
	defer h.mu.Unlock() // over the wait too: an agent's entries are rare, and nobody reads one that is not durable
	if err := a.load(ctx, h, did); err != nil {
		return policy.Decision{}, err
	}
	at := a.hv.now(h.state.Time)
	out := agent.Decide(h.state, agent.Env{Now: at, Caller: caller}, c)
	if len(out.Events) == 0 {
		return out.Decision, nil
	}
	if err := a.hv.reserve(); err != nil {
		return policy.Decision{}, err
	}
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
	a.publish(h)
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
	return hv.agents.submit(ctx, caller, did, agent.SetSigma{Sigma: sigma, Source: agent.FromConfig})
}
