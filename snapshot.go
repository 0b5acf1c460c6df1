package hypervisor

import (
	"context"
	"encoding/json"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
)

// snapshot.go: a session's state at a record, so that loading need not begin at the beginning. A cache, never truth.

// A snapshotJSON is what a snapshot holds: the state of a session, or of an agent.
type snapshotJSON[S any] struct {
	State S          `json:"state"`
	Tree  audit.Tree `json:"tree"`
	Head  audit.Hash `json:"head"`
}

// keepSnapshot saves a snapshot now and then. The lock is held.
func (s *Session) keepSnapshot(ctx context.Context) {
	if s.live.st.seq-s.live.snapshot >= snapshotEvery {
		s.saveSnapshot(ctx)
	}
}

func (s *Session) saveSnapshot(ctx context.Context) {
	s.hv.saveSnapshot(ctx, s.live.st, s.live.state)
	s.live.snapshot = s.live.st.seq // also after an error: the next attempt comes later
}

func (hv *Hypervisor) saveSnapshot(ctx context.Context, st *stream, state any) {
	b, err := json.Marshal(snapshotJSON[any]{state, st.tree, st.head})
	if err == nil {
		err = hv.store.SaveSnapshot(ctx, eventlog.Snapshot{Stream: st.name, Seq: st.seq, Hash: st.head, State: b})
	}
	if err != nil {
		hv.opts.Logger.Warn("saving a snapshot; loading will take longer", "stream", st.name, "error", err)
	}
}

// readSnapshot returns a stream's snapshot if it reads; state is where it is read into. A bad one is passed over: it is a cache.
func readSnapshot[S any](ctx context.Context, hv *Hypervisor, name string, state S) (snapshotJSON[S], bool) {
	snap, ok, err := hv.store.Snapshot(ctx, name)
	if err != nil || !ok {
		return snapshotJSON[S]{}, false // what is wrong with the store shows when the log is read
	}
	j := snapshotJSON[S]{State: state}
	if err := json.Unmarshal(snap.State, &j); err != nil || j.Head != snap.Hash || !j.Tree.Valid() || j.Tree.Size != snap.Seq {
		hv.opts.Logger.Warn("passing over a bad snapshot", "stream", name, "error", err)
		return snapshotJSON[S]{}, false
	}
	return j, true
}
