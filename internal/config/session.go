package config

import (
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/ring"
)

// Session is what new sessions are like unless their creator says otherwise. Every zero field leaves package session's
// default (SPEC §1).
type Session struct {
	Consistency     string        // strong or eventual
	MaxParticipants int           // 1 to 1000
	MaxDuration     time.Duration // 1s to 7d
	MinSigmaEff     *ring.Sigma   // nil: the default, since 0 means something
	VouchWeight     *action.Omega // nil: the default
	NoAudit         bool          // audit: false
	ApprovalTTL     time.Duration // 1s to 7d
	NetworkAllow    []string      // hosts, host:port or *.domain, in lower case, that ring 2 may reach
	FilesScope      []string      // places, normalised, that ring 2 may touch
}

// The limits of a session's settings (SPEC §1); an approval need not outlive the longest session.
const (
	maxParticipants = 1000
	leastDuration   = time.Second
	mostDuration    = 7 * document.Day
)

func (l *loader) session(it item) {
	s := &l.Session
	during := func(it item) (time.Duration, bool) { return l.Duration(it, leastDuration, mostDuration) }
	l.Object(it, map[string]field{
		"consistency": func(it item) {
			set(&s.Consistency, it, func(it item) (string, bool) { return l.Word(it, "strong", "eventual") })
		},
		"max_participants": func(it item) {
			set(&s.MaxParticipants, it, func(it item) (int, bool) { return l.Number(it, 1, maxParticipants) })
		},
		"max_duration":  func(it item) { set(&s.MaxDuration, it, during) },
		"min_sigma_eff": func(it item) { setPointer(&s.MinSigmaEff, it, l.sigma) },
		"vouch_weight": func(it item) {
			setPointer(&s.VouchWeight, it, func(it item) (action.Omega, bool) {
				m, ok := l.decimal(it)
				return action.Omega(m), ok
			})
		},
		"audit": func(it item) {
			if audit, ok := l.Boolean(it); ok {
				s.NoAudit = !audit
			}
		},
		"approval_ttl":  func(it item) { set(&s.ApprovalTTL, it, during) },
		"network_allow": func(it item) { s.NetworkAllow = l.Texts(it, l.host) },
		"files_scope":   func(it item) { s.FilesScope = l.Texts(it, l.scope) },
	})
}

// host reads a host name, host:port or *.domain.
func (l *loader) host(it item) (string, bool) {
	s, ok := l.Text(it)
	if !ok {
		return "", false
	}
	host, err := action.ParseHost(s)
	if err != nil {
		l.Fault(it, "%v, got %q", err, document.Clip(s))
		return "", false
	}
	return host, true
}

// scope reads a place that a resource can be under.
func (l *loader) scope(it item) (string, bool) {
	s, ok := l.Text(it)
	if !ok {
		return "", false
	}
	s, err := action.NormaliseResource(s)
	if err != nil {
		l.Fault(it, "%v", err)
		return "", false
	}
	return s, true
}
