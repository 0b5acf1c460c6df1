package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
)

// A Seat is whom a request comes from: an agent in a session, as the request's token says.
type Seat struct {
	Agent   policy.Caller
	Session *hypervisor.Session
}

type seatKey struct {
	agent   policy.DID
	session string
}

// A seat is one agent in one session, whatever clients it uses: its own server with its own clients' sessions, which no other
// seat can name, and its own connections. It is the Session of that server.
type seat struct {
	hub    *Hub
	key    seatKey
	front  *Front
	server *Server

	stateful, stateless http.Handler
	replay              *replay         // of the clients with a session
	ctx                 context.Context // ended when the seat is closed
	cancel              context.CancelFunc

	// Guarded by the hub's mu.
	berths  map[*server]*berth
	shown   map[*server]*face
	visits  map[*visit]struct{}
	used    time.Time
	clients map[string]*clientUse // by Mcp-Session-Id
	gone    chan struct{}         // nil: open; closed when nothing is left of it
}

// A clientUse is when a client's session was used last.
type clientUse struct {
	open int // requests under way
	used time.Time
}

// seatOf returns the seat, a new one if there is none. It waits for one that is being closed. The caller holds mu, which is let
// go meanwhile.
func (h *Hub) seatOf(ctx context.Context, who Seat) (*seat, error) {
	key := seatKey{who.Agent.DID, who.Session.ID()}
	for {
		if h.ctx == nil {
			return nil, errNotServing
		}
		s := h.seats[key]
		if s == nil {
			break
		}
		if s.gone == nil {
			return s, nil
		}
		h.mu.Unlock()
		select {
		case <-s.gone:
		case <-ctx.Done():
		}
		h.mu.Lock()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	if len(h.seats) >= maxSeats {
		return nil, errFull
	}
	s := h.newSeat(key, who)
	h.seats[key] = s
	return s, nil
}

// newSeat returns an open seat. The caller holds mu.
func (h *Hub) newSeat(key seatKey, who Seat) *seat {
	s := &seat{hub: h, key: key, berths: map[*server]*berth{}, shown: map[*server]*face{}, visits: map[*visit]struct{}{}, clients: map[string]*clientUse{},
		used: h.opt.Clock.Now()}
	s.ctx, s.cancel = context.WithCancel(h.ctx)
	s.front = &Front{hv: h.hv, session: who.Session, agent: who.Agent, render: h.render, opt: FrontOptions{Log: h.opt.Log}, spawn: h.own.Go}
	s.front.faces = s.faces()
	s.server = NewServer(s, &ServerOptions{Reads: s, Peer: s.front, Version: h.opt.Version, Log: h.opt.Log, Clock: h.opt.Clock, ended: s.ctx, newID: s.newClient, spawn: h.own.Go})
	get := func(*http.Request) *mcp.Server { return s.server.sdk }
	quiet := slog.New(slog.DiscardHandler)
	// Host and Origin are checked before the handler.
	s.replay = newReplay(h.opt.Clock, &h.replays)
	s.stateful = mcp.NewStreamableHTTPHandler(get, &mcp.StreamableHTTPOptions{Logger: quiet, DisableLocalhostProtection: true, MaxRequestBodyBytes: maxBodyBytes,
		EventStore: s.replay})
	s.stateless = mcp.NewStreamableHTTPHandler(get, &mcp.StreamableHTTPOptions{Logger: quiet, DisableLocalhostProtection: true, MaxRequestBodyBytes: maxBodyBytes,
		Stateless: true, PropagateRequestCancellation: true})
	return s
}

// faces returns how the servers are shown here, as they are configured now. The caller holds the hub's mu.
func (s *seat) faces() []*face {
	h := s.hub
	var out []*face
	for _, srv := range h.servers {
		c := s.shown[srv]
		if c == nil {
			b := srv.shared
			if b == nil {
				b = &berth{hub: h, server: srv, seat: s}
			}
			c = &face{source: b, trust: srv.spec.TrustAnnotations, claims: func(tool string) []action.Claim { return h.claimsOf(srv.spec.Name, tool) }}
			s.berths[srv], s.shown[srv] = b, c
		}
		out = append(out, c)
	}
	for srv := range s.berths {
		if !slices.Contains(h.servers, srv) {
			delete(s.berths, srv)
			delete(s.shown, srv)
		}
	}
	return out
}

// refresh makes the lists anew and tells the clients.
func (s *seat) refresh() {
	s.hub.mu.Lock()
	faces := s.faces()
	s.hub.mu.Unlock()
	changed := s.front.replace(faces)
	for _, c := range faces {
		if _, listed := c.known(); !listed {
			continue
		}
		otherwise, err := s.front.refresh(s.ctx, c)
		changed = changed || otherwise
		if err != nil {
			s.hub.opt.Log.Error("changed tools not taken over", "server", c.Name(), "agent", s.key.agent, "session", s.key.session, "error", err)
		}
	}
	if changed {
		s.server.ToolsChanged()
	}
}

// prepare has the tools of all servers registered, each listed first if it never was. One that does not start, or takes long,
// is passed over: its tools come with a change of the list.
func (s *seat) prepare(ctx context.Context) {
	var missing []*face
	for _, c := range s.front.all() {
		if !s.front.loaded(c) {
			missing = append(missing, c)
		}
	}
	if len(missing) == 0 {
		return
	}
	ctx, stop := withTimeout(ctx, s.hub.opt.Clock, firstListing, errSlow)
	defer stop()
	var all sync.WaitGroup
	for _, c := range missing {
		all.Go(func() {
			err := s.load(ctx, c)
			if err != nil {
				s.hub.opt.Log.Warn("tools not listed", "server", c.Name(), "agent", s.key.agent, "session", s.key.session, "error", err)
			}
		})
	}
	all.Wait()
}

// load registers a face's tools.
func (s *seat) load(ctx context.Context, c *face) error {
	if _, listed := c.known(); !listed {
		if err := c.source.(*berth).listFirst(ctx); err != nil {
			return err
		}
	}
	changed, err := s.front.refresh(ctx, c)
	if changed {
		s.server.ToolsChanged()
	}
	return err
}

// listFirst has a server listed of which nothing is known: by one connection for all that wait.
func (b *berth) listFirst(ctx context.Context) error {
	s := b.server
	select {
	case s.listing <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-s.listing }()
	h := b.hub
	h.mu.Lock()
	_, listed := b.knownLocked()
	again := maxBackoff - h.opt.Clock.Now().Sub(s.failed)
	why := s.why
	h.mu.Unlock()
	switch {
	case listed:
		return nil
	case why != nil && again > 0:
		return fmt.Errorf("%w; it is tried again in %s", why, again.Round(time.Second))
	}
	up, release, err := b.use(ctx, false)
	if err == nil {
		defer release()
		if err = up.Ready(ctx); err == nil {
			return nil
		}
	}
	if errors.Is(err, errBarred) {
		return err // which says nothing of the server to others
	}
	h.mu.Lock()
	s.failed, s.why = h.opt.Clock.Now(), err
	h.mu.Unlock()
	return err
}

// Tools returns the tools the agent is shown.
func (s *seat) Tools(ctx context.Context) ([]Tool, error) {
	s.prepare(ctx)
	return s.front.Tools(ctx)
}

// Act puts a call to the session.
func (s *seat) Act(ctx context.Context, tool string, args json.RawMessage) (Reply, error) {
	s.prepare(ctx)
	reply, err := s.front.Act(ctx, tool, args)
	if err == nil && reply.Decision.Code == policy.UnknownAction {
		if why := s.unlisted(tool, "__"); why != nil {
			reply.Decision.Reason = neutralText(why.Error())
		}
	}
	return reply, err
}

// unlisted returns why the tools of the server that a tool, with its name in front and then sep, seems to be of are not known yet,
// or nil where they are.
func (s *seat) unlisted(tool, sep string) error {
	for _, c := range s.front.all() {
		if !strings.HasPrefix(tool, c.Name()+sep) || s.front.loaded(c) {
			continue
		}
		why := errSlow
		s.hub.mu.Lock()
		if b := c.source.(*berth); b.server.why != nil {
			why = b.server.why
		}
		s.hub.mu.Unlock()
		return fmt.Errorf("the tools of server %s are not known yet: %w; nothing was done, try again in %s", c.Name(), why, maxBackoff)
	}
	return nil
}

// Read does a request that is not a tool's.
func (s *seat) Read(ctx context.Context, method string, params json.RawMessage) (json.RawMessage, error) {
	s.prepare(ctx)
	return s.front.Read(ctx, method, params)
}

// Watch subscribes to a resource.
func (s *seat) Watch(ctx context.Context, uri string, tell func()) (Subscription, error) {
	s.prepare(ctx)
	return s.front.Watch(ctx, uri, tell)
}

// Features returns what the servers have, as far as it is known.
func (s *seat) Features() Features { return s.front.Features() }

// Status returns the agent's standing.
func (s *seat) Status(ctx context.Context) (any, error) { return s.front.Status(ctx) }

// hasRoom reports whether one more client may have a session. If there are too many it ends the longest idle.
func (s *seat) hasRoom() bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if len(s.clients) < maxClients {
		return true
	}
	longest := ""
	for id, c := range s.clients {
		if c.open == 0 && (longest == "" || c.used.Before(s.clients[longest].used)) {
			longest = id
		}
	}
	if longest != "" {
		s.endClient(longest)
	}
	return longest != ""
}

// newClient returns the id of a client's new session.
func (s *seat) newClient() string {
	id := rand.Text()
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.clients[id] = &clientUse{used: s.hub.opt.Clock.Now()}
	return id
}

// endClient ends a client's session, in a goroutine of the hub's. The caller holds the hub's mu.
func (s *seat) endClient(id string) {
	delete(s.clients, id)
	for ss := range s.server.sdk.Sessions() {
		if ss.ID() == id {
			s.hub.own.Go(func() { _ = ss.Close() }) // it has nothing to say that anybody waits for
		}
	}
}

// sweepClients ends the sessions nobody has used for long, and forgets those that ended. The caller holds the hub's mu.
func (s *seat) sweepClients(now time.Time) {
	s.replay.sweep(now)
	live := map[string]bool{}
	for ss := range s.server.sdk.Sessions() {
		live[ss.ID()] = true
	}
	for id, c := range s.clients {
		if c.open == 0 && (now.Sub(c.used) >= seatIdle || !live[id] && now.Sub(c.used) >= sweepEvery) {
			s.endClient(id)
		}
	}
}

// close ends the seat: its calls, its clients' sessions, its connections. It does not wait. The caller holds the hub's mu.
func (s *seat) close() {
	if s.gone != nil {
		return
	}
	gone := make(chan struct{})
	s.gone = gone
	s.cancel()
	for _, b := range s.berths {
		if b.seat == s {
			b.retire()
		}
	}
	h := s.hub
	h.own.Go(func() {
		for ss := range s.server.sdk.Sessions() {
			_ = ss.Close()
		}
		s.front.replace(nil)
		h.mu.Lock()
		delete(h.seats, s.key)
		delete(h.stale, s)
		h.mu.Unlock()
		close(gone)
	})
}
