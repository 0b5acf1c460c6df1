package session

import (
	"time"
	"unicode/utf8"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// key.go: a command that is sent again with the same idempotency key is done once (docs/design.md "Entities").

const (
	keyUsedType = "session.key_used"
	// MaxKeyBytes bounds an idempotency key.
	MaxKeyBytes = 256
	maxKeys     = 10_000 // remembered, per session; the oldest is forgotten first
	keyLife     = 24 * time.Hour
)

// A Key is a caller's idempotency key and the digest of the command it stands on. The zero Key is none.
type Key struct {
	Text   string
	Digest audit.Hash // HMAC-SHA-256 under the session's key of the command's content
}

// A KeyUse is where a command with a key was recorded.
type KeyUse struct {
	Digest  audit.Hash `json:"digest"`
	Seq     uint64     `json:"seq"`
	Time    time.Time  `json:"time"`
	Outcome uint64     `json:"outcome,omitempty"` // of an action: the record with its outcome; zero: none yet
}

// KeyUsed is recorded beside what a command with a key brought about. Refusals leave no key: the command may be sent again.
type KeyUsed struct {
	Caller policy.DID `json:"caller"`
	Key    string     `json:"key"`
	Digest audit.Hash `json:"digest"`
}

func keyName(caller policy.DID, text string) string { return string(caller) + " " + text }

// decideKey answers a command whose key was used before.
func decideKey(s *State, env *Env) (Outcome, bool) {
	if env.Key.Text == "" {
		return Outcome{}, false
	}
	if len(env.Key.Text) > MaxKeyBytes || !utf8.ValidString(env.Key.Text) {
		return refuse(policy.InvalidArguments, "an idempotency key is text of at most %d bytes", MaxKeyBytes), true
	}
	use, ok := s.Keys[keyName(env.Caller.DID, env.Key.Text)]
	switch {
	case !ok || env.Now.Sub(use.Time) >= keyLife:
		return Outcome{}, false
	case use.Digest != env.Key.Digest:
		return refuse(policy.IdempotencyConflict, "idempotency key %q was used for another command", env.Key.Text), true
	}
	return Outcome{Decision: policy.Decision{Allowed: true, Code: policy.OK, Seq: use.Seq}, Repeats: &use, Durable: true}, true
}

func recordKey(env *Env, out *Outcome) {
	if env.Key.Text != "" {
		out.Events = append(out.Events, KeyUsed{env.Caller.DID, env.Key.Text, env.Key.Digest})
	}
}

// Append appends the event's JSON.
func (e KeyUsed) Append(dst []byte) []byte {
	return audit.Event(dst, keyUsedType).Str("caller", string(e.Caller)).Str("key", e.Key).Hash("digest", e.Digest).End()
}

func (e KeyUsed) apply(s *State, at Stamp) {
	for len(s.KeyOrder) >= maxKeys || (len(s.KeyOrder) > 0 && at.Time.Sub(s.Keys[s.KeyOrder[0]].Time) >= keyLife) {
		delete(s.Keys, s.KeyOrder[0])
		s.KeyOrder = s.KeyOrder[1:]
	}
	name := keyName(e.Caller, e.Key)
	s.KeyOrder = append(s.KeyOrder, name)
	s.Keys[name] = KeyUse{Digest: e.Digest, Seq: at.Seq, Time: at.Time}
	for _, r := range s.Running {
		if r.Seq == at.Seq {
			r.Key = name
		}
	}
}
