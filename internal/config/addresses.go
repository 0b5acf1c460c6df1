package config

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/address"
	"github.com/agenthypervisor/hypervisor/internal/document"
)

// addresses.go: which http(s) addresses may be called.

// The least that a secret has, as Standard Webhooks 1.0.0 wants it, and what it begins with.
const (
	leastSecret  = 24 // bytes
	secretPrefix = "whsec_"
	leastAnswer  = 1 << 10 // bytes
)

// ownHeaders are those that the hypervisor says itself.
var ownHeaders = []string{"idempotency-key", "webhook-id", "webhook-timestamp", "webhook-signature", "content-type", "content-length", "host", "accept", "user-agent", "transfer-encoding", "connection"}

// addresses reads the allowlist.
func (l *loader) addresses(it item) {
	var entries []address.Entry
	l.Mapping(it, func(at string, it item) {
		before := len(*l.Faults)
		e := l.address(at, it)
		if len(*l.Faults) > before {
			return
		}
		if _, err := address.NewBook([]address.Entry{e}, nil); err != nil {
			l.Fault(it, "%s", strings.TrimPrefix(err.Error(), action.ErrAddress.Error()+": "))
			return
		}
		entries = append(entries, e)
		l.said.actions[at] = fmt.Sprintf("%s:%d:%d", l.File, it.At.Line, it.At.Column)
	})
	if book, err := address.NewBook(entries, nil); err == nil { // each is sound by itself
		l.Addresses = book
	}
}

func (l *loader) address(at string, it item) address.Entry {
	e := address.Entry{At: at}
	fields := map[string]field{
		"method": func(it item) {
			set(&e.Method, it, func(it item) (string, bool) { return l.Word(it, address.Methods...) })
		},
		"reversibility": func(it item) { // full would need an image, and nothing shows one of an address
			setPointer(&e.Claim.Reversibility, it, func(it item) (v action.Reversibility, ok bool) {
				word, ok := l.Word(it, "partial", "none")
				return v, ok && v.UnmarshalText([]byte(word)) == nil
			})
		},
		"name":    func(it item) { setPointer(&e.Claim.Name, it, l.name) },
		"private": func(it item) { e.Private = l.ranges(it) },
		"headers": func(it item) { e.Headers = l.addressHeaders(at, it) },
		"timeout": func(it item) {
			set(&e.Timeout, it, func(it item) (time.Duration, bool) { return l.Duration(it, leastTimeout, address.MostTimeout) })
		},
		"max_answer": func(it item) {
			set(&e.MaxAnswer, it, func(it item) (int64, bool) {
				n, ok := l.Number(it, leastAnswer, address.MostAnswer)
				return int64(n), ok
			})
		},
		"secret":      func(it item) { e.Secret = l.secret(it) },
		"secret_file": func(it item) { e.Secret = l.secretIn(it) },
	}
	for name, to := range map[string]**bool{"read_only": &e.Claim.ReadOnly, "admin": &e.Claim.Admin, "idempotent": &e.Claim.Idempotent} {
		fields[name] = func(it item) { setPointer(to, it, l.Boolean) }
	}
	if seen := l.Object(it.AtValue(), fields); seen["secret"] && seen["secret_file"] {
		l.Fault(it, "wants either a secret or a secret_file")
	}
	return e
}

// ranges reads networks, such as 10.1.0.0/16, or single IP addresses.
func (l *loader) ranges(it item) (found []netip.Prefix) {
	l.List(it, func(_ int, e item) {
		text, ok := l.Text(e)
		if !ok {
			return
		}
		p, err := netip.ParsePrefix(text)
		if ip, alone := netip.ParseAddr(text); alone == nil && ip.Zone() == "" {
			p, err = netip.PrefixFrom(ip, ip.BitLen()), nil
		}
		switch {
		case err != nil || p.Addr().Is4In6():
			l.Fault(e, "want a range such as 10.1.0.0/16, or an IP address, got %q", document.Clip(text))
		case p != p.Masked():
			l.Fault(e, "%s begins at %s", p, p.Masked().Addr())
		default:
			found = append(found, p)
		}
	})
	return found
}

// addressHeaders reads what is sent with every call.
func (l *loader) addressHeaders(at string, it item) map[string]string {
	headers := l.pairs(it, headerName)
	for _, own := range ownHeaders {
		for name := range headers {
			if strings.EqualFold(name, own) {
				l.Fault(it, "%s is what the hypervisor says itself", name)
			}
		}
	}
	if u, err := url.Parse(at); err == nil && u.Scheme == "http" && !loopback(net.JoinHostPort(u.Hostname(), "1")) {
		l.Fault(it, "they would go in the clear; want https, or a loopback address")
	}
	return headers
}

// secret reads a secret, which the environment may hold.
func (l *loader) secret(it item) []byte {
	text, ok := l.private(it)
	if !ok || l.environ == nil && reference.MatchString(text) { // it is only looked whether the file is sound
		return nil
	}
	return l.decoded(it, text)
}

// secretIn reads a secret from a file, of which the configuration's digest says nothing.
func (l *loader) secretIn(it item) []byte {
	name, ok := l.Text(it)
	switch {
	case !ok:
		return nil
	case l.readSecret == nil:
		l.Fault(it, "only a configuration that is a file itself can name another")
		return nil
	}
	b, err := l.readSecret(l.beside(name))
	if err != nil {
		l.Fault(it, "%v", err)
		return nil
	}
	return l.decoded(it, strings.TrimSpace(string(b)))
}

// decoded returns the bytes of a secret as Standard Webhooks writes it.
func (l *loader) decoded(it item, text string) []byte {
	secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, secretPrefix))
	if err != nil || len(secret) < leastSecret {
		l.Fault(it, "is no secret: want %s and at least %d bytes in base64", secretPrefix, leastSecret)
		return nil
	}
	return secret
}
