package sqlitelog

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/eventlogtest"
)

// A reader must work beside a daemon, behind one that was killed, on a copy, and on what a clean end left; and change nothing.
func TestReaderChangesNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		files []string // of the live directory that are there to be read; nil: the live directory itself
		ended bool
	}{
		{"beside the daemon", nil, false},
		{"after a clean end", nil, true},
		{"behind a killed daemon", []string{"log.db", "log.db-wal", "log.db-shm", "lock"}, false},
		{"a copy without the WAL's index", []string{"log.db", "log.db-wal"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d?i r#%41") // and its name is nobody's business
			s := open(t, dir)
			fill(t, s, 700)
			if c.ended {
				closeStore(t, s)
			} else {
				defer closeStore(t, s)
			}
			if c.files != nil {
				dir = copyFiles(t, dir, c.files...)
			}
			before := contents(t, dir)
			if c.name == "beside the daemon" { // in a process of its own, as it will be
				if out, err := child(t, "read", dir).Output(); err != nil || string(out) != "700 rows\n" {
					t.Errorf("got %q, %v", out, err)
				}
			} else {
				readAll(t, dir, 700)
			}
			if after := contents(t, dir); !maps.Equal(before, after) {
				t.Errorf("files were %v and are %v", keys(before), keys(after))
			}
			if c.files != nil {
				s := open(t, dir) // and it can still be opened
				eventlogtest.Verify(t, s)
				closeStore(t, s)
			}
		})
	}
}

// A copy may have caught a WAL whose beginning is being overwritten: nothing in it counts, and it is still not ours to remove.
func TestReaderLeavesATornWAL(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	fill(t, s, 3)
	closeStore(t, s)
	s = open(t, dir)
	defer closeStore(t, s)
	stream := eventlogtest.Stream{Name: "session/torn"}
	s.Append(t.Context(), stream.Upto(1))
	dir = copyFiles(t, dir, "log.db", "log.db-wal")
	wal := readFile(t, filepath.Join(dir, "log.db-wal"))
	wal[20] ^= 1 // of the salt, which every frame must repeat
	if err := os.WriteFile(filepath.Join(dir, "log.db-wal"), wal, 0o600); err != nil {
		t.Fatal(err)
	}
	before := contents(t, dir)
	readAll(t, dir, 3)
	if after := contents(t, dir); !maps.Equal(before, after) {
		t.Errorf("files were %v and are %v", keys(before), keys(after))
	}
}

// fill appends n records to three streams, one at a time, with a blob at the end.
func fill(t testing.TB, s eventlog.Store, n int) {
	t.Helper()
	streams := []eventlogtest.Stream{{Name: "session/a"}, {Name: "session/b"}, {Name: "system"}}
	for i := range n {
		a := streams[i%3].Next(fmt.Sprint(i))
		a.Payload = []byte("payload")
		for _, err := range s.Append(t.Context(), []eventlog.Append{a}) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.PutBlob(t.Context(), audit.Hash{1}, []byte("blob")); err != nil {
		t.Fatal(err)
	}
}

// readAll reads everything through a Reader and checks it against itself.
func readAll(t testing.TB, dir string, want int) {
	t.Helper()
	r, err := OpenReader(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	newest := map[string]Row{}
	n := 0
	for row, err := range r.Tail(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if row.Position != uint64(n) || row.Parent != newest[row.Stream].Position || row.Seq != newest[row.Stream].Seq+1 ||
			row.Hash != audit.Leaf(row.Body) || string(row.Payload) != "payload" {
			t.Fatalf("row %d is not as it was appended: %+v", n, row)
		}
		newest[row.Stream] = row
	}
	if n != want {
		t.Errorf("%d rows, want %d", n, want)
	}
	if b, err := r.Blob(t.Context(), audit.Hash{1}); err != nil || string(b) != "blob" {
		t.Errorf("blob: %q, %v", b, err)
	}
	if _, err := r.Blob(t.Context(), audit.Hash{2}); !errors.Is(err, eventlog.ErrNoBlob) {
		t.Errorf("blob: %v, want ErrNoBlob", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestReaderSaysWhenALogMovedUnderIt(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	fill(t, s, 10)
	closeStore(t, s)
	r, err := OpenReader(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer closeStore(t, open(t, dir))
	var last error
	for _, err := range r.Tail(t.Context(), 0) {
		last = err
	}
	if !errors.Is(last, ErrMoved) {
		t.Errorf("got %v, want ErrMoved", last)
	}
}

func TestReaderOfNothing(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenReader(t.Context(), dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
	if names := contents(t, dir); len(names) != 0 {
		t.Errorf("it made %v", keys(names))
	}
}

func closeStore(t testing.TB, s eventlog.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// copyFiles copies files of a directory in which a store may be at work, as a crash would leave them: all that was written.
func copyFiles(t testing.TB, dir string, names ...string) string {
	t.Helper()
	to := t.TempDir()
	for _, name := range names {
		b := readFile(t, filepath.Join(dir, name))
		if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// contents returns the files of a directory with their bytes.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		all[e.Name()] = string(readFile(t, filepath.Join(dir, e.Name())))
	}
	return all
}

func keys(m map[string]string) (names []string) {
	for name, b := range m {
		names = append(names, fmt.Sprintf("%s (%d B)", name, len(b)))
	}
	return names
}
