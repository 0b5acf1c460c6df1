package session_test

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/session"
)

// SPEC §1: "Identifiers: ^[a-zA-Z0-9]([a-zA-Z0-9._:-]*[a-zA-Z0-9])?$, ≤ 256 bytes."
func TestIdentifiersAreThoseOfTheSpec(t *testing.T) {
	spec := regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._:-]*[a-zA-Z0-9])?$`)
	check := func(t rapid.TB, text string) {
		if want := spec.MatchString(text) && len(text) <= 256; session.ValidID(text) != want {
			t.Errorf("%q: got %t, want %t", text, !want, want)
		}
	}
	for _, text := range []string{"", "a", "-", "a-", "-a", "a-a", "a..a", "a b", "a\n", "é", "aé", "a\x00", "@", "[", "`", "{", "/", ":", "a:b",
		strings.Repeat("a", 256), strings.Repeat("a", 257)} {
		check(t, text)
	}
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.StringMatching(`[a-c0-9._:\- /é]{0,8}`).Draw(t, "text")) })
}
