//go:build linux

package sqlitelog

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/tabwriter"
)

// straced runs the child under strace and returns what it said and what strace saw.
func straced(t *testing.T, dir string, options ...string) (out, trace string) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("skipped: there is no strace here (apt install strace)")
	}
	log := filepath.Join(t.TempDir(), "trace")
	words := append([]string{"strace", "-f", "-y", "-s", "200", "-o", log}, options...)
	b, err := child(t, "append 300", dir, words...).Output()
	if err != nil {
		if traced, _ := os.ReadFile(log); len(traced) == 0 {
			t.Skipf("skipped: strace may not trace here: %v", err)
		}
		t.Fatal(err)
	}
	traced, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), string(traced)
}

// No record may be acknowledged as durable before the WAL that holds it was synced, and no WAL may be begun anew before the
// database that it was written back to was synced.
func TestNothingIsAcknowledgedBeforeItIsSynced(t *testing.T) {
	dir := t.TempDir()
	_, trace := straced(t, dir, "-e", "trace=pwrite64,fsync,fdatasync,write,ftruncate")
	p := syncs{dirty: map[string]bool{}, pending: map[string]string{}}
	for line := range strings.Lines(trace) {
		if err := p.see(line); err != nil {
			t.Fatalf("%v at: %s", err, line)
		}
	}
	t.Logf("%d records acknowledged as durable, %d not yet synced, %d syncs", p.durable, p.lazy, p.syncs)
	if p.durable != 200 || p.lazy == 0 || p.lazy > 100 || p.syncs < p.durable {
		t.Error("that is not what was done: 200 durable, 100 not, of which most were synced later")
	}
}

// syncs is what a trace says of files: which have been written to since they were synced.
type syncs struct {
	dirty                map[string]bool
	pending              map[string]string // a thread's call that has begun
	durable, lazy, syncs int
}

var (
	callLine = regexp.MustCompile(`^(\d+) +(\w+)\((\d+)<([^>]*)>(.*)`)
	resumed  = regexp.MustCompile(`^(\d+) +<\.\.\. (?:fsync|fdatasync) resumed>.* = 0`)
	synced   = regexp.MustCompile(`\) += 0`)
)

func (p *syncs) see(line string) error {
	if m := resumed.FindStringSubmatch(line); m != nil {
		p.sync(p.pending[m[1]])
	}
	m := callLine.FindStringSubmatch(line)
	if m == nil {
		return nil
	}
	thread, call, path, rest := m[1], m[2], filepath.Base(m[4]), m[5]
	switch call {
	case "fsync", "fdatasync":
		if synced.MatchString(rest) {
			p.sync(path)
		}
		p.pending[thread] = path
	case "pwrite64":
		p.dirty[path] = true
		if path == "log.db-wal" && strings.Contains(rest, ", 32, 0) ") && p.dirty["log.db"] { // its header
			return fmt.Errorf("the WAL is begun anew, and the database is not synced")
		}
	case "write":
		return p.acknowledge(rest)
	}
	return nil
}

func (p *syncs) sync(path string) {
	p.dirty[path] = false
	p.syncs++
}

func (p *syncs) acknowledge(rest string) error {
	switch {
	case !strings.Contains(rest, `"acknowledged `):
	case strings.Contains(rest, "durable=false"):
		if p.dirty["log.db-wal"] {
			p.lazy++
		}
	case p.dirty["log.db-wal"]:
		return fmt.Errorf("acknowledged before it was synced")
	default:
		p.durable++
	}
	return nil
}

// The operating system fails one real call of a process that appends. What it acknowledged is there, what it called an error
// is not, and it goes on.
func TestFaultsOfTheOperatingSystem(t *testing.T) {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "call\terror\tacknowledged, there\terror, gone\tunknown, gone\tunknown, there")
	for _, c := range []struct{ call, fails string }{
		{"fsync", "EIO"}, {"fsync", "ENOSPC"}, {"pwrite64", "EIO"}, {"pwrite64", "ENOSPC"},
	} {
		for _, when := range []int{41, 180} {
			t.Run(fmt.Sprintf("%s %d/%s", c.call, when, c.fails), func(t *testing.T) {
				dir := t.TempDir()
				inject := fmt.Sprintf("inject=%s:error=%s:when=%d", c.call, c.fails, when)
				out, trace := straced(t, dir, "-e", "trace="+c.call, "-e", inject)
				if !strings.Contains(trace, "(INJECTED)") {
					t.Fatal("the fault did not strike")
				}
				s := open(t, dir)
				n := compare(t, s, parseAll(t, out))
				closeStore(t, s)
				if n["acknowledged, there"] < 290 {
					t.Errorf("%v: it did not go on", n)
				}
				fmt.Fprintf(w, "%s %d\t%s\t%d\t%d\t%d\t%d\n", c.call, when, c.fails,
					n["acknowledged, there"], n["error, gone"], n["unknown, gone"], n["unknown, there"])
			})
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", text.String())
}
