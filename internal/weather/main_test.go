//go:build unix

package weather

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var (
	long = flag.Bool("long", false, "300 rounds of killing instead of 30")
	seed = flag.Uint64("seed", 0, "what the random moments are drawn from; 0: the clock")
)

const (
	ciRounds   = 30
	longRounds = 300
	// patience is how long a test waits for what must happen; it is reached only by what never does.
	patience = 60 * time.Second
)

// jobVar names what this test binary is to do when a test, or the program under test, starts it as a process of its own.
const jobVar = "WEATHER_JOB"

func TestMain(m *testing.M) {
	name, ok := os.LookupEnv(jobVar)
	if !ok {
		flag.Parse()
		code := m.Run()
		if built.dir != "" {
			_ = os.RemoveAll(built.dir)
		}
		if code == 0 {
			if err := goleak.Find(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
		os.Exit(code)
	}
	jobs := map[string]func(context.Context) error{"keeper": keeperJob, "tool": toolJob, "library": libraryJob, "bonds": bondsJob}
	if err := jobs[name](context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// built is the program under test, made once a run.
var built struct {
	once   sync.Once
	dir    string
	path   string
	failed error
}

// program returns the path of the program under test.
func program(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.failed = os.MkdirTemp("", "weather"); built.failed != nil {
			return
		}
		built.path = filepath.Join(built.dir, "hypervisor")
		build := exec.Command("go", "build", "-o", built.path, "github.com/agenthypervisor/hypervisor/cmd/hypervisor")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			built.failed = fmt.Errorf("building the program: %w\n%s", err, out)
		}
	})
	if built.failed != nil {
		t.Fatal(built.failed)
	}
	return built.path
}

// self is the command that does job in a process of its own, with more of an environment.
func self(t testing.TB, job string, env ...string) *exec.Cmd {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Env = append(append(os.Environ(), jobVar+"="+job), env...)
	return cmd
}

// newRand returns the test's source of random moments, and prints how to have the same again.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	n := *seed
	if n == 0 {
		n = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// shortDir makes a directory whose name leaves room for a socket's.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// within fails the test if what a channel must say is not said.
func within[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("never happened: %s", what)
	}
	return v
}

// eventually asks again until the answer is yes, where nobody would say so by himself.
func eventually(t testing.TB, what string, ask func() bool) {
	t.Helper()
	const pause = 20 * time.Millisecond
	for end := time.After(patience); !ask(); {
		select {
		case <-time.After(pause):
		case <-end:
			t.Fatalf("never happened: %s", what)
		}
	}
}
