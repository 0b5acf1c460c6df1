package config

import (
	"log/slog"
	"maps"
	"slices"
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
}

// LogValue returns the service without the values of its headers, where the secrets are.
func (r *Reputation) LogValue() slog.Value {
	return slog.GroupValue(slog.String("url", r.URL), slog.Any("headers", slices.Sorted(maps.Keys(r.Headers))))
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
			"url":     func(it item) { set(&r.URL, it, l.url) },
			"headers": func(it item) { r.Headers = l.pairs(it, headerName) },
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
		l.Services.Reputation = &r
	}})
}
