package action

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxResourceBytes bounds the name of a resource.
const MaxResourceBytes = 4096

// ErrResource is returned, wrapped with what is wrong, for a text that names no resource beyond doubt.
var ErrResource = errors.New("not a resource")

// NormaliseResource returns the one spelling of a resource, so that two names of the same thing are equal and a rule about a
// place cannot be walked around. The empty text is no resource and stays empty.
//
// A path loses ".", ".." and doubled or trailing slashes. A URL (scheme://) gets a lower-case scheme and host and loses
// its user, the port that is the scheme's own, and the fragment; escapes of unreserved characters are undone and the
// others spelt in upper case (RFC 3986 §6.2.2), then its path is cleaned like any. file:///a is /a. An escaped slash (%2F)
// is not a slash. What a name means beyond its spelling (links, letter case, Unicode forms) it does not know.
//
// It returns ErrResource for control characters, invalid UTF-8, more than MaxResourceBytes, and URLs that programs are known
// to read differently (a backslash, white space, a broken escape, http:/x, a host that is not ASCII).
// It is idempotent.
func NormaliseResource(text string) (string, error) {
	switch {
	case text == "":
		return "", nil
	case len(text) > MaxResourceBytes:
		return "", fmt.Errorf("%w: longer than %d bytes", ErrResource, MaxResourceBytes)
	case !utf8.ValidString(text):
		return "", fmt.Errorf("%w: invalid UTF-8", ErrResource)
	case strings.ContainsFunc(text, unicode.IsControl):
		return "", fmt.Errorf("%w: %q has a control character", ErrResource, text)
	}
	scheme, rest, isURL := cutScheme(text)
	if isURL {
		return normaliseURL(text, scheme, rest)
	}
	clean := path.Clean(text)
	if s := strings.TrimSpace(clean); s != clean || !isPlain(s) {
		if _, _, hidden := cutScheme(s); hidden || !isPlain(s) {
			return "", fmt.Errorf("%w: %q is read as a URL by some programs and as a path by others", ErrResource, text)
		}
	}
	return clean, nil
}

// webSchemes are those whose URLs browsers and their kin repair instead of refusing; with the port each implies.
var webSchemes = map[string]string{"http": ":80", "https": ":443", "ws": ":80", "wss": ":443", "ftp": ":21"}

// isPlain reports whether a text that is no URL does not look like a broken one of the web, such as https:/host.
func isPlain(text string) bool {
	scheme, _, ok := strings.Cut(text, ":")
	return !ok || webSchemes[strings.ToLower(scheme)] == "" && !strings.EqualFold(scheme, "file")
}

// cutScheme splits scheme://rest (RFC 3986 §3.1), the scheme in lower case.
func cutScheme(text string) (scheme, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(text, "://")
	if !ok || scheme == "" {
		return "", "", false
	}
	for i, c := range []byte(scheme) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		other := c >= '0' && c <= '9' || c == '+' || c == '-' || c == '.'
		if !letter && (i == 0 || !other) {
			return "", "", false
		}
	}
	return strings.ToLower(scheme), rest, true
}

func normaliseURL(text, scheme, rest string) (string, error) {
	if strings.ContainsFunc(rest, func(r rune) bool { return r == '\\' || unicode.IsSpace(r) }) {
		return "", fmt.Errorf("%w: URL %q has a backslash or white space", ErrResource, text)
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, query, hasQuery := strings.Cut(rest, "?")
	authority, p := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, p = rest[:i], rest[i:]
	}
	host, err := normaliseHost(scheme, authority)
	if err != nil {
		return "", err
	}
	if scheme == "file" {
		return normaliseFile(text, host, p)
	}
	if p, err = unescape(p, isUnreserved); err != nil {
		return "", err
	}
	if query, err = unescape(query, isUnreserved); err != nil {
		return "", err
	}
	out := scheme + "://" + host + path.Clean("/"+p)
	if hasQuery {
		out += "?" + query
	}
	if len(out) > MaxResourceBytes { // the slash of an empty path
		return "", fmt.Errorf("%w: longer than %d bytes", ErrResource, MaxResourceBytes)
	}
	return out, nil
}

// normaliseHost drops the user, whose name and password are nobody's business, and the port that goes without saying.
func normaliseHost(scheme, authority string) (string, error) {
	host, err := unescape(authority[strings.LastIndexByte(authority, '@')+1:], isUnreserved)
	if err != nil {
		return "", err
	}
	for _, c := range []byte(host) {
		if c >= utf8.RuneSelf || c == '%' {
			return "", fmt.Errorf("%w: host %q: write it in ASCII (punycode)", ErrResource, host)
		}
	}
	host = strings.ToLower(host)
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		name, port = host[:i], host[i:]
	}
	if port == ":" || port != "" && port == webSchemes[scheme] {
		port = ""
	}
	name = strings.TrimRight(name, ".")
	if name == "" && scheme != "file" || strings.Contains(name, ":") && !strings.HasPrefix(name, "[") {
		return "", fmt.Errorf("%w: %s URL with host %q", ErrResource, scheme, host)
	}
	return name + port, nil
}

// normaliseFile makes the path it is of a file URL.
func normaliseFile(text, host, p string) (string, error) {
	if host != "" && host != "localhost" {
		return "", fmt.Errorf("%w: file URL of another host, %q", ErrResource, host)
	}
	p, err := unescape(p, func(byte) bool { return true })
	if err != nil {
		return "", err
	}
	if !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) {
		return "", fmt.Errorf("%w: %q escapes a control character or invalid UTF-8", ErrResource, text)
	}
	return path.Clean("/" + p), nil
}

// unescape undoes the percent escapes of the characters that plain says and spells the others in upper case.
func unescape(text string, plain func(byte) bool) (string, error) {
	if !strings.Contains(text, "%") {
		return text, nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		if i+2 >= len(text) || unhex(text[i+1]) > 15 || unhex(text[i+2]) > 15 {
			return "", fmt.Errorf("%w: broken escape in %q", ErrResource, text)
		}
		c := unhex(text[i+1])<<4 | unhex(text[i+2])
		switch {
		case c < ' ' || c == 0x7f:
			return "", fmt.Errorf("%w: %q escapes a control character", ErrResource, text)
		case plain(c):
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
		i += 2
	}
	return b.String(), nil
}

// isUnreserved is RFC 3986 §2.3.
func isUnreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// unhex returns the value of a hexadecimal digit, above 15 for anything else.
func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

// Under reports whether resource is place or lies beneath it, by whole segments. Both MUST be normalised. Nothing is under
// the empty place, and the empty resource is under none; everything relative that does not climb out is under ".".
func Under(resource, place string) bool {
	switch {
	case resource == "" || place == "":
		return false
	case resource == place:
		return true
	case place == ".":
		return resource[0] != '/' && !strings.Contains(resource, "://") && resource != ".." && !strings.HasPrefix(resource, "../")
	}
	if base, _, ok := strings.Cut(resource, "?"); ok && strings.Contains(base, "://") {
		resource = base // a question about a place is about that place
	}
	rest, ok := strings.CutPrefix(resource, place)
	if rest == "/.." || strings.HasPrefix(rest, "/../") {
		return false // ../.. is not under ..
	}
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(place, "/"))
}
