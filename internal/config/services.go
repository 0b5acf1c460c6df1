package config

import (
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// services.go: what is asked beyond this machine.

// Services are those that are asked about agents.
type Services struct {
	Reputation *Reputation // nil: none
}

// A Reputation is the service that rates agents.
type Reputation struct {
	URL     string
	Headers map[string]string // sent with every question
	Timeout time.Duration     // zero: package reputation's
	Cache   time.Duration     // zero: package reputation's
	// TokenEnv names the environment variable that holds a token, sent as Authorization: Bearer; empty: none is.
	TokenEnv string
	// NoReports: it is asked, and told nothing.
	NoReports bool
}

// LogValue returns the service without the values of its headers, where the secrets are.
func (r *Reputation) LogValue() slog.Value {
	return slog.GroupValue(slog.String("url", r.URL), slog.Any("headers", slices.Sorted(maps.Keys(r.Headers))), slog.String("token_env", r.TokenEnv))
}

// The bounds of what is asked: a join waits for it.
const (
	leastTimeout, mostTimeout = 10 * time.Millisecond, 30 * time.Second
	leastCache, mostCache     = time.Second, 24 * time.Hour
)

func (l *loader) services(it item) {
	l.Object(it, map[string]field{"reputation": func(it item) {
		var r Reputation
		seen := l.Object(it, map[string]field{
			"url":       func(it item) { set(&r.URL, it, l.url) },
			"headers":   func(it item) { r.Headers = l.pairs(it, headerName) },
			"token_env": func(it item) { set(&r.TokenEnv, it, l.variable) },
			"report": func(it item) {
				if yes, ok := l.Boolean(it); ok {
					r.NoReports = !yes
				}
			},
			"timeout": func(it item) {
				set(&r.Timeout, it, func(it item) (time.Duration, bool) { return l.Duration(it, leastTimeout, mostTimeout) })
			},
			"cache": func(it item) {
				set(&r.Cache, it, func(it item) (time.Duration, bool) { return l.Duration(it, leastCache, mostCache) })
			},
		})
		if !seen["url"] {
			l.Fault(it, "url is missing")
		}
		if seen["token_env"] && hasAuthorization(r.Headers) {
			l.Fault(it, "token_env and a header Authorization: one of them")
		}
		l.Services.Reputation = &r
	}})
}

// variable reads the name of an environment variable.
func (l *loader) variable(it item) (string, bool) {
	name, ok := l.Text(it)
	if ok && !variableName.MatchString(name) {
		l.Fault(it, "want the name of an environment variable such as REPUTATION_TOKEN, got %q", name)
		return "", false
	}
	return name, ok
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

func hasAuthorization(headers map[string]string) bool {
	for name := range headers {
		if strings.EqualFold(name, "Authorization") {
			return true
		}
	}
	return false
}
