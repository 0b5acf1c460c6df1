package action_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/action"
)

// An address has one spelling, so that a rule about a place cannot be walked around.
func TestAnAddressHasOneSpelling(t *testing.T) {
	for _, good := range []string{"https://deploy.example/", "https://deploy.example/east", "http://127.0.0.1:9000/a/", "https://[2001:db8::1]:8443/x", "https://h/a?b=c&d=/e",
		"https://h/?q", "https://h/a%20b", "https://h/a/?q=%2F", "https://h/~a/b@c"} {
		if err := action.CheckAddress(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
		if err := (action.Descriptor{ID: good}).Validate(); err != nil {
			t.Errorf("%s is no id: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"https:///east":                         "without user and fragment",
		"https://a:b@c/east":                    "without user and fragment",
		"https://c/east#x":                      "without user and fragment",
		"ftp://c/east":                          "without user and fragment",
		"https://c/ea st":                       "without user and fragment",
		"https://c/ea\\st":                      "without user and fragment",
		"https://c/a\r\nHost: d":                "without user and fragment",
		"https://c":                             `write it as "https://c/"`,
		"https://c?x":                           `write it as "https://c/?x"`,
		"https://c/a/../../admin":               `write it as "https://c/admin"`,
		"https://c/a/%2e%2e/admin":              `write it as "https://c/admin"`,
		"https://c/a//b":                        `write it as "https://c/a/b"`,
		"https://c/a//":                         `write it as "https://c/a/"`,
		"https://C/a":                           `write it as "https://c/a"`,
		"https://c./a":                          `write it as "https://c/a"`,
		"https://c:443/a":                       `write it as "https://c/a"`,
		"http://c:80/a":                         `write it as "http://c/a"`,
		"https://c/%7ea":                        `write it as "https://c/~a"`,
		"https://c/..%2Fadmin":                  "escaped slash",
		"https://c/..%5cadmin":                  "escaped slash",
		"https://c/%zz":                         "broken escape",
		"https://c/%00":                         "control character",
		"https://c:0/a":                         "no port 0",
		"https://c:99999/a":                     "no port 99999",
		"https://c:08080/a":                     "no port 08080",
		"https://c/" + strings.Repeat("a", 300): "longer than 256 bytes",
	} {
		err := action.CheckAddress(bad)
		if !errors.Is(err, action.ErrAddress) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", bad, err, want)
		}
	}
	if err := (action.Descriptor{ID: "https://c/a/../b"}).Validate(); !errors.Is(err, action.ErrDescriptor) {
		t.Errorf("an id: %v", err)
	}
}
