package session

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

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
	Why    string // one word for a record: tool_error, not_sent, timeout, cancelled, killed, lost; empty with Done
	Output []byte // what the tool answered, JSON; nil: nothing
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
		out.Events = []Event{Completed{c.ID, output}}
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
			events = append(events, Unknown{ID: id, Why: "process ended"})
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
	return slices.SortedFunc(maps.Keys(s.Running), func(a, b string) int { return cmp.Compare(s.Running[a].Seq, s.Running[b].Seq) })
}

// ended takes an action out of the running ones.
func (s *State) ended(id string, at Stamp) {
	r := s.Running[id]
	delete(s.Running, id)
	s.bondCallEnded(id)
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
	return audit.Event(dst, completedType).Str("id", e.ID).OptHash("output", e.Output).End()
}

func (e Completed) apply(s *State, at Stamp) {
	if r := s.Running[e.ID]; !r.ReadOnly && s.Participants[r.Agent] != nil {
		s.conduct(r.Agent).Changed++
	}
	s.ended(e.ID, at)
}

// Append appends the event's JSON.
func (e Failed) Append(dst []byte) []byte {
	return audit.Event(dst, failedType).Str("id", e.ID).Str("why", e.Why).OptHash("output", e.Output).End()
}

func (e Failed) apply(s *State, at Stamp) { s.ended(e.ID, at) }

// Append appends the event's JSON.
func (e Unknown) Append(dst []byte) []byte {
	return audit.Event(dst, unknownType).Str("id", e.ID).Str("why", e.Why).OptHash("output", e.Output).End()
}

func (e Unknown) apply(s *State, at Stamp) { s.ended(e.ID, at) }
