package config

import (
	"log/slog"
	"net"
	"net/url"
	"regexp"
)

// An OAuth is how the hypervisor itself gets a token for a server: by client credentials (RFC 6749 §4.4).
type OAuth struct {
	TokenURL     string
	ClientID     string
	ClientSecret string
	Scopes       []string
	Params       map[string]string // more form fields, such as resource or audience
}

// LogValue returns the credentials without their secret.
func (o OAuth) LogValue() slog.Value {
	return slog.GroupValue(slog.String("token_url", o.TokenURL), slog.String("client_id", o.ClientID))
}

var formField = regexp.MustCompile(`^[a-zA-Z0-9._~-]+$`)

func (l *loader) oauth(server string, it item) *OAuth {
	var o OAuth
	before := len(*l.Faults)
	seen := l.Object(it.AtValue(), map[string]field{
		"token_url":     func(it item) { set(&o.TokenURL, it, l.secretURL) },
		"client_id":     func(it item) { set(&o.ClientID, it, l.private) },
		"client_secret": func(it item) { set(&o.ClientSecret, it, l.private) },
		"scopes":        func(it item) { o.Scopes = l.Texts(it, l.Text) },
		"params":        func(it item) { o.Params = l.pairs(it, formField) },
	})
	for _, key := range []string{"token_url", "client_id", "client_secret"} {
		if len(*l.Faults) == before && !seen[key] {
			l.Fault(it, "%s is missing", key)
		}
	}
	l.late = append(l.late, func() {
		if l.MCPServers[server].Command != "" {
			l.Fault(it, "a server that is a command shows no token")
		}
	})
	return &o
}

// secretURL reads an address that a secret may be sent to.
func (l *loader) secretURL(it item) (string, bool) {
	s, ok := l.url(it)
	if !ok {
		return "", false
	}
	if u, err := url.Parse(s); err == nil && u.Scheme != "https" && !loopback(net.JoinHostPort(u.Hostname(), "1")) {
		l.Fault(it, "the secret would go in the clear; want https, or a loopback address")
		return "", false
	}
	return s, true
}
