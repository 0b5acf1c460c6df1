package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/agenthypervisor/hypervisor/internal/auth"
	"github.com/agenthypervisor/hypervisor/policy"
)

const (
	// SocketName is the control socket's name in its data directory.
	SocketName = "control.sock"
	// PointerName is the name of the file beside which no socket stands because its path would be too long: it holds the path
	// of the one that was made instead.
	PointerName = "control.path"

	// maxSocketPath is what every system takes: sun_path has 104 bytes on macOS, 108 on Linux, with a closing zero.
	maxSocketPath = 103
	// stagingBytes is what the name under which a socket is made is longer than its directory's at most: "/.s", ten digits, "/s".
	stagingBytes = 15

	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
	// shutdownPatience is how long requests that were under way at the end may take.
	shutdownPatience = 5 * time.Second
)

// SocketOperator is the Identify of the control socket: its mode lets only the user open it, and the user is the operator.
func SocketOperator(*http.Request) (auth.Identity, error) {
	return auth.Identity{Caller: policy.Operator("did:mesh:operator").Through("socket")}, nil
}

// A HeldSocketError is returned by Listen when a live process answers on the socket.
type HeldSocketError struct{ Path string }

// Error says who has it and what to do.
func (e *HeldSocketError) Error() string {
	return fmt.Sprintf("another process answers on %s; stop it, or name another directory with --data", e.Path)
}

// A Socket is the control socket of a data directory. Whoever may open it is the operator.
type Socket struct {
	path     string
	pointer  string // the file that names path; empty: none is needed
	listener *net.UnixListener
}

// Listen makes the control socket of a data directory: DIR/control.sock with mode 0600. Where that path is longer than the
// system allows, a hashed name in the user's runtime directory ($XDG_RUNTIME_DIR/hypervisor, else a directory of mode 0700
// under the temporary one), which DIR/control.path names. What a dead process left is replaced; a live one's is a
// *HeldSocketError.
func Listen(dir string) (*Socket, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("control socket of %s: %w", dir, err)
	}
	s := &Socket{path: filepath.Join(abs, SocketName)}
	if len(abs)+stagingBytes > maxSocketPath {
		runtime, err := runtimeDir()
		if err != nil {
			return nil, fmt.Errorf("control socket of %s: %w", dir, err)
		}
		sum := sha256.Sum256([]byte(abs))
		s.path, s.pointer = filepath.Join(runtime, hex.EncodeToString(sum[:8])+".sock"), filepath.Join(abs, PointerName)
	}
	if err := s.replaceable(); err != nil {
		return nil, err
	}
	if err := s.bind(); err != nil {
		return nil, fmt.Errorf("making control socket %s: %w", s.path, err)
	}
	if err := s.point(); err != nil {
		return nil, errors.Join(fmt.Errorf("naming control socket %s: %w", s.path, err), s.remove())
	}
	return s, nil
}

// Path returns where the socket is.
func (s *Socket) Path() string { return s.path }

// replaceable looks whether what stands in the socket's place may be replaced.
func (s *Socket) replaceable() error {
	info, err := os.Lstat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("control socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is in the control socket's place and is no socket; remove it", s.path)
	}
	conn, err := net.DialTimeout("unix", s.path, time.Second)
	if err != nil {
		return nil // nobody answers: its process is dead
	}
	_ = conn.Close()
	return &HeldSocketError{s.path}
}

// bind makes the socket in a directory nobody else can enter and moves it to its place: at no moment can another user open it,
// and a stale one is replaced in one step.
func (s *Socket) bind() error {
	staging, err := os.MkdirTemp(filepath.Dir(s.path), ".s")
	if err != nil {
		return err
	}
	defer os.RemoveAll(staging)
	made := filepath.Join(staging, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false) // it will not be there any more
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, s.path)); err != nil {
		return errors.Join(err, l.Close())
	}
	s.listener = l
	return nil
}

// point writes the file that names the socket, or removes that of an earlier place.
func (s *Socket) point() error {
	if s.pointer == "" {
		err := os.Remove(filepath.Join(filepath.Dir(s.path), PointerName))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.WriteFile(s.pointer, []byte(s.path+"\n"), 0o600)
}

// remove takes the socket away.
func (s *Socket) remove() error {
	err := errors.Join(os.Remove(s.path), s.listener.Close())
	if s.pointer != "" {
		err = errors.Join(err, os.Remove(s.pointer))
	}
	return err
}

// Run serves h on the socket until ctx ends, and then takes the socket away. Host and Origin are checked before. Requests under way are cancelled and given a
// moment to answer. It returns nil when ctx ended it. It is called once.
func (s *Socket) Run(ctx context.Context, h http.Handler) error {
	err := Serve(ctx, s.listener, Guard(auth.NewSocketListener().Check, h))
	if gone := s.remove(); err == nil && gone != nil && !errors.Is(gone, net.ErrClosed) && !errors.Is(gone, fs.ErrNotExist) {
		err = fmt.Errorf("removing control socket: %w", gone)
	}
	return err
}

// Serve serves h on a listener until ctx ends, and closes it. Requests' contexts end with ctx.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		BaseContext: func(net.Listener) context.Context { return ctx }}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }() // ends with srv
	select {
	case err := <-served:
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownPatience)
	defer cancel()
	if err := srv.Shutdown(patience); err != nil {
		_ = srv.Close() // who does not read its answer is cut off
	}
	<-served
	return nil
}

// runtimeDir returns a directory for sockets that only the user can enter, and makes it if need be.
func runtimeDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "hypervisor-"+strconv.Itoa(os.Getuid()))
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" && len(filepath.Join(run, "hypervisor"))+stagingBytes+len("0123456789abcdef.sock") <= maxSocketPath {
		dir = filepath.Join(run, "hypervisor")
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	// Somebody else may have made it first: then what is put in it is theirs to replace.
	if !info.IsDir() || info.Mode().Perm() != 0o700 || !isOwn(info) {
		return "", fmt.Errorf("%s is not a directory of mode 0700 of this user's; remove it, or set XDG_RUNTIME_DIR", dir)
	}
	return dir, nil
}
