package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/client"
	"github.com/agenthypervisor/hypervisor/policy"
)

// serve serves a directory's control socket until the returned function is called, which returns what Run did.
func serve(t *testing.T, dir string, h *API) (s *Socket, stop func() error) {
	t.Helper()
	s, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, h) }()
	return s, func() error {
		cancel()
		return <-done
	}
}

// shortDir returns a directory whose path leaves room for a socket's name, wherever tests are run.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestOnlyTheUserMayOpenTheControlSocket(t *testing.T) {
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s, stop := serve(t, dir, New(open(t), SocketOperator, nil))
	info, err := os.Stat(s.Path())
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%s: %v, %v; want a socket of mode 0600", s.Path(), info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("making the socket left %v behind", entries)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(s.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestWhatADeadProcessLeftIsReplacedAndALiveOneIsNot(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, SocketName)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	_, stop := serve(t, dir, New(open(t), SocketOperator, nil))
	var held *HeldSocketError
	if _, err := Listen(dir); !errors.As(err, &held) || held.Path != path {
		t.Errorf("a second Listen: %v, want HeldSocketError", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(dir); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("Listen in a file's place: %v", err)
	}
}

func TestALongPathGetsAHashedNameInAPrivateDirectory(t *testing.T) {
	run := shortDir(t)
	t.Setenv("XDG_RUNTIME_DIR", run)
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 25))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, stop := serve(t, dir, New(open(t), SocketOperator, nil))
	if filepath.Dir(s.Path()) != filepath.Join(run, "hypervisor") {
		t.Errorf("the socket is %s, want it in %s", s.Path(), run)
	}
	if found, err := client.SocketIn(dir); err != nil || found != s.Path() {
		t.Errorf("SocketIn = %s, %v; want %s", found, err, s.Path())
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, PointerName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", PointerName, err)
	}
	if err := os.Chmod(filepath.Join(run, "hypervisor"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(dir); err == nil || !strings.Contains(err.Error(), "not a directory of mode 0700") {
		t.Errorf("Listen in a directory others can enter: %v", err)
	}
}

func TestAFollowerSeesEachRecordOnceUntilTheSessionEnds(t *testing.T) {
	hv := open(t)
	s, dir := live(t, hv), shortDir(t)
	socket, stop := serve(t, dir, New(hv, SocketOperator, nil))
	c := client.Socket(socket.Path())
	defer c.Close()
	due, types := uint64(1), ""
	for line, err := range c.Log(t.Context(), s.ID(), 1, true) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := audit.ParseRecord(line)
		if err != nil || r.Seq != due {
			t.Fatalf("record %d, %v; %d is due", r.Seq, err, due)
		}
		due++
		types += string(r.Events)
		switch r.Seq {
		case 3: // all there was; what follows comes while it is waited for
			act(t, s, "read", `{}`)
		case 5:
			if _, err := c.Terminate(t.Context(), s.ID()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if due != 8 || !strings.Contains(types, "session.archived") {
		t.Errorf("%d records came, the last %s; want 7 up to session.archived", due-1, types)
	}
	var again int
	for _, err := range c.Log(t.Context(), s.ID(), 6, true) { // it has ended: nothing more comes
		if err != nil {
			t.Fatal(err)
		}
		again++
	}
	if again != 2 {
		t.Errorf("from record 6: %d records, want 2", again)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestTheEndOfTheSocketEndsFollowers(t *testing.T) {
	hv := open(t)
	s := live(t, hv)
	socket, stop := serve(t, shortDir(t), New(hv, SocketOperator, nil))
	c := client.Socket(socket.Path())
	defer c.Close()
	var stopped error
	n := 0
	for _, err := range c.Log(t.Context(), s.ID(), 1, true) {
		if err != nil {
			break // cut off, or ended: the socket is gone
		}
		if n++; n == 3 {
			stopped = stop()
		}
	}
	if n != 3 || stopped != nil {
		t.Errorf("%d records, Run returned %v", n, stopped)
	}
}

func TestRequestsUnderWayEndWithTheServer(t *testing.T) {
	over := errors.New("over")
	ctx, cancel := context.WithCancelCause(context.Background())
	begun, cause := make(chan struct{}), make(chan error, 1)
	s, err := Listen(shortDir(t))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- s.Run(ctx, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(begun)
			<-r.Context().Done()
			cause <- context.Cause(r.Context())
		}))
	}()
	go func() {
		<-begun
		cancel(over)
	}()
	c := client.Socket(s.Path())
	defer c.Close()
	_, _ = c.Session(t.Context(), "ses-1")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := <-cause; !errors.Is(got, over) {
		t.Errorf("the request ended by %v, want by the server's end", got)
	}
}

func TestTheSocketsUserIsTheOperator(t *testing.T) {
	caller, err := SocketOperator(nil)
	if want := (policy.Caller{DID: "did:mesh:operator", Role: policy.OperatorRole, Via: "socket"}); err != nil || caller.Caller != want {
		t.Errorf("SocketOperator = %+v, %v; want %+v", caller, err, want)
	}
	hv := open(t)
	s := live(t, hv)
	apr := act(t, s, "delete", `{}`).Approval
	socket, stop := serve(t, shortDir(t), New(hv, SocketOperator, nil))
	c := client.Socket(socket.Path())
	defer c.Close()
	if d, err := c.Grant(t.Context(), s.ID(), apr.ID, apr.Digest); err != nil || !d.Allowed {
		t.Fatalf("Grant = %+v, %v", d, err)
	}
	var newest json.RawMessage
	for line, err := range c.Log(t.Context(), s.ID(), 1, false) {
		if err != nil {
			t.Fatal(err)
		}
		newest = line
	}
	if want := `"caller":{"did":"did:mesh:operator","role":"operator","via":"socket"}`; !strings.Contains(string(newest), want) {
		t.Errorf("the grant's record is %s, want %s in it", newest, want)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
