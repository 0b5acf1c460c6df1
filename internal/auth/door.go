package auth

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

const (
	// DefaultLife is how long a token lives unless its maker says otherwise.
	DefaultLife = 30 * 24 * time.Hour
	// AnonymousAlias is the name of the session of those who come without a token.
	AnonymousAlias = "anonymous"
)

// An Identity is who makes a request: a caller and, where the request showed one, the token.
type Identity struct {
	Caller policy.Caller
	Token  system.Token // the zero Token: the door itself vouches, as the control socket does
}

// An Anonymous is whom a request without a token comes from, and how that agent's session is made.
type Anonymous struct {
	Agent   policy.DID
	Session session.Config // its Name is AnonymousAlias whatever it says
}

// A Door finds out who makes a request. It is a handle, safe for concurrent use.
type Door struct {
	hv        *hypervisor.Hypervisor
	anonymous atomic.Pointer[Anonymous] // nil: nobody comes without a token
	opening   sync.Mutex                // held while the anonymous session is made
}

// NewDoor returns the door of a hypervisor. Nobody comes through it without a token.
func NewDoor(hv *hypervisor.Hypervisor) *Door { return &Door{hv: hv} }

// SetAnonymous says whom requests without a token come from; nil: nobody.
func (d *Door) SetAnonymous(a *Anonymous) {
	if a != nil {
		c := *a
		c.Session.Name = AnonymousAlias
		a = &c
	}
	d.anonymous.Store(a)
}

// Issue makes a token's secret, records the token and returns both. The token's hash and end are set here; an empty ID gets a
// random one. A life of zero is DefaultLife. The error is *hypervisor.Refused where the rules say no.
func (d *Door) Issue(ctx context.Context, caller policy.Caller, t system.Token, life time.Duration) (Secret, system.Token, error) {
	if life == 0 {
		life = DefaultLife
	}
	secret := NewSecret()
	t.Hash, t.Expires = secret.Hash(), d.hv.Now().Add(life).UTC().Truncate(time.Microsecond)
	if t.ID == "" {
		random := NewSecret().Hash()
		t.ID = "tok-" + hex.EncodeToString(random[:10])
	}
	decision, err := d.hv.IssueToken(ctx, caller, t)
	if err != nil {
		return Secret{}, t, err
	}
	if !decision.Allowed {
		return Secret{}, t, &hypervisor.Refused{Decision: decision}
	}
	return secret, t, nil
}

// Identify says who makes a request to /v1, by the token it shows. The error is ErrUnauthenticated.
func (d *Door) Identify(r *http.Request) (Identity, error) {
	t, shown, err := d.token(r)
	if err == nil && !shown {
		err = fmt.Errorf("%w: send Authorization: Bearer and a token", ErrUnauthenticated)
	}
	if err != nil {
		return Identity{}, err
	}
	return Identity{policy.Caller{DID: t.Subject, Role: t.Role, Via: "http"}, t}, nil
}

// token returns the token that a request shows, and false where it shows none.
func (d *Door) token(r *http.Request) (t system.Token, shown bool, err error) {
	secret, shown, err := bearer(r)
	if err != nil || !shown {
		return t, shown, err
	}
	t, ok := d.hv.Token(secret.Hash())
	if !ok {
		return t, true, fmt.Errorf("%w: the token is unknown, revoked or has run out", ErrUnauthenticated)
	}
	return t, true, nil
}

// Seat says which agent makes a request to /mcp, and in which session: those of its token, or the anonymous agent's. The agent
// is in the session, which is active unless it has ended. The error is ErrUnauthenticated, ErrForbidden, or the hypervisor's.
func (d *Door) Seat(r *http.Request) (policy.Caller, *hypervisor.Session, error) {
	t, shown, err := d.token(r)
	if err != nil {
		return policy.Caller{}, nil, err
	}
	var nobody *Anonymous
	if !shown {
		if nobody = d.anonymous.Load(); nobody == nil || !isLocal(r) {
			return policy.Caller{}, nil, fmt.Errorf("%w: send Authorization: Bearer and an agent's token", ErrUnauthenticated)
		}
		t = system.Token{ID: AnonymousAlias, Subject: nobody.Agent, Role: policy.AgentRole, Alias: AnonymousAlias}
	}
	if t.Role != policy.AgentRole {
		return policy.Caller{}, nil, fmt.Errorf("%w: %s is %s, and only agents act here; make an agent's token with 'agent token'", ErrForbidden, t.Subject, t.Role)
	}
	s, err := d.hv.Enter(r.Context(), t)
	if nobody != nil && errors.Is(err, hypervisor.ErrNotFound) {
		if err = d.openFor(r.Context(), nobody); err == nil {
			s, err = d.hv.Enter(r.Context(), t)
		}
	}
	var refused *hypervisor.Refused
	if errors.As(err, &refused) || errors.Is(err, hypervisor.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	return policy.Agent(t.Subject).Through("mcp"), s, err
}

// openFor opens the session of those who come without a token, once.
func (d *Door) openFor(ctx context.Context, nobody *Anonymous) error {
	d.opening.Lock()
	defer d.opening.Unlock()
	if _, there := d.hv.Named(AnonymousAlias); there {
		return nil // another request was faster
	}
	_, err := d.hv.CreateSession(ctx, policy.System.Through("config"), &nobody.Session)
	return err
}

// isLocal reports whether a request was made on this machine: not from another, nor for another by a proxy that says so.
func isLocal(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() && r.Header.Get("Forwarded") == "" && r.Header.Get("X-Forwarded-For") == ""
}
