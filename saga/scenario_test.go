package saga_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/internal/scenario"
	"github.com/agenthypervisor/hypervisor/saga"
)

// See perform for the language of testdata/run/*.txt.
func TestScenarios(t *testing.T) {
	scenario.Run(t, "testdata/run/*.txt", func(t *testing.T) scenario.Play {
		p := &player{t: t, now: epoch}
		return func(command string) (trace []string, err error) {
			p.line = command
			p.perform(strings.Fields(command))
			trace, p.trace = p.trace, nil
			return trace, nil
		}
	})
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// A player performs the commands of a scenario.
type player struct {
	t       *testing.T
	line    string
	def     saga.Definition
	natures []saga.Nature
	plan    *saga.Plan
	run     *saga.Run
	now     time.Time
	trace   []string
}

// perform does one command:
//
//	step ID [needs=a,b] [retries=N] [read] [idempotent] [stays] [undo-idempotent]   stays: nothing takes it back
//	group POLICY ID…
//	start                        begin what can begin
//	ok|refused|notrun|noanswer|unsent|interrupted ID…     what became of the try under way
//	hold ID WORD DURATION, release ID
//	resolve ID happened|not, cancel
//	at +DURATION                 since the start
//	crash                        every try under way is interrupted
func (p *player) perform(words []string) {
	switch command, rest := words[0], words[1:]; command {
	case "step":
		p.step(rest)
	case "group":
		p.def.FanOut = append(p.def.FanOut, saga.Group{Policy: saga.Policy(rest[0]), Branches: rest[1:]})
	case "start":
		p.def.Name = "scenario"
		if faults := p.def.Check(saga.Known{}); faults != nil {
			p.t.Fatal(faults)
		}
		p.plan = saga.NewPlan(&p.def, p.natures)
		p.run = p.plan.Start()
		p.follow()
	case "at":
		d, err := time.ParseDuration(strings.TrimPrefix(rest[0], "+"))
		if err != nil {
			p.t.Fatal(err)
		}
		p.now = epoch.Add(d)
		p.follow()
	case "hold":
		d, err := time.ParseDuration(rest[2])
		if err != nil {
			p.t.Fatal(err)
		}
		p.answer(saga.Answer{Step: p.index(rest[0]), Result: saga.OnHold, Why: rest[1], Until: p.now.Add(d)})
	case "release":
		p.happened(p.plan.Release(p.run, p.index(rest[0]), p.now))
	case "found":
		p.happened(p.plan.Found(p.run, p.index(rest[0]), p.now))
	case "resolve":
		p.happened(p.plan.Resolve(p.run, p.index(rest[0]), rest[1] == "happened"))
	case "cancel":
		p.happened(p.plan.Cancel(p.run, "cancelled"))
	case "crash":
		for i := range p.run.Steps {
			if p.run.Steps[i].Flying {
				p.apply(p.plan.Settle(p.run, saga.Answer{Step: i, Result: saga.Interrupted, Why: "crash"}, p.now, 0))
			}
		}
		p.follow()
	default:
		result := slices.Index([]string{"ok", "refused", "notrun", "noanswer", "unsent", "interrupted"}, command)
		if result < 0 {
			p.t.Fatalf("%s: no such command", p.line)
		}
		for _, id := range rest {
			p.answer(saga.Answer{Step: p.index(id), Result: saga.Result(result), Why: command})
		}
	}
}

func (p *player) step(words []string) {
	s := saga.Step{ID: words[0], Agent: "did:mesh:a", Action: "files.write"}
	n := saga.Nature{Undo: true}
	for _, word := range words[1:] {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "needs":
			s.Needs = strings.Split(value, ",")
		case "retries":
			s.Retries, _ = strconv.Atoi(value)
		case "read":
			n = saga.Nature{ReadOnly: true}
		case "idempotent":
			n.Idempotent = true
		case "undo-idempotent":
			n.UndoIdempotent = true
		case "stays":
			n.Undo = false
		default:
			p.t.Fatalf("%s: no such word", p.line)
		}
	}
	p.def.Steps, p.natures = append(p.def.Steps, s), append(p.natures, n)
}

func (p *player) index(id string) int {
	i := slices.IndexFunc(p.def.Steps, func(s saga.Step) bool { return s.ID == id })
	if i < 0 {
		p.t.Fatalf("%s: no such step", p.line)
	}
	return i
}

func (p *player) answer(a saga.Answer) {
	if !p.run.Steps[a.Step].Flying {
		p.t.Fatalf("%s: no try is under way", p.line)
	}
	p.happened(p.plan.Settle(p.run, a, p.now, 1<<62)) // the spread of retries is shown by a test of its own
}

func (p *player) happened(e saga.Event) {
	if e == nil {
		p.trace = append(p.trace, "nothing: "+p.line)
		return
	}
	p.apply(e)
	p.follow()
}

func (p *player) follow() {
	for e := p.plan.Next(p.run, p.now); e != nil; e = p.plan.Next(p.run, p.now) {
		p.apply(e)
	}
}

func (p *player) apply(e saga.Event) {
	p.trace = append(p.trace, p.say(e))
	p.run.Apply(e)
	if due := p.run.Due(); p.run.State.Ended() && !due.IsZero() {
		p.t.Fatalf("%s: ended, and due %v", p.line, due)
	}
}

func (p *player) say(e saga.Event) string {
	id := func(i int) string { return p.def.Steps[i].ID }
	because := func(why string) string {
		if why == "" {
			return ""
		}
		return " (" + why + ")"
	}
	after := func(at time.Time) string { return "+" + at.Sub(epoch).Truncate(time.Millisecond).String() }
	switch e := e.(type) {
	case saga.Begun:
		if e.Undo {
			return "undo of " + id(e.Step) + " begins"
		}
		return id(e.Step) + " begins"
	case saga.Deferred:
		how := "again at "
		if e.Counted {
			how = "retry at "
		}
		maybe := ""
		if e.Maybe {
			maybe = ", may have happened"
		}
		return id(e.Step) + " " + how + after(e.After) + maybe + because(e.Why)
	case saga.Held:
		return id(e.Step) + " waits for " + e.For + " until " + after(e.Until)
	case saga.Settled:
		until := ""
		if !e.Until.IsZero() {
			until = " until " + after(e.Until)
		}
		return id(e.Step) + " " + e.To.String() + until + because(e.Why)
	case saga.GaveUp:
		return id(e.Step) + " stays " + p.run.Steps[e.Step].State.String() + ": nobody found out in time"
	case saga.Resolved:
		return fmt.Sprintf("fan_out[%d] %s", e.Group, e.To)
	case saga.Turned:
		return "saga compensating" + because(e.Why)
	case saga.Waited:
		return "saga waits in " + p.run.State.String()
	case saga.Ended:
		return "saga " + e.To.String()
	}
	panic(fmt.Sprintf("%T", e))
}
