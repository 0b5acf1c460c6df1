package action_test

import (
	"testing"

	"github.com/agenthypervisor/hypervisor/action"
)

// SPEC §2, the table: ring 2 reaches the hosts on the session's allowlist, and no host that only looks like one.
func TestHostIsCoveredByItsOwnEntryAlone(t *testing.T) {
	for _, c := range []struct {
		entry, resource string
		want            bool
	}{
		{"api.example", "https://api.example/v1", true},
		{"API.example", "https://api.example", true},
		{"api.example", "https://api.example:8443/v1", true},
		{"api.example:8443", "https://api.example:8443/v1", true},
		{"api.example:8443", "https://api.example/v1", false},
		{"api.example", "https://api.example.evil/v1", false},
		{"api.example", "https://evil/?to=api.example", false},
		{"api.example", "https://evil?https://api.example/", false},
		{"api.example", "/api.example/file", false},
		{"*.example", "https://a.b.example/", true},
		{"*.example", "https://example/", false},
		{"*.example", "https://notexample/", false},
		{"[::1]", "http://[::1]:80/", true},
		{"", "http:///x", false},
	} {
		if got := action.HostCovers(c.entry, c.resource); got != c.want {
			t.Errorf("HostCovers(%q, %q) = %v", c.entry, c.resource, got)
		}
	}
}

// SPEC §2, the table: ring 2 touches files beneath the session's scope, by whole segments.
func TestPathIsCoveredByWholeSegments(t *testing.T) {
	for _, c := range []struct {
		entry, resource string
		want            bool
	}{
		{"/srv/work", "/srv/work", true},
		{"/srv/work/", "/srv/work/a.txt", true},
		{"/srv/work", "/srv/workshop", false},
		{"/srv/work", "/srv", false},
		{"/srv/work", "../srv/work/a", false},
		{"a\x00b", "a", false},
		{"", "/etc/passwd", false},
	} {
		if got := action.PathCovers(c.entry, c.resource); got != c.want {
			t.Errorf("PathCovers(%q, %q) = %v", c.entry, c.resource, got)
		}
	}
}
