package gateway

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAPlainNameIsShownAsItIsAndAnOddOneWithAHash(t *testing.T) {
	for _, tt := range []struct{ server, tool, want string }{
		{"files", "read_file", "files__read_file"},
		{"files", "_read", "files___read"},
		{"files", "a__b", "files__a__b"},
		{"files", "read.file", "files__read_file_"},
		{"files_", "read", "files___read_"},
		{"fi__les", "read", "fi__les__read_"},
		{"files", "x_0123456789abcdef", "files__x_0123456789abcdef_"},
		{"files", strings.Repeat("x", 100), "files__" + strings.Repeat("x", 40) + "_"},
	} {
		got := shownName(tt.server, tt.tool)
		if got != tt.want && (!strings.HasSuffix(tt.want, "_") || !strings.HasPrefix(got, tt.want) || !hashedName.MatchString(got)) {
			t.Errorf("%s of %s is shown as %s, want %s", tt.tool, tt.server, got, tt.want)
		}
	}
}

func TestNoTwoToolsOfAnyServersHaveOneName(t *testing.T) {
	part := rapid.StringMatching(`[a_]{1,4}|[a-z._/-]{1,70}|x_[0-9a-f]{16}`)
	server := rapid.StringMatching(`[a-b][a_]{0,5}|[a-zA-Z0-9_-]{60,64}`).Filter(serverName.MatchString)
	shape := regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	rapid.Check(t, func(t *rapid.T) {
		s1, t1, s2, t2 := server.Draw(t, "s1"), part.Draw(t, "t1"), server.Draw(t, "s2"), part.Draw(t, "t2")
		a, b := shownName(s1, t1), shownName(s2, t2)
		if !shape.MatchString(a) || !shape.MatchString(b) {
			t.Fatalf("%q, %q", a, b)
		}
		if a == b && (s1 != s2 || t1 != t2) {
			t.Fatalf("%s of %s and %s of %s are both %s", t1, s1, t2, s2, a)
		}
		if a != shownName(s1, t1) {
			t.Fatal("not stable")
		}
		// One's plain name is not what another's is shown as.
		if long := s1 + "__" + t1; long == b && !hashedName.MatchString(b) && (s1 != s2 || t1 != t2) && a == long {
			t.Fatalf("%s shadows %s", a, b)
		}
	})
}

func TestServersThatCannotStandBesideEachOtherAreRefused(t *testing.T) {
	c := &Command{Path: "x"}
	for name, specs := range map[string][]ServerSpec{
		"a homoglyph":    {{Name: "fil\u0435s", Command: c}}, // a Cyrillic e
		"our own name":   {{Name: "hypervisor", Command: c}},
		"a dot":          {{Name: "a.b", Command: c}},
		"no name":        {{Command: c}},
		"twice":          {{Name: "a", Command: c}, {Name: "a", Endpoint: &Endpoint{}}},
		"neither":        {{Name: "a"}},
		"both":           {{Name: "a", Command: c, Endpoint: &Endpoint{}}},
		"a hidden space": {{Name: "a\u200b", Command: c}},
	} {
		if _, err := NewHub(nil, &HubOptions{Servers: specs}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
