package main

import (
	"bytes"
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor"
)

// What stands beside a record and is not hashed with it is looked at too: other readers go by it.
func TestVerifyLooksAtEveryColumnOfARow(t *testing.T) {
	for _, c := range []struct{ update, fault string }{
		{"UPDATE records SET seq = seq WHERE id = 6", ""},
		{"UPDATE records SET parent = NULL WHERE id = 6", "record 2: its row does not name the row before it in its stream"},
		{"UPDATE records SET parent = 1 WHERE id = 6", "record 2: its row does not name the row before it in its stream"},
		{"UPDATE records SET seq = 3 WHERE id = 6", "record 2: is stored as record 3"},
		{"UPDATE records SET stream = 'system', seq = 9 WHERE id = 6", "record 2: is stored as record 9 of system"},
		{"UPDATE records SET hash = zeroblob(32) WHERE id = 6", "record 2: its bytes are not those of the hash stored beside it"},
		{"UPDATE records SET hash = zeroblob(31) WHERE id = 6", "its hash or its parent cannot be one"},
		{"UPDATE records SET payload = x'01' WHERE id = 2", ""}, // no parts: redacted one by one
		{"UPDATE records SET payload = x'07' WHERE id = 2", "record 1: "},
		{"UPDATE records SET id = id + 2 WHERE id = (SELECT max(id) FROM records)", "due: something before it is lost or moved"},
		{"DELETE FROM records WHERE id = 6", "record 2: is missing"},
	} {
		dir := newLog(t)
		db, err := sql.Open("sqlite", filepath.Join(dir, logFile))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(c.update); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		var out, errout bytes.Buffer
		code := execute(t.Context(), []string{"audit", "verify", dir}, nil, &out, &errout)
		want := exitRefused
		if c.fault == "" {
			want = exitDone
		}
		if code != want || !strings.Contains(errout.String(), c.fault) || strings.Count(errout.String(), "\n") != code {
			t.Errorf("%s: exit code %d, %q; want %d and one line with %q", c.update, code, errout.String(), want, c.fault)
		}
	}
}

// newLog returns a directory with a log: the node's start, a session's beginning, its opening, its name and, in row 6, its record 2: a participant.
func newLog(t *testing.T) string {
	t.Helper()
	ctx, dir := context.Background(), t.TempDir()
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openSession(ctx, hv, "one"); err != nil {
		t.Fatal(err)
	}
	if err := hv.Close(ctx); err != nil {
		t.Fatal(err)
	}
	return dir
}
