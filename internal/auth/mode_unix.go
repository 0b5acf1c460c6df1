//go:build unix

package auth

import "io/fs"

// isOpenToOthers reports whether anybody but the user may read a file.
func isOpenToOthers(info fs.FileInfo) bool { return info.Mode().Perm()&0o077 != 0 }
