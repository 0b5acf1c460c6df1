package session

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/saga"
)

// saga.go: several actions that end either all done or undone (SPEC §5). What follows from what is package saga's; here it becomes
// records, and each step an action of its agent's, admitted like any other.

// Bounds of a session's sagas.
const (
	maxOpenSagas   = 64
	maxOpenSagasOf = 8  // that one agent runs
	maxEndedSagas  = 64 // that are remembered; what became of older ones stands in the log
)

// RunSaga starts a saga. An operator may run one of any participants, an agent one of its own steps.
type RunSaga struct {
	Name   string
	Steps  []SagaStep // of a sound definition
	FanOut []saga.Group
	Fault  bool // a tool's ordinary error is somebody's fault
	// Replays is the saga of this session whose steps these are, and of which what stands is not done again; empty: none.
	Replays string
	Args    []byte // what the steps are called with: a JSON list, which stands beside the record
}

// A SagaStep is what the record says of a step.
type SagaStep struct {
	ID         string        `json:"id"`
	Agent      policy.DID    `json:"agent"`
	Action     string        `json:"action"`
	Undo       string        `json:"undo,omitempty"` // the action that takes it back, called with the same arguments; empty: the step's own undo
	Needs      []string      `json:"needs,omitempty"`
	Timeout    time.Duration `json:"timeout"`
	Retries    int           `json:"retries,omitempty"`
	Checkpoint string        `json:"checkpoint,omitempty"`

	ReadOnly       bool `json:"read_only,omitempty"`
	Idempotent     bool `json:"idempotent,omitempty"`
	Undoable       bool `json:"undoable,omitempty"`
	UndoIdempotent bool `json:"undo_idempotent,omitempty"`

	Requires    ring.Ring    `json:"required_ring"` // as its action, and its undo's, is described at the start
	Substitutes []policy.DID `json:"substitutes,omitempty"`

	InPlaceOf policy.DID `json:"in_place_of,omitempty"` // from whom Agent has it; empty: it was the step's from the start
}

// ResolveSaga ends a wait: it says whether an unknown step, or undo, happened, or that a held one is to be tried again.
type ResolveSaga struct {
	Saga string
	Step string
	How  string // happened, not, retry
}

// CancelSaga has a saga undone.
type CancelSaga struct{ Saga string }

func (RunSaga) command()     {}
func (ResolveSaga) command() {}
func (CancelSaga) command()  {}

// A Saga is where one stands.
type Saga struct {
	Name    string       `json:"name"`
	By      policy.DID   `json:"by"`
	Agent   bool         `json:"agent,omitempty"` // an agent runs it, with its own authority
	Fault   bool         `json:"fault,omitempty"` // a tool's ordinary error is somebody's fault
	Replays string       `json:"replays,omitempty"`
	Seq     uint64       `json:"seq"` // of the record beside which the arguments stand
	Steps   []SagaStep   `json:"steps"`
	FanOut  []saga.Group `json:"fan_out,omitempty"`
	Run     *saga.Run    `json:"run"`
	Actions []string     `json:"actions"`       // the newest action of each step going forward; empty: none
	Doers   []policy.DID `json:"doers"`         // whose those are
	Whys    []string     `json:"whys"`          // why each step came to where it is; empty: there is no more to say
	Why     string       `json:"why,omitempty"` // the saga turned
	On      string       `json:"on,omitempty"`  // the step on whose account; empty: somebody wanted it so
	Ended   time.Time    `json:"ended,omitzero"`

	Failed    string           `json:"failed,omitempty"`    // the action by which it failed, where that is attributed
	Faultless string           `json:"faultless,omitempty"` // why nobody bears that it failed
	Blame     *FaultAttributed `json:"blame,omitempty"`     // who bears how much of it; nil: nobody does, or it is not found out yet. Never written to

	plan *saga.Plan // what plans returned; nil: it has ended
}

// UnmarshalJSON reads a saga from a snapshot, and makes its plan again.
func (g *Saga) UnmarshalJSON(b []byte) error {
	type plain Saga
	if err := json.Unmarshal(b, (*plain)(g)); err != nil {
		return err
	}
	if g.Run != nil && !g.Run.State.Ended() {
		g.plan = g.plans()
	}
	if g.Doers == nil { // it was saved before they were
		for i := range g.Steps {
			g.Doers = append(g.Doers, g.Steps[i].Agent)
		}
	}
	return nil
}

// Plan returns what the saga follows.
func (g *Saga) Plan() *saga.Plan {
	if g.plan != nil {
		return g.plan
	}
	return g.plans()
}

// plans makes the plan, which what a record says of the saga alone decides.
func (g *Saga) plans() *saga.Plan {
	d, natures := &saga.Definition{Name: g.Name, FanOut: g.FanOut, Steps: make([]saga.Step, len(g.Steps))}, make([]saga.Nature, len(g.Steps))
	for i := range g.Steps {
		s := &g.Steps[i]
		d.Steps[i] = saga.Step{ID: s.ID, Agent: s.Agent, Action: s.Action, Needs: s.Needs, Timeout: s.Timeout, Retries: s.Retries, Checkpoint: s.Checkpoint}
		natures[i] = saga.Nature{ReadOnly: s.ReadOnly, Idempotent: s.Idempotent, Undo: s.Undoable, UndoIdempotent: s.UndoIdempotent}
	}
	return saga.NewPlan(d, natures)
}

func (g *Saga) step(id string) int {
	for i := range g.Steps {
		if g.Steps[i].ID == id {
			return i
		}
	}
	return -1
}

// openSagas lists the sagas that have not ended, oldest first.
func (s *State) openSagas() []string { return s.SagasOpen }

func decideRunSaga(s *State, env *Env, c RunSaga) Outcome {
	a := &admission{s: s, env: env.kept(), agent: env.Caller.DID, operator: env.Caller.Role == policy.OperatorRole}
	out := a.runSaga(c)
	if a.counted { // what an agent asks for takes a token, refused or not
		out.Tallies = append(out.Tallies, TallyOf{a.agent, a.tally})
	}
	return out
}

func (a *admission) runSaga(c RunSaga) Outcome {
	s, env := a.s, a.env
	order := []question{inactive, absent, brokenOff, tooFast}
	if a.operator {
		order = order[:2]
	}
	for _, q := range order {
		if d := a.refuses(q); d != nil {
			return Outcome{Decision: *d}
		}
	}
	switch {
	case len(s.openSagas()) >= maxOpenSagas:
		return refuse(policy.QuotaExceeded, "session %s has %d sagas that have not ended", s.ID, maxOpenSagas)
	case !a.operator && s.openSagasOf(a.agent) >= maxOpenSagasOf:
		return refuse(policy.QuotaExceeded, "%s has %d sagas that have not ended, and may have no more; wait for one, or cancel it", a.agent, maxOpenSagasOf)
	}
	old, no := s.replayed(env, c.Replays)
	if no != nil {
		return Outcome{Decision: *no}
	}
	var skips []string
	if old != nil {
		skips = old.names(old.Plan().Skips(old.Run))
	}
	for _, step := range c.Steps {
		p, ok := s.Participants[step.Agent]
		switch {
		case slices.Contains(skips, step.ID):
			continue
		case !a.operator && step.Agent != a.agent:
			return refuse(policy.Forbidden, "step %s is of %s; an agent runs sagas of its own steps, an operator any", step.ID, step.Agent)
		case !a.operator && len(step.Substitutes) > 0:
			return refuse(policy.Forbidden, "step %s names substitutes; an agent runs sagas of its own steps, an operator any", step.ID)
		case !ok:
			return refuse(policy.SagaInvalid, "step %s is of %s, who is not in session %s", step.ID, step.Agent, s.ID)
		}
		// The worst case (SPEC §5): what one ring more could be granted is asked for when it comes to it.
		if has, suffices := s.suffices(env, step.Agent, p, step.Requires); !suffices {
			return refuse(policy.SagaInvalid, "step %s, %s, needs ring %d and %s is in ring %d; nothing was begun", step.ID, step.Action, step.Requires, step.Agent, has)
		}
	}
	args := part(env, "args", c.Args)
	id := s.newID(env, "sag-")
	created := SagaCreated{ID: id, Saga: c.Name, By: a.agent, Agent: !a.operator, Fault: c.Fault, Replays: c.Replays, Skips: skips, Steps: c.Steps, FanOut: c.FanOut, Args: args.Commitment()}
	g := created.saga(s.next(env))
	created.plan = g.plan
	w := g.work(s, env, id)
	out := allow(append([]Event{created}, w.follow()...)...)
	out.ID, out.Parts = id, []audit.Part{args}
	return out
}

// openSagasOf counts the sagas that an agent runs and that have not ended.
func (s *State) openSagasOf(did policy.DID) (n int) {
	for _, id := range s.SagasOpen {
		if g := s.Sagas[id]; g.Agent && g.By == did {
			n++
		}
	}
	return n
}

// suffices reports whether an agent's ring is enough for a step, and which it is. What an approver could grant is enough.
func (s *State) suffices(env *Env, did policy.DID, p *Participant, required ring.Ring) (ring.Ring, bool) {
	has, _ := s.ringAs(env, did, s.stanceOf(env, did, p))
	return has, has <= required || has == ring.Standard && required == ring.Privileged
}

func decideResolveSaga(s *State, env *Env, c ResolveSaga) Outcome {
	g := s.Sagas[c.Saga]
	switch {
	case !env.Caller.Runs():
		return refuse(policy.Forbidden, "only an operator ends what a saga waits for")
	case g == nil || g.step(c.Step) < 0:
		return refuse(policy.NotFound, "there is no step %s of a saga %s in session %s", c.Step, c.Saga, s.ID)
	case g.Run.State.Ended():
		return refuse(policy.SagaInvalid, "saga %s is %s, and waits for nothing any more", c.Saga, g.Run.State)
	}
	w, i := g.work(s, env, c.Saga), g.step(c.Step)
	if u, ok := s.undoneBy(g, i); ok && c.How == "happened" && w.plan.Resolve(w.run, i, true) != nil {
		return allow(u) // what it means for the saga follows
	}
	var e saga.Event
	switch c.How {
	case "happened", "not":
		e = w.plan.Resolve(w.run, i, c.How == "happened")
	case "retry":
		if env.Caller.Role == policy.SystemRole { // it has looked, and may be wrong again
			e = w.plan.Found(w.run, i, env.Now)
			break
		}
		e = w.plan.Release(w.run, i, env.Now)
	default:
		return refuse(policy.InvalidArguments, "a wait ends with happened, not or retry")
	}
	if e == nil {
		return refuse(policy.SagaInvalid, "step %s of %s is %s and does not wait for that", c.Step, c.Saga, g.Run.Steps[i].State)
	}
	w.add(e, "")
	return allow(w.follow()...)
}

// undoneBy returns what it means that the undo of a step, of which that is not known, did happen; false: that is known.
func (s *State) undoneBy(g *Saga, i int) (Undone, bool) {
	name := s.ID + "/" + g.Actions[i]
	m := s.Undos[name]
	if m == nil || m.Status != UndoDoubtful || g.Run.Steps[i].State != saga.CompensationUnknown {
		return Undone{}, false
	}
	return Undone{ID: name, Agent: g.Doers[i], By: m.By, Observed: true}, true
}

func decideCancelSaga(s *State, env *Env, c CancelSaga) Outcome {
	g := s.Sagas[c.Saga]
	switch {
	case g == nil:
		return refuse(policy.NotFound, "there is no saga %s in session %s", c.Saga, s.ID)
	case !env.Caller.Runs() && env.Caller.DID != g.By:
		return refuse(policy.Forbidden, "%s is of %s; only an operator cancels what another runs", c.Saga, g.By)
	}
	w := g.work(s, env, c.Saga)
	if !w.cancel("cancelled by " + string(env.Caller.DID)) {
		return Outcome{Decision: policy.Allow(), Durable: true} // it is on that way, or ended
	}
	return allow(w.follow()...)
}

// followSagas adds to an outcome what it means for sagas: in the same record, so that no crash comes between.
func (s *State) followSagas(env *Env, c Command, out *Outcome) {
	if len(s.SagasOpen) == 0 {
		return
	}
	var works []*sagaWork // mostly one
	gone := leavers(out.Events)
	of := func(id string) *sagaWork {
		if i := slices.IndexFunc(works, func(w *sagaWork) bool { return w.id == id }); i >= 0 {
			return works[i]
		}
		works = append(works, s.Sagas[id].work(s, env, id))
		works[len(works)-1].gone = gone
		return works[len(works)-1]
	}
	if act, ok := c.(Act); ok && act.Saga != nil && !out.Allowed {
		w := of(act.Saga.Saga)
		if env.Call != nil && env.Call.Image == action.ImageFailed {
			w.because = whyIrreversible
		}
		w.answer(w.inPlace(s.refusedTry(act.Saga.Step, env, out)), "")
	}
	for _, e := range out.Events {
		switch e := e.(type) {
		case Completed:
			s.endedTry(of, e.ID, saga.Answer{Result: saga.Succeeded})
		case Failed:
			s.endedTry(of, e.ID, failure(env, c, e.Why))
		case Unknown:
			s.endedTry(of, e.ID, saga.Answer{Result: doubt(e.Why), Why: e.Why})
		case ApprovalGranted:
			s.released(of, holdApproval+e.ID, "")
		case ApprovalDenied:
			s.released(of, holdApproval+e.ID, policy.ApprovalDenied)
		case ApprovalExpired:
			s.released(of, holdApproval+e.ID, policy.ApprovalExpired)
		case Resolved:
			s.foundOut(of, e.ID, saga.Unknown, e.Outcome == "done")
		case Undone:
			s.foundOut(of, e.ID, saga.CompensationUnknown, true)
		case Terminated:
			for _, id := range s.openSagas() {
				of(id).cancel("session ended")
			}
		default: // no other event says anything of a step
		}
	}
	if _, ok := c.(Tick); ok {
		for _, id := range s.openSagas() {
			if due := s.Sagas[id].Run.Due(); !due.IsZero() && !env.Now.Before(due) {
				of(id)
			}
		}
		s.letGo(env, of)
	}
	over := s.impatient(env, c)
	if over {
		for _, id := range s.openSagas() {
			of(id)
		}
	}
	slices.SortFunc(works, func(a, b *sagaWork) int { return cmp.Compare(a.id, b.id) })
	for _, w := range works {
		w.follow()
		if over {
			w.abandon()
		}
		if len(w.events) > 0 {
			out.Events, out.Durable = append(out.Events, w.events...), true
		}
	}
}

// impatient reports whether the session ends and waits no longer for what is under way in it.
func (s *State) impatient(env *Env, c Command) bool {
	_, tick := c.(Tick)
	return tick && s.Lifecycle == Terminating && s.Grace.IsZero() && !env.Now.Before(s.Patience)
}

// Why a call did not take place, by no fault of its own.
const (
	WhyClosing = "closing"        // its process ended, in order
	WhyLost    = "admission_lost" // of a saga's step: the store said that its admission was lost, and it was not
)

// Attends reports whether a step of a saga waits for what no record of this session tells of: its tool, who answers at its address, or
// the end of a quarantine, or of a kill of everything. Who has the session in memory keeps it there, and gives it a Tick, or resolves the
// wait, when that comes.
func Attends(s *State) bool {
	for _, id := range s.SagasOpen {
		for i := range s.Sagas[id].Run.Steps {
			switch s.Sagas[id].Run.Steps[i].Hold {
			case HeldForTool, Unreachable, holdQuarantine, holdKill:
				return true
			}
		}
	}
	return false
}

// letGo lets the steps go on whose agents are free again: that is recorded elsewhere, and a Tick follows it.
func (s *State) letGo(env *Env, of func(string) *sagaWork) {
	for _, id := range s.openSagas() {
		for i, step := range s.Sagas[id].Run.Steps {
			agent := s.Sagas[id].Steps[i].Agent
			_, stopped := env.Kills.In(policy.Scope{All: true}) // alone: no step waits for the end of a kill of its session
			if step.Hold == holdQuarantine && s.quarantined(env, agent) == nil || step.Hold == holdKill && !stopped {
				w := of(id)
				if e := w.plan.Release(w.run, i, env.Now); e != nil {
					w.add(e, "")
				}
			}
		}
	}
}

// sagaDue returns when time alone moves a saga on; zero: never.
func (s *State) sagaDue() (due time.Time) {
	for _, id := range s.SagasOpen {
		if d := s.Sagas[id].Run.Due(); !d.IsZero() && (due.IsZero() || d.Before(due)) {
			due = d
		}
	}
	return due
}

// left lists the steps that stand, or may.
func (g *Saga) left(r *saga.Run) (ids []string) {
	for i := range r.Steps {
		switch r.Steps[i].State {
		case saga.Committed, saga.CompensatingStep:
			if g.Steps[i].ReadOnly || r.Steps[i].Skipped {
				continue
			}
		case saga.Executing, saga.Unknown, saga.CompensationFailed, saga.CompensationUnknown:
		default:
			continue
		}
		ids = append(ids, g.Steps[i].ID)
	}
	return ids
}

// sagaEnded forgets the saga that ended longest ago, where too many are remembered.
func (s *State) sagaEnded(id string) {
	s.Sagas[id].plan = nil
	s.SagasOpen = slices.DeleteFunc(s.SagasOpen, func(open string) bool { return open == id })
	if len(s.SagasOpen) == 0 {
		s.SagasOpen = nil // as a snapshot has it
	}
	if s.SagasEnded = append(s.SagasEnded, id); len(s.SagasEnded) <= maxEndedSagas {
		return
	}
	if i := slices.IndexFunc(s.SagasEnded, func(ended string) bool { return !s.Sagas[ended].attributing() }); i >= 0 {
		delete(s.Sagas, s.SagasEnded[i])
		s.SagasEnded = slices.Delete(s.SagasEnded, i, i+1)
	}
}
