package sqlitelog

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
)

// What is known of a log once it is read.
type loaded struct {
	table   *table
	last    int64
	indexed int64
	pending []entry
}

// load reads the saved heads, then the records behind them, each of which must follow its stream's head.
func (f *file) load(ctx context.Context) (loaded, error) {
	var l loaded
	if err := f.w.QueryRowContext(ctx, selectSaved).Scan(&l.indexed); err != nil {
		return loaded{}, fmt.Errorf("reading place: %w", storedError(err))
	}
	var last int64
	if err := f.w.QueryRowContext(ctx, selectLast).Scan(&last); err != nil {
		return loaded{}, fmt.Errorf("reading newest record: %w", storedError(err))
	}
	if err := l.readHeads(ctx, f.w); err != nil {
		return loaded{}, fmt.Errorf("reading heads: %w", storedError(err))
	}
	if err := l.readTail(ctx, f.w); err != nil {
		return loaded{}, fmt.Errorf("reading newest records: %w", storedError(err))
	}
	if l.last != last {
		return loaded{}, fmt.Errorf("%w: heads are saved up to row %d, and the last is %d", eventlog.ErrCorrupt, l.last, last)
	}
	return l, nil
}

func (l *loaded) readHeads(ctx context.Context, c *sql.Conn) error {
	var n int
	if err := c.QueryRowContext(ctx, "SELECT count(*) FROM heads").Scan(&n); err != nil {
		return err
	}
	l.table = newTable(n)
	rows, err := c.QueryContext(ctx, "SELECT first, stream, id, seq, hash, deadline, owes FROM heads ORDER BY first")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var h scannedHead
		if err := rows.Scan(&h.first, &h.stream, &h.id, &h.seq, &h.hash, &h.deadline, &h.owes); err != nil {
			return fmt.Errorf("%w: %w", eventlog.ErrCorrupt, err)
		}
		if l.table.find(h.stream) != nil {
			return fmt.Errorf("%w: %s has two heads", eventlog.ErrCorrupt, h.stream)
		}
		if _, err := h.into(l.table); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (l *loaded) readTail(ctx context.Context, c *sql.Conn) error {
	l.last = l.indexed
	rows, err := c.QueryContext(ctx, "SELECT id, stream, seq, parent, hash, deadline, owes FROM records WHERE id > ? ORDER BY id", l.indexed)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var h scannedHead
		var parent sql.NullInt64
		if err := rows.Scan(&h.id, &h.stream, &h.seq, &parent, &h.hash, &h.deadline, &h.owes); err != nil {
			return fmt.Errorf("%w: row behind %d: %w", eventlog.ErrCorrupt, l.last, err)
		}
		if h.id != l.last+1 {
			return fmt.Errorf("%w: row %d follows row %d", eventlog.ErrCorrupt, h.id, l.last)
		}
		l.last = h.id
		place, before := l.table.look(h.stream)
		if before.id < h.id { // otherwise the head was saved after this row
			if h.seq != before.seq+1 || parent.Int64 != before.id {
				return fmt.Errorf("%w: row %d is record %d of %s behind row %d, whose newest is record %d in row %d",
					eventlog.ErrCorrupt, h.id, h.seq, h.stream, parent.Int64, before.seq, before.id)
			}
			h.first = cmp.Or(before.first, h.id)
			if place, err = h.into(l.table); err != nil {
				return err
			}
		}
		l.pending = append(l.pending, entry{place: place, seq: h.seq, id: h.id})
	}
	return rows.Err()
}

// A scannedHead is a head as its columns have it.
type scannedHead struct {
	stream   string
	first    int64
	id       int64
	seq      uint64
	hash     []byte
	deadline sql.NullInt64
	owes     int64
}

func (h *scannedHead) into(t *table) (place uint32, err error) {
	if len(h.hash) != len(audit.Hash{}) {
		return 0, fmt.Errorf("%w: row %d has a hash of %d bytes", eventlog.ErrCorrupt, h.id, len(h.hash))
	}
	ms := int64(neverWants)
	if h.deadline.Valid {
		ms = h.deadline.Int64
	}
	return t.put(head{stream: h.stream, hash: audit.Hash(h.hash), seq: h.seq, first: h.first, id: h.id, wants: ms<<1 | h.owes&1}), nil
}

// reopen opens the file again after an error that leaves it open what is on the disk: after a failed sync the operating
// system may show pages that are on no disk. It writes the whole WAL back, which writes and syncs each page anew, reads the
// heads from the tables, and compares every one with its row, and every one that was acknowledged as durable with what is
// there now. Only then is anything read believed. If it fails, the next use tries again; a full disk may have room by then.
func (s *Store) reopen(ctx context.Context) error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return eventlog.ErrClosed
	}
	if s.damaged != nil || s.broken == nil { // somebody else was here
		return s.damaged
	}
	if err := s.file.close(); err != nil {
		s.logger.Warn("closing log after an error", "dir", s.dir, "err", err)
	}
	f, err := s.connect(ctx, filepath.Join(s.dir, fileName))
	if err != nil {
		return fmt.Errorf("opening log again: %w", err)
	}
	l, err := s.check(ctx, f)
	if errors.Is(err, eventlog.ErrCorrupt) {
		s.damage(err)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("opening log again: %w", err), f.close())
	}
	s.logger.Info("log is open again, all heads are as they were acknowledged", "dir", s.dir, "records", l.last, "after", s.broken)
	s.file, s.round = f, round{}
	s.know(l, l.last)
	return nil
}

// know makes what was read what is known, and durable up to synced.
func (s *Store) know(l loaded, synced int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table, s.last, s.indexed, s.pending = l.table, l.last, l.indexed, l.pending
	s.synced, s.broken = synced, nil
}

func (s *Store) check(ctx context.Context, f *file) (loaded, error) {
	if err := f.checkpoint(ctx); err != nil {
		return loaded{}, err
	}
	l, err := f.load(ctx)
	if err != nil {
		return loaded{}, err
	}
	row, err := f.w.PrepareContext(ctx, "SELECT stream, seq, hash FROM records WHERE id = ?")
	if err != nil {
		return loaded{}, err
	}
	defer row.Close()
	for i := range l.table.len() {
		if err := l.table.at(uint32(i)).standsIn(ctx, row); err != nil {
			return loaded{}, err
		}
	}
	for i := range s.table.len() {
		old := s.table.at(uint32(i))
		if old.id > s.synced {
			continue // it was not promised to be durable
		}
		now := l.table.find(old.stream)
		if now != nil && *now == *old {
			continue // compared above
		}
		if now == nil || now.seq < old.seq {
			return loaded{}, fmt.Errorf("%w: record %d of %s was acknowledged and is gone", eventlog.ErrCorrupt, old.seq, old.stream)
		}
		if err := old.standsIn(ctx, row); err != nil {
			return loaded{}, err
		}
	}
	return l, nil
}

// standsIn compares the head with its row.
func (h *head) standsIn(ctx context.Context, row *sql.Stmt) error {
	var stream string
	var seq uint64
	var hash []byte
	err := row.QueryRowContext(ctx, h.id).Scan(&stream, &seq, &hash)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: row %d, record %d of %s, is gone", eventlog.ErrCorrupt, h.id, h.seq, h.stream)
	}
	if err != nil {
		return fmt.Errorf("reading row %d: %w", h.id, storedError(err))
	}
	if stream != h.stream || seq != h.seq || string(hash) != string(h.hash[:]) {
		return fmt.Errorf("%w: row %d is not record %d of %s as acknowledged", eventlog.ErrCorrupt, h.id, h.seq, h.stream)
	}
	return nil
}
