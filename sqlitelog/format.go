package sqlitelog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/agenthypervisor/hypervisor/eventlog"
)

const (
	fileName = "log.db"
	// applicationID marks the file as ours: "hyp1" (PRAGMA application_id).
	applicationID = 0x68797031
	// formatVersion is what this program writes and the newest it reads (PRAGMA user_version).
	formatVersion = 1
)

// schema makes an empty file ours. What is small stands before what is large in a row: a column behind a long body costs a
// walk along its overflow pages.
const schema = `
CREATE TABLE records (                -- append-only, in commit order: what is truth
	id       INTEGER PRIMARY KEY,     -- from 1, without gaps
	stream   TEXT NOT NULL,
	seq      INTEGER NOT NULL,        -- in the stream, from 1
	parent   INTEGER,                 -- id of the stream's record before; NULL for its first
	hash     BLOB NOT NULL,           -- RFC 6962 leaf hash of body
	deadline INTEGER,                 -- when the stream next wants attention, Unix milliseconds; NULL: never
	owes     INTEGER NOT NULL,        -- 1: the stream owes an effect
	body     BLOB,                    -- the record, one JSON line
	payload  BLOB                     -- NULL: none, or redacted
) STRICT;
CREATE TABLE by_stream (              -- a follower: may lag behind records, see follower.saved
	first    INTEGER NOT NULL,        -- id of the stream's first record: shorter than its name
	seq      INTEGER NOT NULL,
	id       INTEGER NOT NULL,
	PRIMARY KEY (first, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE heads (                  -- a follower, likewise: each stream's newest record, or one not much older
	first    INTEGER PRIMARY KEY,
	stream   TEXT NOT NULL,
	id       INTEGER NOT NULL,
	seq      INTEGER NOT NULL,
	hash     BLOB NOT NULL,
	deadline INTEGER,
	owes     INTEGER NOT NULL
) STRICT;
CREATE TABLE follower (saved INTEGER NOT NULL) STRICT; -- one row: records up to this id are in by_stream and heads
INSERT INTO follower VALUES (0);
CREATE TABLE blobs (key BLOB PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
CREATE TABLE snapshots (stream TEXT PRIMARY KEY, seq INTEGER NOT NULL, hash BLOB NOT NULL, state BLOB NOT NULL) STRICT;
`

// A formatError says why a file is not for this program. It is eventlog.ErrFormat.
type formatError string

func (e formatError) Error() string        { return string(e) }
func (e formatError) Is(target error) bool { return target == eventlog.ErrFormat }

// checkFormat returns whether the file is empty, nil if it is ours, or why this program must not touch it. It only reads.
func checkFormat(ctx context.Context, q querier, path string) (empty bool, err error) {
	var app, version, tables int64
	for _, v := range []struct {
		query string
		into  *int64
	}{
		{"PRAGMA application_id", &app},
		{"PRAGMA user_version", &version},
		{"SELECT count(*) FROM sqlite_schema", &tables},
	} {
		err := q.QueryRowContext(ctx, v.query).Scan(v.into)
		if primaryCode(err) == sqlite3.SQLITE_NOTADB {
			return false, notOurs(path)
		}
		if err != nil {
			return false, fmt.Errorf("reading format of %s: %w", path, err)
		}
	}
	switch {
	case app == 0 && version == 0 && tables == 0:
		return true, nil
	case app != applicationID:
		return false, notOurs(path)
	case version > formatVersion:
		return false, formatError(fmt.Sprintf("%s is of format %d, and this program reads formats up to %d: use a newer program, "+
			"or name another data directory with --data", path, version, formatVersion))
	}
	return false, nil
}

func notOurs(path string) error {
	return formatError(path + " is not a hypervisor's log, so it is left alone: move it away, or name another data directory with --data")
}

// makeSchema makes an empty file ours, or does nothing: a crash in between leaves it empty.
func makeSchema(ctx context.Context, c *sql.Conn) error {
	script := fmt.Sprintf("BEGIN IMMEDIATE; %s PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT",
		schema, applicationID, formatVersion)
	if _, err := c.ExecContext(ctx, script); err != nil {
		return fmt.Errorf("making tables: %w", err)
	}
	return nil
}

// A querier is a database or a connection of it.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// primaryCode returns SQLite's primary result code of err, 0 if it has none.
func primaryCode(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0
	}
	const primary = 0xff
	return e.Code() & primary
}

// diskFull reports whether err says that there was no room.
func diskFull(err error) bool { return primaryCode(err) == sqlite3.SQLITE_FULL }
