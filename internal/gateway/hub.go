package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
)

// A ServerSpec is one upstream as configuration names it: a Command or an Endpoint, one of the two.
type ServerSpec struct {
	Name             string    // as policies and records say it; letters, digits, _ and -, beginning with a letter or digit, ≤ 64
	Command          *Command  // a stdio server; its Env is the whole environment (see BasicEnvironment)
	Endpoint         *Endpoint // a Streamable HTTP server
	Shared           bool      // one connection for all agents and sessions; it can ask nobody anything
	TrustAnnotations bool      // the server's own hints are believed where the operator says nothing
	Questions        Questions // that it may ask
}

// An Endpoint is a server reached over Streamable HTTP. Nothing of an agent's own request is ever sent to it.
type Endpoint struct {
	URL     string
	Headers map[string]string  // sent with every request, and to no other host
	OAuth   *ClientCredentials // nil: none
}

// ClientCredentials get a token for an endpoint with our own secret (RFC 6749 §4.4).
type ClientCredentials struct {
	TokenURL string
	ID       string
	Secret   string
	Scopes   []string
	Params   map[string]string // more form fields, such as resource (RFC 8707) or audience
}

// LogValue returns the credentials without their secret.
func (c ClientCredentials) LogValue() slog.Value {
	return slog.GroupValue(slog.String("token_url", c.TokenURL), slog.String("id", c.ID))
}

// HubOptions are what a Hub is made of. The zero value is a hub without servers.
type HubOptions struct {
	Servers        []ServerSpec
	Claims         func(server, tool string) []action.Claim // what the operator says of a tool, the strongest first; nil: nothing
	MaxConnections int                                      // to servers, at once, child processes included; zero: DefaultConnections
	Version        string                                   // of this program; empty: "dev"
	Stderr         io.Writer                                // where stdio servers' stderr goes, each line after "[name] "; nil: nowhere
	Log            *slog.Logger                             // nil: nowhere
	Clock          Clock                                    // nil: WallClock
}

// Bounds of a hub.
const (
	DefaultConnections = 256
	maxSeats           = 4096 // agents in sessions, at once
	maxClients         = 256  // of one seat, with a session of their own (until 2025-11-25)

	berthIdle    = 10 * time.Minute // then a server nobody uses is stopped
	seatIdle     = 30 * time.Minute // then a seat, or a client's session, that nobody uses is forgotten
	sweepEvery   = 30 * time.Second
	firstListing = 15 * time.Second // how long a first tools/list waits for a server; its tools come later otherwise
)

var (
	errNotServing = errors.New("the gateway is not serving")
	errFull       = errors.New("the gateway has too many agents; try again in a moment")
	errSlow       = errors.New("the server takes long to start")
)

// A Hub is many MCP servers behind one, for many agents in many sessions. It is a handle, safe for concurrent use.
type Hub struct {
	hv       *hypervisor.Hypervisor
	opt      HubOptions
	patience time.Duration  // for a client to take what it is sent: writerPatience
	own      sync.WaitGroup // goroutines, added to while serving
	wake     chan struct{}  // one slot: a seat is stale

	replays replayTotal
	serving chan struct{} // closed once Run has begun

	mu       sync.Mutex
	ctx      context.Context // of all upstreams and seats; nil: not serving
	claims   func(server, tool string) []action.Claim
	servers  []*server
	seats    map[seatKey]*seat
	visits   int
	running  map[*berth]struct{}
	kept     int                // berths that are used for more than a call
	freed    chan struct{}      // closed, and another put in its place, when a connection has no user any more
	stale    map[*seat]struct{} // seats whose lists are to be made anew
	rendered map[renderKey]Tool
	left     chan struct{} // closed when the last visit has left; nil: nobody waits
}

// A server is one configured upstream, with what is known of it whoever asks.
type server struct {
	spec    ServerSpec
	shared  *berth        // nil: every seat has its own
	listing chan struct{} // one slot: who lists it for the first time

	// Guarded by the hub's mu.
	listed bool
	tools  []Tool    // as listed at the newest start of a connection
	has    Features  // as said then
	failed time.Time // when a first listing did not succeed
	why    error     // valid with failed
}

type renderKey struct {
	server string
	digest [sha256.Size]byte
}

// NewHub returns a hub; opt may be nil. It returns an error for servers that cannot stand beside each other.
func NewHub(hv *hypervisor.Hypervisor, opt *HubOptions) (*Hub, error) {
	h := &Hub{hv: hv, wake: make(chan struct{}, 1), freed: make(chan struct{}), patience: writerPatience, serving: make(chan struct{}), seats: map[seatKey]*seat{}, running: map[*berth]struct{}{},
		stale: map[*seat]struct{}{}, rendered: map[renderKey]Tool{}}
	if opt != nil {
		h.opt = *opt
	}
	if h.opt.Log == nil {
		h.opt.Log = slog.New(slog.DiscardHandler)
	}
	if h.opt.Clock == nil {
		h.opt.Clock = WallClock{}
	}
	if h.opt.MaxConnections == 0 {
		h.opt.MaxConnections = DefaultConnections
	}
	return h, h.SetServers(h.opt.Servers, h.opt.Claims)
}

// SetServers takes over a configuration read anew: servers that are gone or otherwise are stopped once their calls have ended,
// those as they were go on. Agents are told that their lists have changed. On error nothing has changed.
func (h *Hub) SetServers(specs []ServerSpec, claims func(server, tool string) []action.Claim) error {
	if err := checkServers(specs); err != nil {
		return err
	}
	if claims == nil {
		claims = func(string, string) []action.Claim { return nil }
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.servers
	h.claims, h.servers = claims, nil
	for _, spec := range specs {
		at := slices.IndexFunc(old, func(s *server) bool { return reflect.DeepEqual(s.spec, spec) })
		if at >= 0 {
			h.servers = append(h.servers, old[at])
			continue
		}
		s := &server{spec: spec, listing: make(chan struct{}, 1)}
		if spec.Shared {
			s.shared = &berth{hub: h, server: s}
		}
		h.servers = append(h.servers, s)
	}
	for b := range h.running {
		if !slices.Contains(h.servers, b.server) {
			b.retire()
		}
	}
	clear(h.rendered)
	for _, s := range h.seats {
		h.markStale(s)
	}
	return nil
}

// checkServers returns what keeps servers from standing beside each other.
func checkServers(specs []ServerSpec) error {
	seen := map[string]bool{}
	for _, s := range specs {
		switch {
		case !serverName.MatchString(s.Name) || s.Name == ownServer:
			return fmt.Errorf("server %q: a name has letters, digits, _ and - only, at most 64, starts with a letter or digit, and is not %s", clip(s.Name), ownServer)
		case seen[s.Name]:
			return fmt.Errorf("server %s is named twice", s.Name)
		case (s.Command == nil) == (s.Endpoint == nil):
			return fmt.Errorf("server %s wants either a command or an endpoint", s.Name)
		}
		seen[s.Name] = true
	}
	return nil
}

// claimsOf returns what the operator says of a tool now.
func (h *Hub) claimsOf(server, tool string) []action.Claim {
	h.mu.Lock()
	claims := h.claims
	h.mu.Unlock()
	return claims(server, tool)
}

// Refresh makes all lists anew and tells the agents: after an operator has accepted changed definitions.
func (h *Hub) Refresh() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.seats {
		h.markStale(s)
	}
}

// markStale has a seat's lists made anew soon. The caller holds mu.
func (h *Hub) markStale(s *seat) {
	h.stale[s] = struct{}{}
	select {
	case h.wake <- struct{}{}:
	default: // it is awake
	}
}

// Serving returns a channel that is closed once Run has begun and the handler takes requests.
func (h *Hub) Serving() <-chan struct{} { return h.serving }

// Run serves until ctx ends: before it is called and after it has begun to end, the handler answers 503. At the end it lets the
// calls under way finish (half a minute at most), ends all open streams, stops all servers, and returns ctx's cause once no
// process and goroutine of the hub is left. It is called once, and the HTTP server is shut down after it.
func (h *Hub) Run(ctx context.Context) error {
	h.mu.Lock()
	live, cancel := context.WithCancel(context.Background())
	h.ctx = live
	h.own.Go(func() { h.refreshStale(live) })
	h.mu.Unlock()
	close(h.serving)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-h.opt.Clock.After(sweepEvery):
			h.sweep()
		}
	}
	h.drain()
	cancel()
	h.own.Wait()
	return context.Cause(ctx)
}

// refreshStale makes lists anew until the hub ends.
func (h *Hub) refreshStale(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		}
		h.mu.Lock()
		var seats []*seat
		for s := range h.stale {
			if s.gone == nil {
				seats = append(seats, s)
			}
		}
		clear(h.stale)
		h.mu.Unlock()
		for _, s := range seats {
			s.refresh()
		}
	}
}

// sweep stops and forgets what nobody has used for long, and ends streams whose token is not good any more.
func (h *Hub) sweep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.opt.Clock.Now()
	for b := range h.running {
		if b.users == 0 && now.Sub(b.used) >= berthIdle {
			b.halt()
		}
	}
	var waiting []*visit
	for _, s := range h.seats {
		if len(s.visits) == 0 && now.Sub(s.used) >= seatIdle {
			s.close()
			continue
		}
		s.sweepClients(now)
		for v := range s.visits {
			if v.waits {
				waiting = append(waiting, v)
			}
		}
	}
	h.own.Go(func() {
		for _, v := range waiting {
			v.checkAgain()
		}
	})
}

// drain lets no more requests in, ends those that only wait, lets the others end, and closes all seats.
func (h *Hub) drain() {
	h.mu.Lock()
	h.ctx = nil
	h.mu.Unlock()
	h.emptied(lastRequests, func(v *visit) bool { return v.waits })
	h.emptied(farewell, func(*visit) bool { return true })
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.seats {
		s.close()
	}
}

// emptied ends the visits that are meant, and waits a while for all to have left.
func (h *Hub) emptied(patience time.Duration, meant func(*visit) bool) {
	left := make(chan struct{})
	h.mu.Lock()
	for _, s := range h.seats {
		for v := range s.visits {
			if meant(v) {
				v.cancel(errNotServing)
			}
		}
	}
	if h.left = left; h.visits == 0 {
		close(left)
		h.left = nil
	}
	h.mu.Unlock()
	select {
	case <-left:
	case <-h.opt.Clock.After(patience):
	}
}

// render returns how a tool is shown: renamed, and with nothing hidden in it. What was made once is kept: a thousand agents
// are shown the same tools.
func (h *Hub) render(server string, t Tool) Tool {
	key := renderKey{server, t.Digest}
	h.mu.Lock()
	seen, ok := h.rendered[key]
	h.mu.Unlock()
	if ok {
		return seen
	}
	seen = t
	seen.Name = shownName(server, t.Name)
	definition, err := replaced(t.Definition, "name", seen.Name)
	if err != nil {
		panic("gateway: a definition that was parsed is no object: " + err.Error())
	}
	var found bool
	if seen.Definition, found = neutralised(definition); found {
		h.opt.Log.Warn("hidden characters in a tool's definition are replaced", "server", server, "tool", t.Name)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.rendered) >= maxRendered {
		clear(h.rendered)
	}
	h.rendered[key] = seen
	return seen
}

// maxRendered bounds the definitions kept as they are shown.
const maxRendered = 10_000
