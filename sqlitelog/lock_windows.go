package sqlitelog

import (
	"errors"
	"os"
	"syscall"
)

const errorSharingViolation syscall.Errno = 32

// noLockVFS is the SQLite VFS that takes no locks.
const noLockVFS = "win32-none"

// lockExclusive opens the file at path so that nobody else can open it for writing for as long as it is open.
func lockExclusive(path string) (*os.File, error) {
	return openShared(path, syscall.GENERIC_READ|syscall.GENERIC_WRITE, syscall.FILE_SHARE_READ, syscall.OPEN_ALWAYS)
}

// dirHeld reports whether a daemon holds the lock at path. It makes and changes nothing.
func dirHeld(path string) (bool, error) {
	// We do not let others write while we have it open, which is refused to us while somebody does.
	f, err := openShared(path, syscall.GENERIC_READ, syscall.FILE_SHARE_READ, syscall.OPEN_EXISTING)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case errors.Is(err, errHeld):
		return true, nil
	case err != nil:
		return false, err
	}
	return false, f.Close()
}

func openShared(path string, access, share, how uint32) (*os.File, error) {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	h, err := syscall.CreateFile(name, access, share, nil, how, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errorSharingViolation) {
		return nil, errHeld
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}

// syncDir does nothing: Windows has no way to sync a directory, and NTFS journals names by itself.
func syncDir(string) error { return nil }
