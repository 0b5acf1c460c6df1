package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
)

// A ServerSpec is one upstream as configuration names it: a Command or an Endpoint, one of the two.
type ServerSpec struct {
	Name             string    // as policies and records say it; letters, digits, _ and -, beginning with a letter or digit, ≤ 64
	Command          *Command  // a stdio server; its Env is the whole environment (see BasicEnvironment)
	Endpoint         *Endpoint // a Streamable HTTP server
	Shared           bool      // one connection for all agents and sessions; it can ask nobody anything
	TrustAnnotations bool      // the server's own hints are believed where the operator says nothing
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
	Servers []ServerSpec
	Claims  func(server, tool string) []action.Claim // what the operator says of a tool, the strongest first; nil: nothing
	Version string                                   // of this program; empty: "dev"
	Stderr  io.Writer                                // where stdio servers' stderr goes, each line after "[name] "; nil: nowhere
	Log     *slog.Logger                             // nil: nowhere
	Clock   Clock                                    // nil: WallClock
}

// A Seat is whom a request comes from: an agent in a session, as the request's token says.
type Seat struct {
	Agent   policy.Caller
	Session *hypervisor.Session
}

// Identify says who asks, from the request's token and from nothing else: never from Mcp-Session-Id or the body. Its errors
// become answers: ErrForbidden 403, hypervisor.ErrStoreUnavailable and ErrOverloaded 503, any other 401, each with the error's
// text, which must hold no secret. It is called for every request, so a token that was revoked is refused on an open connection
// at its next request. Safe for concurrent use.
type Identify func(*http.Request) (Seat, error)

// ErrForbidden is returned, wrapped with why, by an Identify that knows who asks and does not let them in.
var ErrForbidden = errors.New("forbidden")

// A Hub is many MCP servers behind one, for many agents in many sessions. It is a handle, safe for concurrent use.
type Hub struct {
	hv  *hypervisor.Hypervisor
	opt HubOptions
}

// NewHub returns a hub; opt may be nil. It returns an error for servers that cannot stand beside each other.
func NewHub(hv *hypervisor.Hypervisor, opt *HubOptions) (*Hub, error) {
	h := &Hub{hv: hv}
	if opt != nil {
		h.opt = *opt
	}
	return h, nil
}

// SetServers takes over a configuration read anew: servers that are gone or otherwise are stopped, those as they were go on.
// Agents are told that their lists have changed. On error nothing has changed.
func (h *Hub) SetServers(servers []ServerSpec, claims func(server, tool string) []action.Claim) error {
	h.opt.Servers, h.opt.Claims = servers, claims
	return nil
}

// Run serves until ctx ends: before it is called and after it has begun to end, the handler answers 503. At the end it lets the
// calls under way finish (half a minute at most), ends all open streams, stops all servers, and returns ctx's cause once no
// process and goroutine of the hub is left. It is called once, and the HTTP server is shut down after it.
func (h *Hub) Run(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// Handler serves MCP over Streamable HTTP, for /mcp: every revision the SDK speaks, at this one address. The caller checks Host
// and Origin around it.
func (h *Hub) Handler(identify Identify) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := identify(r); err != nil {
			http.Error(w, fmt.Sprint(err), http.StatusUnauthorized)
			return
		}
		http.Error(w, "not served yet", http.StatusServiceUnavailable)
	})
}
