package sqlitelog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A HeldError is returned by Open when another process holds the data directory.
type HeldError struct {
	Dir string // as it was given to Open
	PID int    // zero if the holder has not said
}

func (e *HeldError) Error() string {
	holder := "another process"
	if e.PID != 0 {
		holder = "process " + strconv.Itoa(e.PID)
	}
	return fmt.Sprintf("data directory %s is held by %s; stop it, or name another with --data", e.Dir, holder)
}

// errHeld is returned by lockExclusive when somebody else has the lock.
var errHeld = errors.New("lock is held")

const (
	lockName = "lock"
	// A reader looks at the lock by taking it shared for a moment. Open tries again so as not to take that for a daemon.
	lockTries = 5
	lockPause = 5 * time.Millisecond
)

// holdDir takes the one-daemon lock and writes our pid into its file. The lock goes with the process, however it ends; the
// file stays. It is not removed on release: a third process might by then hold the lock on it.
func holdDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	var f *os.File
	var err error
	for try := range lockTries {
		if try > 0 {
			time.Sleep(lockPause)
		}
		if f, err = lockExclusive(path); !errors.Is(err, errHeld) {
			break
		}
	}
	if errors.Is(err, errHeld) {
		return nil, &HeldError{Dir: dir, PID: readPID(path)}
	}
	if err != nil {
		return nil, fmt.Errorf("locking data directory %s: %w", dir, err)
	}
	pid := []byte(strconv.Itoa(os.Getpid()) + "\n")
	if err := errors.Join(f.Truncate(0), writeAt(f, pid)); err != nil {
		// The pid is for the message of the one who is kept out. A full disk must not keep us out.
		_ = f.Truncate(0)
	}
	return f, nil
}

func writeAt(f *os.File, b []byte) error {
	_, err := f.WriteAt(b, 0)
	return err
}

func readPID(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	const longest = 20
	text, err := io.ReadAll(io.LimitReader(f, longest))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}
