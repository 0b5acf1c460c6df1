package manifest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// The bounds of a manifest.
const (
	MaxBytes   = 64 << 10
	maxActions = 64
	maxName    = 128 // bytes of an action's id
	maxScopes  = 64
	maxWindow  = 3650 * 24 * time.Hour
)

// AnyAction is the name under which Claims speak of every action that changes something and has no claim of its own.
const AnyAction = "*"

// ErrManifest is returned, wrapped with what is wrong, for bytes that are no manifest.
var ErrManifest = errors.New("manifest cannot be taken")

// A Manifest is what an agent claims of itself.
type Manifest struct {
	Agent  policy.DID              // whose it is
	Level  string                  // trust_level
	Ring   ring.Ring               // what the level amounts to, as a ceiling: never Root
	Sigma  *ring.Sigma             // trust_score of 10, as a ceiling of σ; nil: not said
	Claims map[string]action.Claim // what can make an action stricter, by its id or AnyAction; nil: nothing
	Digest [sha256.Size]byte       // SHA-256 of its canonical form (RFC 8785): white space and the order of names do not count
}

// levels holds what each trust level amounts to (SPEC §9).
var levels = map[string]ring.Ring{
	"verified_partner": ring.Privileged, "trusted": ring.Standard, "standard": ring.Standard, "unknown": ring.Sandbox, "untrusted": ring.Sandbox,
}

// text is a manifest as it is written (docs/manifest.schema.json). What says nothing here is taken and not looked at; a name that
// is not listed is refused, since it may be a claim misspelt.
type text struct {
	Agent        string         `json:"agent_id"`
	Level        string         `json:"trust_level"`
	Score        jsontext.Value `json:"trust_score"`
	Capabilities *capabilities  `json:"capabilities"`
	Actions      []described    `json:"actions"`
	Scopes       []string       `json:"scopes"`

	Version     jsontext.Value `json:"version"`
	Description jsontext.Value `json:"description"`
	Privacy     jsontext.Value `json:"privacy_contract"`
	PublicKey   jsontext.Value `json:"public_key"`
	Signature   jsontext.Value `json:"signature"` // not verified: even a sound one proves who claims, not that it is so
}

type capabilities struct {
	Reversibility string `json:"reversibility"`
	Idempotency   *bool  `json:"idempotency"`
	UndoWindow    string `json:"undo_window"`

	Concurrency jsontext.Value `json:"concurrency_limit"`
	Rate        jsontext.Value `json:"rate_limit"`
	Latency     jsontext.Value `json:"sla_latency"`
}

type described struct {
	ID            string `json:"action_id"`
	Reversibility string `json:"reversibility"`
	UndoWindow    string `json:"undo_window"`
	ReadOnly      *bool  `json:"is_read_only"`
	Admin         bool   `json:"is_admin"`
	Idempotent    *bool  `json:"idempotent"`
	Network       bool   `json:"network"`
	Files         bool   `json:"files"`
	Subprocess    bool   `json:"subprocess"`

	Name    jsontext.Value `json:"name"`
	Execute jsontext.Value `json:"execute_api"`
	Undo    jsontext.Value `json:"undo_api"`
}

// Parse reads a manifest strictly: at most MaxBytes of valid UTF-8, no name twice, none that is not known, nothing behind it. It
// returns ErrManifest otherwise.
func Parse(b []byte) (*Manifest, error) {
	if len(b) > MaxBytes {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrManifest, MaxBytes)
	}
	var t text
	if err := json.Unmarshal(b, &t, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: %s", ErrManifest, document.DecodeFault(err))
	}
	canonical := jsontext.Value(b).Clone()
	if err := canonical.Canonicalize(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	m := &Manifest{Level: t.Level, Digest: sha256.Sum256(canonical)}
	var known bool
	if m.Ring, known = levels[t.Level]; !known {
		return nil, fmt.Errorf("%w: trust_level %q is not one of verified_partner, trusted, standard, unknown, untrusted", ErrManifest, clip(t.Level))
	}
	var err error
	if m.Agent, err = policy.ParseDID(t.Agent); err != nil {
		return nil, fmt.Errorf("%w: agent_id: %w", ErrManifest, err)
	}
	if t.Score != nil {
		if m.Sigma, err = tenth(string(t.Score)); err != nil {
			return nil, err
		}
	}
	switch {
	case len(t.Actions) > maxActions:
		return nil, fmt.Errorf("%w: it describes %d actions, and more than %d are not taken", ErrManifest, len(t.Actions), maxActions)
	case len(t.Scopes) > maxScopes:
		return nil, fmt.Errorf("%w: it lists %d scopes, and more than %d are not taken", ErrManifest, len(t.Scopes), maxScopes)
	}
	return m, m.describe(t)
}

// describe takes in what the manifest says of actions.
func (m *Manifest) describe(t text) error {
	if c := t.Capabilities; c != nil {
		if err := m.claim(AnyAction, described{Reversibility: c.Reversibility, UndoWindow: c.UndoWindow, Idempotent: c.Idempotency}); err != nil {
			return fmt.Errorf("%w: capabilities: %w", ErrManifest, err)
		}
	}
	seen := map[string]bool{AnyAction: true}
	for i, d := range t.Actions {
		if d.ID == "" || len(d.ID) > maxName || seen[d.ID] {
			return fmt.Errorf("%w: actions[%d]: action_id is 1 to %d bytes, said once, and not %q; got %q", ErrManifest, i, maxName, AnyAction, clip(d.ID))
		}
		seen[d.ID] = true
		if err := m.claim(d.ID, d); err != nil {
			return fmt.Errorf("%w: actions[%d]: %w", ErrManifest, i, err)
		}
	}
	return nil
}

// claim keeps of a description what can make an action stricter. What says that it only reads says nothing of undoing.
func (m *Manifest) claim(id string, d described) error {
	var c action.Claim
	if d.Reversibility != "" {
		var r action.Reversibility
		if err := r.UnmarshalText([]byte(d.Reversibility)); err != nil {
			return err
		}
		if r != action.Full && (d.ReadOnly == nil || !*d.ReadOnly) {
			c.Reversibility = &r
		}
	}
	if d.UndoWindow != "" {
		w, err := time.ParseDuration(d.UndoWindow)
		if err != nil || w < time.Second || w > maxWindow {
			return fmt.Errorf("undo_window: want a time such as 24h, from 1s to ten years, got %q", clip(d.UndoWindow))
		}
		c.UndoWindow = &w
	}
	yes, no := true, false
	for _, said := range []struct {
		strict bool
		to     **bool
		value  *bool
	}{
		{d.ReadOnly != nil && !*d.ReadOnly, &c.ReadOnly, &no}, {d.Idempotent != nil && !*d.Idempotent, &c.Idempotent, &no},
		{d.Admin, &c.Admin, &yes}, {d.Network, &c.Network, &yes}, {d.Files, &c.Files, &yes}, {d.Subprocess, &c.Subprocess, &yes},
	} {
		if said.strict {
			*said.to = said.value
		}
	}
	// Also one that claims nothing: an action that is described is not spoken of by AnyAction.
	if m.Claims == nil {
		m.Claims = map[string]action.Claim{}
	}
	m.Claims[id] = c
	return nil
}

// tenth reads a score from 0 to 10 with at most five places as σ. No float is involved.
func tenth(score string) (*ring.Sigma, error) {
	whole, places, _ := strings.Cut(score, ".")
	digits := "0." + whole + places
	if whole == "10" && strings.Trim(places, "0") == "" {
		digits = "1"
	}
	s, err := ring.ParseSigma(digits)
	if err != nil || digits != "1" && len(whole) != 1 {
		return nil, fmt.Errorf("%w: trust_score: want a number from 0 to 10 with at most five places, got %s", ErrManifest, clip(score))
	}
	return &s, nil
}

// Of returns what the claims say of an action, and whether they say anything.
func Of(claims map[string]action.Claim, d *action.Descriptor) (action.Claim, bool) {
	c, ok := claims[d.ID]
	if !ok && !d.ReadOnly {
		c, ok = claims[AnyAction]
	}
	return c, ok
}

// clip shortens a text for a message.
func clip(s string) string {
	const most = 60
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
