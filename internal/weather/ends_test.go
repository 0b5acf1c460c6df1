//go:build unix

package weather

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

func TestTheSecondOnADataDirectoryIsToldWhoHoldsItAndHowToGoOn(t *testing.T) {
	k, dir := startKeeper(t), shortDir(t)
	a := wrapped(t, wrapCommand(t, k, dir))
	second := start(t, wrapCommand(t, k, dir))
	if code := second.code(t); code != 3 {
		t.Errorf("exit %d, want 3", code)
	}
	said := strings.TrimSpace(second.stderr.String())
	for _, want := range []string{dir, "process " + strconv.Itoa(a.cmd.Process.Pid), "--data"} {
		if !strings.Contains(said, want) {
			t.Errorf("it says %q, without %q", said, want)
		}
	}
	if got, err := a.call(t.Context(), "append", callArgs(1)); err != nil || got.err {
		t.Errorf("the first is disturbed: %+v, %v", got, err)
	}
	a.end(t)
	t.Log(said)
}

func TestWithoutADirectoryTheSecondTakesTheNext(t *testing.T) {
	k, state := startKeeper(t), shortDir(t)
	var dirs []string
	for n := 1; n <= 2; n++ {
		cmd := wrapCommand(t, k, "")
		cmd.Env = append(cmd.Env, "XDG_STATE_HOME="+state, "HOME="+state)
		a := wrapped(t, cmd)
		defer a.end(t)
		if got, err := a.call(t.Context(), "append", callArgs(n)); err != nil || got.err {
			t.Fatalf("%+v, %v", got, err)
		}
		_, dir, _ := strings.Cut(a.stderr.String(), "data in ")
		dir, _, _ = strings.Cut(dir, "\n")
		dirs = append(dirs, dir)
		if n == 2 && !strings.Contains(a.stderr.String(), dirs[0]+" is held by another process; taking the next") {
			t.Errorf("the second does not say why it takes another: %s", a.stderr)
		}
	}
	if dirs[1] != dirs[0]+"-2" {
		t.Errorf("the directories are %q", dirs)
	}
}

// holdCalls makes calls that the tool has begun and does not answer, and returns where their answers will come.
func holdCalls(t *testing.T, a *agent, k *keeper, count int) <-chan answer {
	t.Helper()
	answers := make(chan answer, count)
	for n := 1; n <= count; n++ {
		go func() { // ends with the process at the latest
			got, err := a.call(context.WithoutCancel(t.Context()), "hold", callArgs(n))
			if err != nil {
				got = answer{text: err.Error(), code: "no answer"}
			}
			answers <- got
		}()
	}
	k.must(t, errand{Op: "holding", N: count})
	return answers
}

func TestSIGTERMDuringCallsEndsTheSessionAndLeavesNoneUnrecorded(t *testing.T) {
	k, dir := startKeeper(t), shortDir(t)
	a := wrapped(t, wrapCommand(t, k, dir))
	const count = 5
	answers := holdCalls(t, a, k, count)
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := a.code(t); code != 0 {
		t.Errorf("exit %d, want 0: it was told to end; it said: %s", code, a.stderr)
	}
	for range count {
		if got := within(t, "an answer, or the end of the connection", answers); got.code == "" && !got.err {
			t.Errorf("a call that was cut off was answered as done: %+v", got)
		}
	}
	k.must(t, errand{Op: "release"})
	k.settle(t)
	h := readHistory(t, dir)
	h.holds(t, nil, k.lines(t))
	if h.count("unknown") != count || h.summary.Open != 0 || h.reasons["stopped"] != 1 {
		t.Errorf("%s; ends: %v; want %d unknown", h.sum(nil, k.lines(t)), h.reasons, count)
	}
}

func TestTheEndOfInputWaitsForTheAnswersOfCallsInFlight(t *testing.T) {
	k, dir := startKeeper(t), shortDir(t)
	a := wrapped(t, wrapCommand(t, k, dir))
	const count = 5
	answers := holdCalls(t, a, k, count)
	if err := a.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	k.must(t, errand{Op: "release"})
	acked := map[int]string{}
	for range count {
		got := within(t, "an answer after the end of input", answers)
		var n int
		if _, err := fmt.Sscanf(got.text, "did-%d-", &n); err != nil || got.err {
			t.Errorf("after the end of input: %+v", got)
		}
		acked[n] = callArgs(n).Text
	}
	if code := a.code(t); code != 0 {
		t.Errorf("exit %d; it said: %s", code, a.stderr)
	}
	h := readHistory(t, dir)
	h.holds(t, acked, k.lines(t))
	if h.count("done") != count || h.summary.Open != 0 || h.reasons["end_of_input"] != 1 {
		t.Errorf("%s; ends: %v", h.sum(acked, k.lines(t)), h.reasons)
	}
}

func TestAToolServerKilledDuringACallLeavesItUnknownAndIsStartedAgain(t *testing.T) {
	k, dir := startKeeper(t), shortDir(t)
	a := wrapped(t, wrapCommand(t, k, dir))
	pidOf := func() (pid int, ok bool) {
		got, err := a.call(t.Context(), "peek", struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		pid, err = strconv.Atoi(got.text)
		return pid, err == nil
	}
	pid, ok := pidOf()
	if !ok {
		t.Fatal("the tool server does not say who it is")
	}
	answers := holdCalls(t, a, k, 1)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := within(t, "an answer to the call that was cut off", answers); !got.err || !strings.Contains(got.text, "unknown") {
		t.Errorf("a call that was cut off is answered: %+v", got)
	}
	eventually(t, "the tool server is started again", func() bool {
		again, ok := pidOf()
		return ok && again != pid
	})
	if got, err := a.call(t.Context(), "append", callArgs(2)); err != nil || got.err {
		t.Errorf("the next call: %+v, %v", got, err)
	}
	a.end(t)
	k.must(t, errand{Op: "release"})
	h := readHistory(t, dir)
	h.holds(t, map[int]string{2: callArgs(2).Text}, k.lines(t))
	if len(h.byN[1]) != 1 || h.byN[1][0].outcome != "unknown" || h.byN[1][0].why != "lost" {
		t.Errorf("the call that was cut off: %+v", h.byN[1])
	}
}

// A wrongClock is the machine's, set back by so much.
type wrongClock struct{ behind time.Duration }

func (c wrongClock) Now() time.Time                         { return time.Now().Add(-c.behind) }
func (c wrongClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

func TestAStartWithTheClockBehindEndsUnusedGrants(t *testing.T) {
	dir, ctx := shortDir(t), t.Context()
	who := policy.Agent("did:mesh:ann")
	var calls []json.RawMessage
	open := func(clock hypervisor.Clock) *hypervisor.Hypervisor {
		hv, err := hypervisor.Open(ctx, &hypervisor.Options{Dir: dir, Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		return hv
	}
	register := func(s *hypervisor.Session) {
		s.Register(action.Descriptor{ID: "burn"}, func(_ context.Context, in json.RawMessage) (json.RawMessage, error) {
			calls = append(calls, in)
			return nil, nil
		})
	}
	burn := session.Act{Action: "burn", Args: json.RawMessage(`{"n":1}`)}

	hv := open(nil)
	s, err := hv.CreateSession(ctx, admin, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Join(ctx, admin, session.Join{Agent: who.DID, Sigma: ring.MustSigma("0.97")})
	if err := errors.Join(err, s.Activate(ctx, admin)); err != nil {
		t.Fatal(err)
	}
	register(s)
	out, err := s.Act(ctx, who, burn)
	if err != nil || out.Code != policy.ApprovalRequired {
		t.Fatalf("%+v, %v", out, err)
	}
	if d, err := s.Grant(ctx, admin, session.Grant{Approval: out.Approval.ID, Digest: out.Approval.Digest}); err != nil || !d.Allowed {
		t.Fatalf("granting: %+v, %v", d, err)
	}
	if err := hv.Close(ctx); err != nil {
		t.Fatal(err)
	}

	hv = open(wrongClock{behind: time.Hour})
	if s, err = hv.Session(ctx, s.ID()); err != nil {
		t.Fatal(err)
	}
	register(s)
	if out, err = s.Act(ctx, who, burn); err != nil || out.Allowed || len(calls) > 0 {
		t.Errorf("a grant given before the clock was set back is used: %+v, %v", out.Decision, err)
	}
	if err := errors.Join(endLeft(ctx, hv), hv.Close(ctx)); err != nil {
		t.Error(err)
	}
	h := readHistory(t, dir)
	if len(h.expired) == 0 || h.expired[0].Why != "clock set back" {
		t.Errorf("no record says that the grant ended, and why: %+v", h.expired)
	}
}
