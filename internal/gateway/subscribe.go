package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/agenthypervisor/hypervisor/action"
)

// subscribe.go: an agent's subscriptions, as the actions they are. What is told of them, and to whom, is tell.go.

// A Subscription is one client's to one resource. Safe for concurrent use.
type Subscription interface {
	// End ends it as the agent's own action. One that is refused goes on.
	End(ctx context.Context) error
	// Drop ends it because nobody listens any more. It does not block, and does nothing the second time.
	Drop()
}

// A subscription keeps the upstream it is at.
type subscription struct {
	front *Front
	face  *face
	watch watch

	mu      sync.Mutex
	up      *Upstream // nil: not at one yet, or not any more
	release func()    // valid with up
	dropped bool
}

type subscriptionKey struct{}

// Watch subscribes to a resource; tell, which does not block, is called when it has changed or may have.
func (f *Front) Watch(ctx context.Context, uri string, tell func()) (Subscription, error) {
	c, theirs, err := f.resourceOf(ctx, uri)
	if err != nil {
		return nil, err
	}
	s := &subscription{front: f, face: c, watch: watch{theirs, tell}}
	if _, err := s.ask(ctx, subscribeMethod); err != nil {
		s.Drop()
		return nil, err
	}
	return s, nil
}

// ask does one of the two requests as an action.
func (s *subscription) ask(ctx context.Context, method string) (json.RawMessage, error) {
	return s.front.ask(context.WithValue(ctx, subscriptionKey{}, s), s.face, method, map[string]any{"uri": s.watch.uri})
}

// subscriptionAction returns what does one of the two requests once it is admitted.
func subscriptionAction(method string) action.Func {
	return func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
		s, ok := ctx.Value(subscriptionKey{}).(*subscription)
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: %s is for an MCP client, which can be told", action.ErrNotDispatched, method)
		case method == subscribeMethod:
			return s.begin(ctx)
		}
		return s.end(ctx)
	}
}

func (s *subscription) begin(ctx context.Context) (json.RawMessage, error) {
	up, release, err := s.face.use(ctx, true)
	if err != nil {
		return nil, err
	}
	result, err := up.watch(ctx, &s.watch)
	if err != nil {
		release()
		return nil, err
	}
	s.mu.Lock()
	s.up, s.release = up, release
	late := s.dropped
	s.mu.Unlock()
	if late || !s.front.keep(s) { // whoever wanted it has left meanwhile
		_, err := s.end(ctx)
		return nil, errors.Join(errClosed, err)
	}
	return result, nil
}

// end gives the upstream up.
func (s *subscription) end(ctx context.Context) (json.RawMessage, error) {
	s.mu.Lock()
	up, release := s.up, s.release
	s.up, s.dropped = nil, true
	s.mu.Unlock()
	if up == nil {
		return json.RawMessage(`{}`), nil
	}
	defer release()
	s.front.forget(s)
	return up.unwatch(ctx, &s.watch)
}

// End is a Subscription's.
func (s *subscription) End(ctx context.Context) error {
	_, err := s.ask(ctx, unsubscribeMethod)
	return err
}

// Drop is a Subscription's.
func (s *subscription) Drop() {
	s.mu.Lock()
	idle := s.up == nil
	s.dropped = true
	s.mu.Unlock()
	if idle {
		return
	}
	s.front.spawn(func() {
		if _, err := s.end(context.Background()); err != nil {
			s.front.opt.Log.Debug("not unsubscribed", "server", s.face.Name(), "error", err) // its notices are for nobody
		}
	})
}

// keep notes a subscription, unless its server has gone meanwhile.
func (f *Front) keep(s *subscription) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.faces {
		if c == s.face {
			if f.subscriptions == nil {
				f.subscriptions = map[*subscription]struct{}{}
			}
			f.subscriptions[s] = struct{}{}
			return true
		}
	}
	return false
}

func (f *Front) forget(s *subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.subscriptions, s)
}

// dropGone ends the subscriptions at servers that are not there any more. Their clients are told to look again.
func (f *Front) dropGone() {
	f.mu.Lock()
	var gone []*subscription
	for s := range f.subscriptions {
		here := false
		for _, c := range f.faces {
			here = here || c == s.face
		}
		if !here {
			gone = append(gone, s)
		}
	}
	f.mu.Unlock()
	for _, s := range gone {
		s.watch.tell()
		s.Drop()
	}
}
