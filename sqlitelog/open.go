package sqlitelog

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"modernc.org/sqlite"
)

// Options are what a Store may be told. Nil means all zero values.
type Options struct {
	// Logger is told when the store closes its file after an error, and when it has it again. Nil: nobody is told.
	Logger *slog.Logger

	// wrap stands between database/sql and the driver, for tests that make it fail.
	wrap func(driver.Connector) driver.Connector
}

const (
	maxReaders  = 4     // connections beside the writer's
	busyTimeout = 5_000 // milliseconds to wait for a reader of another process to let go
)

// Open opens the log in dir, or makes it: dir with mode 0700, its files with 0600. It returns a *HeldError when another
// process has dir open, and eventlog.ErrFormat when what is there was written by a newer program or is not a log.
func Open(ctx context.Context, dir string, opts *Options) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	s := &Store{dir: dir, logger: opts.Logger, wrap: opts.wrap, newest: map[string]int{}}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("making data directory %s: %w", dir, err)
	}
	var err error
	if s.lock, err = holdDir(dir); err != nil {
		return nil, err
	}
	if err := s.openFile(context.WithoutCancel(ctx)); err != nil {
		return nil, errors.Join(fmt.Errorf("opening log in %s: %w", dir, err), s.lock.Close())
	}
	return s, nil
}

// makeDir makes dir, and the name of dir durable.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(dir)))
}

// openFile opens the database, makes its tables if it is new, and reads the heads.
func (s *Store) openFile(ctx context.Context) error {
	path := filepath.Join(s.dir, fileName)
	if err := makeFile(path); err != nil {
		return err
	}
	f, err := s.connect(ctx, path)
	if err != nil {
		return err
	}
	l, err := f.load(ctx)
	if err != nil {
		return errors.Join(err, f.close())
	}
	synced := l.last
	if err := f.checkpoint(ctx); err != nil { // a verifier may be reading; the next durable commit will do
		s.logger.Warn("log is not yet synced", "dir", s.dir, "err", err)
		synced = 0
	} else if err := reserveWAL(path + walSuffix); err != nil {
		s.logger.Info("the WAL could not be made as long as it will be; it grows as it is written", "dir", s.dir, "err", err)
	}
	s.file = f
	s.know(l, synced)
	return nil
}

// makeFile makes an empty file that only we may read: SQLite would make it by the umask. SQLite gives the WAL the same mode.
func makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), syncDir(filepath.Dir(path)))
}

func (s *Store) openDB(name string) (*sql.DB, error) {
	c, err := sqlite.NewConnector(name)
	if err != nil {
		return nil, err
	}
	if s.wrap != nil {
		c = s.wrap(c)
	}
	return sql.OpenDB(c), nil
}

// dsn returns the URI of the file at path for the driver.
func dsn(path string, params ...string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/…
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + strings.Join(params, "&")
}

// A file is the open database: the writer's connection with its statements, and a pool for readers.
// Reads are done in pages, so that none keeps a connection, or the WAL from being written back, while its caller works.
type file struct {
	db   *sql.DB
	w    *sql.Conn // all that writes; owner: whoever holds Store.write
	full bool      // whether w syncs at commit

	begin, commit, rollback       *sql.Stmt   // on w
	insert, index, saveHead, save *sql.Stmt   // on w
	tailPage, streamPage          *sql.Stmt   // on any connection
	back, rows                    *sql.Stmt   // likewise
	stmts                         []*sql.Stmt // all of them
}

func (s *Store) connect(ctx context.Context, path string) (*file, error) {
	db, err := s.openDB(dsn(path, "mode=rw", fmt.Sprintf("_pragma=busy_timeout(%d)", busyTimeout)))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1 + maxReaders)
	db.SetMaxIdleConns(1 + maxReaders)
	f := &file{db: db, full: true}
	if err := f.prepare(ctx, path); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

const (
	insertRecord = `INSERT INTO records (id, stream, seq, parent, hash, deadline, owes, body, payload) VALUES (?,?,?,?,?,?,?,?,?)`
	insertIndex  = `INSERT INTO by_stream (first, seq, id) VALUES (?,?,?) ON CONFLICT DO NOTHING`
	upsertHead   = `INSERT OR REPLACE INTO heads (first, stream, id, seq, hash, deadline, owes) VALUES (?,?,?,?,?,?,?)`
	updateSaved  = `UPDATE follower SET saved = ?`

	recordColumns    = `r.id, r.stream, r.seq, r.hash, r.body, r.payload`
	selectTailPage   = `SELECT ` + recordColumns + ` FROM records r WHERE r.id > ? AND r.id <= ? ORDER BY r.id LIMIT ?`
	selectStreamPage = `SELECT ` + recordColumns + ` FROM by_stream b JOIN records r ON r.id = b.id
		WHERE b.first = ? AND b.seq >= ? AND b.seq <= ? ORDER BY b.seq LIMIT ?`
	selectRows = `SELECT ` + recordColumns + ` FROM json_each(?) j JOIN records r ON r.id = j.value ORDER BY r.id`
	selectBack = `WITH RECURSIVE back (id, parent) AS (
			SELECT id, parent FROM records WHERE id = ?1
			UNION ALL
			SELECT r.id, r.parent FROM back JOIN records r ON r.id = back.parent WHERE r.id > ?2 AND r.seq >= ?3 AND r.id < back.id
		) SELECT id FROM back`
	selectIndexed = `SELECT id FROM by_stream WHERE first = ? AND seq = ?`
	selectSaved   = `SELECT saved FROM follower`
	selectLast    = `SELECT coalesce(max(id), 0) FROM records`
)

// prepare takes the writer's connection, looks whether the file is ours before anything in it is changed, makes the tables of
// a new one, and prepares the statements.
func (f *file) prepare(ctx context.Context, path string) (err error) {
	if f.w, err = f.db.Conn(ctx); err != nil {
		return err
	}
	empty, err := checkFormat(ctx, f.w, path)
	if err != nil {
		return err
	}
	if err := setUp(ctx, f.w); err != nil {
		return err
	}
	if empty {
		if err := makeSchema(ctx, f.w); err != nil {
			return err
		}
	}
	for _, p := range []struct {
		stmt **sql.Stmt
		on   interface {
			PrepareContext(context.Context, string) (*sql.Stmt, error)
		}
		query string
	}{
		{&f.begin, f.w, "BEGIN IMMEDIATE"}, {&f.commit, f.w, "COMMIT"}, {&f.rollback, f.w, "ROLLBACK"},
		{&f.insert, f.w, insertRecord}, {&f.index, f.w, insertIndex},
		{&f.saveHead, f.w, upsertHead}, {&f.save, f.w, updateSaved},
		{&f.tailPage, f.db, selectTailPage}, {&f.streamPage, f.db, selectStreamPage},
		{&f.back, f.db, selectBack}, {&f.rows, f.db, selectRows},
	} {
		if *p.stmt, err = p.on.PrepareContext(ctx, p.query); err != nil {
			return fmt.Errorf("preparing %q: %w", p.query, err)
		}
		f.stmts = append(f.stmts, *p.stmt)
	}
	return nil
}

// setUp says how the writer writes, and gives the file its journal. Its page cache stays as large as every other connection's: modernc's
// build keeps the pages of all connections of a process in one pool, and once the others hold their share of that, a larger writer drops
// each page the moment it lets go of it, and reads the table's root again for every row.
func setUp(ctx context.Context, c *sql.Conn) error {
	for _, pragma := range []string{
		"PRAGMA synchronous = FULL",
		fmt.Sprintf("PRAGMA wal_autocheckpoint = %d", walPages),
	} {
		if _, err := c.ExecContext(ctx, pragma); err != nil {
			return fmt.Errorf("%s: %w", pragma, err)
		}
	}
	var mode string
	if err := c.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return fmt.Errorf("setting journal mode: %w", err)
	}
	if mode != "wal" {
		return fmt.Errorf("setting journal mode: this file system cannot do WAL (got %q)", mode)
	}
	return nil
}

// close lets go of the file, and with it of an open transaction. The statements go first: database/sql does not close those
// of a connection of its own with it, and SQLite keeps a connection, its locks too, for as long as it has statements.
func (f *file) close() error {
	var errs []error
	for _, stmt := range f.stmts {
		errs = append(errs, stmt.Close())
	}
	f.stmts = nil
	if f.w != nil {
		errs = append(errs, f.w.Close())
		f.w = nil
	}
	return errors.Join(append(errs, f.db.Close())...)
}

// checkpoint writes the whole WAL back, syncs, and truncates it, so that every page of the log was written and synced anew.
func (f *file) checkpoint(ctx context.Context) error {
	if err := f.sync(ctx, true); err != nil {
		return err
	}
	var busy, inLog, done int
	if err := f.w.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &inLog, &done); err != nil {
		return fmt.Errorf("writing back the WAL: %w", err)
	}
	if busy != 0 {
		return errors.New("writing back the WAL: a reader of another process holds it")
	}
	return nil
}

// sync chooses whether the next commits sync the WAL. A commit that does makes all before it durable too, for it syncs the
// whole file. One that does not is still written to the WAL in order, and SQLite still syncs before it writes the WAL back:
// NORMAL, not OFF, under which a power cut could tear the database itself.
func (f *file) sync(ctx context.Context, full bool) error {
	if f.full == full {
		return nil
	}
	level := "NORMAL"
	if full {
		level = "FULL"
	}
	if _, err := f.w.ExecContext(ctx, "PRAGMA synchronous = "+level); err != nil {
		return fmt.Errorf("setting synchronous: %w", err)
	}
	f.full = full
	return nil
}
