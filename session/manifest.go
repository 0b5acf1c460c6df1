package session

import (
	"encoding/json"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/manifest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// manifest.go: what an agent says of itself when it joins (SPEC §9 "Manifests"). It is the weakest source there is: it holds the agent
// lower and makes its actions stricter, never the other way (docs/decisions/070).

const presentedType = "session.manifest_presented"

// A Presented is what is kept of a manifest.
type Presented struct {
	Digest audit.Hash              `json:"digest"` // SHA-256 of the manifest's canonical form
	Level  string                  `json:"trust_level"`
	Ring   ring.Ring               `json:"ring"`            // a ceiling
	Sigma  *ring.Sigma             `json:"sigma,omitempty"` // a ceiling of σ_eff, and of σ_raw where an elevation asks for it; nil: none
	Claims map[string]action.Claim `json:"claims,omitempty"`
}

// ManifestPresented is recorded with the join that brings a manifest.
type ManifestPresented struct {
	Agent policy.DID `json:"agent"`
	Presented
}

func presented(m *manifest.Manifest) *Presented {
	return &Presented{Digest: m.Digest, Level: m.Level, Ring: m.Ring, Sigma: m.Sigma, Claims: m.Claims}
}

// most returns no more than the σ that a manifest claims; without one, or without a claim, what is given.
func (m *Presented) most(sigma ring.Sigma) ring.Sigma {
	if m == nil || m.Sigma == nil {
		return sigma
	}
	return min(sigma, *m.Sigma)
}

// Narrow makes a call as strict as the manifest of the agent says, and those of who brought it: nobody sheds what it claims by
// spawning another. It is called before the call is decided, and may be again.
func (s *State) Narrow(did policy.DID, call *Call) {
	if call == nil {
		return
	}
	changed := false
	for p := s.Participants[did]; p != nil; p = s.Participants[p.Parent] {
		if p.Manifest == nil {
			continue
		}
		if c, said := manifest.Of(p.Manifest.Claims, &call.Descriptor); said {
			call.Descriptor, changed = call.Descriptor.Tightened(c), true
		}
	}
	if changed {
		call.Digest = call.Descriptor.Digest()
	}
}

// Append appends the event's JSON.
func (e ManifestPresented) Append(dst []byte) []byte {
	o := audit.Event(dst, presentedType).Str("agent", string(e.Agent)).Hash("digest", e.Digest).Str("trust_level", e.Level).
		Uint("ring", uint64(e.Ring))
	if e.Sigma != nil {
		o = o.Millionths("sigma", uint32(*e.Sigma))
	}
	if len(e.Claims) > 0 {
		claims, err := json.Marshal(e.Claims) // names in order; once a join, so it need not be fast
		if err != nil {
			panic("session: a manifest's claims do not encode: " + err.Error())
		}
		o = o.Raw("claims", claims)
	}
	return o.End()
}

func (e ManifestPresented) apply(s *State, _ Stamp) {
	m := e.Presented
	s.Participants[e.Agent].Manifest = &m
}
