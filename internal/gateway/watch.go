package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/action"
)

// watch.go: the resources of one upstream that clients are subscribed to.

// Bounds of an upstream's subscriptions.
const (
	maxWatched    = 256              // resources of one upstream, whoever is subscribed to them
	watchPatience = 30 * time.Second // for an upstream to take in a subscription, or its end
)

const (
	subscribeMethod   = "resources/subscribe"
	unsubscribeMethod = "resources/unsubscribe"
	resourceUpdated   = "notifications/resources/updated"
)

var errWatched = fmt.Errorf("%w: %d resources of this server are subscribed to, which is all it may have", action.ErrNotDispatched, maxWatched)

// A watch is one client's wish to hear of a resource.
type watch struct {
	uri  string // as the upstream has it
	tell func() // that it has changed, or may have; it does not block
}

// watch subscribes to a resource, for as long as this upstream is run: a server that is started again is asked again, and who
// watches is told, since nobody knows what has changed meanwhile. Errors are Call's.
func (u *Upstream) watch(ctx context.Context, w *watch) (json.RawMessage, error) {
	ctx, stop := withTimeout(ctx, u.opt.Clock, watchPatience, errPatience)
	defer stop()
	if err := u.beginWatching(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", action.ErrNotDispatched, err)
	}
	defer u.endWatching()
	u.mu.Lock()
	l, err := u.link, u.whyDown()
	if l != nil && u.watched[w.uri] == nil && len(u.watched) >= maxWatched {
		l, err = nil, errWatched
	}
	if l != nil {
		u.enterWatch(w)
	}
	u.mu.Unlock()
	if l == nil {
		return nil, err
	}
	result, err := l.subscribe(ctx, subscribeMethod, w.uri)
	if err != nil {
		u.leaveWatch(w)
	}
	return result, err
}

// unwatch ends a watch; the last one of a resource ends the subscription.
func (u *Upstream) unwatch(ctx context.Context, w *watch) (json.RawMessage, error) {
	ctx, stop := withTimeout(ctx, u.opt.Clock, watchPatience, errPatience)
	defer stop()
	if err := u.beginWatching(ctx); err != nil {
		u.leaveWatch(w)
		return nil, err
	}
	defer u.endWatching()
	last := u.leaveWatch(w)
	u.mu.Lock()
	l := u.link
	u.mu.Unlock()
	if l == nil || !last {
		return json.RawMessage(`{}`), nil
	}
	return l.subscribe(ctx, unsubscribeMethod, w.uri)
}

// beginWatching has one subscription begin or end at a time, so that the server is told in the order in which we know it.
func (u *Upstream) beginWatching(ctx context.Context) error {
	select {
	case u.watching <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (u *Upstream) endWatching() { <-u.watching }

// enterWatch notes a watch. The caller holds mu.
func (u *Upstream) enterWatch(w *watch) {
	if u.watched == nil {
		u.watched = map[string]map[*watch]struct{}{}
	}
	if u.watched[w.uri] == nil {
		u.watched[w.uri] = map[*watch]struct{}{}
	}
	u.watched[w.uri][w] = struct{}{}
}

// leaveWatch forgets a watch and reports whether it was the last of its resource.
func (u *Upstream) leaveWatch(w *watch) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.watched[w.uri] == nil {
		return false
	}
	delete(u.watched[w.uri], w)
	if len(u.watched[w.uri]) > 0 {
		return false
	}
	delete(u.watched, w.uri)
	return true
}

// updated tells who watches a resource, or one that it stands beneath, that it has changed; "": all may have.
func (u *Upstream) updated(uri string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for watched, by := range u.watched {
		if uri != "" && uri != watched && !strings.HasPrefix(uri, strings.TrimSuffix(watched, "/")+"/") {
			continue
		}
		for w := range by {
			w.tell()
		}
	}
}

// watchAgain subscribes, at a server that was started again, to what is watched.
func (u *Upstream) watchAgain(ctx context.Context, l *link) {
	if u.beginWatching(ctx) != nil {
		return
	}
	defer u.endWatching()
	u.mu.Lock()
	uris := make([]string, 0, len(u.watched))
	for uri := range u.watched {
		uris = append(uris, uri)
	}
	u.mu.Unlock()
	for _, uri := range uris {
		ctx, stop := withTimeout(ctx, u.opt.Clock, watchPatience, errPatience)
		if _, err := l.subscribe(ctx, subscribeMethod, uri); err != nil && !errors.Is(err, context.Canceled) {
			u.opt.Log.Warn("not subscribed again", "server", u.name, "uri", clip(uri), "error", err)
		}
		stop()
	}
	u.updated("")
}

// subscribe makes one of the two requests. A modern server answers by a stream of its own, for which nobody waits.
func (l *link) subscribe(ctx context.Context, method, uri string) (json.RawMessage, error) {
	do := func(ctx context.Context) error { return l.session.Subscribe(ctx, &mcp.SubscribeParams{URI: uri}) }
	if method == unsubscribeMethod {
		do = func(ctx context.Context) error { return l.session.Unsubscribe(ctx, &mcp.UnsubscribeParams{URI: uri}) }
	}
	if l.modern() {
		return json.RawMessage(`{}`), do(ctx)
	}
	return l.ask(ctx, &tap{}, method, do)
}
