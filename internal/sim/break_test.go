package sim

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// break_test.go: each invariant is shown to be able to fail. The shipped code is built with all its breakages in it, by an overlay that no
// file of the module knows of; the environment says which one counts.

// An edit replaces one text of a file; broken says whether the breakage counts in this process.
type edit struct{ file, old, new string }

// A breakage is what somebody might get wrong.
type breakage struct {
	name  string
	of    invariant // that reports it
	edits []edit
}

var breakages = []breakage{
	{"an append that failed is taken for one that did not", acknowledged, []edit{
		{"stream.go", "	if t.err != nil {\n		return away(t.err)", "	if t.err != nil && !broken(1) {\n		return away(t.err)"}}},
	{"a call is made again where its answer was lost", harmOnce, []edit{
		{"dispatch.go", "	result, err := s.hv.do(c)\n", "	result, err := s.hv.do(c)\n	if err != nil && broken(2) {\n		result, err = s.hv.do(c)\n	}\n"}}},
	{"what was to be tried when a process died is not tried any more, nor given up", sagasEnd, []edit{
		{"live.go", "	if len(session.Tries(state)) > 0 {", "	if len(session.Tries(state)) > 0 && !broken(3) {"},
		{"session/state.go", "	case Terminating:\n", "	case Terminating:\n		if broken(3) && len(Tries(s)) > 0 {\n			return time.Time{}\n		}\n"},
		{"session/saga.go", "	_, tick := c.(Tick)\n	return tick &&", "	_, tick := c.(Tick)\n	return !(broken(3) && len(Tries(s)) > 0) && tick &&"}}},
	{"what a tool says it did not do counts as done", noMoreThanSo, []edit{
		{"dispatch.go", `	return session.Unsuccessful, "tool_error"`, `	if broken(4) {
		return session.Done, ""
	}
	return session.Unsuccessful, "tool_error"`}}},
	{"what was done first is undone first", inReverse, []edit{
		{"saga/plan.go", "		i := r.Done[n]\n", "		i := r.Done[n]\n		if broken(5) {\n			i = r.Done[len(r.Done)-1-n]\n		}\n"}}},
	{"nobody looks at the kill switch", stillStands, []edit{
		{"policy/kill.go", "	if len(k.by) == 0 {", "	if len(k.by) == 0 || broken(6) {"},
		{"session/kill.go", "		if k, ok := s.Kills[agent]; ok {", "		if k, ok := s.Kills[agent]; ok && !broken(6) {"}}},
	{"a quarantine is not looked at", stillStands, []edit{
		{"session/quarantine.go", "q := env.Standings[who].Quarantine; q != nil {", "q := env.Standings[who].Quarantine; q != nil && !broken(7) {"}}},
	{"an agent's ring is not held against what it asks for", ringHolds, []edit{
		{"session/act.go", "	case a.ring > a.required:", "	case a.ring > a.required && !broken(8):"}}},
	{"a bucket is never empty", rateHolds, []edit{
		{"ring/ring.go", "	if b.Level < token {", "	if b.Level < token && broken(9) {\n		b.Level = token\n	}\n	if b.Level < token {"}}},
	{"nobody adds up what is bonded", bondsHold, []edit{
		{"agent/bond.go", "	case uint64(s.bonded())+uint64(e.Amount) > uint64(MostBonded(sigma)):", "	case !broken(10) && uint64(s.bonded())+uint64(e.Amount) > uint64(MostBonded(sigma)):"},
		{"session/vouch.go", "	case amount == 0 || amount > agent", "	case amount == 0 || !broken(10) && amount > agent"}}},
	{"a call goes out while its record is on its way", decided, []edit{
		{"live.go", "	if len(effects) > 0 && out.Durable {", "	if len(effects) > 0 && out.Durable && !broken(11) {"},
		{"live.go", "	if len(effects) > 0 && !out.Durable {", "	if len(effects) > 0 && (!out.Durable || broken(11)) {"},
		{"act.go", "	if err == nil {\n		err = s.hv.wait(ctx, t)\n	}\n	if started", "	if err == nil && !broken(11) {\n		err = s.hv.wait(ctx, t)\n	}\n	if started"}}},
	{"a summary is not of the records", logVerifies, []edit{
		{"owed.go", "	if err == nil {\n		_, err = s.hv.system.submit(ctx, policy.System, system.Commit{", "	if err == nil && broken(12) {\n		sum.Hash[0] ^= 1\n	}\n	if err == nil {\n		_, err = s.hv.system.submit(ctx, policy.System, system.Commit{"}}},
	{"a session that ended while its process died is not sealed", getsQuiet, []edit{
		{"owed.go", "	case err == nil && unsealed:", "	case err == nil && unsealed && !broken(13):"}}},
	{"no epoch follows what was lost", idsOnce, []edit{
		{"session/outcome.go", "	if env.NodeEpoch != s.NodeEpoch || c.Lost {", "	if !broken(14) && (env.NodeEpoch != s.NodeEpoch || c.Lost) {"}}},
	{"something is changed in memory alone", memoryIsLog, []edit{
		{"live.go", "	l.agents.follow(l.state, out.Events)\n	l.st.events", "	if broken(15) {\n		l.state.Opener = \"did:mesh:nobody\"\n	}\n	l.agents.follow(l.state, out.Events)\n	l.st.events"}}},
	{"what is undone may be undone again", undoneOnce, []edit{
		{"session/undo.go", "	case t.Undo == UndoDone:", "	case t.Undo == UndoDone && !broken(16):"},
		{"session/undo.go", "	case a.undo.Reads == ReadsAsBefore:", "	case a.undo.Reads == ReadsAsBefore && !broken(16):"}}},
	{"a second kill of the same finds nothing to record", noPanic, []edit{
		{"kill.go", "	if !there {\n		ks.pursue(o)", "	if !there || broken(17) {\n		ks.pursue(o)"}}},
	{"a deadline fires in a goroutine of its own", oneThread, []edit{
		{"internal/executor/timers.go", "	t.fire(ctx, a.key)\n", "	if broken(18) {\n		done := make(chan struct{})\n		go func() { defer close(done); t.fire(ctx, a.key) }()\n		<-done\n		return true\n	}\n	t.fire(ctx, a.key)\n"}}},
	{"a wait lasts for ever", waitsEnd, []edit{
		{"session/sagatry.go", "	wait := now.Add(saga.ResolveWithin)\n", "	wait := now.Add(saga.ResolveWithin)\n	if broken(19) {\n		wait = now.AddDate(1, 0, 0)\n	}\n"}}},
	{"no deadline of a wait is noticed", waitsEnd, []edit{
		{"saga/run.go", "	if r.State.Ended() {\n		return due", "	if r.State.Ended() || broken(20) {\n		return due"}}},
	{"a release lets no saga go on", waitsEnd, []edit{
		{"session/saga.go", "step.Hold == holdQuarantine && s.quarantined(env, agent) == nil", "step.Hold == holdQuarantine && !broken(21) && s.quarantined(env, agent) == nil"}}},
	{"the end of a kill of everything lets no saga go on", waitsEnd, []edit{
		{"kill.go", "	if before && !after {", "	if before && !after && !broken(22) {"}}},
	{"a grant lets no saga go on", waitsEnd, []edit{
		{"session/saga.go", "		case ApprovalGranted:\n", "		case ApprovalGranted:\n			if broken(23) {\n				continue\n			}\n"}}},
	{"nobody looks for a tool that came", waitsEnd, []edit{
		{"sagasend.go", "	held := s.heldForTools()\n	s.mu.Unlock()\n", "	held := s.heldForTools()\n	s.mu.Unlock()\n	if broken(24) {\n		return\n	}\n"}}},
	{"a session is let go in which a step waits for what happens elsewhere", waitsEnd, []edit{
		{"handle.go", "session.Attends(s.live.state) {", "session.Attends(s.live.state) && !broken(25) {"}}},
	{"a step is handed on though its agent can do it", handedOn, []edit{
		{"session/sagahandoff.go", "	if why == \"\" {\n		return \"\", \"\"\n	}\n	named", "	if why == \"\" && !broken(26) {\n		return \"\", \"\"\n	}\n	named"}}},
	{"a replay does everything again", goalsStand, []edit{
		{"saga/replay.go", "	const unknown, skipped, done = 0, 1, 2\n", "	const unknown, skipped, done = 0, 1, 2\n	if broken(27) {\n		return nil\n	}\n"}}},
	{"nobody reads the kill file", killKept, []edit{
		{"kill.go", "	ks.file = file\n", "	ks.file = file\n	if broken(28) {\n		kills = nil\n	}\n"}}},
	{"each try of a step has a key of its own", keyOnce, []edit{
		{"addresses.go", "	if c.Saga.Undo {\n		name += \"/undo\"\n	}\n", "	if c.Saga.Undo {\n		name += \"/undo\"\n	}\n	if broken(29) {\n		name += string(rune('0' + c.Saga.No))\n	}\n"}}},
	{"nobody's word ends what is not known", waitsEnd, []edit{
		{"saga/answer.go", "	if r.State.Ended() || s.GaveUp {\n", "	if r.State.Ended() || s.GaveUp || broken(30) {\n"}}},
}

const (
	brokenBy    = "HYPERVISOR_BROKEN" // the number of the breakage that counts
	brokenSeeds = "120"               // in which each is found
)

// TestEveryInvariantCanFail builds the simulator on shipped code that is broken on purpose, and has each breakage found by its
// invariant and no other.
func TestEveryInvariantCanFail(t *testing.T) {
	if raced {
		t.Skip("a build without the race detector does it")
	}
	program := buildBroken(t)
	seen := map[invariant]bool{}
	for i, b := range breakages {
		seen[b.of] = true
		t.Run(b.name, func(t *testing.T) {
			run := exec.CommandContext(t.Context(), program, "-test.timeout", "2m", "-test.run", "TestSimulatedHistoriesHold", "-seeds", brokenSeeds, "-first")
			run.Env = append(os.Environ(), brokenBy+"="+strconv.Itoa(i+1))
			out, err := run.CombinedOutput()
			if err == nil {
				t.Fatalf("nobody notices in %s seeds", brokenSeeds)
			}
			_, found, _ := strings.Cut(string(out), "FOUND ")
			found, _, _ = strings.Cut(found, "\n")
			if !strings.Contains(found, ": "+string(b.of)+": ") {
				t.Errorf("found as %q, and not as %q\n%s", found, b.of, out[:min(len(out), 2000)])
			}
			t.Log(found)
		})
	}
	for _, of := range invariants {
		if !seen[of] {
			t.Errorf("no breakage shows that %q can fail", of)
		}
	}
}

// buildBroken returns a program of this package's tests with every breakage in it.
func buildBroken(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replace, texts := map[string]string{}, map[string]string{}
	write := func(file, text string) {
		at := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, file)] = at
	}
	for _, b := range breakages {
		for _, e := range b.edits {
			if texts[e.file] == "" {
				text, err := os.ReadFile(filepath.Join(root, e.file))
				if err != nil {
					t.Fatal(err)
				}
				texts[e.file] = string(text)
			}
			if strings.Count(texts[e.file], e.old) != 1 {
				t.Fatalf("%s: %q stands there %d times: the shipped code has changed, mend the breakage %q", e.file, e.old, strings.Count(texts[e.file], e.old), b.name)
			}
			texts[e.file] = strings.Replace(texts[e.file], e.old, e.new, 1)
		}
	}
	for file, text := range texts {
		write(file, text)
		_, text, _ = strings.Cut(text, "\npackage ")
		if strings.HasPrefix(texts[file], "package ") {
			text = strings.TrimPrefix(texts[file], "package ")
		}
		name, _, _ := strings.Cut(text, "\n")
		write(filepath.Join(filepath.Dir(file), "zz_broken.go"), "package "+name+"\n\nimport (\n\t\"os\"\n\t\"strconv\"\n)\n\nvar brokenNow, _ = strconv.Atoi(os.Getenv(\""+brokenBy+
			"\"))\n\nfunc broken(n int) bool { return brokenNow == n }\n")
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	list, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "broken.test")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "test", "-c", "-overlay", list, "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building what is broken: %v\n%s", err, out)
	}
	return program
}
