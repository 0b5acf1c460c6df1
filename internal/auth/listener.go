package auth

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
)

// A Listener knows by which names a listener may be called. A page in a browser on this machine can make it send requests to
// loopback, and a name of its own can be pointed there (DNS rebinding): such a request bears another Host or Origin. It is a
// value, safe for concurrent use.
type Listener struct {
	loopback bool
	port     string   // empty: whichever
	names    []string // host or host:port, in lower case
}

// SocketHost is what the client commands call a control socket.
const SocketHost = "hypervisor"

// NewSocketListener returns the rules of a control socket. No browser reaches one by itself, but whoever forwards it to a port, as
// ssh -L does, puts it before every page there is. It is called hypervisor, localhost or by a loopback address, with any port.
func NewSocketListener() *Listener { return &Listener{loopback: true, names: []string{SocketHost}} }

// NewListener returns the rules of a listener at addr, told to listen on listen. On loopback it is called by a loopback address
// or localhost, with its port; elsewhere by an IP address, the machine's name or the one it was told to listen on. Beside those,
// by names: host, or host:port.
func NewListener(addr net.Addr, listen string, names []string) *Listener {
	l := &Listener{}
	for _, name := range names {
		l.names = append(l.names, strings.ToLower(name))
	}
	if tcp, ok := addr.(*net.TCPAddr); ok {
		l.loopback, l.port = tcp.IP.IsLoopback(), fmt.Sprint(tcp.Port)
	}
	if l.loopback {
		return l
	}
	if host, _, err := net.SplitHostPort(listen); err == nil && host != "" {
		l.names = append(l.names, strings.ToLower(host))
	}
	if name, err := os.Hostname(); err == nil {
		l.names = append(l.names, strings.ToLower(name))
	}
	return l
}

// Loopback reports whether only this machine reaches the listener.
func (l *Listener) Loopback() bool { return l.loopback }

// Check returns ErrForbidden, wrapped with why, for a request that is not meant for this listener, or that a page of another
// origin made.
func (l *Listener) Check(r *http.Request) error {
	at, ok := parseHost(r.Host, "80")
	if !ok || !l.answersTo(at) {
		otherwise := "if it should be, add the name to hosts in the configuration"
		if l.port == "" && l.loopback {
			otherwise = "call it localhost"
		}
		return fmt.Errorf("%w: this listener is not called %q; %s", ErrForbidden, clip(r.Host), otherwise)
	}
	for i, origin := range r.Header.Values("Origin") {
		if i > 0 || !l.isOwn(origin, r.Host, at) {
			return fmt.Errorf("%w: a page of origin %q makes no requests here", ErrForbidden, clip(origin))
		}
	}
	// A page's request without Origin (an image, say) bears this one; following a link does no harm.
	site := r.Header.Get("Sec-Fetch-Site")
	followed := r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate"
	if site != "" && site != "same-origin" && site != "none" && !followed {
		return fmt.Errorf("%w: a page of another origin makes no requests here", ErrForbidden)
	}
	return nil
}

// A place is a host and a port, in lower case.
type place struct{ host, port string }

// parseHost reads host, host:port or [IPv6]:port.
func parseHost(text, port string) (place, bool) {
	host := strings.ToLower(text)
	if h, p, err := net.SplitHostPort(host); err == nil {
		host, port = h, p
	} else if bare, ok := strings.CutPrefix(host, "["); ok {
		host, ok = strings.CutSuffix(bare, "]")
		if !ok {
			return place{}, false
		}
	} else if strings.Contains(host, ":") {
		return place{}, false
	}
	return place{host, port}, host != "" && port != ""
}

func (l *Listener) answersTo(at place) bool {
	if slices.Contains(l.names, at.host) || slices.Contains(l.names, net.JoinHostPort(at.host, at.port)) {
		return true
	}
	ip, err := netip.ParseAddr(at.host)
	isIP := err == nil && ip.Zone() == ""
	if l.loopback {
		return (l.port == "" || at.port == l.port) && (at.host == "localhost" || isIP && ip.Unmap().IsLoopback())
	}
	return isIP // an address cannot be pointed elsewhere, and its port may be a forwarded one
}

// isOwn reports whether an origin is that of the request itself. Plain loopback speaks http; a name may stand for a proxy that
// speaks https.
func (l *Listener) isOwn(origin, host string, at place) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || origin != u.Scheme+"://"+u.Host {
		return false
	}
	port := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	if port == "" || u.Scheme == "https" && l.loopback && !slices.Contains(l.names, at.host) {
		return false
	}
	from, ok := parseHost(u.Host, port)
	to, _ := parseHost(host, port)
	return ok && from == to
}

func clip(text string) string {
	const most = 80
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
