package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/session"
)

// addresses.go: actions that are calls of http(s) addresses (SPEC §5). An address is the id of its own action, in every session, and
// admitted like any other.

// Addresses say which http(s) addresses may be called, and call them. Implementations are safe for concurrent use.
type Addresses interface {
	// Address returns what calls an address: its descriptor's ID is that address. The error says why it may not be called.
	Address(address string) (Tool, error)
}

// SetAddresses says which addresses may be called from now on; nil: none, as long as nobody says otherwise.
func (hv *Hypervisor) SetAddresses(a Addresses) {
	hv.addresses.Store(&a)
	hv.toolsCame()
}

// toolsCame lets the steps of sagas go on that were tried before it was said what does them: those that an earlier process left may
// be tried as soon as the hypervisor is open.
func (hv *Hypervisor) toolsCame() {
	hv.mu.Lock()
	loaded := slices.Collect(maps.Keys(hv.loaded))
	hv.mu.Unlock()
	for _, s := range loaded {
		hv.offer(s.toolsCame)
	}
}

// addressed returns what calls an address.
func (hv *Hypervisor) addressed(address string) (*handler, error) {
	a := hv.addresses.Load()
	if a == nil || *a == nil {
		return nil, fmt.Errorf("%s may not be called: this hypervisor calls no addresses", address)
	}
	tool, err := (*a).Address(address)
	if err != nil {
		return nil, err
	}
	h, err := tool.prepare()
	switch {
	case err != nil:
		return nil, err
	case h.Descriptor.ID != address:
		return nil, fmt.Errorf("%w: %s is described as %s", action.ErrDescriptor, address, h.Descriptor.ID)
	}
	return &h, nil
}

// EffectOf returns the name of what a function is called for with ctx, which is the same whenever the same is tried again, also
// after a restart, and never another's: SESSION/sag-3/east of a saga's step, SESSION/sag-3/east/undo, SESSION/act-12,
// SESSION/act-12/undo/0. It is what a server recognises a repeated call by. Empty: ctx is of no action.
func EffectOf(ctx context.Context) string {
	if c, ok := ctx.Value(actionKey{}).(*actionContext); ok {
		return c.effect
	}
	return ""
}

// withEffect names what is called for with the context, which is an action's.
func withEffect(ctx context.Context, name string) context.Context {
	return &actionContext{Context: ctx, action: ActionOf(ctx), effect: name}
}

// effectOf names what an admitted action brings about. The lock is held.
func (s *Session) effectOf(c session.Act, id string) string {
	if c.Saga == nil {
		return s.id + "/" + id
	}
	name := s.id + "/" + c.Saga.Saga + "/" + s.live.state.Sagas[c.Saga.Saga].Steps[c.Saga.Step].ID
	if c.Saga.Undo {
		name += "/undo"
	}
	return name
}

// unreachable returns why a step that is held would reach nobody now; nil: it may go on.
func (t *handler) unreachable(ctx context.Context) error {
	if t.Reaches == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lookPatience, errors.New("nobody answers"))
	defer cancel()
	return t.Reaches(ctx)
}
