package session

import (
	"fmt"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// sagaevents.go: what records say of a saga.

// The published names; a step that comes to an end, and a saga that does, are named after what they came to.
const (
	sagaCreatedType      = "saga.created"
	sagaStepStartedType  = "saga.step_started"
	sagaStepRetriedType  = "saga.step_retried"
	sagaStepHeldType     = "saga.step_held"
	sagaStepPrefix       = "saga.step_"
	sagaStepGivenUpType  = "saga.step_given_up"
	sagaCheckpointType   = "saga.checkpoint_saved"
	sagaFanoutStartType  = "saga.fanout_started"
	sagaFanoutEndType    = "saga.fanout_resolved"
	sagaCompensatingType = "saga.compensating"
	sagaWaitingType      = "saga.waiting"
	sagaPrefix           = "saga."
)

// SagaCreated is recorded when a saga starts, with its first steps.
type SagaCreated struct {
	ID     string       `json:"id"`
	Saga   string       `json:"saga"` // its name
	By     policy.DID   `json:"by"`
	Agent  bool         `json:"agent,omitempty"` // an agent runs it, with its own authority
	Fault  bool         `json:"fault,omitempty"` // a tool's ordinary error is somebody's fault
	Steps  []SagaStep   `json:"steps"`
	FanOut []saga.Group `json:"fan_out,omitempty"`
	Args   audit.Hash   `json:"args"` // commitment to the steps' arguments

	Replays string   `json:"replays,omitempty"` // the saga of which what stands is not done again; empty: none
	Skips   []string `json:"skips,omitempty"`   // those steps

	plan *saga.Plan // what Saga.plans makes of it; nil: it was read
}

// SagaStepStarted is recorded when a try of a step begins, or of its undo. The action that it is comes in a record of its own.
type SagaStepStarted struct {
	Saga string `json:"saga"`
	Step string `json:"step"`
	No   int    `json:"no"`
	Undo bool   `json:"undo,omitempty"`
}

// SagaStepRetried is recorded when a try came to nothing and another follows.
type SagaStepRetried struct {
	Saga    string    `json:"saga"`
	Step    string    `json:"step"`
	After   time.Time `json:"after"`             // not before
	Counted bool      `json:"counted,omitempty"` // it uses up a retry
	Maybe   bool      `json:"maybe,omitempty"`   // it may have happened; doing it again does no harm
	Why     string    `json:"why,omitempty"`
}

// SagaStepHeld is recorded when a try could not begin before somebody has done something.
type SagaStepHeld struct {
	Saga  string    `json:"saga"`
	Step  string    `json:"step"`
	For   string    `json:"for"` // approval apr-12, tool, kill
	Until time.Time `json:"until"`
	Why   string    `json:"why,omitempty"` // irreversible: it counts as one that cannot be taken back; empty: there is no more to say
}

// SagaStepSettled is recorded, as saga.step_committed, …_failed, …_unknown, …_compensated, …_compensation_failed or
// …_compensation_unknown, when a step or its undo comes to an end.
type SagaStepSettled struct {
	To     saga.StepState `json:"-"` // in the event's name
	Saga   string         `json:"saga"`
	Step   string         `json:"step"`
	Action string         `json:"action,omitempty"` // that ended; empty: none did
	Why    string         `json:"why,omitempty"`
	Until  time.Time      `json:"until,omitzero"` // of an unknown: how long that is waited for
}

// SagaStepGivenUp is recorded when nobody found out in time whether a step, or its undo, happened.
type SagaStepGivenUp struct {
	Saga string `json:"saga"`
	Step string `json:"step"`
}

// SagaCheckpointSaved is recorded when the goal that a step names is reached.
type SagaCheckpointSaved struct {
	Saga string `json:"saga"`
	Step string `json:"step"`
	Goal string `json:"goal"`
}

// SagaFanoutStarted is recorded when the first branch of a group begins.
type SagaFanoutStarted struct {
	Saga  string `json:"saga"`
	Group int    `json:"group"` // in fan_out, from 0
}

// SagaFanoutResolved is recorded when enough branches of a group have committed, or not enough can any more.
type SagaFanoutResolved struct {
	Saga      string `json:"saga"`
	Group     int    `json:"group"`
	Satisfied bool   `json:"satisfied,omitempty"`
}

// SagaCompensating is recorded when a saga turns: what was done is undone from now on.
type SagaCompensating struct {
	Saga string `json:"saga"`
	Step string `json:"step,omitempty"` // on whose account; empty: somebody wanted it so
	Why  string `json:"why"`
}

// SagaWaiting is recorded when nothing moves until somebody ends a wait, or its time is over.
type SagaWaiting struct {
	Saga string `json:"saga"`
}

// SagaEnded is recorded, as saga.completed, saga.compensated or saga.escalated, when nothing more will happen.
type SagaEnded struct {
	To   saga.State `json:"-"` // in the event's name
	Saga string     `json:"saga"`
	Left []string   `json:"left,omitempty"` // the steps that stand, or may, though they were to be undone

	Failed    string `json:"failed,omitempty"`    // the action by which it failed, where that is attributed from now on
	Faultless string `json:"faultless,omitempty"` // why nobody bears that it failed; empty with Failed, and of a completed one
}

// append appends the step as encoding/json has it.
func (s *SagaStep) append(dst []byte) []byte {
	return audit.Begin(dst).Str("id", s.ID).Str("agent", string(s.Agent)).Str("action", s.Action).OptStr("undo", s.Undo).OptStrs("needs", s.Needs).
		Uint("timeout", uint64(s.Timeout)).OptUint("retries", uint64(s.Retries)).OptStr("checkpoint", s.Checkpoint).OptBool("read_only", s.ReadOnly).
		OptBool("idempotent", s.Idempotent).OptBool("undoable", s.Undoable).OptBool("undo_idempotent", s.UndoIdempotent).
		Uint("required_ring", uint64(s.Requires)).OptStrs("substitutes", texts(s.Substitutes)).OptStr("in_place_of", string(s.InPlaceOf)).End()
}

// append appends the try as encoding/json has it.
func (t *SagaTry) append(dst []byte) []byte {
	return audit.Begin(dst).Str("saga", t.Saga).Uint("step", uint64(t.Step)).Uint("no", uint64(t.No)).OptBool("undo", t.Undo).End()
}

// Append appends the event's JSON.
func (e SagaCreated) Append(dst []byte) []byte {
	o := audit.Event(dst, sagaCreatedType).Str("id", e.ID).Str("saga", e.Saga).Str("by", string(e.By)).OptBool("agent", e.Agent).OptBool("fault", e.Fault).
		List("steps", len(e.Steps), func(dst []byte, i int) []byte { return e.Steps[i].append(dst) })
	if len(e.FanOut) > 0 {
		o = o.List("fan_out", len(e.FanOut), func(dst []byte, i int) []byte {
			return audit.Begin(dst).Str("Policy", string(e.FanOut[i].Policy)).Strs("Branches", e.FanOut[i].Branches).End()
		})
	}
	return o.Hash("args", e.Args).OptStr("replays", e.Replays).OptStrs("skips", e.Skips).End()
}

func (e SagaStepStarted) Append(dst []byte) []byte {
	return audit.Event(dst, sagaStepStartedType).Str("saga", e.Saga).Str("step", e.Step).Uint("no", uint64(e.No)).OptBool("undo", e.Undo).End()
}

func (e SagaStepRetried) Append(dst []byte) []byte {
	return audit.Event(dst, sagaStepRetriedType).Str("saga", e.Saga).Str("step", e.Step).Time("after", e.After).OptBool("counted", e.Counted).
		OptBool("maybe", e.Maybe).OptStr("why", e.Why).End()
}

func (e SagaStepHeld) Append(dst []byte) []byte {
	return audit.Event(dst, sagaStepHeldType).Str("saga", e.Saga).Str("step", e.Step).Str("for", e.For).Time("until", e.Until).OptStr("why", e.Why).End()
}

func (e SagaStepSettled) Append(dst []byte) []byte {
	o := audit.Event(dst, sagaStepPrefix+e.To.String()).Str("saga", e.Saga).Str("step", e.Step).OptStr("action", e.Action).OptStr("why", e.Why)
	if !e.Until.IsZero() {
		o = o.Time("until", e.Until)
	}
	return o.End()
}

func (e SagaStepGivenUp) Append(dst []byte) []byte {
	return audit.Event(dst, sagaStepGivenUpType).Str("saga", e.Saga).Str("step", e.Step).End()
}

func (e SagaCheckpointSaved) Append(dst []byte) []byte {
	return audit.Event(dst, sagaCheckpointType).Str("saga", e.Saga).Str("step", e.Step).Str("goal", e.Goal).End()
}

func (e SagaFanoutStarted) Append(dst []byte) []byte {
	return audit.Event(dst, sagaFanoutStartType).Str("saga", e.Saga).Uint("group", uint64(e.Group)).End()
}

func (e SagaFanoutResolved) Append(dst []byte) []byte {
	return audit.Event(dst, sagaFanoutEndType).Str("saga", e.Saga).Uint("group", uint64(e.Group)).OptBool("satisfied", e.Satisfied).End()
}

func (e SagaCompensating) Append(dst []byte) []byte {
	return audit.Event(dst, sagaCompensatingType).Str("saga", e.Saga).OptStr("step", e.Step).Str("why", e.Why).End()
}

func (e SagaWaiting) Append(dst []byte) []byte {
	return audit.Event(dst, sagaWaitingType).Str("saga", e.Saga).End()
}

func (e SagaEnded) Append(dst []byte) []byte {
	o := audit.Event(dst, sagaPrefix+e.To.String()).Str("saga", e.Saga)
	if len(e.Left) > 0 {
		o = o.Strs("left", e.Left)
	}
	return o.OptStr("failed", e.Failed).OptStr("faultless", e.Faultless).End()
}

// saga returns the saga as its first record, at seq, leaves it.
func (e SagaCreated) saga(seq uint64) *Saga {
	g := &Saga{Name: e.Saga, By: e.By, Agent: e.Agent, Fault: e.Fault, Replays: e.Replays, Seq: seq, Steps: e.Steps, FanOut: e.FanOut,
		Actions: make([]string, len(e.Steps)), Doers: make([]policy.DID, len(e.Steps)), Whys: make([]string, len(e.Steps))}
	if g.plan = e.plan; g.plan == nil {
		g.plan = g.plans()
	}
	g.Run = g.plan.Replay(g.places(e.Skips))
	return g
}

func (e SagaCreated) apply(s *State, at Stamp) {
	if s.Sagas == nil {
		s.Sagas = map[string]*Saga{}
	}
	s.Sagas[e.ID] = e.saga(at.Seq)
	s.SagasOpen = append(s.SagasOpen, e.ID)
	if p := s.Participants[e.By]; e.Agent && p != nil {
		p.Bucket, _, _ = p.Bucket.Refill(p.Ring, at.Time).Take()
	}
}

// happened applies what package saga says to the saga.
func (s *State) happened(id string, of func(*Saga) saga.Event) {
	g := s.Sagas[id]
	if g == nil {
		panic(fmt.Sprintf("session: an event of saga %s, which is not there", id))
	}
	g.Run.Apply(of(g))
}

func (e SagaStepStarted) apply(s *State, _ Stamp) {
	s.happened(e.Saga, func(g *Saga) saga.Event { return saga.Begun{Step: g.step(e.Step), Undo: e.Undo} })
}

func (e SagaStepStarted) owes() Effect { return Try{e.Saga} }

func (e SagaWaiting) owes() Effect { return Rest{Saga: e.Saga} }
func (e SagaEnded) owes() Effect   { return Rest{e.Saga, e.Failed != ""} }

func (e SagaStepRetried) apply(s *State, _ Stamp) {
	s.happened(e.Saga, func(g *Saga) saga.Event {
		g.Whys[g.step(e.Step)] = e.Why
		return saga.Deferred{Step: g.step(e.Step), After: e.After, Counted: e.Counted, Maybe: e.Maybe, Why: e.Why}
	})
}

func (e SagaStepHeld) apply(s *State, _ Stamp) {
	s.happened(e.Saga, func(g *Saga) saga.Event {
		if e.Why != "" {
			g.Whys[g.step(e.Step)] = e.Why
		}
		return saga.Held{Step: g.step(e.Step), For: e.For, Until: e.Until}
	})
}

func (e SagaStepSettled) apply(s *State, _ Stamp) {
	s.happened(e.Saga, func(g *Saga) saga.Event {
		i := g.step(e.Step)
		g.Whys[i] = e.Why
		return saga.Settled{Step: i, To: e.To, Why: e.Why, Until: e.Until}
	})
}

func (e SagaStepGivenUp) apply(s *State, _ Stamp) {
	s.happened(e.Saga, func(g *Saga) saga.Event { return saga.GaveUp{Step: g.step(e.Step)} })
}

func (SagaCheckpointSaved) apply(*State, Stamp) {} // the step that names it has committed, which says as much

func (SagaFanoutStarted) apply(*State, Stamp) {} // so does the step that began

func (e SagaFanoutResolved) apply(s *State, _ Stamp) {
	to := saga.Lost
	if e.Satisfied {
		to = saga.Satisfied
	}
	s.happened(e.Saga, func(*Saga) saga.Event { return saga.Resolved{Group: e.Group, To: to} })
}

func (e SagaCompensating) apply(s *State, _ Stamp) {
	s.happened(e.Saga, func(g *Saga) saga.Event {
		g.Why, g.On = e.Why, e.Step
		return saga.Turned{Step: g.step(e.Step), Why: e.Why}
	})
}

func (e SagaWaiting) apply(s *State, _ Stamp) {
	s.happened(e.Saga, func(*Saga) saga.Event { return saga.Waited{} })
}

func (e SagaEnded) apply(s *State, at Stamp) {
	s.happened(e.Saga, func(g *Saga) saga.Event {
		g.Ended, g.Failed, g.Faultless = at.Time, e.Failed, e.Faultless
		if e.Failed != "" {
			s.Attributing++
		}
		return saga.Ended{To: e.To}
	})
	s.sagaEnded(e.Saga)
}

// sagaReaders reads the events whose names say what something came to.
func sagaReaders(readers audit.Readers[Event]) audit.Readers[Event] {
	for _, to := range []saga.StepState{saga.Committed, saga.Failed, saga.Unknown, saga.Compensated, saga.CompensationFailed, saga.CompensationUnknown} {
		readers[sagaStepPrefix+to.String()] = audit.Reader(func(e SagaStepSettled) Event { e.To = to; return e })
	}
	for _, to := range []saga.State{saga.Completed, saga.AllUndone, saga.Escalated} {
		readers[sagaPrefix+to.String()] = audit.Reader(func(e SagaEnded) Event { e.To = to; return e })
	}
	return readers
}
