package action

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// address.go: an action that is a call of an http(s) address (SPEC §5). Its id is the address itself.

// ErrAddress is returned, wrapped with what is wrong, by CheckAddress.
var ErrAddress = errors.New("not an address")

// IsAddress reports whether an action's id is an address. It need not be a sound one.
func IsAddress(id string) bool {
	return strings.HasPrefix(id, "https://") || strings.HasPrefix(id, "http://")
}

// addressShape is an absolute URL of RFC 3986 with a host, and without user information, which is a secret, and fragment, which is
// sent to nobody.
var addressShape = regexp.MustCompile(`^https?://([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?([/?][a-zA-Z0-9._~:/?@!$&'()*+,;=%\[\]-]*)?$`)

// escapedSlash is read as a separator by some servers and as a character by others.
var escapedSlash = regexp.MustCompile(`(?i)%(2f|5c)`)

// CheckAddress returns ErrAddress for a text that is not the one spelling of an address which every program reads alike: a rule
// about a place could be walked around with another. One slash at the end of its path is its own.
func CheckAddress(text string) error {
	if len(text) > MaxIDBytes {
		return fmt.Errorf("%w: longer than %d bytes", ErrAddress, MaxIDBytes)
	}
	if !addressShape.MatchString(text) {
		return fmt.Errorf("%w: want an address such as https://deploy.example/east, without user and fragment, got %q", ErrAddress, clipText(text))
	}
	normal, err := NormaliseResource(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAddress, err)
	}
	head, _, hasQuery := strings.Cut(text, "?")
	if escapedSlash.MatchString(head) {
		return fmt.Errorf("%w: some servers read an escaped slash as a slash: %q", ErrAddress, clipText(text))
	}
	if strings.HasSuffix(head, "/") { // the normal form is without it, but for that of an empty path
		base, rest, _ := strings.Cut(normal, "?")
		if normal = strings.TrimSuffix(base, "/") + "/"; hasQuery {
			normal += "?" + rest
		}
	}
	if text != normal {
		return fmt.Errorf("%w: %q has another spelling; write it as %q", ErrAddress, clipText(text), clipText(normal))
	}
	if port := addressShape.FindStringSubmatch(text)[2]; port != "" && !validPort(port[1:]) {
		return fmt.Errorf("%w: there is no port %s: %q", ErrAddress, port[1:], clipText(text))
	}
	return nil
}

// validPort reports whether digits are a port that can be connected to, in their one spelling.
func validPort(digits string) bool {
	n, err := strconv.ParseUint(digits, 10, 16)
	return err == nil && n > 0 && digits[0] != '0'
}
