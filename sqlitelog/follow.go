package sqlitelog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/agenthypervisor/hypervisor/eventlog"
)

const (
	// roundRecords is how many records wait before the index takes them: the more at once, the more of them share a page.
	roundRecords = 65_536
	// pieceRecords is how many of them go in while appends wait.
	pieceRecords = 512
	// maxPending bounds the records that wait when nobody calls Step: from there on each Append indexes more than it adds.
	// It also bounds what Open reads, to about half a second.
	maxPending = 4 * roundRecords
)

// An entry is a record that the index does not have yet.
type entry struct {
	place uint32 // of the stream's head in the table; places rise as first ids do
	seq   uint64
	id    int64
}

// A round is a run of the log on its way into the index, in the index's order, so that neighbours share a page.
type round struct {
	entries []entry
	at      int   // how many are in
	upto    int64 // with the last of them, the index has all records up to here
}

// Step takes the followers, the index by stream and the saved heads, a piece further: for some milliseconds, during which
// appends wait. It returns false when there is nothing worth doing, or when it could not be done; the log is then read along
// parents, only slower, and Open has more to read. One caller at a time makes progress.
func (s *Store) Step(ctx context.Context) bool {
	more, err := s.step(ctx, roundRecords)
	if err != nil && !errors.Is(err, eventlog.ErrClosed) && ctx.Err() == nil {
		s.logger.Warn("index of log lags behind", "dir", s.dir, "err", err)
	}
	return more && err == nil
}

// finish indexes everything.
func (s *Store) finish(ctx context.Context) error {
	for {
		if more, err := s.step(ctx, 1); !more || err != nil {
			return err
		}
	}
}

// keepUp bounds what waits for the index when nobody calls Step.
func (s *Store) keepUp(ctx context.Context) {
	const pieces = 1 + eventlog.MaxBatch/pieceRecords // more than a group adds
	s.mu.RLock()
	late := len(s.pending) >= maxPending
	s.mu.RUnlock()
	for range pieces {
		if !late || !s.Step(ctx) {
			return
		}
	}
}

// step begins a round if there is none and at least so many records wait, and puts the next piece of it in.
func (s *Store) step(ctx context.Context, atLeast int) (more bool, err error) {
	s.stepping.Lock()
	defer s.stepping.Unlock()
	release, err := s.use(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	if len(s.round.entries) == 0 && !s.beginRound(atLeast) {
		return false, nil
	}
	if err := s.putPiece(context.WithoutCancel(ctx)); err != nil {
		return false, fmt.Errorf("indexing log: %w", err)
	}
	return true, nil
}

func (s *Store) beginRound(atLeast int) bool {
	s.write.Lock()
	if len(s.pending) < atLeast {
		s.write.Unlock()
		return false
	}
	s.mu.Lock()
	entries := s.pending
	s.pending = nil
	s.mu.Unlock()
	s.write.Unlock()
	s.round = round{entries: entries, upto: entries[len(entries)-1].id}
	slices.SortFunc(entries, func(a, b entry) int { // appends go on meanwhile
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.seq, b.seq), cmp.Compare(a.id, b.id))
	})
	return true
}

// putPiece puts the next entries of the round in, in one transaction that need not be durable: after a power cut it is done
// again. A crash in the middle of a round leaves entries that the next process finds there, and leaves be.
func (s *Store) putPiece(ctx context.Context) error {
	s.write.Lock()
	defer s.write.Unlock()
	if s.broken != nil {
		return s.broken
	}
	r := &s.round
	end := min(r.at+pieceRecords, len(r.entries))
	err := s.tx(ctx, false, func() error { return s.putEntries(ctx, r.at, end) })
	if errors.Is(err, eventlog.ErrCorrupt) {
		s.damage(err)
	}
	if err != nil {
		return err
	}
	r.at = end
	if end == len(r.entries) {
		s.mu.Lock()
		s.indexed = r.upto
		s.mu.Unlock()
		s.round = round{}
	}
	return nil
}

func (s *Store) putEntries(ctx context.Context, begin, end int) error {
	entries := s.round.entries
	for i := begin; i < end; i++ {
		e := entries[i]
		if err := s.putEntry(ctx, e); err != nil {
			return err
		}
		if i+1 < len(entries) && entries[i+1].place == e.place {
			continue
		}
		// The head may be newer than the round; Open passes over what it has.
		if err := s.putHead(ctx, s.table.at(e.place)); err != nil {
			return fmt.Errorf("saving head: %w", err)
		}
	}
	if end < len(entries) {
		return nil
	}
	if _, err := s.file.save.ExecContext(ctx, s.round.upto); err != nil {
		return fmt.Errorf("saving place: %w", err)
	}
	return nil
}

// putEntry puts one entry in. Another record in its place is damage: two records of one stream with one sequence number.
func (s *Store) putEntry(ctx context.Context, e entry) error {
	first := s.table.at(e.place).first
	done, err := s.file.index.ExecContext(ctx, first, int64(e.seq), e.id)
	if err != nil {
		return fmt.Errorf("inserting into index: %w", err)
	}
	if n, err := done.RowsAffected(); err != nil || n == 1 {
		return err
	}
	var id int64
	if err := s.file.w.QueryRowContext(ctx, selectIndexed, first, int64(e.seq)).Scan(&id); err != nil {
		return fmt.Errorf("reading index: %w", err)
	}
	if id != e.id {
		return fmt.Errorf("%w: rows %d and %d are both record %d of the stream that began in row %d",
			eventlog.ErrCorrupt, id, e.id, e.seq, first)
	}
	return nil
}

func (s *Store) putHead(ctx context.Context, h *head) error {
	_, err := s.file.saveHead.ExecContext(ctx, h.first, h.stream, h.id, int64(h.seq), h.hash[:], h.deadline(), h.owes())
	return err
}
