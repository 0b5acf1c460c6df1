package hypervisor

import (
	"context"
	"errors"
	"fmt"
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

	changes atomic.Uint64 // standings published, ever: who has looked since the newest need not look again
}

type agentHandle struct {
	standing atomic.Pointer[agent.Standing] // at the stream's durable head; nil: not read yet

	mu    sync.Mutex
	state *agent.State
	st    *stream // nil: to be loaded
	saved uint64  // the newest snapshot's record
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
	name := audit.AgentPrefix + string(did)
	snap, ok := readSnapshot(ctx, a.hv, name, &agent.State{})
	err := errStale
	if ok && snap.State.DID == did && snap.State.Seq == snap.Tree.Size {
		err = a.fold(ctx, h, name, snap)
	}
	if errors.Is(err, errStale) {
		err = a.fold(ctx, h, name, snapshotJSON[*agent.State]{State: &agent.State{DID: did}})
	}
	if err != nil {
		return err
	}
	a.publish(h)
	return nil
}

// fold reads the records behind a snapshot, which may be of nothing, into the handle.
func (a *standings) fold(ctx context.Context, h *agentHandle, name string, snap snapshotJSON[*agent.State]) error {
	state := snap.State
	st := &stream{hv: a.hv, name: name, lane: &eventlog.Lane{}, seq: state.Seq, head: snap.Head, tree: snap.Tree}
	saved, seen := state.Seq, state.Seq == 0
	for r, err := range a.hv.read(ctx, name, max(1, saved)) {
		switch {
		case err != nil:
			return err
		case r.Seq == saved && r.Leaf == st.head:
			seen = true // the snapshot's own record: the log agrees
			continue
		case !seen:
			return errStale
		}
		events, err := agent.ParseEvents(r.Events)
		if err != nil {
			return fmt.Errorf("%s, record %d: %w", name, r.Seq, err)
		}
		agent.Apply(state, r.Seq, r.Time, events)
		st.seq, st.head = r.Seq, r.Leaf
		st.tree.Add(r.Leaf)
	}
	if !seen {
		return errStale
	}
	h.state, h.st, h.saved = state, st, saved
	return nil
}

// publish tells every session the agent's standing: each looks at its next command. The handle's lock is held.
func (a *standings) publish(h *agentHandle) {
	standing := h.state.Standing()
	if h.state.Killed != nil {
		a.hv.kills.learn(*h.state.Killed) // before anybody is told that the agent is known
	}
	h.standing.Store(&standing)
	a.changes.Add(1)
}

// submit gives an agent's stream a command, waits until it is durable and publishes the standing.
func (a *standings) submit(ctx context.Context, caller policy.Caller, did policy.DID, c agent.Command) (policy.Decision, error) {
	answers, err := a.submitAll(ctx, caller, did, c)
	if err != nil {
		return policy.Decision{}, err
	}
	return answers[0].Decision, nil
}

// submitAll is submit for several commands, each a record of its own. What they came to counts together: where one could not be
// recorded, the ones before it may be, and all can be given again.
func (a *standings) submitAll(ctx context.Context, caller policy.Caller, did policy.DID, commands ...agent.Command) ([]agent.Outcome, error) {
	h := a.handle(did)
	h.mu.Lock()
	defer h.mu.Unlock() // over the wait too: an agent's entries are rare, and nobody reads one that is not durable
	if err := a.load(ctx, h, did); err != nil {
		return nil, err
	}
	var answers []agent.Outcome
	var last *ticket
	var failed error
	for _, c := range commands {
		out, t, err := a.decide(h, caller, c)
		if err != nil {
			failed = err
			break
		}
		if t != nil {
			last = t
		}
		answers = append(answers, out)
	}
	if err := a.hv.wait(ctx, last); err != nil {
		h.st = nil // forget what was applied; the next use reads the stream
		if errors.Is(err, eventlog.ErrUnknown) {
			a.hv.offer(func(ctx context.Context) { a.reread(ctx, did) })
		}
		return nil, err
	}
	if last != nil {
		a.publish(h)
		a.hv.timers.Set(h.st.name, agent.Due(h.state))
		a.hv.review(did)
		a.keepSnapshot(ctx, h)
		if agent.Owes(h.state) {
			a.hv.reports.owe(did, anyTurn)
		}
	}
	return answers, failed
}

// reread brings an agent's standing up to date after a record of it was reported lost that may be there all the same: then it counts.
func (a *standings) reread(ctx context.Context, did policy.DID) {
	h := a.handle(did)
	h.mu.Lock()
	err := a.load(ctx, h, did)
	if err == nil {
		a.hv.timers.Set(h.st.name, agent.Due(h.state))
	}
	h.mu.Unlock()
	switch {
	case err == nil:
		a.hv.review(did)
	case !a.hv.closing.Load():
		a.hv.later(settleRetry, func(ctx context.Context) { a.reread(ctx, did) })
	}
}

// decide decides a command and hands its record over; the ticket is nil if there is none. The handle's lock is held.
func (a *standings) decide(h *agentHandle, caller policy.Caller, c agent.Command) (agent.Outcome, *ticket, error) {
	at := a.hv.now(h.state.Time)
	env := agent.Env{Now: at, Caller: caller, Operators: len(a.hv.opts.Operators), Over: a.over(h.state)}
	out := agent.Decide(h.state, env, c)
	if len(out.Events) == 0 {
		return out, nil, nil
	}
	if err := a.hv.reserve(); err != nil {
		return out, nil, err
	}
	trace, err := a.hv.newTrace()
	if err != nil {
		a.hv.committer.Release()
		return out, nil, err
	}
	agent.Apply(h.state, h.st.seq+1, at, out.Events)
	return out, h.st.write(draft{at: at, caller: caller, trace: trace, events: agent.AppendEvents(nil, out.Events),
		deadline: agent.Due(h.state), owes: agent.Owes(h.state), durable: true}), nil
}

// over returns sessions whose summary is recorded: all they owed was told before.
func (a *standings) over(s *agent.State) (over []string) {
	const most = 16 // with one record; the next takes more
	for _, id := range s.HeardOf() {
		if len(over) < most && !a.hv.system.isOpen(id) {
			over = append(over, id)
		}
	}
	return over
}

// agentSnapshotEvery is how many records of an agent's stream a load reads at most behind a snapshot.
const agentSnapshotEvery = 64

// keepSnapshot saves the state now and then. The handle's lock is held.
func (a *standings) keepSnapshot(ctx context.Context, h *agentHandle) {
	if h.st.seq-h.saved < agentSnapshotEvery {
		return
	}
	a.hv.saveSnapshot(ctx, h.st, h.state)
	h.saved = h.st.seq // also after an error: the next attempt comes later
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
