package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/api"
)

// A glass is a terminal: it wraps, scrolls, and cannot go back to what has scrolled away.
type glass struct {
	t             *testing.T
	width, height int
	gone, lines   []string // scrolled away, and to be seen; the cursor stands in lines[at]
	at            int
}

func (g *glass) Write(b []byte) (int, error) {
	for text := string(b); text != ""; {
		var n int
		switch {
		case strings.HasPrefix(text, "\x1b[J"):
			g.lines = append(g.lines[:g.at], "")
			text = text[3:]
		case strings.HasPrefix(text, "\x1b["):
			if _, err := fmt.Sscanf(text, "\x1b[%dA", &n); err != nil {
				g.t.Fatalf("no such sequence: %q", text)
			}
			g.at = max(0, g.at-n)
			text = text[strings.IndexByte(text, 'A')+1:]
		case text[0] == '\n':
			g.down()
			text = text[1:]
		default:
			r := []rune(text)[0]
			if len([]rune(g.lines[g.at])) == g.width {
				g.down()
			}
			g.lines[g.at] += string(r)
			text = text[len(string(r)):]
		}
	}
	return len(b), nil
}

func (g *glass) down() {
	if g.at++; g.at == len(g.lines) {
		g.lines = append(g.lines, "")
	}
	if len(g.lines) > g.height {
		g.gone, g.lines = append(g.gone, g.lines[0]), g.lines[1:]
		g.at--
	}
}

func (g *glass) all() string {
	return strings.Join(append(append([]string{}, g.gone...), g.lines...), "\n")
}

// followed is a follower of a saga of n steps on a terminal.
func followed(t *testing.T, n, width, height int) (*sagaFollower, *glass, api.Saga) {
	t.Helper()
	glass := &glass{t: t, width: width, height: height, lines: []string{""}}
	f := &sagaFollower{g: &globals{out: glass}, times: map[string]stepTimes{},
		screen: &screen{out: glass, size: func() (int, int) { return glass.width, glass.height }}}
	s := api.Saga{ID: "sag-7", Session: "dev", Saga: "release", State: "running"}
	for i := range n {
		s.Steps = append(s.Steps, api.SagaStep{ID: fmt.Sprintf("step%02d", i), Agent: "did:mesh:ann", State: "pending"})
	}
	return f, glass, s
}

// goes plays the saga, a step at a time, and looks after each change.
func goes(t *testing.T, f *sagaFollower, s api.Saga, look func(now string)) {
	t.Helper()
	at := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)
	draw := func(now string) {
		next := s
		next.Steps = append([]api.SagaStep(nil), s.Steps...)
		if err := f.draw(next, at); err != nil {
			t.Fatal(err)
		}
		look(now)
	}
	for i := range s.Steps {
		for _, state := range []string{"executing", "committed"} {
			at = at.Add(time.Second)
			s.Steps[i].State = state
			draw(s.Steps[i].ID + "  did:mesh:ann  " + state)
		}
	}
	s.State, s.Ended = "completed", &at
	draw("completed")
}

// A saga is drawn over itself on a terminal of any size: what happens now is to be seen, nothing that was drawn over stays behind, and at
// the end all of it is there once.
func TestASagaIsDrawnOverItselfOnAShortTerminal(t *testing.T) {
	for _, c := range []struct{ steps, width, height int }{{5, 80, 24}, {5, 80, 7}, {20, 80, 5}, {20, 80, 6}, {20, 80, 12}, {60, 30, 10}, {3, 12, 24}} {
		t.Run(fmt.Sprintf("%d steps, %d x %d", c.steps, c.width, c.height), func(t *testing.T) {
			f, glass, s := followed(t, c.steps, c.width, c.height)
			goes(t, f, s, func(now string) {
				seen := strings.Join(glass.lines, "\n")
				if c.width >= 60 && !strings.Contains(glass.all(), now) {
					t.Fatalf("%s is not to be seen:\n%s", now, seen)
				}
				if n := strings.Count(glass.all(), "dev/sag-7"); n != 1 {
					t.Fatalf("at %s it stands there %d times:\n%s", now, n, glass.all())
				}
				if now != "completed" && len(glass.gone) > 0 {
					t.Fatalf("at %s something scrolled away:\n%s", now, glass.all())
				}
			})
			for _, step := range s.Steps {
				if n := strings.Count(glass.all(), step.ID); n != 1 {
					t.Errorf("%s stands there %d times at the end:\n%s", step.ID, n, glass.all())
				}
			}
		})
	}
}

// On a terminal of very few lines there is no room to draw over anything, so that each change is a line; and one that is made narrower,
// or smaller, in between is drawn on as it is then.
func TestASagaIsDrawnOnATerminalThatChangesItsSize(t *testing.T) {
	f, few, s := followed(t, 6, 80, 3)
	goes(t, f, s, func(string) {})
	if all := few.all(); strings.Contains(all, "\x1b") || strings.Count(all, "\n") != 2*6+2 || !strings.Contains(all, "sag-7  completed") {
		t.Errorf("\n%s", all)
	}
	f, changing, s := followed(t, 20, 80, 24)
	n := 0
	goes(t, f, s, func(now string) {
		if seen := strings.Join(changing.lines, "\n"); now != "completed" && !strings.Contains(seen, now) {
			t.Fatalf("%s is not to be seen:\n%s", now, seen)
		}
		switch n++; n {
		case 10: // what does not fit any more scrolls away, as terminals have it
			changing.height = 8
			cut := len(changing.lines) - 8
			changing.gone, changing.lines, changing.at = append(changing.gone, changing.lines[:cut]...), changing.lines[cut:], changing.at-cut
		case 20:
			changing.height = 30
		}
	})
	for _, step := range s.Steps[12:] {
		if !strings.Contains(strings.Join(changing.lines, "\n"), step.ID) {
			t.Errorf("%s is not to be seen at the end:\n%s", step.ID, changing.all())
		}
	}
}

func TestWindowHoldsWhatMatters(t *testing.T) {
	for n := 1; n < 30; n++ {
		for room := 3; room < 32; room++ {
			for first := range n {
				from, to := window(n, room, first, first)
				left := 0
				if from > 0 {
					left++
				}
				if to < n {
					left++
				}
				if from < 0 || to > n || first < from || first >= to || to-from+left > room {
					t.Fatalf("%d lines, room for %d, %d matters: %d to %d", n, room, first, from, to)
				}
			}
		}
	}
}
