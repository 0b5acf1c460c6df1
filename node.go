package hypervisor

import (
	"context"
	"fmt"
	"sync"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/system"
)

// A systemHandle is the node's own stream.
type systemHandle struct {
	hv *Hypervisor

	mu    sync.Mutex
	state *system.State
	st    *stream // nil: to be loaded
}

// load reads the system stream unless it is loaded and sound. The lock is held, or nobody else has the handle yet.
func (h *systemHandle) load(ctx context.Context) error {
	if h.st != nil && h.st.lane.Err() == nil {
		return nil
	}
	state := system.NewState()
	st := &stream{hv: h.hv, name: audit.SystemStream, lane: &eventlog.Lane{}}
	for r, err := range h.hv.read(ctx, st.name, 1) {
		if err != nil {
			return err
		}
		events, err := system.ParseEvents(r.Events)
		if err != nil {
			return fmt.Errorf("%s, record %d: %w", st.name, r.Seq, err)
		}
		system.Apply(state, r.Seq, r.Time, events)
		st.seq, st.head = r.Seq, r.Leaf
		st.tree.Add(r.Leaf)
	}
	h.state, h.st = state, st
	return nil
}

// submit decides a command and waits until its record, or the one that made it superfluous, is durable.
func (h *systemHandle) submit(ctx context.Context, caller policy.Caller, c system.Command) (policy.Decision, error) {
	if err := h.hv.reserve(); err != nil {
		return policy.Decision{}, err
	}
	trace, err := h.hv.newTrace()
	if err != nil {
		h.hv.committer.Release()
		return policy.Decision{}, err
	}
	h.mu.Lock()
	if err := h.load(ctx); err != nil {
		h.mu.Unlock()
		h.hv.committer.Release()
		return policy.Decision{}, err
	}
	out := system.Decide(h.state, caller, c)
	t := h.st.newest
	if len(out.Events) == 0 {
		h.hv.committer.Release()
	} else {
		at := h.hv.now(h.state.Time)
		system.Apply(h.state, h.st.seq+1, at, out.Events)
		t = h.st.write(draft{at: at, caller: caller, trace: trace, events: system.AppendEvents(nil, out.Events), durable: true})
	}
	h.mu.Unlock()
	return out.Decision, h.hv.wait(ctx, t)
}

// epoch returns the node's epoch: one more after each unclean stop.
func (h *systemHandle) epoch() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.Epoch
}

// isOpen reports whether the system stream has a session's opening and not its summary.
func (h *systemHandle) isOpen(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, open := h.state.Open[id]
	return open
}

// Pin records the definitions of tools, by server.tool, that are seen for the first time, and returns the names of those whose
// definition is not the one that was pinned. An operator's.
func (hv *Hypervisor) Pin(ctx context.Context, caller policy.Caller, tools map[string]audit.Hash) (changed map[string]bool, err error) {
	if err := hv.enter(); err != nil {
		return nil, err
	}
	defer hv.leave()
	d, err := hv.system.submit(ctx, caller, system.Pin{Tools: tools})
	if err != nil {
		return nil, err
	}
	if !d.Allowed {
		return nil, fmt.Errorf("pinning tools: %s", d.Reason)
	}
	hv.system.mu.Lock()
	defer hv.system.mu.Unlock()
	changed = map[string]bool{}
	for tool, digest := range tools {
		if hv.system.state.Pins[tool] != digest {
			changed[tool] = true
		}
	}
	return changed, nil
}
