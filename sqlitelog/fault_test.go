package sqlitelog

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/eventlogtest"
)

// Every write of an append, lost or done and reported lost. After a failed commit the outcome is unknown; but when SQLite says
// that the disk is full, and the log is seen to be as it was, the record is not in.
func TestFaults(t *testing.T) {
	sites := []eventlogtest.Site{
		{Name: "sync mode", Lost: eventlogtest.Refused, Persisted: eventlogtest.Refused},
		{Name: "begin", Lost: eventlogtest.Refused, Persisted: eventlogtest.Refused},
		{Name: "insert", Lost: eventlogtest.Refused, Persisted: eventlogtest.Refused},
		{Name: "second insert", Lost: eventlogtest.Refused, Persisted: eventlogtest.Refused},
		{Name: "commit", Lost: eventlogtest.UnknownGone, Persisted: eventlogtest.UnknownThere},
		{Name: "begin, disk full", Lost: eventlogtest.Refused, Persisted: eventlogtest.Refused},
		{Name: "insert, disk full", Lost: eventlogtest.Refused, Persisted: eventlogtest.Refused},
		{Name: "commit, disk full", Lost: eventlogtest.Refused, Persisted: eventlogtest.UnknownThere},
	}
	eventlogtest.Faults(t, sites, func(t *testing.T) eventlogtest.Faulty {
		dir, f := t.TempDir(), &fault{full: fullError(t)}
		return eventlogtest.Faulty{
			Open: func(t testing.TB) eventlog.Store { return openFaulty(t, dir, f) },
			Arm:  f.arm,
			Hit:  f.hit,
		}
	})
}

func openFaulty(t testing.TB, dir string, f *fault) *Store {
	t.Helper()
	s, err := Open(t.Context(), dir, &Options{wrap: func(c driver.Connector) driver.Connector { return faultyConnector{c, f} }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Faults of what is not an append: none may cost a record, and what was not done is done later.
func TestFaultsBesideAppend(t *testing.T) {
	blob := func(s *Store) error { return s.PutBlob(t.Context(), audit.Hash{9}, []byte("blob")) }
	snapshot := func(s *Store) error {
		return s.SaveSnapshot(t.Context(), eventlog.Snapshot{Stream: "system", Seq: 1, State: []byte("state")})
	}
	index := func(s *Store) error { return s.finish(t.Context()) }
	for _, c := range []struct {
		site string
		do   func(*Store) error
	}{
		{"index", index}, {"save head", index}, {"save place", index}, {"begin", index}, {"commit", index}, {"sync mode", index},
		{"commit, disk full", index}, {"blob", blob}, {"commit", blob}, {"snapshot", snapshot}, {"commit", snapshot},
	} {
		for _, persisted := range []bool{false, true} {
			t.Run(strings.Join([]string{c.site, map[bool]string{false: "lost", true: "persisted"}[persisted]}, "/"), func(t *testing.T) {
				dir, f := t.TempDir(), &fault{full: fullError(t)}
				s := openFaulty(t, dir, f)
				fill(t, s, 20)
				f.arm(c.site, persisted)
				if err := c.do(s); err == nil {
					t.Error("the fault was not seen")
				}
				if !f.hit() {
					t.Error("the fault did not strike")
				}
				if n := count(eventlogtest.Verify(t, s)); n != 20 {
					t.Errorf("%d records, want 20", n)
				}
				if err := c.do(s); err != nil {
					t.Errorf("again: %v", err)
				}
				closeStore(t, s)
				s = openFaulty(t, dir, f)
				if n := count(eventlogtest.Verify(t, s)); n != 20 || s.indexed != s.last {
					t.Errorf("%d records, indexed up to %d", n, s.indexed)
				}
				closeStore(t, s)
			})
		}
	}
}

func count(log map[string][]eventlog.Record) (n int) {
	for _, recs := range log {
		n += len(recs)
	}
	return n
}

// A fault strikes one statement of a site: it is not done, or it is done and said not to be.
type fault struct {
	full error // as SQLite says it

	mu        sync.Mutex
	site      string // empty: disarmed
	persisted bool
	passes    int // statements of the site that get by before
	struck    bool
}

// sites: the statements of each, by how they begin. "second insert" passes one by.
var sites = map[string]string{
	"sync mode": "PRAGMA synchronous = NORMAL", "begin": "BEGIN", "insert": "INSERT INTO records", "commit": "COMMIT",
	"index": "INSERT INTO by_stream", "save head": "INSERT OR REPLACE INTO heads", "save place": "UPDATE follower",
	"blob": "INSERT INTO blobs", "snapshot": "INSERT OR REPLACE INTO snapshots",
}

var errFault = errors.New("injected fault")

func (f *fault) arm(site string, persisted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.site, f.persisted, f.struck, f.passes = site, persisted, false, 0
	if strings.HasPrefix(site, "second ") {
		f.passes = 1
	}
}

func (f *fault) hit() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.site = ""
	return f.struck
}

// strikes returns whether a statement is to be done, and the error it is to return.
func (f *fault) strikes(query string) (do bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name, full := strings.CutSuffix(strings.TrimPrefix(f.site, "second "), ", disk full")
	if f.site == "" || !strings.HasPrefix(query, sites[name]) {
		return true, nil
	}
	if f.passes > 0 {
		f.passes--
		return true, nil
	}
	f.site, f.struck = "", true
	if full {
		return f.persisted, f.full
	}
	return f.persisted, errFault
}

// fullError returns the error by which SQLite says that the disk is full.
func fullError(t testing.TB) error {
	t.Helper()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, err = db.ExecContext(t.Context(), "PRAGMA max_page_count = 1; CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(9999))")
	if !diskFull(err) {
		t.Fatalf("got %v, want SQLITE_FULL", err)
	}
	return err
}

// The driver, with a fault in it.
type (
	faultyConnector struct {
		driver.Connector
		f *fault
	}
	faultyConn struct {
		driver.Conn
		f *fault
	}
	faultyStmt struct {
		driver.Stmt
		query string
		f     *fault
	}
)

func (c faultyConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	return faultyConn{conn, c.f}, err
}

func (c faultyConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	stmt, err := c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, query)
	return faultyStmt{stmt, query, c.f}, err
}

func (c faultyConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
}

func (c faultyConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return faulty(c.f, query, func() (driver.Result, error) {
		return c.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
	})
}

func (s faultyStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
}

func (s faultyStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return faulty(s.f, s.query, func() (driver.Result, error) {
		return s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
	})
}

func faulty(f *fault, query string, do func() (driver.Result, error)) (driver.Result, error) {
	really, fault := f.strikes(query)
	if really {
		if res, err := do(); fault == nil || err != nil {
			return res, err
		}
	}
	return nil, fault
}
