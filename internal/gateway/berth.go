package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
)

// A berth is the place of one upstream connection: of a seat, or of all if the server is shared. The connection is made at its
// first use and ended when nobody has used it for a while. Its fields are guarded by the hub's mu.
type berth struct {
	hub    *Hub
	server *server
	seat   *seat // nil: shared

	users   int
	kept    int // of them for more than a call
	used    time.Time
	up      *Upstream          // of the life under way, or the last
	stop    context.CancelFunc // nil: not running
	stopped chan struct{}      // closed when the last life that was begun has ended; nil: there was none
	retired bool               // it is stopped when its last user leaves

	listed bool
	tools  []Tool // as this connection listed them last
	has    Features
	fresh  bool     // this life has not listed yet
	lists  editions // of this life, as far as the agents are told
}

var errRetired = errors.New("it is not configured any more; list the tools again")

func (b *berth) Name() string { return b.server.spec.Name }

// known returns the tools as this connection listed them, or else as any did.
func (b *berth) known() ([]Tool, bool) {
	b.hub.mu.Lock()
	defer b.hub.mu.Unlock()
	return b.knownLocked()
}

func (b *berth) knownLocked() ([]Tool, bool) {
	if b.listed {
		return b.tools, true
	}
	return b.server.tools, b.server.listed
}

// features returns what the server has beside tools, as this connection was told, or else as any was.
func (b *berth) features() (Features, bool) {
	b.hub.mu.Lock()
	defer b.hub.mu.Unlock()
	if b.listed {
		return b.has, true
	}
	return b.server.has, b.server.listed
}

// use returns the running upstream once it is ready.
func (b *berth) use(ctx context.Context, keep bool) (*Upstream, func(), error) {
	leave := b.leave
	if keep {
		if err := b.keep(); err != nil {
			return nil, nil, fmt.Errorf("%w: server %s: %w", action.ErrNotDispatched, b.Name(), err)
		}
		leave = func() { b.leave(); b.unkeep() }
	}
	up, err := b.board(ctx)
	if err != nil {
		if keep {
			b.unkeep()
		}
		return nil, nil, fmt.Errorf("%w: server %s: %w", action.ErrNotDispatched, b.Name(), err)
	}
	if up.Ready(ctx) == nil {
		b.update(up) // a call's tools are compared with what the server lists now
	}
	if ctx.Err() != nil {
		leave()
		return nil, nil, fmt.Errorf("%w: %w", action.ErrNotDispatched, context.Cause(ctx))
	}
	return up, leave, nil // where it is down, the call says so and when it is worth another try
}

var errKept = errors.New("too many connections are kept for subscriptions; end some, or ask the operator for more connections")

// keep counts in who uses the connection for more than a call. Half of all connections may be kept so.
func (b *berth) keep() error {
	h := b.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if b.kept == 0 {
		if h.kept >= max(1, h.opt.MaxConnections/2) {
			return errKept
		}
		h.kept++
	}
	b.kept++
	return nil
}

func (b *berth) unkeep() {
	b.hub.mu.Lock()
	defer b.hub.mu.Unlock()
	if b.kept--; b.kept == 0 {
		b.hub.kept--
	}
}

// board counts a user in and sees to it that the upstream runs. Where all connections are in use it waits for one a while.
func (b *berth) board(ctx context.Context) (*Upstream, error) {
	h := b.hub
	var waiting context.Context
	for {
		h.mu.Lock()
		up, err := b.tryBoard(callerOf(ctx))
		freed := h.freed
		h.mu.Unlock()
		if !errors.Is(err, errNoRoom) {
			return up, err
		}
		if waiting == nil {
			var stop func()
			waiting, stop = withTimeout(ctx, h.opt.Clock, roomPatience, errNoRoom)
			defer stop()
		}
		select {
		case <-freed:
		case <-waiting.Done():
			return nil, context.Cause(waiting)
		}
	}
}

// tryBoard is board without waiting. The caller holds mu.
func (b *berth) tryBoard(c *caller) (*Upstream, error) {
	h := b.hub
	switch {
	case b.retired:
		return nil, errRetired
	case h.ctx == nil:
		return nil, errNotServing
	case b.stop == nil && len(h.running) >= h.opt.MaxConnections && !h.stopLongestIdle():
		return nil, errNoRoom
	case b.stop == nil:
		// Over HTTP a server that can ask in the old way does not speak the new one at the same address.
		b.start(b.seat != nil && b.server.spec.Command != nil && c != nil && !c.modern)
	}
	b.users++
	return b.up, nil
}

// roomPatience is how long a call waits for one of the connections that are all in use.
const roomPatience = 10 * time.Second

var errNoRoom = errors.New("all connections to servers are in use; try again in a moment")

func (b *berth) leave() {
	b.hub.mu.Lock()
	defer b.hub.mu.Unlock()
	b.users--
	b.used = b.hub.opt.Clock.Now()
	if b.users > 0 {
		return
	}
	close(b.hub.freed)
	b.hub.freed = make(chan struct{})
	if b.retired && b.stop != nil {
		b.halt()
	}
}

// stopLongestIdle makes room for a connection. The caller holds mu.
func (h *Hub) stopLongestIdle() bool {
	var longest *berth
	for b := range h.running {
		if b.users == 0 && (longest == nil || b.used.Before(longest.used)) {
			longest = b
		}
	}
	if longest != nil {
		longest.halt()
	}
	return longest != nil
}

// start begins a life of the connection, in the manner of the client that needs it first. The caller holds mu.
func (b *berth) start(legacy bool) {
	h := b.hub
	opt := &UpstreamOptions{Stderr: h.opt.Stderr, Log: h.opt.Log, Clock: h.opt.Clock, Version: h.opt.Version, Legacy: legacy, Shared: b.seat == nil,
		Questions: b.server.spec.Questions, Again: b.stopped != nil}
	if e := b.server.spec.Endpoint; e != nil {
		b.up = NewRemoteUpstream(b.Name(), *e, opt)
	} else {
		b.up = NewUpstream(b.Name(), *b.server.spec.Command, opt)
	}
	var who seatKey // nobody: a shared one ends with everything only
	if b.seat != nil {
		who = b.seat.key
	}
	b.up.barred = killed(h.hv, who.session, who.agent)
	ctx, cancel := context.WithCancel(h.ctx)
	before, stopped := b.stopped, make(chan struct{})
	b.stop, b.stopped, b.fresh, b.lists = cancel, stopped, true, editions{}
	h.running[b] = struct{}{}
	up := b.up
	h.own.Go(func() {
		defer close(stopped)
		if before != nil {
			<-before // the life before this one may still be ending
		}
		_ = up.Run(ctx) // it ends with ctx and says nothing else
	})
	h.own.Go(func() { b.follow(ctx, up) })
}

// follow takes over every list of one life.
func (b *berth) follow(ctx context.Context, up *Upstream) {
	_ = up.Ready(ctx) // if it did not start, it may yet
	for {
		b.update(up)
		select {
		case <-ctx.Done():
			return
		case <-up.Changed():
		}
	}
}

// halt ends the life under way; it does not wait. The caller holds mu.
func (b *berth) halt() {
	b.stop()
	b.stop = nil
	delete(b.hub.running, b)
}

// retire has the connection ended once its users have left. The caller holds mu.
func (b *berth) retire() {
	b.retired = true
	if b.users == 0 && b.stop != nil {
		b.halt()
	}
}

// update takes over the tools as the upstream lists them, and marks the seats whose own lists are otherwise now.
func (b *berth) update(up *Upstream) {
	b.tellLists(up)
	tools, listed := up.known()
	h, s := b.hub, b.server
	h.mu.Lock()
	defer h.mu.Unlock()
	if !listed || b.up != up {
		return
	}
	tools = keepKnown(s.tools, tools)
	was, _ := b.knownLocked()
	own := !b.listed || !sameTools(was, tools)
	common := b.fresh && (!s.listed || !sameTools(s.tools, tools))
	b.listed, b.tools, b.has = true, tools, up.Features()
	if b.fresh {
		b.fresh, s.listed, s.tools, s.has, s.why = false, true, tools, b.has, nil
	}
	if !own && !common {
		return
	}
	for _, seat := range h.seats {
		if mine := seat.berths[s]; mine == b && own || mine != nil && !mine.listed && common {
			h.markStale(seat)
		}
	}
}

// keepKnown returns tools with those that are already held in the place of their equals: one schema serves all.
func keepKnown(held, tools []Tool) []Tool {
	if sameTools(held, tools) {
		return held
	}
	out := slices.Clone(tools)
	for i, t := range out {
		if at := slices.IndexFunc(held, func(o Tool) bool { return o.Digest == t.Digest }); at >= 0 {
			out[i] = held[at]
		}
	}
	return out
}
