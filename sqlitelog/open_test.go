package sqlitelog

import (
	"bufio"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/eventlogtest"
)

// A second daemon must be kept out, and told by whom and what to do.
func TestSecondOpenerIsToldWhoHoldsTheDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	dir := "./hypervisor-data"
	holder := child(t, "hold", dir)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if !bufio.NewScanner(out).Scan() {
		t.Fatal("the holder says nothing")
	}
	_, err = Open(t.Context(), dir, nil)
	want := fmt.Sprintf("data directory ./hypervisor-data is held by process %d; stop it, or name another with --data", holder.Process.Pid)
	var held *HeldError
	if !errors.As(err, &held) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if err := errors.Join(in.Close(), holder.Wait()); err != nil {
		t.Fatal(err)
	}
	closeStore(t, open(t, dir)) // the lock went with the process, not with its file
}

func TestSecondOpenerInOneProcessIsKeptOut(t *testing.T) {
	dir := t.TempDir()
	defer closeStore(t, open(t, dir))
	_, err := Open(t.Context(), dir, nil)
	var held *HeldError
	if !errors.As(err, &held) || held.PID != os.Getpid() {
		t.Errorf("got %v, want a *HeldError with our own pid", err)
	}
}

func TestOnlyTheOwnerMayReadTheFiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("skipped: Windows has no file modes")
	}
	dir := filepath.Join(t.TempDir(), "a", "data")
	s := open(t, dir)
	defer closeStore(t, s)
	fill(t, s, 1)
	for name, want := range map[string]fs.FileMode{".": 0o700, "log.db": 0o600, "log.db-wal": 0o600, "log.db-shm": 0o600, "lock": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
}

// A file that is not for this program must be refused, by daemon and verifier, and left as it is.
func TestForeignFilesAreRefusedAndLeftAlone(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string)
		want string // in the error
	}{
		{"newer format", func(t *testing.T, path string) {
			closeStore(t, open(t, filepath.Dir(path)))
			script(t, path, "PRAGMA user_version = 2")
		}, "is of format 2, and this program reads formats up to 1: use a newer program, or name another data directory with --data"},
		{"another program's database", func(t *testing.T, path string) {
			script(t, path, "CREATE TABLE t (x); INSERT INTO t VALUES (1)")
		}, "is not a hypervisor's log, so it is left alone: move it away, or name another data directory with --data"},
		{"another program's database, signed", func(t *testing.T, path string) {
			script(t, path, "PRAGMA application_id = 7; CREATE TABLE t (x)")
		}, "is not a hypervisor's log"},
		{"not a database", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("a diary\n", 1000)), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "is not a hypervisor's log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, fileName)
			c.make(t, path)
			before := readFile(t, path)
			_, openErr := Open(t.Context(), dir, nil)
			_, readErr := OpenReader(t.Context(), dir)
			for _, err := range []error{openErr, readErr} {
				if !errors.Is(err, eventlog.ErrFormat) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want ErrFormat that says %q", err, c.want)
				}
			}
			if string(readFile(t, path)) != string(before) {
				t.Error("the file was changed")
			}
		})
	}
}

// A crash while the file is made leaves it empty, or a database without tables; both are ours to finish.
func TestOpenFinishesWhatACrashLeftHalfMade(t *testing.T) {
	for name, make := range map[string]func(path string){
		"an empty file":             func(path string) { script(t, path, "") },
		"a database without tables": func(path string) { script(t, path, "PRAGMA journal_mode = WAL") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			make(filepath.Join(dir, fileName))
			s := open(t, dir)
			fill(t, s, 3)
			eventlogtest.Verify(t, s)
			closeStore(t, s)
		})
	}
}

// script runs SQL on a database file, making it if need be.
func script(t testing.TB, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", dsn(path, "mode=rw"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), text)
	if err := errors.Join(err, db.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}
