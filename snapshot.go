package hypervisor

import (
	"context"
	"encoding/json"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/session"
)

// snapshot.go: a session's state at a record, so that loading need not begin at the beginning. A cache, never truth.

// A snapshotJSON is what a snapshot's State holds.
type snapshotJSON struct {
	State *session.State `json:"state"`
	Tree  audit.Tree     `json:"tree"`
	Head  audit.Hash     `json:"head"`
}

// keepSnapshot saves a snapshot now and then. The lock is held.
func (s *Session) keepSnapshot(ctx context.Context) {
	if s.live.st.seq-s.live.snapshot >= snapshotEvery {
		s.saveSnapshot(ctx)
	}
}

func (s *Session) saveSnapshot(ctx context.Context) {
	l := s.live
	b, err := json.Marshal(snapshotJSON{l.state, l.st.tree, l.st.head})
	if err == nil {
		err = s.hv.store.SaveSnapshot(ctx, eventlog.Snapshot{Stream: l.st.name, Seq: l.st.seq, Hash: l.st.head, State: b})
	}
	if err != nil {
		s.hv.opts.Logger.Warn("saving a snapshot; loading will take longer", "session", s.id, "error", err)
	}
	l.snapshot = l.st.seq // also after an error: the next attempt comes later
}

// readSnapshot returns the session's snapshot if it reads. A bad one is passed over: it is a cache.
func (s *Session) readSnapshot(ctx context.Context, name string) (snapshotJSON, bool) {
	snap, ok, err := s.hv.store.Snapshot(ctx, name)
	if err != nil || !ok {
		return snapshotJSON{}, false // what is wrong with the store shows when the log is read
	}
	j := snapshotJSON{State: session.NewState(s.id)}
	if err := json.Unmarshal(snap.State, &j); err != nil || j.State.Seq != snap.Seq || j.Head != snap.Hash || !j.Tree.Valid() || j.Tree.Size != snap.Seq {
		s.hv.opts.Logger.Warn("passing over a bad snapshot", "session", s.id, "error", err)
		return snapshotJSON{}, false
	}
	return j, true
}
