package hypervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/system"
)

// A systemHandle is the node's own stream.
type systemHandle struct {
	hv *Hypervisor

	accepted signal // a definition was accepted

	mu    sync.Mutex
	state *system.State
	st    *stream                // nil: to be loaded
	seen  map[string]system.Seen // the definitions as they were seen last
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
	h.mu.Lock()
	d, t, err := h.decide(ctx, caller, c)
	h.mu.Unlock()
	if err != nil {
		return policy.Decision{}, err
	}
	if err := h.hv.wait(ctx, t); err != nil {
		h.forget(context.WithoutCancel(ctx))
		return d, err
	}
	return d, nil
}

// forget reads the stream anew after a record of it was lost, so that nobody is shown what the record said. While the store
// cannot be read what is shown is what was believed, and the next command reads it.
func (h *systemHandle) forget(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.load(ctx); err != nil {
		h.hv.opts.Logger.Warn("reading the system stream after a record of it was lost", "error", err)
	}
}

// decide uses the slot that was reserved, or gives it back. The lock is held.
func (h *systemHandle) decide(ctx context.Context, caller policy.Caller, c system.Command) (d policy.Decision, t *ticket, err error) {
	written := false
	defer func() {
		if !written {
			h.hv.committer.Release()
		}
	}()
	if err := h.load(ctx); err != nil {
		return d, nil, err
	}
	var random [32]byte
	if err := h.hv.random(random[:]); err != nil {
		return d, nil, err
	}
	trace, err := h.hv.newTrace()
	if err != nil {
		return d, nil, err
	}
	at := h.hv.now(h.state.Time)
	out := system.Decide(h.state, system.Env{Now: at, Caller: caller, Random: random, Kills: h.hv.kills.current()}, c)
	if len(out.Events) == 0 {
		return out.Decision, h.st.newest, nil
	}
	if err := h.hv.putOutside(ctx, out.Parts); err != nil {
		return d, nil, fmt.Errorf("%w: %w", ErrStoreUnavailable, err)
	}
	system.Apply(h.state, h.st.seq+1, at, out.Events)
	written = true
	return out.Decision, h.st.write(draft{at: at, caller: caller, trace: trace, events: system.AppendEvents(nil, out.Events), payload: encode(out.Parts), durable: true}), nil
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
// definition is not the one that was pinned: their calls are refused until Accept. It remembers what it was shown last of each
// tool, for ToolPins. An operator's.
func (hv *Hypervisor) Pin(ctx context.Context, caller policy.Caller, tools map[string]system.Seen) (changed map[string]bool, err error) {
	if err := hv.enter(); err != nil {
		return nil, err
	}
	defer hv.leave()
	const group = 64 // definitions beside one record
	for names := range slices.Chunk(slices.Sorted(maps.Keys(tools)), group) {
		part := map[string]system.Seen{}
		for _, name := range names {
			part[name] = tools[name]
		}
		d, err := hv.system.submit(ctx, caller, system.Pin{Tools: part})
		if err := refusedOr(d, err); err != nil {
			return nil, fmt.Errorf("pinning tools: %w", err)
		}
	}
	hv.system.mu.Lock()
	defer hv.system.mu.Unlock()
	changed = map[string]bool{}
	for tool, seen := range tools {
		hv.system.seen[tool] = seen
		if hv.system.state.Pins[tool].Digest != seen.Digest {
			changed[tool] = true
		}
	}
	return changed, nil
}

// Accept pins the definition that was seen last of a tool, if digest is its. An operator's.
func (hv *Hypervisor) Accept(ctx context.Context, caller policy.Caller, tool string, digest audit.Hash) (policy.Decision, error) {
	if err := hv.enter(); err != nil {
		return policy.Decision{}, err
	}
	defer hv.leave()
	hv.system.mu.Lock()
	seen, ok := hv.system.seen[tool]
	hv.system.mu.Unlock()
	if !ok || seen.Digest != digest {
		return policy.Refuse(policy.NotFound, "no definition of %s with this digest was seen since the hypervisor started; look at 'tools diff'", tool), nil
	}
	d, err := hv.system.submit(ctx, caller, system.Accept{Tool: tool, Seen: seen})
	if err == nil && d.Allowed {
		hv.system.accepted.pass()
	}
	return d, err
}

// Accepted returns a channel that is closed when a definition is accepted next: a gateway then looks at its tools anew.
func (hv *Hypervisor) Accepted() <-chan struct{} { return hv.system.accepted.wait() }

// A ToolPin is what is pinned of a tool and what was seen of it last.
type ToolPin struct {
	Tool    string
	Pinned  audit.Hash      // zero: not pinned
	Seen    audit.Hash      // zero: not seen since the hypervisor started
	Was     json.RawMessage // the pinned definition; nil: collected
	Is      json.RawMessage // the one seen last; nil: not seen
	Changed bool
}

// ToolPins returns the pins of the tools whose name begins with prefix, in order of their names, with their definitions.
func (hv *Hypervisor) ToolPins(ctx context.Context, prefix string) ([]ToolPin, error) {
	hv.system.mu.Lock()
	pins, seen := maps.Clone(hv.system.state.Pins), maps.Clone(hv.system.seen)
	hv.system.mu.Unlock()
	names := map[string]bool{}
	for tool := range pins {
		names[tool] = true
	}
	for tool := range seen {
		names[tool] = true
	}
	var out []ToolPin
	for _, tool := range slices.Sorted(maps.Keys(names)) {
		if !strings.HasPrefix(tool, prefix) {
			continue
		}
		is, looked := seen[tool]
		p := ToolPin{Tool: tool, Pinned: pins[tool].Digest, Seen: is.Digest, Is: is.Text, Changed: looked && is.Digest != pins[tool].Digest}
		var err error
		if p.Was, err = hv.definition(ctx, tool, pins[tool]); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// definition reads a pinned definition from beside its record.
func (hv *Hypervisor) definition(ctx context.Context, tool string, pin system.Definition) (json.RawMessage, error) {
	if pin.Seq == 0 {
		return nil, nil
	}
	for r, err := range hv.read(ctx, audit.SystemStream, pin.Seq) {
		if err != nil {
			return nil, err
		}
		return hv.definitionIn(ctx, r, tool)
	}
	return nil, nil
}

// definitionIn finds a tool's definition among the parts of the record that pinned it, by the commitment its event carries.
func (hv *Hypervisor) definitionIn(ctx context.Context, r *stored, tool string) (json.RawMessage, error) {
	events, err := system.ParseEvents(r.Events)
	if err != nil || r.Payload == nil {
		return nil, err
	}
	parts, err := audit.ParsePayload(r.Payload)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		var want audit.Hash
		switch e := e.(type) {
		case system.Pinned:
			want = e.Definition
			if e.Tool != tool {
				continue
			}
		case system.Accepted:
			want = e.Definition
		default:
			continue // no other event pins a tool
		}
		for i := range parts {
			if parts[i].Commitment() == want {
				return hv.bytesOf(ctx, &parts[i])
			}
		}
	}
	return nil, nil
}

// A signal tells all who wait that something has happened.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) pass() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}
