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
	Drift      *Service    // nil: none
}

// A Service is asked over HTTP.
type Service struct {
	URL     string
	Headers map[string]string // sent with every question
	Timeout time.Duration     // zero: its package's
	Cache   time.Duration     // zero: its package's
	// TokenEnv names the environment variable that holds a token, sent as Authorization: Bearer; empty: none is.
	TokenEnv string
}

// A Reputation is the service that rates agents.
type Reputation struct {
	Service
	NoReports bool // it is asked, and told nothing
}

// LogValue returns the service without the values of its headers, where the secrets are.
func (s *Service) LogValue() slog.Value {
	return slog.GroupValue(slog.String("url", s.URL), slog.Any("headers", slices.Sorted(maps.Keys(s.Headers))), slog.String("token_env", s.TokenEnv))
}

// The bounds of what is asked: a join waits for it.
const (
	leastTimeout, mostTimeout = 10 * time.Millisecond, 30 * time.Second
	leastCache, mostCache     = time.Second, 24 * time.Hour
)

func (l *loader) services(it item) {
	l.Object(it, map[string]field{
		"reputation": func(it item) {
			l.Services.Reputation = &Reputation{}
			l.service(it, &l.Services.Reputation.Service, map[string]field{"report": func(it item) {
				if yes, ok := l.Boolean(it); ok {
					l.Services.Reputation.NoReports = !yes
				}
			}})
		},
		"drift": func(it item) {
			l.Services.Drift = &Service{}
			l.service(it, l.Services.Drift, map[string]field{})
		},
	})
}

// service reads what all services have, and more.
func (l *loader) service(it item, s *Service, more map[string]field) {
	maps.Copy(more, map[string]field{
		"url":       func(it item) { set(&s.URL, it, l.url) },
		"headers":   func(it item) { s.Headers = l.pairs(it, headerName) },
		"token_env": func(it item) { set(&s.TokenEnv, it, l.variable) },
		"timeout": func(it item) {
			set(&s.Timeout, it, func(it item) (time.Duration, bool) { return l.Duration(it, leastTimeout, mostTimeout) })
		},
		"cache": func(it item) {
			set(&s.Cache, it, func(it item) (time.Duration, bool) { return l.Duration(it, leastCache, mostCache) })
		},
	})
	seen := l.Object(it, more)
	if !seen["url"] {
		l.Fault(it, "url is missing")
	}
	if seen["token_env"] && hasAuthorization(s.Headers) {
		l.Fault(it, "token_env and a header Authorization: one of them")
	}
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
