package sqlitelog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"modernc.org/sqlite"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
)

// ErrMoved is returned by a Reader of a directory that nobody held when it was opened, and that has changed since: what was
// read may be torn. Open another Reader.
var ErrMoved = errors.New("log changed while it was read; read it again")

// A Row is a record with all that its row says of it, believed or not.
type Row struct {
	eventlog.Record
	Parent uint64 // position of the stream's record before; zero for none
}

// A Reader reads a log without holding it: beside the daemon that does, or when nobody does. It changes nothing, makes no
// file, keeps nobody out, and believes nothing it reads. Safe for concurrent use.
type Reader struct {
	db    *sql.DB
	path  string
	quiet bool // nobody held the directory, so nothing keeps the files still but luck; see changed
	at    [3]fingerprint
}

// OpenReader opens the log in dir for reading. It returns eventlog.ErrFormat when it was written by a newer program or is not
// a log, and fs.ErrNotExist when there is none.
func OpenReader(ctx context.Context, dir string) (*Reader, error) {
	ctx = context.WithoutCancel(ctx)
	r := &Reader{path: filepath.Join(dir, fileName)}
	name, err := r.mode(dir)
	if err == nil {
		err = r.open(ctx, name)
	}
	if err != nil {
		return nil, fmt.Errorf("opening log in %s: %w", dir, err)
	}
	return r, nil
}

// mode returns how to open the file so that SQLite changes nothing. In WAL mode it would make a -shm file, and recover and
// remove the WAL, whenever it can.
func (r *Reader) mode(dir string) (dsnName string, err error) {
	held, err := dirHeld(filepath.Join(dir, lockName))
	if err != nil {
		return "", err
	}
	r.quiet, r.at = !held, fingerprints(r.path)
	db, wal, shm := r.at[0], r.at[1], r.at[2]
	switch {
	case !db.exists:
		_, err := os.Stat(r.path)
		return "", errors.Join(err, fs.ErrNotExist)
	case held && wal.exists && shm.exists: // a daemon is at work: its index of the WAL is read
		return dsn(r.path, "mode=ro", "readonly_shm=1", fmt.Sprintf("_pragma=busy_timeout(%d)", busyTimeout)), nil
	case wal.size > 0:
		// A daemon was killed, perhaps while it changed the index of the WAL, or this is a copy without one: without a VFS
		// that locks, SQLite makes the index anew in memory.
		return dsn(r.path, "mode=ro", "vfs="+noLockVFS, "_pragma=locking_mode(EXCLUSIVE)"), nil
	}
	return dsn(r.path, "mode=ro", "immutable=1"), nil
}

func (r *Reader) open(ctx context.Context, name string) error {
	c, err := sqlite.NewConnector(name)
	if err != nil {
		return err
	}
	r.db = sql.OpenDB(c)
	r.db.SetMaxOpenConns(1) // the WAL's index in memory is one connection's
	empty, err := checkFormat(ctx, r.db, r.path)
	if err == nil {
		err = keepWAL(ctx, r.db)
	}
	if err == nil && empty {
		err = fmt.Errorf("%s is empty: %w", r.path, fs.ErrNotExist)
	}
	if err != nil {
		return errors.Join(err, r.db.Close())
	}
	return nil
}

// keepWAL keeps SQLite from removing the WAL when it closes the file: it would, if it finds nothing in it to write back.
func keepWAL(ctx context.Context, db *sql.DB) error {
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	err = c.Raw(func(conn any) error {
		_, err := conn.(sqlite.FileControl).FileControlPersistWAL("main", 1)
		return err
	})
	if err := errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("keeping the WAL: %w", err)
	}
	return nil
}

// Tail yields the rows behind position after, verbatim and in commit order, up to the newest at some moment during the call.
// A gap is the caller's to see. What cannot be a row is eventlog.ErrCorrupt, and ends it.
func (r *Reader) Tail(ctx context.Context, after uint64) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		var last uint64
		err := r.db.QueryRowContext(context.WithoutCancel(ctx), selectLast).Scan(&last)
		var page []Row
		for at := after; err == nil && at < last; {
			page, err = r.page(ctx, page[:0], at, last)
			for _, row := range page {
				at = row.Position
				if !yield(row, nil) {
					return
				}
			}
			if len(page) == 0 {
				break // the newest rows are gone; the caller counts
			}
		}
		if err := errors.Join(r.changed(), storedError(err)); err != nil {
			yield(Row{}, fmt.Errorf("reading %s: %w", r.path, err))
		}
	}
}

const selectRowPage = `SELECT id, stream, seq, parent, hash, body, payload FROM records WHERE id > ? AND id <= ? ORDER BY id`

// page appends as many rows as make a page. Between pages nothing is held, so that the daemon can write its WAL back.
func (r *Reader) page(ctx context.Context, page []Row, after, last uint64) ([]Row, error) {
	if err := ctx.Err(); err != nil {
		return page, err
	}
	rows, err := r.db.QueryContext(context.WithoutCancel(ctx), selectRowPage, int64(after), int64(last))
	if err != nil {
		return page, err
	}
	defer rows.Close()
	for size := 0; size < pageBytes && rows.Next(); {
		var row Row
		var parent sql.NullInt64
		var hash []byte
		if err := rows.Scan(&row.Position, &row.Stream, &row.Seq, &parent, &hash, &row.Body, &row.Payload); err != nil {
			return page, fmt.Errorf("%w: row behind %d: %w", eventlog.ErrCorrupt, after, err)
		}
		if len(hash) != len(row.Hash) || parent.Int64 < 0 {
			return page, fmt.Errorf("%w: row %d: its hash or its parent cannot be one", eventlog.ErrCorrupt, row.Position)
		}
		row.Hash, row.Parent = audit.Hash(hash), uint64(parent.Int64)
		page = append(page, row)
		size += len(row.Body) + len(row.Payload)
		after = row.Position
	}
	return page, rows.Err()
}

// Blob returns the bytes under key, or eventlog.ErrNoBlob.
func (r *Reader) Blob(ctx context.Context, key audit.Hash) ([]byte, error) {
	b, err := readBlob(context.WithoutCancel(ctx), r.db, key)
	if err := errors.Join(r.changed(), err); err != nil {
		return nil, fmt.Errorf("reading blob: %w", err)
	}
	return b, nil
}

// Close lets go of the files.
func (r *Reader) Close() error { return r.db.Close() }

// changed returns ErrMoved if nobody held the directory and its files are not as they were.
func (r *Reader) changed() error {
	if r.quiet && r.at != fingerprints(r.path) {
		return ErrMoved
	}
	return nil
}

// A fingerprint tells whether a file has been written to.
type fingerprint struct {
	exists   bool
	size     int64
	modified int64 // Unix nanoseconds
}

// fingerprints returns those of the database, its WAL, and the WAL's index. Stat only: closing any descriptor of a database
// would take a store in this process its locks.
func fingerprints(path string) (all [3]fingerprint) {
	for i, suffix := range []string{"", "-wal", "-shm"} {
		if info, err := os.Stat(path + suffix); err == nil {
			all[i] = fingerprint{true, info.Size(), info.ModTime().UnixNano()}
		}
	}
	return all
}
