//go:build unix

package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
)

// A handClock stands still; fire ends one wait of a given length, once somebody waits so long.
type handClock struct {
	mu    sync.Mutex
	now   time.Time
	waits map[time.Duration][]chan time.Time
	more  *sync.Cond
}

func newHandClock() *handClock {
	c := &handClock{now: time.Unix(1_700_000_000, 0), waits: map[time.Duration][]chan time.Time{}}
	c.more = sync.NewCond(&c.mu)
	return c
}

func (c *handClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *handClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	c.waits[d] = append(c.waits[d], ch)
	c.more.Broadcast()
	return ch
}

// fire ends the newest wait of length d, and moves the clock by it.
func (c *handClock) fire(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.waits[d]) == 0 {
		c.more.Wait()
	}
	c.now = c.now.Add(d)
	last := len(c.waits[d]) - 1
	c.waits[d][last] <- c.now
	c.waits[d] = c.waits[d][:last]
}

// move moves the clock and ends nobody's wait.
func (c *handClock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// await returns once somebody waits so long.
func (c *handClock) await(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.waits[d]) == 0 {
		c.more.Wait()
	}
}

// Backoffs under a jitter of one half.
const (
	backoff1 = 750 * time.Millisecond
	backoff2 = 1500 * time.Millisecond
)

type runningUpstream struct {
	*Upstream
	clock  *handClock
	stderr *lockedBuffer
}

// Call calls a tool by its name.
func (r *runningUpstream) Call(ctx context.Context, tool string, args json.RawMessage, progress func(Progress)) (json.RawMessage, error) {
	return r.Upstream.Call(ctx, named(r.Upstream, tool), args, progress)
}

func named(u *Upstream, tool string) Tool {
	for _, t := range u.Tools() {
		if t.Name == tool {
			return t
		}
	}
	return Tool{Name: tool}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// run starts an upstream and waits, when the test ends, until nothing is left of it.
func run(t *testing.T, c Command) *runningUpstream {
	t.Helper()
	r := &runningUpstream{clock: newHandClock(), stderr: &lockedBuffer{}}
	r.Upstream = NewUpstream("up", c, &UpstreamOptions{
		Clock: r.clock, Jitter: func() float64 { return 0.5 }, Stderr: r.stderr})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	return r
}

func ready(t *testing.T, c Command) *runningUpstream {
	t.Helper()
	r := run(t, c)
	if err := r.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// again lets the upstream start once more and waits for it.
func (r *runningUpstream) again(t *testing.T, backoff time.Duration) {
	t.Helper()
	r.mu.Lock()
	r.tried = make(chan struct{}) // so that Ready speaks of the next attempt
	r.mu.Unlock()
	r.clock.fire(backoff)
	if err := r.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAToolIsCalledAndItsResultComesBackAsTheServerWroteIt(t *testing.T) {
	u := ready(t, child("raw"))
	got, err := u.Call(t.Context(), "odd", json.RawMessage(`{}`), nil)
	if err != nil || string(got) != oddResult {
		t.Errorf("%s, %v", got, err)
	}
}

func TestArgumentsReachTheServerByteForByte(t *testing.T) {
	u := ready(t, child("raw"))
	a, err := action.DecodeArgs(json.RawMessage(`{"z":9007199254740993, "a":"<&>\u2028\ud83d\ude00", "f":1.50, "n":null}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := u.Call(t.Context(), "args", a.Canonical, nil)
	var r struct{ Content []struct{ Text string } }
	if e := json.Unmarshal(got, &r); err != nil || e != nil {
		t.Fatal(err, e)
	}
	want := strings.ReplaceAll(string(a.Canonical), "\u2028", "") // the child takes it out before it decodes
	if r.Content[0].Text != want {
		t.Errorf("server got %s, decided on %s", r.Content[0].Text, want)
	}
}

func TestToolsAreListedAcrossPagesAsTheServerDefinesThem(t *testing.T) {
	u := ready(t, child("sdk"))
	var names []string
	for _, tool := range u.Tools() {
		names = append(names, tool.Name)
		if !strings.Contains(string(tool.Definition), `"title":"T `) || !strings.Contains(string(tool.Definition), `"icons":[`) {
			t.Errorf("%s is not as it was defined", tool.Definition)
		}
	}
	if want := []string{"ask", "die", "echo", "fail", "grow", "steps"}; !reflect.DeepEqual(names, want) {
		t.Errorf("listed %v, want %v", names, want)
	}
	if u.Features().Instructions != "use with care" {
		t.Errorf("instructions %q", u.Features().Instructions)
	}
}

func TestADefinitionKeepsMembersNobodyKnowsAndABadOrSecondOneIsLeftOut(t *testing.T) {
	u := ready(t, child("raw"))
	tools := u.Tools()
	if len(tools) != 10 || string(tools[0].Definition) != fmt.Sprintf(rawTool, "odd") {
		t.Errorf("%d tools, the first %s", len(tools), tools[0].Definition)
	}
}

func TestAChangedListIsListedAnewAndTold(t *testing.T) {
	u := ready(t, child("sdk"))
	if _, err := u.Call(t.Context(), "grow", json.RawMessage(`{}`), nil); err != nil {
		t.Fatal(err)
	}
	<-u.Changed()
	if n := len(u.Tools()); n != 7 {
		t.Errorf("%d tools after the change", n)
	}
}

func TestProgressComesInOrderAndBeforeTheResult(t *testing.T) {
	u := ready(t, child("sdk"))
	var got []float64
	if _, err := u.Call(t.Context(), "steps", json.RawMessage(`{}`), func(p Progress) { got = append(got, p.Done) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 50 || got[0] != 0 || got[49] != 49 {
		t.Errorf("progress %v", got)
	}
}

func TestWhatTheServerAsksOfUsIsDeclinedAndTheCallGoesOn(t *testing.T) {
	u := ready(t, child("raw"))
	if _, err := u.Call(t.Context(), "sample", json.RawMessage(`{}`), nil); err != nil {
		t.Fatal(err)
	}
	got, err := u.Call(t.Context(), "seen", json.RawMessage(`{}`), nil)
	if err != nil || !strings.Contains(string(got), `does not serve`) {
		t.Errorf("%s, %v", got, err)
	}
	sdk := ready(t, child("sdk"))
	if got, err = sdk.Call(t.Context(), "ask", json.RawMessage(`{}`), nil); err != nil || !strings.Contains(string(got), "elicit: ") {
		t.Errorf("%s, %v", got, err)
	}
}

func TestAToolsOwnFailureComesWithItsAccountAndAProtocolErrorIsAKnownFailure(t *testing.T) {
	u := ready(t, child("sdk"))
	got, err := u.Call(t.Context(), "fail", json.RawMessage(`{}`), nil)
	if !errors.Is(err, ErrReported) || !strings.Contains(string(got), "no such file") {
		t.Errorf("%s, %v", got, err)
	}
	raw := ready(t, child("raw"))
	_, err = raw.Call(t.Context(), "refuse", json.RawMessage(`{}`), nil)
	if err == nil || errors.Is(err, action.ErrUnknownOutcome) || errors.Is(err, action.ErrNotDispatched) || !strings.Contains(err.Error(), "not today") {
		t.Errorf("%v", err)
	}
	if _, err = raw.Call(t.Context(), "silly", json.RawMessage(`{}`), nil); !errors.Is(err, action.ErrUnknownOutcome) {
		t.Errorf("an answer that is no result: %v", err)
	}
}

func TestAServerThatBreaksOffLeavesTheCallUnknownIsDownAndComesBack(t *testing.T) {
	tests := []struct{ server, tool, says string }{
		{"sdk", "die", "exit status 4"},
		{"raw", "garbage", "not MCP"},
		{"raw", "doubled", "not MCP"},
		{"raw", "huge", "longer than 16 MiB"},
	}
	for _, tt := range tests {
		t.Run(tt.tool, func(t *testing.T) {
			u := ready(t, child(tt.server))
			_, err := u.Call(t.Context(), tt.tool, json.RawMessage(`{}`), nil)
			if !errors.Is(err, action.ErrUnknownOutcome) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want unknown and %q", err, tt.says)
			}
			for { // down by the time the call has said so, but Run may not have planned the next start yet
				_, err = u.Call(t.Context(), tt.tool, json.RawMessage(`{}`), nil)
				if strings.Contains(err.Error(), "started again in") {
					break
				}
				runtime.Gosched()
			}
			if !errors.Is(err, action.ErrNotDispatched) || !strings.Contains(err.Error(), "started again in 800ms") {
				t.Errorf("%v, want not dispatched, and when it is worth another try", err)
			}
			u.again(t, backoff1)
			if len(u.Tools()) == 0 {
				t.Error("no tools after the restart")
			}
			if _, err := u.Call(t.Context(), u.Tools()[len(u.Tools())-1].Name, json.RawMessage(`{}`), nil); errors.Is(err, action.ErrNotDispatched) {
				t.Errorf("after the restart: %v", err)
			}
		})
	}
}

// SPEC §4: an undo endpoint's health. It is asked again once the last answer is half a minute old, and a server that is down
// does not answer.
func TestAServerAnswersUntilItIsDown(t *testing.T) {
	u := ready(t, child("sdk"))
	for _, passed := range []time.Duration{0, answerLife / 2, answerLife, 0} {
		u.clock.move(passed)
		asked := u.answered.Load()
		if err := u.Answers(t.Context()); err != nil {
			t.Errorf("after %v more: %v", passed, err)
		}
		if again := u.answered.Load() != asked; again != (asked == 0 || passed == answerLife) {
			t.Errorf("after %v more it was asked: %v", passed, again)
		}
	}
	_, _ = u.Call(t.Context(), "die", json.RawMessage(`{}`), nil) // it breaks off
	u.clock.move(answerLife)
	if err := u.Answers(t.Context()); err == nil {
		t.Error("a server that is down answers")
	}
}

func TestACallNobodyAnswersEndsWithItsContextAndTheServerIsTold(t *testing.T) {
	u := ready(t, child("raw"))
	ctx, cancel := context.WithCancel(t.Context())
	called := make(chan error)
	go func() {
		_, err := u.Call(ctx, "mute", json.RawMessage(`{}`), nil)
		called <- err
	}()
	waitSeen(t, u, "tools/call")
	cancel()
	if err := <-called; !errors.Is(err, context.Canceled) || errors.Is(err, action.ErrNotDispatched) {
		t.Errorf("%v", err)
	}
	waitSeen(t, u, "notifications/cancelled")
}

// waitSeen waits until the raw server has seen a method that is not the asking itself.
func waitSeen(t *testing.T, u *runningUpstream, method string) {
	t.Helper()
	for asked := 1; ; asked++ {
		got, err := u.Call(t.Context(), "seen", json.RawMessage(`{}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		n := strings.Count(string(got), method)
		if method == "tools/call" {
			n -= asked
		}
		if n > 0 {
			return
		}
	}
}

func TestACallGivenUpBeforeItWasSentWasNotDispatched(t *testing.T) {
	u := ready(t, child("raw"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := u.Call(ctx, "odd", json.RawMessage(`{}`), nil); !errors.Is(err, action.ErrNotDispatched) && !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestAServerThatDoesNotStartSaysWhyAndIsTriedAgain(t *testing.T) {
	tests := []struct {
		command Command
		says    string
	}{
		{Command{Path: "/no/such/program"}, "no such file"},
		{child("exits"), "exit status 3"},
		{child("noisy"), "Welcome to my server!"},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			u := run(t, tt.command)
			if err := u.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %q", err, tt.says)
			}
			if _, err := u.Call(t.Context(), "x", nil, nil); !errors.Is(err, action.ErrNotDispatched) {
				t.Errorf("%v", err)
			}
			u.clock.fire(backoff1)
			u.clock.fire(backoff2) // it doubles
			u.clock.fire(2 * backoff2)
		})
	}
}

func TestAServerThatDoesNotAnswerAtTheStartIsGivenUpAndAskedTheOldWayNext(t *testing.T) {
	u := run(t, child("legacy"))
	u.clock.fire(startTimeout)
	if err := u.Ready(t.Context()); !errors.Is(err, errStartTimeout) {
		t.Fatalf("%v", err)
	}
	u.again(t, backoff1)
	if len(u.Tools()) != 10 {
		t.Errorf("%d tools", len(u.Tools()))
	}
}

func TestAStoppedServerIsAskedThenToldThenKilledWithAllItStarted(t *testing.T) {
	fifo, orphan := makeFIFO(t)
	clock := newHandClock()
	u := NewUpstream("up", child("deaf", "FIFO="+fifo), &UpstreamOptions{Clock: clock})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- u.Run(ctx) }()
	if err := u.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	gone := orphan()
	cancel()
	clock.fire(stopByEOF)
	clock.fire(stopByTerm)
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-gone
}

func TestAServerDoesNotOutliveAKilledHypervisor(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a parent-death signal")
	}
	fifo, orphan := makeFIFO(t)
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), childVar+"=parent", "FIFO="+fifo)
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	gone := orphan()
	if err := parent.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	<-gone
}

// makeFIFO returns a FIFO's path, and a function that waits until a child holds it open and returns a channel closed at its end.
func makeFIFO(t *testing.T) (string, func() <-chan struct{}) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, func() <-chan struct{} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(f)
		if line, err := br.ReadString('\n'); line != "here\n" {
			t.Fatal(line, err)
		}
		gone := make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, br)
			_ = f.Close()
			close(gone)
		}()
		return gone
	}
}

func TestStderrIsPassedOnByLinesCutAndWithNothingHidden(t *testing.T) {
	var out strings.Builder
	copyLines(&out, strings.NewReader("plain\r\n\x1b[31mred\n\nover\rwritten \u202egpj.exe\u200b\n"+strings.Repeat("x", 3*maxLogLine)+"\nlast \xff"), "[up] ")
	want := "[up] plain\n[up] \uFFFD[31mred\n[up] over\uFFFDwritten \uFFFDgpj.exe\uFFFD\n[up] " + strings.Repeat("x", maxLogLine) + "…\n[up] last \uFFFD\n"
	if out.String() != want {
		t.Errorf("%.200q", out.String())
	}
}

func TestAServerSeesOnlyTheEnvironmentItIsGiven(t *testing.T) {
	environ := []string{"PATH=/bin", "HOME=/h", "SECRET=s", "HYPERVISOR_TOKEN=t"}
	if got := BasicEnvironment(environ, map[string]string{"B": "2", "A": "1"}); !reflect.DeepEqual(got, []string{"PATH=/bin", "HOME=/h", "A=1", "B=2"}) {
		t.Error(got)
	}
	if got := InheritedEnvironment(environ); !reflect.DeepEqual(got, environ[:3]) {
		t.Error(got)
	}
}
