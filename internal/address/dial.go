package address

import (
	"context"
	"errors"
	"net"
	"net/url"
	"time"

	"code.dny.dev/ssrf"
)

// dial.go: whom a connection reaches.

// dialTimeout is how long a connection, and then its handshake, may take.
const dialTimeout = 10 * time.Second

// lookupOverride is what names are resolved with; nil: as this machine does.
type lookupOverride = *net.Resolver

// isRefused reports whether a guard has refused to connect: waiting does not help.
func isRefused(err error) bool {
	return errors.Is(err, ssrf.ErrProhibitedIP) || errors.Is(err, ssrf.ErrProhibitedNetwork) || errors.Is(err, ssrf.ErrProhibitedPort) || errors.Is(err, ssrf.ErrInvalidHostPort)
}

// reaches returns why nobody can be reached at the address; nil: somebody takes connections there.
func (c *caller) reaches(ctx context.Context) error {
	if c.book.opts.Carrier != nil {
		return c.book.opts.Carrier.Reaches(ctx, c.address)
	}
	at, err := url.Parse(c.address)
	if err != nil {
		return err
	}
	port := at.Port()
	if port == "" {
		port = at.Scheme // a service's name, which net knows of these two
	}
	conn, err := c.book.transport(c.entry).DialContext(ctx, "tcp", net.JoinHostPort(at.Hostname(), port))
	if err != nil {
		return err
	}
	return conn.Close()
}
