package action

import (
	"errors"
	"strings"
	"testing"
)

func TestResourceHasOneSpelling(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "/": "/", "/prod/": "/prod", "//prod///a": "/prod/a", "/a/../prod/./x": "/prod/x", "/../prod": "/prod",
		"a/../../b": "../b", "a/..": ".", "user:42": "user:42", `C:\prod`: `C:\prod`, "/a%70": "/a%70", "/weiß/ ": "/weiß/ ",
		"HTTPS://Example.COM:443/A/../b/?Q=1#frag": "https://example.com/b?Q=1",
		"http://h":                    "http://h/",
		"http://h:8080/a":             "http://h:8080/a",
		"https://h:80/":               "https://h:80/",
		"https://h.:/":                "https://h/",
		"https://user:pw@h/a":         "https://h/a",
		"https://prod@evil.example/":  "https://evil.example/",
		"https://h/%70rod/%2e%2e/x":   "https://h/x",
		"https://h/a%2fb":             "https://h/a%2Fb",
		"https://h/%2570":             "https://h/%2570",
		"https://h?x=%41":             "https://h/?x=A",
		"https://[::1]:443/a":         "https://[::1]/a",
		"https://%65xample.com/":      "https://example.com/",
		"postgres://db:5432/app":      "postgres://db:5432/app",
		"file:///prod/%78":            "/prod/x",
		"FILE://localhost/a%2F..%2Fb": "/b",
		"file://":                     "/",
	} {
		got, err := NormaliseResource(text)
		if err != nil || got != want {
			t.Errorf("NormaliseResource(%q) = %q, %v; want %q", text, got, err, want)
		}
		if again, err := NormaliseResource(got); err != nil || again != got {
			t.Errorf("NormaliseResource(%q) = %q, %v: it was normalised", got, again, err)
		}
	}
}

func TestDoubtfulResourcesAreRefused(t *testing.T) {
	for _, text := range []string{
		"/a\x00b", "/a\nb", "/a\u0085b", "/a\xff", strings.Repeat("a", MaxResourceBytes+1), "http://" + strings.Repeat("a", MaxResourceBytes-7),
		"https:/h/x", "https:h", "HTTPS:\\\\h", " https://h/", "./http://h", "file:/etc/passwd", `https://evil\@h/`, "https://h /x",
		"https://h/%", "https://h/%zz", "https://h/%00", "https://h/%0a", "https://", "https://:80/", "https://a:b:c/", "https://\u212Aelvin/", "https://%ff/",
		"file://other/x", "file:///%00", "file:///%ff",
	} {
		if got, err := NormaliseResource(text); !errors.Is(err, ErrResource) {
			t.Errorf("NormaliseResource(%q) = %q, %v; want ErrResource", text, got, err)
		}
	}
}

func TestUnderGoesByWholeSegments(t *testing.T) {
	for _, c := range []struct {
		resource, place string
		want            bool
	}{
		{"/prod", "/prod", true}, {"/prod/x/y", "/prod", true}, {"/production", "/prod", false}, {"/x/prod", "/prod", false},
		{"/anything", "/", true}, {"/", "/", true}, {"relative", "/", false}, {"", "/", false}, {"/x", "", false}, {"", "", false},
		{"a/b", ".", true}, {"../a", ".", false}, {"..", ".", false}, {"..a", ".", true}, {"/a", ".", false}, {"https://h/", ".", false},
		{"../a", "..", true}, {"../..", "..", false}, {"../../a", "..", false},
		{"https://h/prod/x", "https://h/prod", true}, {"https://h/prod?v=1", "https://h/prod", true}, {"https://h/prods", "https://h/prod", false},
		{"https://h/x", "https://h/", true}, {"https://h.evil/x", "https://h/", false}, {"https://h/x?a", "https://h/x?a", true},
		{"/what?", "/what", false},
	} {
		if got := Under(c.resource, c.place); got != c.want {
			t.Errorf("Under(%q, %q) = %v", c.resource, c.place, got)
		}
	}
}

func FuzzNormaliseResource(f *testing.F) {
	for _, s := range []string{"", "/a/../b", "HTTP://U@H:80/%2e%2E/x?y#z", "file:///a%2fb", "./http://x", "https://[::1]/", " a", "a://b:c@d:e/%41?%42", "http://.%2e:/"} {
		f.Add(s, "/prod")
	}
	f.Fuzz(func(t *testing.T, text, place string) {
		once, err := NormaliseResource(text)
		if err != nil {
			return
		}
		if twice, err := NormaliseResource(once); err != nil || twice != once {
			t.Errorf("%q became %q, then %q, %v", text, once, twice, err)
		}
		if p, err := NormaliseResource(place); err == nil && Under(once, p) && strings.HasPrefix(p, "/") && !strings.HasPrefix(once, p) {
			t.Errorf("%q is under %q", once, p)
		}
	})
}
