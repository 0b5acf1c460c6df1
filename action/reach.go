package action

import (
	"errors"
	"strings"
	"unicode"
)

// ErrHost is returned for what names no host.
var ErrHost = errors.New("want a host such as api.example, api.example:8443 or *.example")

// ParseHost returns an entry of a network allowlist in lower case: a host, one with a port, or "*.example.com" for all beneath it; or
// ErrHost, for a URL or another text that would take in nothing.
func ParseHost(text string) (string, error) {
	if text == "" || strings.ContainsAny(text, "/@?#\\") || strings.ContainsFunc(text, unicode.IsSpace) || strings.Contains(strings.TrimPrefix(text, "*."), "*") {
		return "", ErrHost
	}
	return strings.ToLower(text), nil
}

// HostCovers reports whether an entry of a session's network allowlist takes in a resource: a URL whose host is the entry,
// on any port unless the entry names one, or, for an entry "*.example.com", a host beneath it. The resource MUST be normalised; one that is not a URL has no host.
func HostCovers(entry, resource string) bool {
	_, rest, ok := strings.Cut(resource, "://")
	if !ok {
		return false
	}
	host, _, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, "?")
	entry = strings.ToLower(entry)
	if host == entry {
		return host != ""
	}
	if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
		host = host[:colon]
	}
	if beneath, ok := strings.CutPrefix(entry, "*"); ok && strings.HasPrefix(beneath, ".") {
		return strings.HasSuffix(host, beneath) && len(host) > len(beneath)
	}
	return host != "" && host == entry
}

// PathCovers reports whether an entry of a session's file scope takes in a resource: the path itself, or one beneath it, by
// whole segments. The resource MUST be normalised; an entry that cannot be is nothing's.
func PathCovers(entry, resource string) bool {
	place, err := NormaliseResource(entry)
	return err == nil && Under(resource, place)
}
