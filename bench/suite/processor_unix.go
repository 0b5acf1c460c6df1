//go:build unix

package suite

import (
	"syscall"
	"time"
)

// processor returns the processor time this process has used, which a busy machine changes less than the clock's. It is zero
// where it cannot be had.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
