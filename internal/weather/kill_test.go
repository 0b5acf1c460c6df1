//go:build linux

package weather

import (
	"os/exec"
	"strings"
	"testing"
)

// run runs the program to its end and returns what it printed, both streams, and its exit code.
func run(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t), args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// SPEC §7: "A preallocated kill file, overwritten in place and synced, makes it survive a crash with the disk full."
func TestAKillOnAFullDiskStopsAtOnceAndSurvivesSIGKILL(t *testing.T) {
	d, k := mountDisk(t), startKeeper(t)
	a := wrapped(t, wrapCommand(t, k, d.data))
	ctx := t.Context()
	answers := holdCalls(t, a, k, 1)
	d.fill(t, 0)
	full := false
	for n := 10; n < 60 && !full; n++ {
		got, err := a.call(ctx, "append", callArgs(n))
		if err != nil {
			t.Fatal(err)
		}
		full = got.code == "store_unavailable"
	}
	if !full {
		t.Fatal("the disk is full, and everything is recorded")
	}
	out, code := run(t, "kill", "--agent", "did:mesh:local", "--reason", "drift", "--data", d.data, "--json")
	if code != 0 || !strings.Contains(out, `"recorded":false`) || !strings.Contains(out, `"action":"tool.hold"`) || !strings.Contains(out, `"still_running":[]`) {
		t.Errorf("exit %d: %s", code, out)
	}
	if got := within(t, "the killed call's answer", answers); got.code == "" && !got.err {
		t.Errorf("it was answered as done: %+v", got)
	}
	k.must(t, errand{Op: "release"}) // what the tool server had passed on
	k.settle(t)
	before := len(k.lines(t))
	if got, err := a.call(ctx, "append", callArgs(100)); err != nil || got.code != "agent_killed" {
		t.Errorf("%+v, %v", got, err)
	}
	a.kill()
	d.clear(t)

	// With room again it starts, and is stopped still: what the process of a killed agent would be for is not there.
	p := start(t, wrapCommand(t, k, d.data))
	if code := p.code(t); code != 1 || !strings.Contains(p.stderr.String(), "did:mesh:local was killed (drift)") || !strings.Contains(p.stderr.String(), "kill --lift --agent did:mesh:local") {
		t.Errorf("exit %d, %s", code, p.stderr)
	}
	serve := start(t, exec.Command(program(t), "serve", "--data", d.data, "--listen", "127.0.0.1:0"))
	eventually(t, "the daemon answers", func() bool {
		_, code := run(t, "kill", "--list", "--data", d.data)
		return code == 0
	})
	if out, code := run(t, "kill", "--lift", "--agent", "did:mesh:local", "--data", d.data); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	serve.kill()
	if after := len(k.lines(t)); after != before {
		t.Errorf("%d calls were dispatched after the kill", after-before)
	}
	a = wrapped(t, wrapCommand(t, k, d.data))
	if got, err := a.call(ctx, "append", callArgs(200)); err != nil || got.code != "" || got.err {
		t.Errorf("after it was lifted: %+v, %v", got, err)
	}
	a.end(t)
	h := readHistory(t, d.data)
	h.holds(t, nil, k.lines(t))
	if h.count("running") > 0 || h.summary.Open > 0 {
		t.Errorf("%s", h.sum(nil, k.lines(t)))
	}
}
