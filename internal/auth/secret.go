package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/agenthypervisor/hypervisor/audit"
)

const (
	secretPrefix = "hvt_" // so that scanners for leaked secrets find it
	secretBytes  = 32
)

// redacted stands for a secret wherever one is printed.
const redacted = secretPrefix + "(redacted)"

var (
	// ErrUnauthenticated is returned, wrapped with what is missing, for a request that does not show who makes it.
	ErrUnauthenticated = errors.New("unauthenticated")
	// ErrForbidden is returned, wrapped with why, for a request whose maker is known and is not let in here.
	ErrForbidden = errors.New("forbidden")
)

// A Secret is a token as its bearer shows it. It prints and encodes as redacted; Reveal says it. The zero Secret is none.
type Secret struct{ text *string } // behind a pointer: package fmt prints what an unexported field holds

// NewSecret makes a secret of 256 random bits.
func NewSecret() Secret {
	var b [secretBytes]byte
	rand.Read(b[:])
	text := secretPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return Secret{&text}
}

// ParseSecret reads a secret. Its error repeats nothing of the text.
func ParseSecret(text string) (Secret, error) {
	body, ok := strings.CutPrefix(text, secretPrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if !ok || err != nil || len(b) != secretBytes || strings.ContainsAny(body, "\r\n") { // the decoder skips line ends
		return Secret{}, fmt.Errorf("%w: a token is %s and 43 characters", ErrUnauthenticated, secretPrefix)
	}
	return Secret{&text}, nil
}

// Reveal returns the secret's text, to be given to whom it is for.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Hash returns what is kept of the secret.
func (s Secret) Hash() audit.Hash { return sha256.Sum256([]byte(s.Reveal())) }

// String returns a text that says nothing.
func (Secret) String() string { return redacted }

// GoString returns a text that says nothing.
func (Secret) GoString() string { return redacted }

// Format prints a text that says nothing, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns a text that says nothing.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns a text that says nothing.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// bearer returns the secret a request shows, and false where it shows none. It looks at the Authorization header alone
// (RFC 6750 §2.1): an address is written to logs and histories.
func bearer(r *http.Request) (s Secret, shown bool, err error) {
	values := r.Header.Values("Authorization")
	switch {
	case len(values) == 0:
		return Secret{}, false, nil
	case len(values) > 1:
		return Secret{}, true, fmt.Errorf("%w: Authorization is said %d times", ErrUnauthenticated, len(values))
	}
	scheme, text, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return Secret{}, true, fmt.Errorf("%w: want Authorization: Bearer and a token", ErrUnauthenticated)
	}
	s, err = ParseSecret(text)
	return s, true, err
}
