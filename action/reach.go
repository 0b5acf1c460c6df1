package action

import (
	"net/url" // parses; it opens nothing
	"strings"
)

// HostCovers reports whether an entry of a session's network allowlist takes in a resource: a URL whose host is the entry,
// or, for an entry "*.example.com", a host beneath it. Case does not count. A resource that is not a URL has no host.
func HostCovers(entry, resource string) bool {
	u, err := url.Parse(resource)
	if err != nil || u.Host == "" {
		return false
	}
	host, entry := strings.ToLower(u.Hostname()), strings.ToLower(entry)
	if beneath, ok := strings.CutPrefix(entry, "*"); ok && strings.HasPrefix(beneath, ".") {
		return strings.HasSuffix(host, beneath) && len(host) > len(beneath)
	}
	return host == entry
}

// PathCovers reports whether an entry of a session's file scope takes in a resource: the path itself, or one beneath it, by
// whole segments. Both are normalised paths; one with a ".." in it is covered by nothing.
func PathCovers(entry, resource string) bool {
	for segment := range strings.SplitSeq(resource, "/") {
		if segment == ".." {
			return false
		}
	}
	entry = strings.TrimRight(entry, "/")
	return resource == entry || strings.HasPrefix(resource, entry+"/")
}
