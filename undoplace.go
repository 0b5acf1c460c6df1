package hypervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// undoplace.go: where an action is taken back. In its own session while that is active; afterwards in a session of kind undo,
// whose name follows from the ended one's, so that all who take back actions of it meet there and nothing is done twice.

const (
	undoDuration  = time.Hour // of a session of kind undo
	maxUndoPlaces = 10_000    // of one ended session
)

// An Equipper brings an agent's tools into a session in which nobody is connected for it: as the hypervisor's own, by
// SetTools of policy.System.DID, or as everybody's.
type Equipper func(ctx context.Context, s *Session, agent policy.DID) error

// Equip says how an agent's tools come into a session whose agent is not connected: for undo after a restart, after the
// session's end, and after a kill. Without it only those that are there already serve. The gateway's is Hub.Equip. Steps of sagas that
// wait for a tool are looked at again.
func (hv *Hypervisor) Equip(f Equipper) {
	hv.equipper.Store(&f)
	hv.toolsCame()
}

// toolFor returns what an agent's action is done with in a session, equipped for it if it must be, and whose it is: the
// agent's own where it has one and lives.
func (hv *Hypervisor) toolFor(ctx context.Context, s *Session, agent policy.DID, id string) (*handler, policy.DID, error) {
	if t, owner := s.toolOf(agent, id); t != nil {
		return t, owner, nil
	}
	if action.IsAddress(id) {
		t, err := hv.addressed(id)
		return t, "", err
	}
	if f := hv.equipper.Load(); f != nil {
		if err := (*f)(ctx, s, agent); err != nil {
			return nil, "", fmt.Errorf("%s is not to be had: %w", id, err)
		}
	}
	if t, owner := s.toolOf(agent, id); t != nil {
		return t, owner, nil
	}
	return nil, "", fmt.Errorf("no server here has %s", id)
}

func (s *Session) toolOf(agent policy.DID, id string) (*handler, policy.DID) {
	s.mu.Lock()
	own, systems, all := s.tools[agent][id], s.tools[policy.System.DID][id], s.tools[""][id]
	s.mu.Unlock()
	if own != nil {
		if _, dead := s.hv.kills.ofAny(s.id, s.lineOf(policy.Agent(agent))); !dead { // else its servers are stopped
			return own, agent
		}
	}
	if systems != nil {
		return systems, policy.System.DID
	}
	return all, ""
}

// undoPlace returns the session in which actions of another are taken back now: itself, or one of kind undo. The error is
// *Refused while it is in neither state.
func (hv *Hypervisor) undoPlace(ctx context.Context, caller policy.Caller, id string, compensates bool) (*Session, error) {
	s, err := hv.Session(ctx, id)
	if err != nil {
		return nil, err
	}
	if s, active, err := s.openPlace(ctx, compensates); active || err != nil {
		return s, err
	}
	state, err := s.State(ctx)
	if err != nil {
		return nil, err
	}
	for n := 1; n <= maxUndoPlaces; n++ {
		place, active, err := hv.undoSession(ctx, state, undoName(id, n))
		if err != nil {
			return nil, err
		}
		if active {
			return place, place.letIn(ctx, caller)
		}
	}
	return nil, &Refused{policy.Refuse(policy.QuotaExceeded, "session %s has had %d sessions of kind undo", id, maxUndoPlaces)}
}

// openPlace reports whether the session is active, or, for what is undone because of a saga, ends. It is refused while the session is neither that nor archived.
func (s *Session) openPlace(ctx context.Context, compensates bool) (*Session, bool, error) {
	stage, _, err := s.stage(ctx, "")
	switch {
	case err != nil:
		return nil, false, err
	case stage == session.Active, stage == session.Terminating && compensates:
		return s, true, nil
	case stage == session.Archived:
		return s, false, nil
	}
	return nil, false, &Refused{policy.Refuse(policy.SessionNotActive, "session %s is %s; its actions are taken back while it is active, or once it has ended", s.id, stage)}
}

// undoName returns the id of the nth session of kind undo of a session.
func undoName(id string, n int) string {
	name := id + ".undo-" + strconv.Itoa(n)
	if len(name) > session.MaxIDBytes {
		sum := sha256.Sum256([]byte(id))
		name = "undo-" + hex.EncodeToString(sum[:16]) + "-" + strconv.Itoa(n)
	}
	return name
}

// undoSession returns a session of kind undo, opened if it is not there, and whether it is active.
func (hv *Hypervisor) undoSession(ctx context.Context, of *session.State, id string) (*Session, bool, error) {
	s, err := hv.Session(ctx, id)
	if errors.Is(err, ErrNotFound) {
		cfg := of.Config
		cfg.Name, cfg.Consistency, cfg.MaxDuration = "", session.Strong, undoDuration
		s, err = hv.create(ctx, policy.System.Through("undo"), id, session.Create{Config: cfg, Undoes: of.ID})
		if errors.Is(err, session.ErrImpossible) { // somebody was faster
			s, err = hv.Session(ctx, id)
		}
	}
	if err != nil {
		return nil, false, err
	}
	stage, _, err := s.stage(ctx, "")
	if err == nil && stage == session.Handshaking {
		if out, bad := s.submit(ctx, policy.System.Through("undo"), session.Activate{}, nil); bad != nil {
			return nil, false, bad
		} else if !out.Allowed && !s.isActive(ctx) {
			return nil, false, &Refused{out.Decision}
		}
		return s, true, nil
	}
	if err != nil || stage == session.Archived {
		return s, false, err
	}
	_, active, err := s.openPlace(ctx, false)
	return s, active, err
}

// letIn brings an agent into a session of kind undo, so that it can take back its own.
func (s *Session) letIn(ctx context.Context, caller policy.Caller) error {
	if caller.Role != policy.AgentRole {
		return nil
	}
	if _, there, err := s.stage(ctx, caller.DID); there || err != nil {
		return err
	}
	_, err := s.Join(ctx, policy.System.Through("undo"), session.Join{Agent: caller.DID})
	return err
}
