package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// tell.go: who is told that a resource has changed. Each client that is subscribed to something, or each of its listens from
// 2026-07-28 on, is a subscriber with a goroutine of its own, so that one which does not read holds up nobody.
//
// The SDK keeps subscriptions by URI for all clients of a server, and tells one after the other. It is therefore given, for each
// subscriber, keys in the place of URIs, which are put back on their way out.

// maxSubscriptions bounds the subscriptions of a server's clients together: of an agent in a session.
const maxSubscriptions = 256

var (
	errSubscriptions = &jsonrpc.Error{Code: CodeRefused, Message: fmt.Sprintf("an agent in a session has at most %d subscriptions; end some", maxSubscriptions)}
	errUnsubscribed  = errors.New("the client has left")
)

// subscribers are a server's.
type subscribers struct {
	mu    sync.Mutex
	next  int
	taken int                                // subscriptions, and places for such
	byKey map[string]*subscriber             // by the subscriber's part of its keys
	of    map[*mcp.ServerSession]*subscriber // until 2025-11-25
}

// A subscriber is told of its resources, each at most once for all the changes that it has not been told of.
type subscriber struct {
	server *Server
	key    string
	heard  chan struct{} // closed once the SDK has its first subscription, or never
	hear   sync.Once
	wake   chan struct{} // one slot
	cancel context.CancelFunc

	mu     sync.Mutex
	held   map[string]Subscription // by URI; nil value: being made
	dirty  map[string]struct{}     // URIs of held that have changed
	closed bool
}

// newSubscriber returns a subscriber that is told until ctx ends or it is closed.
func (s *Server) newSubscriber(ctx context.Context) *subscriber {
	ctx, cancel := context.WithCancel(ctx)
	sub := &subscriber{server: s, heard: make(chan struct{}), wake: make(chan struct{}, 1), cancel: cancel, held: map[string]Subscription{}, dirty: map[string]struct{}{}}
	s.subs.mu.Lock()
	s.subs.next++
	sub.key = strconv.Itoa(s.subs.next)
	if s.subs.byKey == nil {
		s.subs.byKey, s.subs.of = map[string]*subscriber{}, map[*mcp.ServerSession]*subscriber{}
	}
	s.subs.byKey[sub.key] = sub
	s.subs.mu.Unlock()
	s.spawn(func() { sub.run(ctx) })
	return sub
}

// subscriberOf returns the subscriber of a client's session, a new one if there is none, which lasts as long as the session.
func (s *Server) subscriberOf(ss *mcp.ServerSession) *subscriber {
	s.subs.mu.Lock()
	sub := s.subs.of[ss]
	s.subs.mu.Unlock()
	if sub != nil {
		return sub
	}
	sub = s.newSubscriber(context.Background())
	s.subs.mu.Lock()
	if first := s.subs.of[ss]; first != nil {
		s.subs.mu.Unlock()
		sub.close()
		return first
	}
	s.subs.of[ss] = sub
	s.subs.mu.Unlock()
	s.spawn(func() {
		_ = ss.Wait() // however it ended
		s.subs.mu.Lock()
		delete(s.subs.of, ss)
		s.subs.mu.Unlock()
		sub.close()
	})
	return sub
}

// run tells the client of what has changed.
func (sub *subscriber) run(ctx context.Context) {
	select {
	case <-sub.heard:
	case <-ctx.Done():
		return
	}
	for {
		select {
		case <-sub.wake:
		case <-ctx.Done():
			return
		}
		sub.mu.Lock()
		changed := slices.Sorted(maps.Keys(sub.dirty))
		clear(sub.dirty)
		sub.mu.Unlock()
		for _, uri := range changed {
			// What cannot be told is a client's that is leaving, or has no stream open.
			_ = sub.server.sdk.ResourceUpdated(ctx, &mcp.ResourceUpdatedNotificationParams{URI: sub.keyOf(uri)})
		}
	}
}

func (sub *subscriber) keyOf(uri string) string { return sub.key + " " + uri }

// uriOf returns the URI of a key.
func uriOf(key string) string {
	_, uri, _ := strings.Cut(key, " ")
	return uri
}

// changed notes that a resource has, or may have.
func (sub *subscriber) changed(uri string) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if _, ok := sub.held[uri]; !ok {
		return
	}
	sub.dirty[uri] = struct{}{}
	select {
	case sub.wake <- struct{}{}:
	default: // it is about to look
	}
}

// add subscribes to a resource, unless it has been.
func (sub *subscriber) add(ctx context.Context, uri string) error {
	sub.mu.Lock()
	_, has := sub.held[uri]
	switch {
	case sub.closed:
		sub.mu.Unlock()
		return errUnsubscribed
	case has:
		sub.mu.Unlock()
		return nil
	case !sub.server.subs.take():
		sub.mu.Unlock()
		return errSubscriptions
	}
	sub.held[uri] = nil
	sub.mu.Unlock()

	is, err := sub.server.reads.Watch(ctx, uri, func() { sub.changed(uri) })
	sub.mu.Lock()
	closed := sub.closed
	if err == nil && !closed {
		sub.held[uri] = is
		sub.mu.Unlock()
		return nil
	}
	delete(sub.held, uri)
	sub.mu.Unlock()
	if !closed {
		sub.server.subs.give(1)
	}
	if err == nil {
		is.Drop()
		err = errUnsubscribed
	}
	return err
}

// remove ends a subscription as the agent's own action.
func (sub *subscriber) remove(ctx context.Context, uri string) error {
	sub.mu.Lock()
	is := sub.held[uri]
	sub.mu.Unlock()
	if is == nil {
		return nil
	}
	if err := is.End(ctx); err != nil {
		return err
	}
	sub.mu.Lock()
	_, has := sub.held[uri]
	delete(sub.held, uri)
	delete(sub.dirty, uri)
	sub.mu.Unlock()
	if has {
		sub.server.subs.give(1)
	}
	return nil
}

// close ends all its subscriptions. It does not wait.
func (sub *subscriber) close() {
	sub.cancel()
	sub.mu.Lock()
	held := sub.held
	sub.closed, sub.held = true, map[string]Subscription{}
	sub.mu.Unlock()
	for _, is := range held {
		if is != nil {
			is.Drop()
		}
	}
	subs := &sub.server.subs
	subs.give(len(held))
	subs.mu.Lock()
	delete(subs.byKey, sub.key)
	subs.mu.Unlock()
}

func (s *subscribers) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= maxSubscriptions {
		return false
	}
	s.taken++
	return true
}

func (s *subscribers) give(n int) {
	s.mu.Lock()
	s.taken -= n
	s.mu.Unlock()
}

// subscribe does resources/subscribe and resources/unsubscribe, of revisions until 2025-11-25.
func (s *Server) subscribe(ctx context.Context, next mcp.MethodHandler, method string, req mcp.Request) (mcp.Result, error) {
	ss, ok := req.GetSession().(*mcp.ServerSession)
	if !ok || isModern(req.GetParams()) {
		return next(ctx, method, req) // which says that there is no such method
	}
	ctx = withCaller(ctx, callerIn(ss, req.GetParams()))
	sub := s.subscriberOf(ss)
	switch req := req.(type) {
	case *mcp.SubscribeRequest:
		if err := sub.add(ctx, req.Params.URI); err != nil {
			return nil, answeredWith(method, err)
		}
		r, err := next(ctx, method, &mcp.SubscribeRequest{Session: ss, Params: &mcp.SubscribeParams{URI: sub.keyOf(req.Params.URI)}, Extra: req.Extra})
		sub.hear.Do(func() { close(sub.heard) })
		return r, err
	case *mcp.UnsubscribeRequest:
		if err := sub.remove(ctx, req.Params.URI); err != nil {
			return nil, answeredWith(method, err)
		}
		return next(ctx, method, &mcp.UnsubscribeRequest{Session: ss, Params: &mcp.UnsubscribeParams{URI: sub.keyOf(req.Params.URI)}, Extra: req.Extra})
	}
	panic("gateway: " + method + " of a kind nobody knows")
}

// answeredWith is an error as the client gets it.
func answeredWith(method string, err error) error {
	var e *jsonrpc.Error
	if errors.As(err, &e) {
		return e
	}
	return fmt.Errorf("%s: %w", method, err)
}

// listen is a request to be told, of 2026-07-28 on. It lasts until the client ends it. Whoever wants to hear of changed tools has a
// list to compare with from then on; of the resources asked for those are agreed to that may be subscribed to.
func (s *Server) listen(ctx context.Context, next mcp.MethodHandler, method string, req mcp.Request) (mcp.Result, error) {
	r, ok := req.(*mcp.SubscriptionsListenRequest)
	if !ok || r.Params == nil || r.Params.Notifications == nil {
		return next(ctx, method, req)
	}
	want := *r.Params.Notifications
	if want.ToolsListChanged {
		if _, err := s.session.Tools(ctx); err != nil {
			return nil, fmt.Errorf("listing tools: %w", err)
		}
	}
	if s.reads == nil || len(want.ResourceSubscriptions) == 0 {
		return next(ctx, method, req)
	}
	sub := s.newSubscriber(ctx)
	defer sub.close()
	asks := withCaller(ctx, callerIn(r.Session, r.Params))
	var keys []string
	var refused error
	for _, uri := range want.ResourceSubscriptions {
		switch err := sub.add(asks, uri); {
		case err != nil:
			refused = err
		case !slices.Contains(keys, sub.keyOf(uri)):
			keys = append(keys, sub.keyOf(uri))
		}
	}
	if len(keys) == 0 && !want.ToolsListChanged && !want.PromptsListChanged && !want.ResourcesListChanged {
		return nil, answeredWith(method, refused)
	}
	want.ResourceSubscriptions = keys
	p := *r.Params
	p.Notifications = &want
	return next(ctx, method, &mcp.SubscriptionsListenRequest{Session: r.Session, Params: &p, Extra: r.Extra})
}

// send stands behind the SDK's own sending: it puts URIs in the place of keys.
func (s *Server) send(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
		switch p := req.GetParams().(type) {
		case *mcp.ResourceUpdatedNotificationParams:
			p.URI = uriOf(p.URI)
		case *mcp.SubscriptionsAcknowledgedParams:
			keys := p.Notifications.ResourceSubscriptions
			p.Notifications.ResourceSubscriptions = nil
			for _, key := range keys {
				p.Notifications.ResourceSubscriptions = append(p.Notifications.ResourceSubscriptions, uriOf(key))
			}
			if len(keys) > 0 {
				defer s.heard(keys[0])
			}
		}
		return next(ctx, method, req)
	}
}

// heard notes that a listen's client knows what it is told of.
func (s *Server) heard(key string) {
	id, _, _ := strings.Cut(key, " ")
	s.subs.mu.Lock()
	sub := s.subs.byKey[id]
	s.subs.mu.Unlock()
	if sub != nil {
		sub.hear.Do(func() { close(sub.heard) })
	}
}
