package sqlitelog

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"go.uber.org/goleak"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/eventlogtest"
)

// childVar names what this test binary is to do when a test starts it as a process of its own, with a directory as argument.
const childVar = "SQLITELOG_TEST_CHILD"

func TestMain(m *testing.M) {
	if job, ok := children[os.Getenv(childVar)]; ok {
		if err := job(context.Background(), os.Args[len(os.Args)-1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := flag.Set("rapid.checks", "30"); err != nil { // each opens files; the command line may say otherwise
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

var children = map[string]func(ctx context.Context, dir string) error{"read": childRead, "append": childAppend, "append 300": childAppend300,
	"hold": childHold}

// child returns the command that does job in dir, behind the words of another command, such as strace.
func child(t testing.TB, job, dir string, before ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	words := append(before, self, dir)
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	cmd.Env = append(os.Environ(), childVar+"="+job)
	cmd.Stderr = os.Stderr
	return cmd
}

// childRead reads the whole log beside whoever holds it, and says how many rows there are.
func childRead(ctx context.Context, dir string) error {
	r, err := OpenReader(ctx, dir)
	if err != nil {
		return err
	}
	n := 0
	for row, err := range r.Tail(ctx, 0) {
		if err != nil {
			return err
		}
		if audit.Leaf(row.Body) != row.Hash {
			return fmt.Errorf("row %d is not what was hashed", row.Position)
		}
		n++
	}
	fmt.Println(n, "rows")
	return r.Close()
}

// childAppend appends one record after the other until it is killed.
func childAppend(ctx context.Context, dir string) error { return appendAndSay(ctx, dir, math.MaxInt) }

// childAppend300 ends after 300 records, without closing the store.
func childAppend300(ctx context.Context, dir string) error { return appendAndSay(ctx, dir, 300) }

// appendAndSay appends n records, every third not durable, and writes a line for each with what came of it: with a single
// write, so that it is there or not. What fails is said, and the stream read again.
func appendAndSay(ctx context.Context, dir string, n int) error {
	runtime.LockOSThread() // strace counts calls by thread
	s, err := Open(ctx, dir, nil)
	if err != nil {
		return err
	}
	streams := []*eventlogtest.Stream{{Name: "session/a"}, {Name: "session/b"}}
	for i := range n {
		stream := streams[i%2]
		a := stream.Next(fmt.Sprint("word ", i))
		a.Durable, a.Payload = i%3 != 0, make([]byte, 2000)
		var failed error
		for _, err := range s.Append(ctx, []eventlog.Append{a}) {
			failed = err
		}
		saw := "acknowledged"
		if failed != nil {
			saw = "error"
			if errors.Is(failed, eventlog.ErrUnknown) {
				saw = "unknown"
			}
			if err := reread(ctx, s, stream); err != nil {
				return err
			}
		}
		if _, err := fmt.Printf("%s %s %d %s durable=%t\n", saw, a.Stream, a.Seq, a.Hash, a.Durable); err != nil {
			return err
		}
	}
	return nil
}

// reread makes the stream what the log has of it.
func reread(ctx context.Context, s *Store, stream *eventlogtest.Stream) error {
	*stream = eventlogtest.Stream{Name: stream.Name}
	for r, err := range s.Read(ctx, stream.Name, 0) {
		if err != nil {
			return err
		}
		stream.Seq, stream.Prev = r.Seq, r.Hash
	}
	return nil
}

// childHold holds the directory until its standard input ends.
func childHold(ctx context.Context, dir string) error {
	s, err := Open(ctx, dir, nil)
	if err != nil {
		return err
	}
	fmt.Println("held")
	bufio.NewScanner(os.Stdin).Scan()
	return s.Close()
}

// readFile reads a file in another process: closing a descriptor of a database in this one would take a store its locks.
func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := exec.CommandContext(t.Context(), "cat", path).Output()
	if err != nil {
		t.Fatalf("reading %s: %v", path, err)
	}
	return b
}
