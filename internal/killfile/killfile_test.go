package killfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agenthypervisor/hypervisor/policy"
)

func kill(n int) policy.Kill {
	return policy.Kill{ID: fmt.Sprintf("kil-%d", n), Scope: policy.Scope{Agent: policy.DID(fmt.Sprintf("did:mesh:agent-%d", n))}, Reason: policy.Manual,
		By: "did:mesh:ops", At: time.Date(2026, 1, 2, 15, 0, n, 0, time.UTC)}
}

func open(t *testing.T, dir string, want []policy.Kill) *File {
	t.Helper()
	f, got, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if diff := cmp.Diff(want, got); diff != "" && len(want)+len(got) > 0 {
		t.Fatalf("kills (-want +got):\n%s", diff)
	}
	return f
}

func write(t *testing.T, f *File, kills ...policy.Kill) {
	t.Helper()
	if err := f.Write(kills); err != nil {
		t.Fatal(err)
	}
}

func TestWhatWasWrittenLastIsRead(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, nil)
	for n := range 5 {
		write(t, f, kill(n), kill(n+1))
		open(t, dir, []policy.Kill{kill(n), kill(n + 1)})
	}
	write(t, f)
	open(t, dir, nil)
}

func TestItsSizeNeverChanges(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, nil)
	for n := range 3 {
		write(t, f, kill(n))
		info, err := os.Stat(filepath.Join(dir, Name))
		if err != nil || info.Size() != fileBytes || info.Mode().Perm() != 0o600 {
			t.Fatalf("%v, %v", info, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, unfinished)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what it was made from is still there: %v", err)
	}
}

// Whatever part of a write reached the disk, the list before it or the new one is read.
func TestATornWriteLeavesTheListBeforeIt(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, nil)
	write(t, f, kill(1))
	write(t, f, kill(1), kill(2))
	before, err := os.ReadFile(filepath.Join(dir, Name))
	if err != nil {
		t.Fatal(err)
	}
	write(t, f, kill(1), kill(2), kill(3))
	after, err := os.ReadFile(filepath.Join(dir, Name))
	if err != nil {
		t.Fatal(err)
	}
	old, newer := []policy.Kill{kill(1), kill(2)}, []policy.Kill{kill(1), kill(2), kill(3)}
	at := SlotBytes // generation 3 stands in the second slot
	for cut := 0; cut <= 700; cut += 35 {
		torn := t.TempDir()
		mixed := append(append([]byte{}, after[:at+cut]...), before[at+cut:]...)
		if err := os.WriteFile(filepath.Join(torn, Name), mixed, 0o600); err != nil {
			t.Fatal(err)
		}
		g, got, err := Open(torn)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		want := old
		if string(mixed[at:]) == string(after[at:]) {
			want = newer
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("cut at %d: %s", cut, diff)
		}
		_ = g.Close()
	}
}

func TestAFileThatVerifiesNowhereIsDamagedAndCanBeWritten(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"zeros":  func(b []byte) []byte { return make([]byte, len(b)) },
		"empty":  func([]byte) []byte { return nil },
		"cut":    func(b []byte) []byte { return b[:headBytes+1] },
		"text":   func(b []byte) []byte { return []byte(strings.Repeat("kill ", len(b)/5)) },
		"length": func(b []byte) []byte { b[len(magic)+8], b[SlotBytes+len(magic)+8] = 0xff, 0xff; return b },
		"bit":    func(b []byte) []byte { b[headBytes] ^= 1; b[SlotBytes+headBytes] ^= 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := open(t, dir, nil)
			write(t, f, kill(1))
			write(t, f, kill(2))
			path := filepath.Join(dir, Name)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, spoil(b), 0o600); err != nil {
				t.Fatal(err)
			}
			g, got, err := Open(dir)
			if !errors.Is(err, ErrDamaged) || got != nil {
				t.Fatalf("%v, %v", got, err)
			}
			write(t, g, kill(3))
			_ = g.Close()
			open(t, dir, []policy.Kill{kill(3)})
		})
	}
}

func TestAFileThatCannotBeOpenedIsAnError(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, Name), 0o700); err != nil {
		t.Fatal(err)
	}
	if f, _, err := Open(dir); err == nil || errors.Is(err, ErrDamaged) || f != nil {
		t.Errorf("%v, %v", f, err)
	}
}

func TestTooManyKillsWriteNothing(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, nil)
	write(t, f, kill(1))
	var many []policy.Kill
	for n := range SlotBytes / 100 {
		many = append(many, kill(n))
	}
	if err := f.Write(many); !errors.Is(err, ErrTooMany) {
		t.Fatal(err)
	}
	open(t, dir, []policy.Kill{kill(1)})
}
