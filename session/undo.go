package session

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// undo.go: taking an action back, as an action of its own (SPEC §4 "Undo").

// The published names.
const (
	undoneType   = "action.undone"
	resolvedType = "action.resolved"
)

// UndoAction is the id of every action that takes another back, as policies and records say it.
const UndoAction = "hypervisor.undo"

// KindUndo is the kind of a session that takes back actions of one that has ended.
const KindUndo = "undo"

const (
	// undoMemory is how many records an undo that has ended is remembered for, by the state; what is older the rim finds in the
	// log, and UndoStep.AsOf says that it has looked.
	undoMemory = 4096
	maxDoubts  = 1024 // undos of unknown outcome, per session
)

// A Kind says what an undo can do about an action.
type Kind string

// The kinds.
const (
	Reversible  Kind = "reversible"  // what was there before comes back, byte for byte
	Compensable Kind = "compensable" // something is done about it; not all is as before
	Expired     Kind = "expired"     // its undo window is closed
	Impossible  Kind = "impossible"  // nothing takes it back
	Conflict    Kind = "conflict"    // somebody has changed the same since
)

// An UndoStatus says how far an undo of an action is. The zero value: none was begun, or the last one did nothing.
type UndoStatus string

// How far an undo is.
const (
	UndoRunning  UndoStatus = "running"
	UndoDone     UndoStatus = "done"
	UndoDoubtful UndoStatus = "doubtful" // whether it was done, or how much of it, is not known
)

// A Target is an action that is to be taken back, as its records say it. The rim reads them.
type Target struct {
	Session       string
	ID            string
	Agent         policy.DID
	Action        string
	Outcome       Result // zero: it runs
	Required      ring.Ring
	Reversibility action.Reversibility
	ReadOnly      bool
	Undoes        string // it is an undo itself
	Resource      string // as recorded; empty: not known
	Until         time.Time
	Calls         bool       // what takes it back was recorded with its outcome
	Changed       string     // the newest later change of the same resource that is not undone, SESSION/act-31; empty: there is none
	By            string     // the newest undo of it, SESSION/act-15
	Undo          UndoStatus // of By
	Saga          string     // the saga of which it was a step that names its undo; empty: it was none
	Word          bool       // what takes it back is its agent's own word: that ran the saga
	Open          string     // Saga, which has not ended, and takes it back itself if it must; empty: it has
}

// Name returns the action's name in records of other sessions.
func (t *Target) Name() string { return t.Session + "/" + t.ID }

// Judge returns what an undo can do about the action, from the records alone, and the refusal where it can do nothing. The reason
// is said in both cases.
func (t *Target) Judge(now time.Time) (Kind, policy.Decision) {
	no := func(k Kind, code policy.Code, format string, args ...any) (Kind, policy.Decision) {
		return k, policy.Refuse(code, format, args...)
	}
	switch {
	case t.Undoes != "":
		return no(Impossible, policy.UndoUnavailable, "%s is itself an undo, of %s; an undo is not undone", t.ID, t.Undoes)
	case t.ReadOnly:
		return no(Impossible, policy.UndoUnavailable, "%s only reads; there is nothing to take back", t.Action)
	case t.Outcome == Unsuccessful:
		return no(Impossible, policy.UndoUnavailable, "%s failed; there is nothing to take back", t.ID)
	case t.Outcome == 0:
		return no(Impossible, policy.UndoUnavailable, "%s is still running", t.ID)
	case t.Undo == UndoDone:
		return no(Impossible, policy.UndoConflict, "%s is undone already, by %s", t.ID, t.By)
	case t.Undo == UndoRunning:
		return no(Conflict, policy.UndoConflict, "%s is being undone, by %s", t.ID, t.By)
	case t.Open != "":
		return no(Conflict, policy.UndoConflict, "%s is of %s, which has not ended; cancel that, and what it did is taken back", t.ID, t.Open)
	case t.Outcome == Uncertain:
		return no(Impossible, policy.UndoUnavailable, "whether %s took place is not known", t.ID)
	case t.Reversibility == action.Irreversible:
		return no(Impossible, policy.UndoUnavailable, "%s was admitted as one that cannot be taken back", t.ID)
	case !t.Calls:
		return no(Impossible, policy.UndoUnavailable, "nothing that takes %s back was recorded with it", t.ID)
	case !t.Until.IsZero() && !now.Before(t.Until):
		return no(Expired, policy.UndoWindowClosed, "the undo window of %s closed at %s", t.ID, t.Until.Format(time.RFC3339))
	case t.Changed != "":
		return no(Conflict, policy.UndoConflict, "%s changed the same since and is not undone", t.Changed)
	}
	d := policy.Allow()
	if t.Undo == UndoDoubtful {
		d.Reason = fmt.Sprintf("whether an earlier undo, %s, took place is not known; the resource will tell", t.By)
	}
	if t.Reversibility == action.Full {
		return Reversible, d
	}
	return Compensable, d
}

// A Reading says how an action's resource reads now.
type Reading uint8

// How it reads.
const (
	NotRead        Reading = iota // nothing can look at it
	ReadsAsLeft                   // as the action left it
	ReadsAsBefore                 // as it was before the action
	ReadsOtherwise                // as neither
)

// UndoStep takes one action back. Env.Call is what does it: its Steps are the calls, and its Args name them all.
type UndoStep struct {
	Of    Target
	Reads Reading
	Fault string // why it cannot be taken back now, beside what the records say; empty: it can
	AsOf  uint64 // the record of this session up to which the rim has read

	Compensates bool // it is of a saga, which is undone before its session ends
}

// NoteUndone says that an undo whose outcome was not known did take place: the resource reads as before.
type NoteUndone struct {
	Of    string     // SESSION/act-12
	Agent policy.DID // whose that is
	By    string     // the undo
}

// Resolve says what became of an action whose outcome was not known. The rim has looked.
type Resolve struct {
	Of     string // SESSION/act-12
	Result Result // Done or Unsuccessful
	Left   Leaving
}

func (UndoStep) command()   {}
func (NoteUndone) command() {}
func (Resolve) command()    {}

// Undone is recorded when an action is taken back.
type Undone struct {
	ID       string     `json:"id"`                 // SESSION/act-12
	Agent    policy.DID `json:"agent"`              // whose that is
	By       string     `json:"by"`                 // the action that did it
	Observed bool       `json:"observed,omitempty"` // its outcome was not known, and the resource reads as before, or a person says so
}

// Resolved is recorded when an action's outcome that was not known is found out.
type Resolved struct {
	ID          string     `json:"id"`      // SESSION/act-12
	Outcome     string     `json:"outcome"` // done or failed
	Undo        audit.Hash `json:"undo,omitzero"`
	After       audit.Hash `json:"after,omitzero"`
	AfterAbsent bool       `json:"after_absent,omitempty"`
	Left        audit.Hash `json:"left,omitzero"`
}

// An UndoMark is what the state remembers of an undo.
type UndoMark struct {
	By     string     `json:"by"`
	Seq    uint64     `json:"seq"` // of the newest record about it
	Status UndoStatus `json:"status"`
}

func decideUndo(s *State, env *Env, c UndoStep) (Outcome, error) {
	switch {
	case s.Kind == KindUndo && s.Of != c.Of.Session, s.Kind != KindUndo && s.ID != c.Of.Session:
		return Outcome{}, fmt.Errorf("%w: %s is not taken back in session %s", ErrImpossible, c.Of.Name(), s.ID)
	case c.AsOf+undoMemory < s.Seq:
		return Outcome{}, fmt.Errorf("%w: the records were read up to %d of %d only", ErrImpossible, c.AsOf, s.Seq)
	case env.Call == nil:
		return Outcome{}, fmt.Errorf("%w: an undo without calls", ErrImpossible)
	}
	a := &admission{s: s, env: env.kept(), act: Act{Action: UndoAction}, agent: env.Caller.DID, operator: env.Caller.Role == policy.OperatorRole || env.Caller.Role == policy.SystemRole && c.Compensates, undo: &c}
	if c.Of.Word && a.operator { // the policies are asked about who said what that calls
		a.instead = c.Of.Agent
	}
	return a.decide(inactive, absent, notItsOwn, brokenOff, tooFast, tooMany, notKnown, setApart, aboveRing, beyondCapability, againstPolicy, beyondUndo)
}

// notItsOwn refuses an agent what another did (SPEC §7 "Authority").
func (a *admission) notItsOwn() *policy.Decision {
	if a.operator || a.undo.Of.Agent == a.agent {
		return nil
	}
	return deny(policy.Forbidden, "%s is of %s; an agent takes back its own actions, an operator any", a.undo.Of.ID, a.undo.Of.Agent)
}

func (a *admission) beyondUndo() *policy.Decision {
	t := a.undo.Of
	if m := a.s.Undos[t.Name()]; m != nil {
		t.By, t.Undo = m.By, m.Status
	}
	t.Open = a.s.openSaga(&t)
	if _, d := t.Judge(a.env.Now); !d.Allowed {
		return &d
	}
	switch {
	case a.undo.Fault != "":
		return deny(policy.UndoUnavailable, "%s cannot be taken back now: %s", t.ID, a.undo.Fault)
	case a.undo.Reads == ReadsAsBefore:
		return deny(policy.UndoConflict, "what %s changed reads as it did before: somebody has put it back", t.ID)
	case a.undo.Reads == ReadsOtherwise:
		return deny(policy.UndoConflict, "what %s changed does not read as it was left: somebody has changed it since, not through this hypervisor", t.ID)
	case t.Undo == UndoDoubtful && a.undo.Reads != ReadsAsLeft:
		return deny(policy.UndoUnavailable, "whether an earlier undo of %s, %s, took place is not known, and nothing can look; it is not done twice", t.ID, t.By)
	case a.s.doubts() >= maxDoubts:
		return deny(policy.QuotaExceeded, "session %s has %d undos whose outcome is not known; no more are begun", a.s.ID, maxDoubts)
	}
	return nil
}

// openSaga returns the saga that has not ended and would itself call what an undo is about to; empty: there is none.
func (s *State) openSaga(t *Target) string {
	if t.Session == s.ID && slices.Contains(s.SagasOpen, t.Saga) {
		return t.Saga
	}
	return ""
}

func (s *State) doubts() (n int) {
	for _, m := range s.Undos {
		if m.Status == UndoDoubtful {
			n++
		}
	}
	return n
}

func decideNoteUndone(s *State, env *Env, c NoteUndone) (Outcome, error) {
	m := s.Undos[c.Of]
	switch {
	case env.Caller.Role != policy.SystemRole || s.Lifecycle != Active:
		return Outcome{}, fmt.Errorf("%w: only the hypervisor notes an undo, while the session is active", ErrImpossible)
	case m != nil && m.Status != UndoDoubtful:
		return Outcome{}, fmt.Errorf("%w: an undo of %s is %s", ErrImpossible, c.Of, m.Status)
	}
	return allow(Undone{c.Of, c.Agent, c.By, true}), nil
}

func decideResolve(s *State, env *Env, c Resolve) (Outcome, error) {
	if env.Caller.Role != policy.SystemRole || s.Lifecycle != Active {
		return Outcome{}, fmt.Errorf("%w: only the hypervisor resolves an outcome, while the session is active", ErrImpossible)
	}
	out, e := allow(), Resolved{ID: c.Of}
	switch c.Result {
	case Done:
		e.Outcome = "done"
		e.Undo, e.After, e.AfterAbsent, e.Left = c.Left.commit(env, &out)
	case Unsuccessful:
		e.Outcome = "failed"
	default:
		return Outcome{}, fmt.Errorf("%w: %s is resolved without a result", ErrImpossible, c.Of)
	}
	out.Events = []Event{e}
	return out, nil
}

// marked notes how far an undo is, and forgets those that ended long ago.
func (s *State) marked(target string, m UndoMark) {
	if s.Undos == nil {
		s.Undos = map[string]*UndoMark{}
	}
	if len(s.Undos) >= undoMemory {
		maps.DeleteFunc(s.Undos, func(_ string, old *UndoMark) bool { return old.Status == UndoDone && old.Seq+undoMemory < m.Seq })
	}
	s.Undos[target] = &m
}

// undoEnded notes how the undo that a running action was has ended.
func (s *State) undoEnded(id string, r *Running, how Result, at Stamp) {
	switch {
	case r.Undoes == "":
	case how == Uncertain:
		s.marked(r.Undoes, UndoMark{id, at.Seq, UndoDoubtful})
	case how == Unsuccessful: // nothing was done
		delete(s.Undos, r.Undoes)
	case how == Done: // Undone, in the same record, says so
	}
}

// Append appends the event's JSON.
func (e Undone) Append(dst []byte) []byte {
	return audit.Event(dst, undoneType).Str("id", e.ID).Str("agent", string(e.Agent)).Str("by", e.By).OptBool("observed", e.Observed).End()
}

func (e Undone) apply(s *State, at Stamp) {
	s.marked(e.ID, UndoMark{e.By, at.Seq, UndoDone})
	if s.Kind != KindUndo {
		s.uncredit(e.Agent)
	}
}

// Append appends the event's JSON.
func (e Resolved) Append(dst []byte) []byte {
	return audit.Event(dst, resolvedType).Str("id", e.ID).Str("outcome", e.Outcome).OptHash("undo", e.Undo).OptHash("after", e.After).
		OptBool("after_absent", e.AfterAbsent).OptHash("left", e.Left).End()
}

func (Resolved) apply(*State, Stamp) {} // the running actions know nothing of it any more; readers of the log do
