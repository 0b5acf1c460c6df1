package session_test

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// saga reads what a saga is, and finds out of its actions what the rim would.
func (p *player) saga(words []string) (c session.RunSaga, err error) {
	for _, word := range words {
		if kind, branches, ok := strings.Cut(strings.TrimSuffix(word, ")"), "("); ok {
			c.FanOut = append(c.FanOut, saga.Group{Policy: saga.Policy(kind), Branches: strings.Split(branches, "+")})
			continue
		}
		if strings.HasPrefix(word, "by=") {
			continue
		}
		parts := strings.Split(word, ":")
		if len(parts) == 1 {
			if !strings.Contains(word, "=") {
				c.Name = word
			}
			continue
		}
		s := session.SagaStep{ID: parts[0], Agent: did(parts[1]), Action: parts[2], Timeout: time.Minute}
		for _, more := range parts[3:] {
			name, value, _ := strings.Cut(more, "=")
			switch name {
			case "needs":
				s.Needs = strings.Split(value, "+")
			case "retries":
				s.Retries, err = strconv.Atoi(value)
			case "undo":
				s.Undo = value
			case "goal":
				s.Checkpoint = value
			default:
				return c, fmt.Errorf("a step has no %q", name)
			}
		}
		d := p.tools[s.Action].Descriptor
		s.ReadOnly, s.Idempotent, s.Undoable = d.ReadOnly, d.Idempotent, d.Undo != nil || s.Undo != ""
		s.UndoIdempotent = s.Undo == "" || p.tools[s.Undo].Descriptor.Idempotent
		c.Steps, c.Needs = append(c.Steps, s), append(c.Needs, needsRing(d))
	}
	c.Args = []byte("[" + strings.Repeat("{},", len(c.Steps)-1) + "{}]")
	return c, err
}

// named returns what a word with an @ stands for: @saga the newest saga, @approval the newest approval, @a the running action that is
// step a.
func (p *player) named(word string) string {
	name, ok := strings.CutPrefix(word, "@")
	if !ok {
		return word
	}
	found := func(ids iter.Seq[string]) string {
		return slices.MaxFunc(append(slices.Collect(ids), ""), func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	}
	switch name {
	case "saga":
		return found(maps.Keys(p.live.Sagas))
	case "approval":
		return found(maps.Keys(p.live.Approvals))
	}
	for id, r := range p.live.Running {
		if r.Saga != nil && p.live.Sagas[r.Saga.Saga].Steps[r.Saga.Step].ID == name {
			return id
		}
	}
	return word
}

func needsRing(d action.Descriptor) ring.Ring { return d.RequiredRing(d.Effective(action.ImageTaken)) }

// try does what is owed for a step: the action that it is. Of an undo that is no action of its own it takes the answer.
func (p *player) try(l line) (by policy.Caller, c session.Command, err error) {
	tries := session.Tries(p.live)
	i := slices.IndexFunc(tries, func(t session.SagaTry) bool {
		return t.Saga == l.word(1) && p.live.Sagas[t.Saga].Steps[t.Step].ID == l.word(2)
	})
	if i < 0 {
		return by, nil, fmt.Errorf("no try of %s is owed; there are %v", l.word(2), tries)
	}
	t := tries[i]
	s := p.live.Sagas[t.Saga].Steps[t.Step]
	if answer := l.word(3); answer != "" {
		result := map[string]saga.Result{"ok": saga.Succeeded, "refused": saga.Refused, "notrun": saga.NotRun, "noanswer": saga.NoAnswer, "unsent": saga.Unsent}[answer]
		return policy.System, session.AnswerSaga{SagaTry: t, Result: result, Why: l.named["why"]}, nil
	}
	name := s.Action
	if t.Undo {
		name = s.Undo
	}
	return policy.Agent(s.Agent).Through("saga"), session.Act{Action: name, Args: []byte("{}"), Saga: &t}, nil
}
