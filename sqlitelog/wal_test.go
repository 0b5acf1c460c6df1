package sqlitelog

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/eventlogtest"
)

// A WAL is as long when it is new as it will be when it is written back, so that no durable record waits for the file to grow.
func TestANewWALIsWrittenOver(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer closeStore(t, s)
	wal := filepath.Join(dir, fileName+walSuffix)
	before := fileSize(t, wal)
	fill(t, s, 300)
	if now := fileSize(t, wal); before < walBytes || now != before {
		t.Errorf("the WAL had %d bytes, and after 300 records %d; want %d both times", before, now, walBytes)
	}
}

// What stands behind the newest commit in a WAL that was made at once is no commit: whoever opens the files after a crash finds what was
// acknowledged, and no more.
func TestZerosInAWALAreNoRecords(t *testing.T) {
	for _, n := range []int{0, 1, 5} {
		dir := t.TempDir()
		s := open(t, dir)
		if n > 0 {
			fill(t, s, n)
		}
		crashed := copyFiles(t, dir, fileName, fileName+walSuffix)
		closeStore(t, s)
		r, err := OpenReader(t.Context(), crashed)
		if err != nil {
			t.Fatal(err)
		}
		read := 0
		for _, err := range r.Tail(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			read++
		}
		s = open(t, crashed)
		if found := count(eventlogtest.Verify(t, s)); read != n || found != n {
			t.Errorf("a reader finds %d records after a crash, the store %d; %d were acknowledged", read, found, n)
		}
		stream := eventlogtest.Stream{Name: "session/new"}
		if errs := s.Append(t.Context(), []eventlog.Append{stream.Next("after the crash")}); errs != nil {
			t.Error(errs)
		}
		closeStore(t, s)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func fileSize(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
