package store

import (
	"context"
	"database/sql"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver

	"github.com/agenthypervisor/hypervisor/eventlog"
)

// A Table is one append-only SQLite table in commit order, and nothing else: no heads, no compare-and-swap, no index.
type Table struct {
	db                    *sql.DB
	conn                  *sql.Conn
	begin, insert, commit *sql.Stmt
}

// OpenTable makes a table in dir, which has none.
func OpenTable(ctx context.Context, dir string) (t *Table, err error) {
	t = new(Table)
	name := "file:" + filepath.Join(dir, "table.db") + "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"
	if t.db, err = sql.Open("sqlite", name); err != nil {
		return nil, err
	}
	if t.conn, err = t.db.Conn(ctx); err != nil {
		return nil, err
	}
	const create = "CREATE TABLE records (id INTEGER PRIMARY KEY, stream TEXT, seq INTEGER, hash BLOB, body BLOB, payload BLOB)"
	if _, err := t.conn.ExecContext(ctx, create); err != nil {
		return nil, err
	}
	const insert = "INSERT INTO records (stream, seq, hash, body, payload) VALUES (?,?,?,?,?)"
	for query, stmt := range map[string]**sql.Stmt{"BEGIN IMMEDIATE": &t.begin, insert: &t.insert, "COMMIT": &t.commit} {
		if *stmt, err = t.conn.PrepareContext(ctx, query); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Commit writes a group in one durable transaction.
func (t *Table) Commit(ctx context.Context, group []eventlog.Append) error {
	if _, err := t.begin.ExecContext(ctx); err != nil {
		return err
	}
	for i := range group {
		r := &group[i]
		if _, err := t.insert.ExecContext(ctx, r.Stream, int64(r.Seq), r.Hash[:], r.Body, r.Payload); err != nil {
			return err
		}
	}
	_, err := t.commit.ExecContext(ctx)
	return err
}

// Close closes the table.
func (t *Table) Close() error { return t.db.Close() }
