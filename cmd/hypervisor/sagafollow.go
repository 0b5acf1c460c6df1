package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/client"
)

// sagafollow.go: a saga as it goes on. The session's records say when to look, and when each step began and ended.

const clockFormat = "15:04:05.000"

// A sagaFollower draws one saga as it changes.
type sagaFollower struct {
	g     *globals
	c     *client.Client
	last  api.Saga
	times map[string]stepTimes // by step

	screen *screen // nil: nobody reads along on a terminal
}

// stepTimes is when a step's newest try began, and when the step, or its undo, came to its end. Zero: it did not.
type stepTimes struct{ began, ended time.Time }

// followSaga draws a saga until it has ended, and its session at the latest. The error is that of a saga that is not completed.
func (g *globals) followSaga(ctx context.Context, c *client.Client, s api.Saga) error {
	f := &sagaFollower{g: g, c: c, times: map[string]stepTimes{}, screen: newScreen(g.out)}
	for line, err := range c.Log(ctx, s.Session, s.Seq, true) {
		if err != nil {
			return err
		}
		r, err := audit.ParseRecord(line)
		if err != nil {
			return fmt.Errorf("reading a record: %w", err)
		}
		ofIt := bytes.Contains(line, []byte(`"`+s.ID+`"`))
		if ofIt {
			if err := f.note(s.ID, r.Time, r.Events); err != nil {
				return err
			}
		}
		if r.Seq < s.AsOf || !ofIt && f.last.ID != "" {
			continue // what came of it is known already, or it is of something else
		}
		if s, err = c.Saga(ctx, s.Session, s.ID, false); err != nil {
			return err
		}
		if err := f.draw(s, r.Time); err != nil || over(s) {
			return cmp.Or(err, unlessCompleted(s))
		}
	}
	return unlessCompleted(f.last)
}

// over reports whether nothing more will be said of a saga.
func over(s api.Saga) bool { return s.Ended != nil && (s.Failed == "" || len(s.Shares) > 0) }

// note takes the times of steps from a record.
func (f *sagaFollower) note(id string, at time.Time, text []byte) error {
	var events []struct {
		Type string
		Saga any // of other events it is no text
		Step any
	}
	if err := json.Unmarshal(text, &events); err != nil {
		return fmt.Errorf("reading a record: %w", err)
	}
	for _, e := range events {
		name, ofStep := strings.CutPrefix(e.Type, "saga.step_")
		step, _ := e.Step.(string)
		t := f.times[step]
		switch {
		case e.Saga != any(id) || !ofStep || name == "retried" || name == "held" || name == "given_up":
			continue
		case name == "started":
			t = stepTimes{began: at}
		default:
			t.ended = at
		}
		f.times[step] = t
	}
	return nil
}

// draw shows what has changed, as a record of that time has it.
func (f *sagaFollower) draw(s api.Saga, at time.Time) error {
	before := f.last
	f.last = s
	s.AsOf, before.AsOf = 0, 0
	switch {
	case reflect.DeepEqual(s, before):
		return nil
	case f.g.json:
		b, err := json.Marshal(f.last)
		if err != nil {
			return err
		}
		return f.g.printLine(b)
	case f.screen != nil:
		if room, enough := f.screen.room(); enough {
			f.redraw(s, room)
			return nil
		}
		f.screen.drawn = nil // lines follow it
	}
	f.changes(before, s, at)
	return nil
}

// changes prints a line for each step that is not as it was, and one for the saga.
func (f *sagaFollower) changes(before, s api.Saga, at time.Time) {
	stamp := at.UTC().Format(clockFormat)
	for i, step := range s.Steps {
		if i < len(before.Steps) && reflect.DeepEqual(step, before.Steps[i]) || i >= len(before.Steps) && step.State == "pending" {
			continue
		}
		f.g.printf("%s  %s  %s  %s%s\n", f.stamp(step.ID, stamp), step.ID, step.Agent, step.State, f.more(&step))
	}
	if s.State != before.State || len(s.Shares) != len(before.Shares) {
		f.g.printf("%s  %s  %s%s%s\n", stamp, s.ID, s.State, withWhy(s.Why), f.borneBy(s))
	}
}

// stamp is when a step came to where it is; other where no record says.
func (f *sagaFollower) stamp(step, other string) string {
	switch t := f.times[step]; {
	case !t.ended.IsZero():
		return t.ended.UTC().Format(clockFormat)
	case !t.began.IsZero():
		return t.began.UTC().Format(clockFormat)
	}
	return other
}

// more is what there is to say of a step beside its state: how long it took, what it waits for, why it came to that.
func (f *sagaFollower) more(step *api.SagaStep) (text string) {
	if t := f.times[step.ID]; t.ended.After(t.began) && !t.began.IsZero() {
		text += "  " + t.ended.Sub(t.began).Round(time.Millisecond).String()
	}
	switch {
	case step.Waits != "":
		text += "  " + waitsFor(step)
	case step.Why != "":
		text += "  (" + step.Why + ")"
	}
	return text
}

func (f *sagaFollower) borneBy(s api.Saga) string {
	if len(s.Shares) == 0 && s.Faultless == "" {
		return ""
	}
	return "  borne by " + borne(s.Shares, s.Faultless)
}

// redraw draws the saga over what was drawn before: on a terminal with fewer lines than it has steps those that matter now, and all of
// them at its end, when nothing is drawn over them any more.
func (f *sagaFollower) redraw(s api.Saga, room int) {
	from, to, last := 0, len(s.Steps), over(s)
	if !last {
		first, newest := active(s.Steps)
		from, to = window(len(s.Steps), room-1, first, newest)
	}
	line := func(format string, args ...any) string { return fmt.Sprintf(format, cleaned(args)...) }
	lines := []string{line("%s/%s  %s  %s%s%s", s.Session, s.ID, s.Saga, s.State, withWhy(s.Why), f.borneBy(s))}
	if from > 0 {
		lines = append(lines, leftOut(s.Steps[:from], "before"))
	}
	for _, step := range s.Steps[from:to] {
		began := ""
		if t := f.times[step.ID]; !t.began.IsZero() {
			began = "  since " + t.began.UTC().Format(clockFormat)
		}
		lines = append(lines, line("  %s %s  %s  %s%s%s", mark(step.State), step.ID, step.Agent, step.State, began, f.more(&step)))
	}
	if to < len(s.Steps) {
		lines = append(lines, leftOut(s.Steps[to:], "behind"))
	}
	f.screen.draw(lines, last)
}

// active returns the first and the last step in which something happens, or is waited for; where there is none, the last that anything
// has happened to.
func active(steps []api.SagaStep) (first, last int) {
	first, last = -1, 0
	touched := 0
	for i, s := range steps {
		switch {
		case s.Waits != "" || s.State == "executing" || s.State == "compensating":
			if last = i; first < 0 {
				first = i
			}
		case s.State != "pending":
			touched = i
		}
	}
	if first < 0 {
		return touched, touched
	}
	return first, last
}

// leftOut says in one line what is not shown of steps.
func leftOut(steps []api.SagaStep, where string) string {
	counts := map[string]int{}
	var states []string
	for _, s := range steps {
		if counts[s.State]++; counts[s.State] == 1 {
			states = append(states, s.State)
		}
	}
	for i, state := range states {
		states[i] = fmt.Sprintf("%d %s", counts[state], clean(state))
	}
	return "  … " + where + ": " + strings.Join(states, ", ")
}

// mark is a step's state in one character.
func mark(state string) string {
	switch state {
	case "pending":
		return "·"
	case "executing", "compensating":
		return "▸"
	case "committed":
		return "✓"
	case "compensated":
		return "↩"
	case "unknown", "compensation_unknown":
		return "?"
	}
	return "✗"
}
