package store

import (
	"os"
	"path/filepath"

	"github.com/agenthypervisor/hypervisor/eventlog"
)

// A File is a raw file, appended to and synced.
type File struct {
	f   *os.File
	buf []byte
}

// OpenFile makes a file in dir.
func OpenFile(dir string) (*File, error) {
	f, err := os.Create(filepath.Join(dir, "raw"))
	return &File{f: f}, err
}

// Commit writes a group and syncs with fsync, as modernc.org/sqlite does.
func (f *File) Commit(group []eventlog.Append) error {
	if err := f.write(group); err != nil {
		return err
	}
	return f.f.Sync()
}

// CommitData writes a group and syncs with fdatasync, the least that makes bytes durable.
func (f *File) CommitData(group []eventlog.Append) error {
	if err := f.write(group); err != nil {
		return err
	}
	return datasync(f.f)
}

func (f *File) write(group []eventlog.Append) error {
	f.buf = f.buf[:0]
	for i := range group {
		f.buf = append(f.buf, group[i].Body...)
		f.buf = append(f.buf, group[i].Payload...)
	}
	_, err := f.f.Write(f.buf)
	return err
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }
