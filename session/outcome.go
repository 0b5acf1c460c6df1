package session

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// outcome.go: what became of an admitted action (SPEC §4 "Every action is journaled").

// The published names.
const (
	completedType = "action.completed"
	failedType    = "action.failed"
	unknownType   = "action.unknown"
)

// Why an outcome is unknown that nobody gave.
const (
	whyProcessEnded = "process ended"
	whyNoAnswer     = "no answer"
)

// A Result is how a call ended. The zero Result is no end.
type Result uint8

// The ends of a call.
const (
	Done         Result = iota + 1
	Unsuccessful        // the tool said so, or nothing was sent
	Uncertain           // whether it took place is not known
)

// Settle says what became of a running action. The executor gives it, for the agent that asked.
type Settle struct {
	ID     string
	Result Result
	Why    string // one word for a record: tool_error, not_sent, unreachable, postponed, timeout, cancelled, killed, lost; empty with Done
	Output []byte // what the tool answered, JSON; nil: nothing
	Left   Leaving
	Again  time.Time // of Postponed: a saga does not try again before; zero: nobody said
}

// A Leaving is what the rim found out about an action that was done, for the day it is taken back. The zero value is nothing.
type Leaving struct {
	Undo  []byte        // the calls that take it back, resolved: JSON; nil: there are none
	After *action.Image // what the action left; nil: nobody looked
	Keep  bool          // After is kept, to be shown where it is found changed; else it is only recognised
}

// commit makes the parts and returns what the event says of them.
func (l Leaving) commit(env *Env, out *Outcome) (undo, after audit.Hash, absent bool, left audit.Hash) {
	if l.Undo != nil {
		p := part(env, "undo", l.Undo)
		undo, out.Parts = p.Commitment(), append(out.Parts, p)
	}
	if l.After != nil {
		after, absent = Recognise(env.Secret, *l.After), l.After.Absent
		if l.Keep && !absent {
			p := part(env, "left", l.After.Bytes)
			left, out.Parts = p.Commitment(), append(out.Parts, p)
		}
	}
	return undo, after, absent, left
}

// Recover turns what another process started into unknown outcomes, opens a new epoch after an unclean stop, and takes
// back unused grants if the clock was set back. It is the first command after every load.
type Recover struct {
	// Lost says that the process lost records it may have acknowledged: the ids in them are not to be given out again.
	Lost bool
}

func (Settle) command()  {}
func (Recover) command() {}

// Completed is recorded when an action was done.
type Completed struct {
	ID     string     `json:"id"`
	Output audit.Hash `json:"output,omitzero"` // commitment; zero: nothing was answered

	Undo        audit.Hash `json:"undo,omitzero"`          // commitment to the calls that take it back; zero: there are none
	After       audit.Hash `json:"after,omitzero"`         // what it left is recognised by this; zero: nobody looked, or AfterAbsent
	AfterAbsent bool       `json:"after_absent,omitempty"` // it left nothing there
	Left        audit.Hash `json:"left,omitzero"`          // commitment to what it left; zero: that is not kept
}

// Failed is recorded when an action was not done, or its tool says that it failed.
type Failed struct {
	ID     string     `json:"id"`
	Why    string     `json:"why"`
	Output audit.Hash `json:"output,omitzero"`
}

// Unknown is recorded when nobody can say whether an action took place.
type Unknown struct {
	ID     string     `json:"id"`
	Why    string     `json:"why"`
	Output audit.Hash `json:"output,omitzero"`
}

func decideSettle(s *State, env *Env, c Settle) (Outcome, error) {
	r, ok := s.Running[c.ID]
	if !ok {
		return Outcome{}, fmt.Errorf("%w: no action %s is running in session %s", ErrImpossible, c.ID, s.ID)
	}
	var output audit.Hash
	out := allow()
	if c.Output != nil {
		p := part(env, "output", c.Output)
		output = p.Commitment()
		out.Parts = []audit.Part{p}
	}
	switch c.Result {
	case Done:
		e := Completed{ID: c.ID, Output: output}
		e.Undo, e.After, e.AfterAbsent, e.Left = c.Left.commit(env, &out)
		out.Events = []Event{e}
		if r.Undoes != "" {
			out.Events = append(out.Events, Undone{ID: r.Undoes, Agent: r.UndoesOf, By: c.ID})
		}
	case Unsuccessful:
		out.Events = []Event{Failed{c.ID, c.Why, output}}
	case Uncertain:
		out.Events = []Event{Unknown{c.ID, c.Why, output}}
	default:
		return Outcome{}, fmt.Errorf("%w: action %s ends without a result", ErrImpossible, c.ID)
	}
	out.ID, out.Durable = c.ID, s.strong() || !r.ReadOnly
	return out, nil
}

func decideRecover(s *State, env *Env, c Recover) Outcome {
	var events []Event
	if s.Lifecycle == Absent || s.Lifecycle == Archived {
		return Outcome{Decision: policy.Allow()}
	}
	if env.NodeEpoch != s.NodeEpoch || c.Lost {
		events = append(events, EpochOpened{s.Epoch + 1, env.NodeEpoch})
	}
	for _, id := range s.runningIDs() {
		if s.Running[id].Incarnation != env.Incarnation {
			events = append(events, Unknown{ID: id, Why: whyProcessEnded})
		}
	}
	for _, id := range s.approvalIDs() {
		if a := s.Approvals[id]; (a.Status == Open || a.Status == Granted) && s.killedItself(env, a.Agent) {
			events = append(events, ApprovalExpired{ID: id, Why: whyKilled})
		}
	}
	if env.ClockBehind {
		for _, id := range s.approvalIDs() {
			if a := s.Approvals[id]; a.Status == Granted && !s.killedItself(env, a.Agent) {
				events = append(events, ApprovalExpired{ID: id, Why: whyClock})
			}
		}
		for _, did := range s.elevatedIDs() {
			events = append(events, s.endElevation(env, did, whyClock)...)
		}
	}
	return allow(events...)
}

// runningIDs lists the running actions in the order they were admitted.
func (s *State) runningIDs() []string {
	ids := slices.AppendSeq(make([]string, 0, len(s.Running)), maps.Keys(s.Running)) // none is an empty list, as a record has it
	slices.SortFunc(ids, func(a, b string) int { return cmp.Compare(s.Running[a].Seq, s.Running[b].Seq) })
	return ids
}

// ended takes an action out of the running ones.
func (s *State) ended(id string, how Result, at Stamp) {
	r := s.Running[id]
	delete(s.Running, id)
	s.bondCallEnded(id)
	s.undoEnded(id, r, how, at)
	if p := s.Participants[r.Agent]; p != nil && p.Running > 0 && r.During == "" {
		p.Running--
	}
	if use, ok := s.Keys[r.Key]; ok && use.Seq == r.Seq {
		use.Outcome = at.Seq
		s.Keys[r.Key] = use
	}
}

// Append appends the event's JSON.
func (e Completed) Append(dst []byte) []byte {
	return audit.Event(dst, completedType).Str("id", e.ID).OptHash("output", e.Output).OptHash("undo", e.Undo).OptHash("after", e.After).
		OptBool("after_absent", e.AfterAbsent).OptHash("left", e.Left).End()
}

func (e Completed) apply(s *State, at Stamp) {
	r := s.Running[e.ID]
	takesBack := r.Undoes != "" || r.Saga != nil && r.Saga.Undo
	if !r.ReadOnly && !takesBack && s.Participants[r.Agent] != nil {
		s.conduct(r.Agent).Changed++
	}
	s.ended(e.ID, Done, at)
}

// Append appends the event's JSON.
func (e Failed) Append(dst []byte) []byte {
	return audit.Event(dst, failedType).Str("id", e.ID).Str("why", e.Why).OptHash("output", e.Output).End()
}

func (e Failed) apply(s *State, at Stamp) { s.ended(e.ID, Unsuccessful, at) }

// Append appends the event's JSON.
func (e Unknown) Append(dst []byte) []byte {
	return audit.Event(dst, unknownType).Str("id", e.ID).Str("why", e.Why).OptHash("output", e.Output).End()
}

func (e Unknown) apply(s *State, at Stamp) { s.ended(e.ID, Uncertain, at) }
