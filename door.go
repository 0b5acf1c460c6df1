package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

// door.go: what a network door asks: whose token this is, and which session its bearer comes to.

// Now returns the time at which a command of the node would be decided: what a token's end is counted from.
func (hv *Hypervisor) Now() time.Time {
	hv.system.mu.Lock()
	defer hv.system.mu.Unlock()
	return hv.now(hv.system.state.Time)
}

// IssueToken records a token, so that who shows its secret comes as its subject. An operator's.
func (hv *Hypervisor) IssueToken(ctx context.Context, caller policy.Caller, t system.Token) (policy.Decision, error) {
	if err := hv.enter(); err != nil {
		return policy.Decision{}, err
	}
	defer hv.leave()
	if t.Role == policy.AgentRole { // whoever is killed gets none
		if _, err := hv.agents.know(ctx, t.Subject); err != nil {
			return policy.Decision{}, err
		}
	}
	return hv.system.submit(ctx, caller, system.IssueToken{Token: t})
}

// RevokeToken ends a token before its time. An operator's.
func (hv *Hypervisor) RevokeToken(ctx context.Context, caller policy.Caller, id string) (policy.Decision, error) {
	if err := hv.enter(); err != nil {
		return policy.Decision{}, err
	}
	defer hv.leave()
	return hv.system.submit(ctx, caller, system.RevokeToken{ID: id})
}

// Token returns the token whose secret has a hash, if it counts now.
func (hv *Hypervisor) Token(secret audit.Hash) (system.Token, bool) {
	hv.system.mu.Lock()
	defer hv.system.mu.Unlock()
	t, ok := hv.system.state.Tokens[secret.String()]
	if _, barred := hv.system.state.Barred(hv.kills.current(), t); barred {
		return t, false // it is about to be revoked
	}
	return t, ok && hv.now(hv.system.state.Time).Before(t.Expires)
}

// Tokens returns the tokens that count now, by id.
func (hv *Hypervisor) Tokens() []system.Token {
	hv.system.mu.Lock()
	defer hv.system.mu.Unlock()
	now := hv.now(hv.system.state.Time)
	var all []system.Token
	for _, t := range hv.system.state.Tokens {
		if now.Before(t.Expires) {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b system.Token) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// Aliases returns the newest session of each name.
func (hv *Hypervisor) Aliases() map[string]string {
	hv.system.mu.Lock()
	defer hv.system.mu.Unlock()
	return maps.Clone(hv.system.state.Aliases)
}

// Enter returns the active session that an agent's token is for, with the agent in it: it is joined if it was not, and
// the session activated. An alias whose session has ended opens its successor with the same configuration. The error is
// ErrNotFound for a session that is not there, *Refused where the session's rules say no.
func (hv *Hypervisor) Enter(ctx context.Context, t system.Token) (*Session, error) {
	by := policy.System.Through("token " + t.ID)
	s, err := hv.sessionOf(ctx, by, t)
	if err != nil {
		return nil, err
	}
	stage, there, err := s.stage(ctx, t.Subject)
	if err != nil {
		return nil, err
	}
	if !there {
		if _, err := s.Join(ctx, by, session.Join{Agent: t.Subject}); err != nil {
			return nil, err
		}
	}
	if stage == session.Handshaking {
		if err := s.Activate(ctx, by); err != nil && !s.isActive(ctx) { // another bearer may have been faster
			return nil, err
		}
	}
	return s, nil
}

// stage returns how far the session is and whether an agent takes part. It copies nothing: Enter asks it for every request.
func (s *Session) stage(ctx context.Context, did policy.DID) (session.Lifecycle, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return 0, false, err
	}
	return s.live.state.Lifecycle, s.live.state.Participants[did] != nil, nil
}

func (s *Session) isActive(ctx context.Context) bool {
	stage, _, err := s.stage(ctx, "")
	return err == nil && stage == session.Active
}

func (hv *Hypervisor) sessionOf(ctx context.Context, by policy.Caller, t system.Token) (*Session, error) {
	if t.Alias == "" {
		return hv.Session(ctx, t.Session)
	}
	return hv.Alias(ctx, by, t.Alias)
}

// Alias returns the newest session of a name, or ErrNotFound; if it has ended, its successor is opened with the same
// configuration and the name stands for that.
func (hv *Hypervisor) Alias(ctx context.Context, by policy.Caller, name string) (*Session, error) {
	for {
		s, ending, err := hv.newest(ctx, by, name)
		if err != nil || !ending {
			return s, err
		}
		// The name is free once the end is over. Waited for without the lock: it may take the grace time and longer.
		if _, err := s.End(ctx, policy.System, session.Terminate{}); err != nil {
			return nil, err
		}
	}
}

// newest returns the newest session of a name, or its successor if it has ended, or the session itself while it ends.
func (hv *Hypervisor) newest(ctx context.Context, by policy.Caller, name string) (s *Session, ending bool, err error) {
	if s, stage, err := hv.named(ctx, name); err != nil || stage < session.Terminating {
		return s, false, err
	}
	hv.renewing.Lock() // two bearers at once open one successor
	defer hv.renewing.Unlock()
	s, stage, err := hv.named(ctx, name)
	switch {
	case err != nil || stage < session.Terminating:
		return s, false, err
	case hv.system.isOpen(s.id): // also when it is archived, and its summary not recorded yet
		return s, true, nil
	}
	state, err := s.State(ctx)
	switch {
	case err != nil:
		return nil, false, err
	case state.Killed: // it was stopped; who wants to go on opens another
		return nil, false, &Refused{policy.Refuse(policy.SessionNotActive, "session %s, named %s, was killed; an operator can create another of that name", s.id, name)}
	}
	s, err = hv.CreateSession(ctx, policy.System.Through(by.Via), &state.Config)
	return s, false, err
}

// named returns the session that a name stands for, and how far it is.
func (hv *Hypervisor) named(ctx context.Context, name string) (*Session, session.Lifecycle, error) {
	id, ok := hv.Named(name)
	if !ok {
		return nil, 0, fmt.Errorf("session %q: %w", name, ErrNotFound)
	}
	s, err := hv.Session(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	stage, _, err := s.stage(ctx, "")
	return s, stage, err
}

// Named returns the id of the newest session of a name, and whether there is one.
func (hv *Hypervisor) Named(name string) (id string, ok bool) {
	hv.system.mu.Lock()
	defer hv.system.mu.Unlock()
	id, ok = hv.system.state.Aliases[name]
	return id, ok
}

// bind makes a new session's name stand for it. A name that another session holds refuses, and the new session is ended.
func (hv *Hypervisor) bind(ctx context.Context, caller policy.Caller, s *Session, name string) error {
	d, err := hv.system.submit(ctx, caller, system.BindAlias{Name: name, Session: s.id})
	if err := refusedOr(d, err); err != nil {
		_, ended := s.End(ctx, policy.System, session.Terminate{Reason: "its name is taken"})
		return errors.Join(err, ended)
	}
	return nil
}
