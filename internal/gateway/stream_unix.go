//go:build unix

package gateway

import (
	"errors"
	"io"
	"syscall"
	"time"
)

// writeAtOnce returns what writes to w as much as it takes without waiting, and how much that was; nil where that cannot be had. The
// runtime polls pipes and sockets that it has opened; another file would wait.
func writeAtOnce(w io.Writer) func([]byte) (int, error) {
	f, ok := w.(interface {
		syscall.Conn
		SetWriteDeadline(time.Time) error
	})
	if !ok || f.SetWriteDeadline(time.Time{}) != nil {
		return nil
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return nil
	}
	return func(text []byte) (n int, err error) {
		closed := conn.Write(func(fd uintptr) bool {
			n, err = syscall.Write(int(fd), text)
			return true // whether it took all of it or none
		})
		if closed != nil {
			return 0, closed
		}
		if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
			err = nil
		}
		return max(n, 0), err
	}
}
