package sim

import (
	"context"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/agenthypervisor/hypervisor/sqlitelog"
)

// embedded_test.go: one seed in fifty has the embedded store, a real one, in a folder. A process that dies leaves its files as they are:
// the next is begun on a copy of them, as it would find them after a SIGKILL. A power cut while it writes tears the last transaction.

var embeddedFlag = flag.Bool("embedded", false, "every seed has the embedded store")

const walSuffix = "-wal" // of what is not written back yet

// keepsLog gives the seed its store, and returns what removes it.
func (w *world) keepsLog() func() {
	if !*embeddedFlag && w.plan.seed%50 != 9 {
		return func() {}
	}
	root, err := os.MkdirTemp("", "sim")
	if err != nil {
		panic(err)
	}
	w.logDir = filepath.Join(root, "0")
	w.openLog()
	return func() {
		if err := errors.Join(w.log.Close(), os.RemoveAll(root)); err != nil {
			panic(err)
		}
	}
}

func (w *world) openLog() {
	store, err := sqlitelog.Open(context.Background(), w.logDir, nil)
	if err != nil {
		panic(err)
	}
	w.log = store
}

// logDies leaves the files of a dead process behind, and opens a copy of them.
func (w *world) logDies() {
	if w.logDir == "" {
		return
	}
	dead, old := w.log, w.logDir
	w.copies++
	w.logDir = filepath.Join(filepath.Dir(old), strconv.Itoa(w.copies))
	if err := errors.Join(w.copyLog(old), dead.Close(), os.RemoveAll(old)); err != nil {
		panic(err)
	}
	w.openLog()
}

// copyLog copies what is in the files now, but for what was torn.
func (w *world) copyLog(old string) error {
	if err := os.Mkdir(w.logDir, 0o700); err != nil {
		return err
	}
	return filepath.WalkDir(old, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(path, "-shm") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, walSuffix) && w.torn != nil {
			b, w.torn = w.torn, nil
		}
		return os.WriteFile(filepath.Join(w.logDir, e.Name()), b, 0o600)
	})
}

// wal returns the bytes of the WAL.
func (w *world) wal() []byte {
	names, err := filepath.Glob(filepath.Join(w.logDir, "*"+walSuffix))
	if err != nil || len(names) != 1 {
		panic("there is not one WAL in " + w.logDir)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		panic(err)
	}
	return b
}

// tear lets the power go in the midst of what was written since the WAL was as before: of the last transaction a part is there, which no
// store may take for one.
func (w *world) tear(before []byte) {
	after := w.wal()
	before = append(before, make([]byte, max(0, len(after)-len(before)))...)
	first, last := 0, len(after)-1
	for first < last && after[first] == before[first] {
		first++
	}
	for last > first && after[last] == before[last] {
		last--
	}
	cut := first + w.faults.IntN(last-first+1)
	w.torn = append(after[:cut:cut], before[cut:]...)
}
