package store

import (
	"os"
	"syscall"
)

// datasync syncs a file's bytes and its length, not its times.
func datasync(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }
