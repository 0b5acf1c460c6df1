package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/ring"
)

// Consistency says when a session's acknowledgements are durable (SPEC §1). The zero value is Strong.
type Consistency uint8

// The two modes.
const (
	Strong   Consistency = iota // an acknowledgement means durable
	Eventual                    // refusals, reads and read-only calls are acknowledged before they are durable
)

// String returns strong or eventual.
func (c Consistency) String() string {
	if c == Eventual {
		return "eventual"
	}
	return "strong"
}

// MarshalText returns strong or eventual.
func (c Consistency) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads strong or eventual.
func (c *Consistency) UnmarshalText(b []byte) error {
	switch string(b) {
	case "strong", "":
		*c = Strong
	case "eventual":
		*c = Eventual
	default:
		return fmt.Errorf("consistency %q is not one of strong, eventual", b)
	}
	return nil
}

// The bounds and defaults of a session's settings (SPEC §1).
const (
	MaxParticipants        = 1000
	DefaultParticipants    = 10
	MinDuration            = time.Second
	MaxDuration            = 7 * 24 * time.Hour
	DefaultDuration        = time.Hour
	DefaultApprovalTTL     = 15 * time.Minute
	MaxApprovalTTL         = MaxDuration
	DefaultMinSigmaEff     = ring.Sigma(600_000)
	DefaultVouchWeight     = action.Omega(650_000)
	MaxListEntries         = 256  // of network_allow and files_scope
	MaxEntryBytes          = 1024 // of each of them
	MaxIDBytes             = 256
	IDPrefix               = "ses-" // of the ids that sessions are given; no session's name begins with it
	maxConcurrentApprovals = 8      // open, per agent
	maxKeptApprovals       = 64     // open, granted, denied or run out and not yet told of, per agent
)

// Config is what a session is created with. Zero values are the defaults.
type Config struct {
	Name            string        // for people; empty: none
	Consistency     Consistency   // zero: Strong
	MaxParticipants int           // 1–1000; zero: 10
	MaxDuration     time.Duration // 1 s–7 d; zero: 1 h
	MinSigmaEff     *ring.Sigma   // under it an agent is held in ring 3; nil: 0.60
	VouchWeight     *action.Omega // how much of a bond counts; nil: 0.65
	NoAudit         bool          // true: no leaf in the transparency log; the session's own log stays
	ApprovalTTL     time.Duration // how long an approval waits, and then a grant lasts; at most 7 d; zero: 15 min
	NetworkAllow    []string      // hosts that ring 2 may reach; "*.example.com" takes in all beneath it
	FilesScope      []string      // paths beneath which ring 2 may touch the host's files
}

// ErrConfig is returned, wrapped with what is wrong, for settings out of their bounds.
var ErrConfig = errors.New("bad session configuration")

// Resolved returns the configuration with the defaults filled in, or ErrConfig.
func (c Config) Resolved() (Config, error) {
	def := func(v, zero int64) int64 {
		if v == 0 {
			return zero
		}
		return v
	}
	c.MaxParticipants = int(def(int64(c.MaxParticipants), DefaultParticipants))
	c.MaxDuration = time.Duration(def(int64(c.MaxDuration), int64(DefaultDuration)))
	c.ApprovalTTL = time.Duration(def(int64(c.ApprovalTTL), int64(DefaultApprovalTTL))).Truncate(time.Microsecond) // as records tell time
	if c.MinSigmaEff == nil {
		s := DefaultMinSigmaEff
		c.MinSigmaEff = &s
	}
	if c.VouchWeight == nil {
		w := DefaultVouchWeight
		c.VouchWeight = &w
	}
	switch {
	case c.MaxParticipants < 1 || c.MaxParticipants > MaxParticipants:
		return c, fmt.Errorf("%w: max_participants %d is not from 1 to %d", ErrConfig, c.MaxParticipants, MaxParticipants)
	case c.MaxDuration < MinDuration || c.MaxDuration > MaxDuration:
		return c, fmt.Errorf("%w: max_duration %v is not from %v to %v", ErrConfig, c.MaxDuration, MinDuration, MaxDuration)
	case c.ApprovalTTL < time.Second || c.ApprovalTTL > MaxApprovalTTL:
		return c, fmt.Errorf("%w: approval_ttl %v is not from 1s to %v", ErrConfig, c.ApprovalTTL, MaxApprovalTTL)
	case *c.MinSigmaEff > ring.One:
		return c, fmt.Errorf("%w: min_sigma_eff is above 1", ErrConfig)
	case *c.VouchWeight > action.Omega(ring.One):
		return c, fmt.Errorf("%w: vouch_weight is above 1", ErrConfig)
	case len(c.NetworkAllow) > MaxListEntries || len(c.FilesScope) > MaxListEntries:
		return c, fmt.Errorf("%w: network_allow and files_scope take at most %d entries each", ErrConfig, MaxListEntries)
	case slices.ContainsFunc(c.NetworkAllow, badEntry) || slices.ContainsFunc(c.FilesScope, badEntry):
		return c, fmt.Errorf("%w: an entry of network_allow or files_scope is text of 1 to %d bytes", ErrConfig, MaxEntryBytes)
	case strings.HasPrefix(c.Name, IDPrefix):
		return c, fmt.Errorf("%w: name %q: ids begin with %q, and names do not", ErrConfig, c.Name, IDPrefix)
	case c.Name != "" && !ValidID(c.Name):
		return c, fmt.Errorf("%w: name %q: letters, digits and ._:- within, at most %d bytes", ErrConfig, c.Name, MaxIDBytes)
	}
	return c, nil
}

func badEntry(entry string) bool {
	return entry == "" || len(entry) > MaxEntryBytes || !utf8.ValidString(entry)
}

// ValidID reports whether text can name a session: ^[a-zA-Z0-9]([a-zA-Z0-9._:-]*[a-zA-Z0-9])?$, ≤ 256 bytes (SPEC §1).
func ValidID(text string) bool {
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i == 0 || i == len(text)-1 || strings.IndexByte("._:-", c) < 0:
			return false
		}
	}
	return text != "" && len(text) <= MaxIDBytes
}

// configJSON is Config as the records and the API write it: the words of the configuration file.
type configJSON struct {
	Name            string        `json:"name,omitempty"`
	Consistency     Consistency   `json:"consistency"`
	MaxParticipants int           `json:"max_participants,omitempty"`
	MaxDuration     durationText  `json:"max_duration,omitempty"`
	MinSigmaEff     *ring.Sigma   `json:"min_sigma_eff,omitempty"`
	VouchWeight     *action.Omega `json:"vouch_weight,omitempty"`
	Audit           *bool         `json:"audit,omitempty"`
	ApprovalTTL     durationText  `json:"approval_ttl,omitempty"`
	NetworkAllow    []string      `json:"network_allow,omitempty"`
	FilesScope      []string      `json:"files_scope,omitempty"`
}

type durationText time.Duration

func (d durationText) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *durationText) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = durationText(v)
	return err
}

// MarshalJSON writes the settings with the words of the configuration file; durations are text such as "1h0m0s".
func (c Config) MarshalJSON() ([]byte, error) {
	audited := !c.NoAudit
	return json.Marshal(configJSON{c.Name, c.Consistency, c.MaxParticipants, durationText(c.MaxDuration), c.MinSigmaEff,
		c.VouchWeight, &audited, durationText(c.ApprovalTTL), c.NetworkAllow, c.FilesScope})
}

// append writes a resolved configuration, to the same meaning as MarshalJSON and without reflection: every session begins
// with it.
func (c Config) append(dst []byte) []byte {
	dst = audit.AppendString(append(dst, `{"consistency":`...), c.Consistency.String())
	if c.Name != "" {
		dst = audit.AppendString(append(dst, `,"name":`...), c.Name)
	}
	dst = strconv.AppendInt(append(dst, `,"max_participants":`...), int64(c.MaxParticipants), 10)
	dst = audit.AppendString(append(dst, `,"max_duration":`...), c.MaxDuration.String())
	dst = ring.AppendMillionths(append(dst, `,"min_sigma_eff":`...), uint32(*c.MinSigmaEff))
	dst = ring.AppendMillionths(append(dst, `,"vouch_weight":`...), uint32(*c.VouchWeight))
	dst = strconv.AppendBool(append(dst, `,"audit":`...), !c.NoAudit)
	dst = audit.AppendString(append(dst, `,"approval_ttl":`...), c.ApprovalTTL.String())
	dst = appendEntries(dst, "network_allow", c.NetworkAllow)
	dst = appendEntries(dst, "files_scope", c.FilesScope)
	return append(dst, '}')
}

func appendEntries(dst []byte, name string, entries []string) []byte {
	for i, e := range entries {
		if i == 0 {
			dst = append(append(append(dst, `,"`...), name...), `":[`...)
		} else {
			dst = append(dst, ',')
		}
		dst = audit.AppendString(dst, e)
	}
	if len(entries) > 0 {
		dst = append(dst, ']')
	}
	return dst
}

// UnmarshalJSON reads what MarshalJSON writes; what is left out is the default.
func (c *Config) UnmarshalJSON(b []byte) error {
	var j configJSON
	if err := decodeStrict(b, &j); err != nil {
		return err
	}
	*c = Config{j.Name, j.Consistency, j.MaxParticipants, time.Duration(j.MaxDuration), j.MinSigmaEff,
		j.VouchWeight, j.Audit != nil && !*j.Audit, time.Duration(j.ApprovalTTL), j.NetworkAllow, j.FilesScope}
	return nil
}
