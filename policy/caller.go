package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// A DID names an agent or a person: did:method:identifier (W3C DID Core §3.1). The zero DID names nobody.
type DID string

// MaxDIDBytes bounds a DID.
const MaxDIDBytes = 256

// ErrDID is returned for a text that is not a DID.
var ErrDID = errors.New("not a DID (did:method:identifier)")

// ParseDID returns text as a DID, or ErrDID. It checks the syntax of W3C DID Core §3.1, not that anybody can prove it.
func ParseDID(text string) (DID, error) {
	rest, ok := strings.CutPrefix(text, "did:")
	method, id, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 || method == "" || id == "" || strings.HasSuffix(id, ":") || len(text) > MaxDIDBytes {
		return "", fmt.Errorf("%q: %w", clip(text), ErrDID)
	}
	for _, c := range method {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return "", fmt.Errorf("%q: %w: method has %q", clip(text), ErrDID, c)
		}
	}
	for i, r := range id {
		switch c := id[i]; {
		case c == '%' && !(i+2 < len(id) && isHex(id[i+1]) && isHex(id[i+2])):
			return "", fmt.Errorf("%q: %w: %% without two hex digits", clip(text), ErrDID)
		case !isIDChar(c):
			return "", fmt.Errorf("%q: %w: identifier has %q", clip(text), ErrDID, r)
		}
	}
	return DID(text), nil
}

func isIDChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' || c == ':' || c == '%'
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func clip(text string) string {
	const most = 80
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}

// UnmarshalJSON reads a string that is a DID.
func (d *DID) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	return d.UnmarshalText([]byte(text))
}

// UnmarshalText reads a DID; the empty text is the zero DID.
func (d *DID) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*d = ""
		return nil
	}
	*d, err = ParseDID(string(b))
	return err
}

// A Role is what a caller may do at all (SPEC §7). The zero Role is none and may do nothing.
type Role uint8

// The roles.
const (
	NoRole Role = iota
	AgentRole
	ApproverRole
	AuditorRole
	ServiceRole
	OperatorRole
	SystemRole // the hypervisor itself: deadlines, outcomes, recovery
)

var roles = [...]string{"none", "agent", "approver", "auditor", "service", "operator", "system"}

// String returns the role's word.
func (r Role) String() string { return roles[r] }

// MarshalText returns the role's word.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a role's word.
func (r *Role) UnmarshalText(b []byte) error {
	for i, word := range roles {
		if string(b) == word {
			*r = Role(i)
			return nil
		}
	}
	return fmt.Errorf("role %q is not one of %s", b, strings.Join(roles[1:], ", "))
}

// A Caller is who asks, as a door found out; never what a request says of itself.
type Caller struct {
	DID  DID    `json:"did"`
	Role Role   `json:"role"`
	Via  string `json:"via"` // the door: library, stdio, socket, config, clock
}

// The callers below are those of a Go program that embeds the hypervisor: it vouches for them by naming them.

// Agent returns an agent that the embedding program vouches for.
func Agent(did DID) Caller { return Caller{did, AgentRole, "library"} }

// Approver returns an approver that the embedding program vouches for.
func Approver(did DID) Caller { return Caller{did, ApproverRole, "library"} }

// Operator returns an operator that the embedding program vouches for.
func Operator(did DID) Caller { return Caller{did, OperatorRole, "library"} }

// Auditor returns an auditor that the embedding program vouches for.
func Auditor(did DID) Caller { return Caller{did, AuditorRole, "library"} }

// System is the hypervisor itself.
var System = Caller{DID: "did:mesh:hypervisor", Role: SystemRole, Via: "clock"}

// Through returns the caller as having come through another door.
func (c Caller) Through(door string) Caller {
	c.Via = door
	return c
}

// MayApprove reports whether the caller can grant and deny on its own: an approver, or an operator, who may do all.
func (c Caller) MayApprove() bool { return c.Role == ApproverRole || c.Role == OperatorRole }

// Runs reports whether the caller runs the place: an operator, or the hypervisor itself.
func (c Caller) Runs() bool { return c.Role == OperatorRole || c.Role == SystemRole }
