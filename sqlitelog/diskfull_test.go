//go:build linux

package sqlitelog

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/eventlogtest"
)

// A real disk that is really full: nothing may be acknowledged that is not there, what is there can be read, and as soon as
// there is room the store goes on by itself.
func TestFullDisk(t *testing.T) {
	t.Run("a small one, whose WAL grows", func(t *testing.T) { fullDisk(t, "4m", 4_200, false) })
	t.Run("a large one, whose WAL is there before", func(t *testing.T) { fullDisk(t, "80m", 70_000, true) })
}

// fullDisk fills a disk of that size with payloads of so many bytes on average.
func fullDisk(t *testing.T, size string, payload int, reserved bool) {
	disk := tmpfs(t, size)
	dir := filepath.Join(disk, "data")
	s := open(t, dir).(*Store)
	if wal := fileSize(t, filepath.Join(dir, fileName+walSuffix)); (wal >= walBytes) != reserved {
		t.Errorf("on a disk of %s the WAL of an empty log has %d bytes", size, wal)
	}
	fullDisk := &filler{t: t, s: s, payload: payload / 6, stream: eventlogtest.Stream{Name: "session/s"}}
	for i, free := range []int64{0, 5_000, 20_000, 80_000, 200_000} { // where the writing stops differs
		ballast := fillDisk(t, disk, free)
		fullDisk.untilFull()
		if n := count(eventlogtest.Verify(t, s)); n != fullDisk.acknowledged {
			t.Fatalf("with the disk full, %d records can be read, %d were acknowledged", n, fullDisk.acknowledged)
		}
		if i%2 == 1 { // stopped and started meanwhile
			closeStore(t, s)
			var err error
			if s, err = Open(t.Context(), dir, nil); err != nil {
				t.Logf("opening with the disk full: %v", err)
				remove(t, ballast)
				s = open(t, dir).(*Store)
			}
			fullDisk.s = s
		}
		remove(t, ballast)
		fullDisk.goesOn(5)
		if err := s.finish(t.Context()); err != nil {
			t.Errorf("indexing: %v", err)
		}
	}
	closeStore(t, s)
	s = open(t, dir).(*Store)
	if n := count(eventlogtest.Verify(t, s)); n != fullDisk.acknowledged {
		t.Errorf("%d records are there, %d were acknowledged", n, fullDisk.acknowledged)
	}
	fullDisk.s = s
	fullDisk.blobs()
	closeStore(t, s)
	t.Logf("%d records acknowledged and there, %d refused, %d blobs there, %d refused",
		fullDisk.acknowledged, fullDisk.refused, fullDisk.blobsIn, fullDisk.blobsRefused)
}

// A filler appends until the disk is full, and counts.
type filler struct {
	t                     *testing.T
	s                     *Store
	payload               int // of a record: up to twelve times as many bytes
	stream                eventlogtest.Stream
	acknowledged, refused int
	blobsIn, blobsRefused int
}

// untilFull appends until five records in a row have been refused.
func (f *filler) untilFull() {
	f.t.Helper()
	for refused := 0; refused < 5; {
		if err := f.append(); err != nil {
			if errors.Is(err, eventlog.ErrUnknown) || errors.Is(err, eventlog.ErrConflict) || errors.Is(err, eventlog.ErrCorrupt) {
				f.t.Fatalf("a full disk is a plain error, not %v", err)
			}
			refused++
			f.refused++
			continue
		}
		refused = 0
	}
}

func (f *filler) goesOn(n int) {
	f.t.Helper()
	for range n {
		if err := f.append(); err != nil {
			f.t.Fatalf("with room again: %v", err)
		}
	}
}

// append appends one record to the stream, or leaves the stream as it was.
func (f *filler) append() error {
	before := f.stream
	a := f.stream.Next("word")
	a.Payload, a.Durable = make([]byte, f.payload*(f.acknowledged%13)), f.acknowledged%4 > 0
	for _, err := range f.s.Append(f.t.Context(), []eventlog.Append{a}) {
		if err != nil {
			f.stream = before
			return err
		}
	}
	f.acknowledged++
	return nil
}

// blobs fills the disk with blobs; each is there as a whole, or refused.
func (f *filler) blobs() {
	f.t.Helper()
	for i := range 60 {
		key, b := audit.Hash{byte(i)}, bytes.Repeat([]byte{byte(i)}, 150*f.payload)
		if err := f.s.PutBlob(f.t.Context(), key, b); err != nil {
			f.blobsRefused++
			if _, err := f.s.Blob(f.t.Context(), key); !errors.Is(err, eventlog.ErrNoBlob) {
				f.t.Errorf("blob %d was refused, and is there: %v", i, err)
			}
			continue
		}
		f.blobsIn++
		if got, err := f.s.Blob(f.t.Context(), key); err != nil || string(got) != string(b) {
			f.t.Errorf("blob %d was stored, and is not there: %v", i, err)
		}
	}
	if f.blobsIn == 0 || f.blobsRefused == 0 {
		f.t.Errorf("%d blobs in, %d refused; want some of both", f.blobsIn, f.blobsRefused)
	}
}

// tmpfs mounts a disk so small.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("skipped: a small disk cannot be mounted here: %v (needs root)", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	return dir
}

// fillDisk writes a file that leaves so many bytes free, and returns its name.
func fillDisk(t *testing.T, disk string, free int64) string {
	t.Helper()
	name := filepath.Join(disk, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 4096)
	size := int64(0)
	for {
		n, err := f.Write(block)
		size += int64(n)
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Truncate(max(size-free, 0)), f.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}
