//go:build linux || darwin || freebsd

package sqlitelog

import "syscall"

// freeBytes returns how many bytes may still be written to the disk of dir.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	err := syscall.Statfs(dir, &s)
	return int64(s.Bavail) * int64(s.Bsize), err
}
