package sqlitelog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
)

// PutBlob implements eventlog.Blobs.
func (s *Store) PutBlob(ctx context.Context, key audit.Hash, b []byte) error {
	const insert = "INSERT INTO blobs (key, bytes) VALUES (?,?) ON CONFLICT DO NOTHING"
	if err := s.exec(ctx, true, insert, key[:], notNil(b)); err != nil {
		return fmt.Errorf("storing blob: %w", err)
	}
	return nil
}

// Blob implements eventlog.Blobs.
func (s *Store) Blob(ctx context.Context, key audit.Hash) (b []byte, err error) {
	err = s.reading(ctx, func(ctx context.Context) (err error) {
		b, err = readBlob(ctx, s.file.db, key)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading blob: %w", err)
	}
	return b, nil
}

func readBlob(ctx context.Context, q querier, key audit.Hash) (b []byte, err error) {
	err = q.QueryRowContext(ctx, "SELECT bytes FROM blobs WHERE key = ?", key[:]).Scan(&b)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, eventlog.ErrNoBlob
	}
	return b, storedError(err)
}

// SaveSnapshot implements eventlog.Snapshots.
func (s *Store) SaveSnapshot(ctx context.Context, snap eventlog.Snapshot) error {
	const replace = "INSERT OR REPLACE INTO snapshots (stream, seq, hash, state) VALUES (?,?,?,?)"
	if err := s.exec(ctx, false, replace, snap.Stream, int64(snap.Seq), snap.Hash[:], notNil(snap.State)); err != nil {
		return fmt.Errorf("saving snapshot of %s: %w", snap.Stream, err)
	}
	return nil
}

// Snapshot implements eventlog.Snapshots.
func (s *Store) Snapshot(ctx context.Context, stream string) (snap eventlog.Snapshot, ok bool, err error) {
	snap.Stream = stream
	var hash []byte
	err = s.reading(ctx, func(ctx context.Context) error {
		return s.file.db.QueryRowContext(ctx, "SELECT seq, hash, state FROM snapshots WHERE stream = ?", stream).
			Scan(&snap.Seq, &hash, &snap.State)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return eventlog.Snapshot{}, false, nil
	}
	if err == nil && len(hash) != len(snap.Hash) {
		err = fmt.Errorf("%w: its hash has %d bytes", eventlog.ErrCorrupt, len(hash))
	}
	if err != nil {
		return eventlog.Snapshot{}, false, fmt.Errorf("reading snapshot of %s: %w", stream, storedError(err))
	}
	snap.Hash = audit.Hash(hash)
	return snap, true, nil
}

// exec runs one statement in a transaction.
func (s *Store) exec(ctx context.Context, durable bool, query string, args ...any) error {
	release, err := s.useToWrite(ctx)
	if err != nil {
		return err
	}
	defer release()
	ctx = context.WithoutCancel(ctx)
	err = s.tx(ctx, durable, func() error {
		_, err := s.file.w.ExecContext(ctx, query, args...)
		return err
	})
	if errors.Is(err, errOutcome) {
		return fmt.Errorf("%w: %w", eventlog.ErrUnknown, err)
	}
	return err
}

// notNil returns b, or empty bytes for nil, which would be NULL.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
