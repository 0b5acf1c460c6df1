package sqlitelog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	pageRows  = 256     // rows read before their caller sees the first
	pageBytes = 4 << 20 // or fewer, if they are as large; the last may be larger
)

// reading runs fn with the file in its hands. It is not interrupted: a context that can end costs a goroutine a statement.
func (s *Store) reading(ctx context.Context, fn func(ctx context.Context) error) error {
	release, err := s.use(ctx)
	if err != nil {
		return err
	}
	defer release()
	return fn(context.WithoutCancel(ctx))
}

// Tail implements eventlog.Log.
func (s *Store) Tail(ctx context.Context, after uint64) iter.Seq2[eventlog.Record, error] {
	return func(yield func(eventlog.Record, error) bool) {
		var last uint64
		err := s.reading(ctx, func(context.Context) error {
			s.mu.RLock()
			defer s.mu.RUnlock()
			last = uint64(s.last)
			return nil
		})
		var page []eventlog.Record
		for at := after; err == nil && at < last; {
			err = s.reading(ctx, func(ctx context.Context) (err error) {
				page, err = readPage(ctx, page[:0], s.file.tailPage, int64(at), int64(last), pageRows)
				return err
			})
			for i := 0; err == nil && i < max(len(page), 1); i++ {
				if len(page) == 0 || page[i].Position != at+1 {
					err = fmt.Errorf("%w: record %d is missing", eventlog.ErrCorrupt, at+1)
					break
				}
				at++
				if !yield(page[i], nil) {
					return
				}
			}
		}
		if err != nil {
			yield(eventlog.Record{}, fmt.Errorf("reading log: %w", err))
		}
	}
}

// Read implements eventlog.Log.
func (s *Store) Read(ctx context.Context, stream string, from uint64) iter.Seq2[eventlog.Record, error] {
	return func(yield func(eventlog.Record, error) bool) {
		from := max(from, 1)
		var head head
		var behind []int64 // ids of the records that the index may not have yet; the last is the head's
		err := s.reading(ctx, func(ctx context.Context) (err error) {
			head, behind, err = s.unindexed(ctx, stream, from)
			return err
		})
		indexed := head.seq - uint64(len(behind)) // newest sequence number to be had from the index
		var page []eventlog.Record
		for next := from; err == nil && next <= head.seq; {
			err = s.reading(ctx, func(ctx context.Context) (err error) {
				if next <= indexed {
					page, err = readPage(ctx, page[:0], s.file.streamPage, head.first, int64(next), int64(indexed), pageRows)
					return err
				}
				ids := behind[next-indexed-1:]
				page, err = readRows(ctx, page[:0], s.file, ids[:min(len(ids), pageRows)])
				return err
			})
			for i := 0; err == nil && i < max(len(page), 1); i++ {
				if len(page) == 0 || page[i].Seq != next || page[i].Stream != stream {
					err = fmt.Errorf("%w: record %d of %s is missing", eventlog.ErrCorrupt, next, stream)
					break
				}
				next++
				if !yield(page[i], nil) {
					return
				}
			}
		}
		if err != nil {
			yield(eventlog.Record{}, fmt.Errorf("reading %s: %w", stream, err))
		}
	}
}

// unindexed returns the head of stream, and the ids of its records from sequence number from on that the index may not have.
func (s *Store) unindexed(ctx context.Context, stream string, from uint64) (h head, ids []int64, err error) {
	s.mu.RLock()
	_, h = s.table.look(stream)
	indexed := s.indexed
	s.mu.RUnlock()
	if h.id <= indexed || from > h.seq {
		return h, nil, nil
	}
	rows, err := s.file.back.QueryContext(ctx, h.id, indexed, int64(from))
	if err != nil {
		return head{}, nil, fmt.Errorf("walking back: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return head{}, nil, fmt.Errorf("walking back: %w", err)
		}
		ids = append(ids, id)
	}
	slices.Reverse(ids)
	return h, ids, storedError(rows.Err())
}

// Heads implements eventlog.Log.
func (s *Store) Heads(ctx context.Context) iter.Seq2[eventlog.Head, error] {
	return func(yield func(eventlog.Head, error) bool) {
		var t *table
		var page [chunkSize]eventlog.Head
		for first := 0; ; first += chunkSize {
			n := 0
			err := s.reading(ctx, func(context.Context) error {
				s.mu.RLock()
				defer s.mu.RUnlock()
				if t == nil {
					t = s.table
				}
				if t != s.table {
					return errors.New("log was opened again in between")
				}
				for n < chunkSize && first+n < t.len() {
					page[n] = t.at(uint32(first + n)).event()
					n++
				}
				return nil
			})
			if err != nil {
				yield(eventlog.Head{}, fmt.Errorf("reading heads: %w", err))
				return
			}
			for i := range n {
				if !yield(page[i], nil) {
					return
				}
			}
			if n < chunkSize {
				return
			}
		}
	}
}

// readPage appends the records that a query yields to page, as far as a page goes.
func readPage(ctx context.Context, page []eventlog.Record, stmt *sql.Stmt, args ...any) ([]eventlog.Record, error) {
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return nil, storedError(err)
	}
	defer rows.Close()
	for size := 0; size < pageBytes && rows.Next(); {
		var r eventlog.Record
		var hash []byte
		if err := rows.Scan(&r.Position, &r.Stream, &r.Seq, &hash, &r.Body, &r.Payload); err != nil {
			return nil, fmt.Errorf("%w: record behind %v: %w", eventlog.ErrCorrupt, args[0], err)
		}
		if len(hash) != len(r.Hash) {
			return nil, fmt.Errorf("%w: record %d has a hash of %d bytes", eventlog.ErrCorrupt, r.Position, len(hash))
		}
		r.Hash = audit.Hash(hash)
		page = append(page, r)
		size += len(r.Body) + len(r.Payload)
	}
	return page, storedError(rows.Err())
}

// readRows appends the records with these ids, which rise, to page.
func readRows(ctx context.Context, page []eventlog.Record, f *file, ids []int64) ([]eventlog.Record, error) {
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	return readPage(ctx, page, f.rows, string(list))
}

// storedError makes SQLite's finding that the file is damaged our own.
func storedError(err error) error {
	switch primaryCode(err) {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %w", eventlog.ErrCorrupt, err)
	}
	return err
}
