package sqlitelog

import (
	"errors"
	"os"
	"path/filepath"
)

// wal.go: the file that SQLite writes commits to before it writes them back into the database, where we handle it beside SQLite, which
// has no locks on it that closing a descriptor of it could lose.

const (
	walSuffix = "-wal"                  // behind the database's name
	walPages  = 2_000                   // write the WAL back when it is as long
	walBytes  = walPages * (4_096 + 24) // what it then takes: pages of SQLite's default size, each with a header
	// roomForWAL is how many bytes must be free for a WAL to be made as long at once: on a small disk the log itself wants them.
	roomForWAL = 8 * walBytes
)

// reserveWAL fills the WAL, which a checkpoint has just emptied, with zeros, or leaves it empty. To sync a file that grew is to wait
// for the file system's journal as well: on ext4 that takes a third longer than to sync one that was written over, as every WAL is
// once it has been written back. SQLite finds no header in zeros, so to it, after a crash too, a WAL of zeros is an empty one.
func reserveWAL(path string) (err error) {
	if free, err := freeBytes(filepath.Dir(path)); err != nil || free < roomForWAL {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for left, zeros := walBytes, make([]byte, 128<<10); left > 0 && err == nil; left -= len(zeros) {
		_, err = f.Write(zeros[:min(left, len(zeros))])
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil { // somebody else took the room, say
		err = errors.Join(err, f.Truncate(0))
	}
	return err
}

// syncWAL makes durable what is in the WAL, where it cannot be written back.
func (s *Store) syncWAL() error {
	wal, err := os.OpenFile(filepath.Join(s.dir, fileName+walSuffix), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(wal.Sync(), wal.Close())
}
