package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/api"
)

// Sagas of an agent that nobody is connected as, over a real server of notes: half go through, half fail in their third step. The
// daemon is killed with them in flight, and another one brings each to its end without being asked.
func TestSagasGoOnAfterTheDaemonIsKilled(t *testing.T) {
	dir := t.TempDir()
	d := start(t, dir, undoYAML)
	d.seat("dev")
	for _, args := range [][]string{{"session", "join", "dev", "--agent", "did:mesh:ann"}, {"session", "activate", "dev"}} {
		if code, out, errout := d.run(args...); code != exitDone {
			t.Fatal(code, out, errout)
		}
	}
	const sagas = 16
	var ids []string
	for i := range sagas {
		ids = append(ids, d.detach(i))
		if i == sagas-1 {
			break
		}
		if i == sagas/4 { // some have rested by then
			if code, out, errout := d.run("saga", "show", ids[0], "--wait"); code != exitDone {
				t.Fatal(code, out, errout)
			}
		}
	}
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = d.cmd.Wait()
	d = start(t, dir, undoYAML)
	states := map[string]int{}
	for i, id := range ids {
		session, sag, _ := strings.Cut(id, "/")
		s, err := d.ctl.Saga(t.Context(), session, sag, true)
		if err != nil {
			t.Fatal(err)
		}
		if s.State == "waiting" { // what was under way cannot be known, and is not done again; a human looks
			s = d.found(s)
		}
		states[s.State]++
		notes := d.note(fmt.Sprint("a", i)) + d.note(fmt.Sprint("b", i))
		switch {
		case i%2 == 0 && s.State == "completed" && notes == "onetwo":
		case s.State == "compensated" && notes == "(none)(none)" && i%2 == 1:
		case s.State == "compensated" && notes == "(none)(none)": // its step was found not to have happened
		default:
			t.Errorf("%s is %s (%s), and its notes are %q: %+v", id, s.State, s.Why, notes, s.Steps)
		}
	}
	if states["completed"] == 0 || states["compensated"] < sagas/2 {
		t.Errorf("%v", states)
	}
	if code, out, errout := d.run("saga", "list", "--session", "dev"); code != exitDone || strings.Count(out, "/sag-") != sagas {
		t.Errorf("%d %s%s", code, out, errout)
	}
}

// detach runs a saga that writes two notes and then reads one, which is there only in every second.
func (d *served) detach(i int) string {
	d.t.Helper()
	reads := fmt.Sprint("a", i)
	if i%2 == 1 {
		reads = "nowhere"
	}
	file := filepath.Join(d.t.TempDir(), "saga.yaml")
	text := fmt.Sprintf(`saga: notes-%d
steps:
  - {id: a, agent: "did:mesh:ann", action: notes.write_note, args: {name: a%d, text: one}}
  - {id: b, agent: "did:mesh:ann", action: notes.write_note, args: {name: b%d, text: two}, needs: [a]}
  - {id: c, agent: "did:mesh:ann", action: notes.read_note, args: {name: %s}, needs: [b]}
`, i, i, i, reads)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	code, out, errout := d.run("saga", "run", file, "--session", "dev", "--detach")
	id, _, _ := strings.Cut(out, " ")
	if code != exitDone || !strings.Contains(id, "/sag-") {
		d.t.Fatalf("%d %s%s", code, out, errout)
	}
	return id
}

// found tells a waiting saga what became of its steps, as a human sees it, until it waits no more.
func (d *served) found(s api.Saga) api.Saga {
	d.t.Helper()
	for range 2 * len(s.Steps) {
		for _, step := range s.Steps {
			if step.Waits != "outcome" {
				continue
			}
			number := strings.TrimPrefix(s.Saga, "notes-")
			if d.note(step.ID+number) == "" { // the server was killed while it wrote
				d.scribble(step.ID+number, map[string]string{"a": "one", "b": "two"}[step.ID])
			}
			there := d.note(step.ID+number) != "(none)"
			if step.State == "compensation_unknown" {
				there = !there
			}
			how := map[bool]string{true: "happened", false: "not"}[there]
			if code, out, errout := d.run("saga", "resolve", s.Session+"/"+s.ID, "--step", step.ID, "--how", how); code != exitDone {
				d.t.Fatalf("%d %s%s", code, out, errout)
			}
		}
		var err error
		if s, err = d.ctl.Saga(d.t.Context(), s.Session, s.ID, true); err != nil {
			d.t.Fatal(err)
		}
		if s.State != "waiting" {
			break
		}
	}
	return s
}

// A saga is followed while it runs, to its end: each change is a line, in the order of the log, and the exit code is the saga's.
func TestASagaIsFollowedWhileItRuns(t *testing.T) {
	d := start(t, t.TempDir(), undoYAML)
	d.seat("dev")
	for _, args := range [][]string{{"session", "join", "dev", "--agent", "did:mesh:ann"}, {"session", "activate", "dev"}} {
		if code, out, errout := d.run(args...); code != exitDone {
			t.Fatal(code, out, errout)
		}
	}
	for i, want := range []struct {
		code int
		end  string
	}{{exitDone, "completed"}, {exitRefused, "compensated"}} {
		id := d.detach(i)
		_, sag, _ := strings.Cut(id, "/")
		code, out, errout := d.run("saga", "show", id, "--follow")
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if last := lines[len(lines)-1]; code != want.code || !strings.Contains(last, "  "+sag+"  "+want.end) {
			t.Errorf("exit %d, %s\n%s", code, errout, out)
		}
		code, out, errout = d.run("saga", "show", id, "--follow", "--json")
		if code != want.code || !strings.Contains(out, `"state":"`+want.end+`"`) {
			t.Errorf("exit %d, %s\n%s", code, errout, out)
		}
	}
}
