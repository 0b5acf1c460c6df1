//go:build linux

package weather

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// A syscallLine is one call to the kernel, as strace saw it: begun and ended are places in the one order it saw all in.
type syscallLine struct {
	name, args   string
	begun, ended int
}

var (
	straceLine    = regexp.MustCompile(`^(\d+) +(\w+)\((.*)$`)
	straceResumed = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)$`)
)

// readStrace reads what strace -f -y -o wrote.
func readStrace(t *testing.T, path string) (calls []*syscallLine) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 64<<20)
	open := map[string]*syscallLine{} // by thread
	at := 0
	for ; in.Scan(); at++ {
		if m := straceResumed.FindStringSubmatch(in.Text()); m != nil {
			if c := open[m[1]]; c != nil && c.name == m[2] {
				c.args, c.ended = c.args+m[3], at
				delete(open, m[1])
			}
			continue
		}
		m := straceLine.FindStringSubmatch(in.Text())
		if m == nil {
			continue // a signal, an exit
		}
		args, unfinished := strings.CutSuffix(m[3], " <unfinished ...>")
		c := &syscallLine{m[2], args, at, at}
		if calls = append(calls, c); unfinished {
			c.ended = 1 << 62
			open[m[1]] = c
		}
	}
	if in.Err() != nil {
		t.Fatal(in.Err())
	}
	return calls
}

// on reports whether the call's first argument is a file descriptor of that file, by the end of its name.
func (c *syscallLine) on(file string) bool {
	fd, _, _ := strings.Cut(c.args, ">")
	return strings.HasSuffix(fd, file)
}

func TestNothingIsDispatchedOrAcknowledgedBeforeTheSyncThatCoversIt(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	trace := filepath.Join(t.TempDir(), "trace")
	before := []string{strace, "-f", "-y", "-s", "100000", "-e", "trace=write,pwrite64,fsync,fdatasync,sendto", "-o", trace}
	if out, err := exec.Command(strace, "-o", trace, "true").CombinedOutput(); err != nil {
		t.Skipf("skipped: strace does not work here: %v: %s", err, out)
	}
	k := startKeeper(t)
	a := wrapped(t, wrapCommand(t, k, shortDir(t), before...))
	var pipe syscall.Stat_t
	if err := syscall.Fstat(int(a.stdout.Fd()), &pipe); err != nil {
		t.Fatal(err)
	}
	const together, each = 6, 10
	var numbers atomic.Int64
	var all sync.WaitGroup
	for range together {
		all.Go(func() {
			for range each {
				c := callArgs(int(numbers.Add(1)))
				if got, err := a.call(t.Context(), "append", c); err != nil || got.err {
					t.Errorf("call %d: %+v, %v", c.N, got, err)
				}
			}
		})
	}
	all.Wait()
	a.end(t)

	calls := readStrace(t, trace)
	stdout := fmt.Sprintf("<pipe:[%d]", pipe.Ino)
	const wal = "log.db-wal"
	first := func(what string, is func(*syscallLine) bool) *syscallLine {
		for _, c := range calls {
			if is(c) {
				return c
			}
		}
		t.Errorf("%s is not in the trace", what)
		return nil
	}
	syncs := 0
	for _, c := range calls {
		if strings.HasSuffix(c.name, "sync") && c.on(wal) {
			syncs++
		}
	}
	covered := func(what, token string, is func(*syscallLine) bool) (unseen int) {
		act := first(what, is)
		written := (*syscallLine)(nil)
		for _, c := range calls {
			if c.name == "pwrite64" && c.on(wal) && strings.Contains(c.args, token) {
				written = c
				break
			}
		}
		switch {
		case act == nil:
			return 0
		case written == nil:
			return 1 // cut in two by the end of a page
		}
		for _, c := range calls {
			if strings.HasSuffix(c.name, "sync") && c.on(wal) && c.begun > written.ended && c.ended < act.begun && strings.HasSuffix(c.args, "= 0") {
				return 0
			}
		}
		t.Errorf("%s (line %d) comes before the sync that covers its record (line %d)", what, act.begun, written.begun)
		return 0
	}
	unseen := 0
	for n := 1; n <= together*each; n++ {
		ask, did := fmt.Sprintf("ask-%d-", n), fmt.Sprintf("did-%d-", n)
		unseen += covered(fmt.Sprintf("the dispatch of call %d", n), ask, func(c *syscallLine) bool {
			return c.name == "write" && strings.Contains(c.args, "tools/call") && strings.Contains(c.args, ask)
		})
		unseen += covered(fmt.Sprintf("the acknowledgement of call %d", n), did, func(c *syscallLine) bool {
			return c.name == "write" && c.on(stdout) && strings.Contains(c.args, did)
		})
	}
	const most = together * each / 5
	if unseen > most {
		t.Errorf("the records of %d dispatches and acknowledgements were not recognised in the WAL", unseen)
	}
	t.Logf("%d calls: each dispatch and each acknowledgement after its sync (%d not recognised in the WAL); %d syncs, %d calls to the kernel",
		together*each, unseen, syncs, len(calls))
}
