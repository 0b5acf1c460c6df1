package store

import (
	"os"
	"path/filepath"

	"github.com/agenthypervisor/hypervisor/eventlog"
)

// A File is a raw file, appended to and synced with fsync, as modernc.org/sqlite does.
type File struct {
	f   *os.File
	buf []byte
}

// OpenFile makes a file in dir.
func OpenFile(dir string) (*File, error) {
	f, err := os.Create(filepath.Join(dir, "raw"))
	return &File{f: f}, err
}

// Commit writes a group and syncs.
func (f *File) Commit(group []eventlog.Append) error {
	f.buf = f.buf[:0]
	for i := range group {
		f.buf = append(f.buf, group[i].Body...)
		f.buf = append(f.buf, group[i].Payload...)
	}
	if _, err := f.f.Write(f.buf); err != nil {
		return err
	}
	return f.f.Sync()
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }
