package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// undo.go: taking back what was done (SPEC §4 "Undo"): the plan, and its steps, newest first across agents and sessions.

// MaxUndoSteps bounds the actions that one undo is about.
const MaxUndoSteps = 100_000

// An UndoRequest says what is to be taken back: one Action of a Session; or what was done in a Session, as steps of a Saga that has
// ended, by an Agent, Since a time, each of the four as far as it is said.
type UndoRequest struct {
	Session string        // empty: in all sessions, which wants an Agent and a Since
	Action  string        // act-12; empty: not one alone
	Saga    string        // sag-7, of the Session; empty: whether of a saga or not
	Agent   policy.DID    // empty: all agents', of an agent that asks: its own
	Since   time.Duration // admitted so long ago or later; zero: whenever
	Plan    bool          // only say what would be done

	compensates bool          // it is of a saga, and goes on while the session ends
	limit       time.Duration // of each action that it takes; zero: none

	Told func(UndoStep) // is told of each step of an undo as it ends; nil: nobody is
}

// The states of a step.
const (
	StepPlanned = "planned" // it would be, or is about to be, taken back
	StepUndone  = "undone"
	StepRefused = "refused" // Decision says why
	StepFailed  = "failed"  // what takes it back failed, and did nothing
	StepUnknown = "unknown" // whether it was taken back is not known; undo it again, and a look will tell
	StepLeft    = "left"    // as it is: nothing takes it back, or the undo stopped before
)

// An UndoStep is one action of an undo, and what became of it.
type UndoStep struct {
	Session  string
	ID       string
	Agent    policy.DID
	Action   string
	Resource string // "server:resource"; empty: not known
	Time     time.Time
	Kind     session.Kind
	State    string
	Reason   string           // why the kind, or the state, is so; empty: there is no more to say
	By       string           // the action that took it back, SESSION/act-15
	Decision *policy.Decision // with StepRefused
	Diff     string           // for an operator, with a resource that does not read as it was left, where both are text: what the action left (-) and what is there (+)
}

// An UndoReport is what an undo came to.
type UndoReport struct {
	Steps   []UndoStep // newest first
	Undone  int
	Left    int    // all others
	Stopped string // the surprise that ended it before its end; empty: none did
}

// Undo takes actions back, newest first, as actions of the caller's, and stops at the first surprise: what the plan did not
// foresee. What nothing takes back is passed over and said. The error says that nothing could be found out, or done; ErrNotFound
// is of a session, an action or an agent that is not there, *Refused of an agent that asks for another's.
func (hv *Hypervisor) Undo(ctx context.Context, caller policy.Caller, req UndoRequest) (UndoReport, error) {
	if err := hv.enter(); err != nil {
		return UndoReport{}, err
	}
	defer hv.leave()
	if err := req.check(caller); err != nil {
		return UndoReport{}, err
	}
	if err := hv.undoableSaga(ctx, &req); err != nil {
		return UndoReport{}, err
	}
	h, err := hv.survey(ctx, &req)
	if err != nil {
		return UndoReport{}, err
	}
	wanted := h.plan(hv.Now(), req.Action != "")
	if len(wanted) == 0 {
		if err := hv.knows(ctx, &req); err != nil {
			return UndoReport{}, err
		}
	}
	u := &undoing{hv: hv, caller: caller, history: h, keys: map[string][32]byte{}, compensates: req.compensates, limit: req.limit}
	report := UndoReport{Steps: make([]UndoStep, len(wanted))}
	for i, d := range wanted {
		report.Steps[i] = d.planned(req.Plan)
	}
	if req.Plan {
		for _, d := range wanted {
			if !u.mayTake(d) {
				return UndoReport{}, &Refused{policy.Refuse(policy.Forbidden, "%s is of %s; an agent takes back its own actions, an operator any", d.ID, d.Agent)}
			}
		}
		report.count()
		return report, nil
	}
	err = u.all(ctx, wanted, &report, &req)
	report.count()
	return report, err
}

// Undo is Hypervisor.Undo of what was done in the session.
func (s *Session) Undo(ctx context.Context, caller policy.Caller, req UndoRequest) (UndoReport, error) {
	req.Session = s.id
	return s.hv.Undo(ctx, caller, req)
}

// check refuses what cannot be asked, and makes an agent's request one for its own actions.
func (r *UndoRequest) check(caller policy.Caller) error {
	switch {
	case caller.Role == policy.AgentRole && r.Agent == "" && r.Action == "":
		r.Agent = caller.DID
	case caller.Role == policy.AgentRole && r.Agent != "" && r.Agent != caller.DID:
		return &Refused{policy.Refuse(policy.Forbidden, "an agent takes back its own actions, an operator any; these are of %s", r.Agent)}
	case caller.Role != policy.AgentRole && caller.Role != policy.OperatorRole && !(caller.Role == policy.SystemRole && r.compensates):
		return &Refused{policy.Refuse(policy.Forbidden, "%s is %s; an agent takes back its own actions, an operator any", caller.DID, caller.Role)}
	}
	switch {
	case r.Saga != "" && r.Session == "":
		return &Refused{policy.Refuse(policy.InvalidArguments, "say the session of saga %s", r.Saga)}
	case r.Action != "" && (r.Session == "" || r.Saga != "" || r.Agent != "" || r.Since != 0):
		return &Refused{policy.Refuse(policy.InvalidArguments, "one action is taken back by its session and its id alone")}
	case r.Session == "" && (r.Agent == "" || r.Since <= 0):
		return &Refused{policy.Refuse(policy.InvalidArguments, "say a session, or an agent and since when")}
	case r.Since < 0:
		return &Refused{policy.Refuse(policy.InvalidArguments, "since %v is not in the past", r.Since)}
	}
	return nil
}

// knows returns ErrNotFound where an undo is of an agent that nothing is known of: its name is a slip, and "nothing to take back"
// would be taken for good news.
func (hv *Hypervisor) knows(ctx context.Context, r *UndoRequest) error {
	if r.Agent == "" {
		return nil
	}
	_, unknown := hv.Agent(ctx, r.Agent)
	if !errors.Is(unknown, ErrNotFound) || r.Session == "" {
		return unknown
	}
	s, err := hv.Session(ctx, r.Session)
	if err != nil {
		return err
	}
	state, err := s.State(ctx)
	if _, there := state.Participants[r.Agent]; err != nil || there {
		return err
	}
	return unknown
}

// undoableSaga refuses the undo of a saga that has not ended, which would go on with what is taken back, and of one that took it back.
func (hv *Hypervisor) undoableSaga(ctx context.Context, r *UndoRequest) error {
	if r.Saga == "" {
		return nil
	}
	s, err := hv.Session(ctx, r.Session)
	if err != nil {
		return err
	}
	v, err := s.Saga(ctx, r.Saga)
	switch {
	case errors.Is(err, ErrNotFound): // the log tells of one that ended long ago
		return nil
	case err != nil:
		return err
	case v.Ended.IsZero() && !r.Plan:
		return &Refused{policy.Refuse(policy.SagaInvalid, "saga %s is %s; cancel it, and what it did is taken back", r.Saga, v.State)}
	case v.State == "compensated":
		return &Refused{policy.Refuse(policy.SagaInvalid, "saga %s is compensated: what it did is taken back already", r.Saga)}
	}
	return nil
}

// planned is the step of an action as the plan has it.
func (d *deed) planned(only bool) UndoStep {
	s := UndoStep{Session: d.Session, ID: d.ID, Agent: d.Agent, Action: d.Action, Resource: d.Resource, Time: d.time, Kind: d.kind,
		State: StepPlanned, Reason: d.verdict.Reason}
	if !d.verdict.Allowed {
		s.State = StepLeft
		if only {
			decision := d.verdict
			s.Decision = &decision
		}
	}
	return s
}

func (r *UndoReport) count() {
	r.Undone, r.Left = 0, 0
	for i := range r.Steps {
		if r.Steps[i].State == StepUndone {
			r.Undone++
		} else if r.Steps[i].State != StepPlanned {
			r.Left++
		}
	}
}

// all takes the planned steps one after the other.
func (u *undoing) all(ctx context.Context, wanted []*deed, report *UndoReport, req *UndoRequest) error {
	tell := func(s UndoStep) {
		if req.Told != nil {
			req.Told(s)
		}
	}
	for i, d := range wanted {
		s := &report.Steps[i]
		worthIt := s.State == StepPlanned || req.Action != "" || d.Outcome == session.Uncertain
		switch {
		case report.Stopped != "" && s.State == StepPlanned:
			s.State, s.Reason = StepLeft, "the undo stopped before"
			continue
		case report.Stopped != "" || !worthIt:
			tell(*s)
			continue
		case u.hv.closing.Load():
			s.State, report.Stopped = StepLeft, "the hypervisor is closing"
			continue
		}
		foreseen := s.State == StepLeft
		if err := u.step(ctx, d, s); err != nil {
			s.State, s.Reason = StepLeft, err.Error()
			for j := range report.Steps[i+1:] {
				if rest := &report.Steps[i+1+j]; rest.State == StepPlanned {
					rest.State, rest.Reason = StepLeft, "the undo stopped before"
				}
			}
			report.Stopped = fmt.Sprintf("%s/%s: %v", s.Session, s.ID, err)
			if i == 0 || errors.Is(err, ErrNotFound) {
				return err
			}
			return nil
		}
		if s.State != StepUndone && (!foreseen || s.State != StepLeft && s.State != StepRefused) {
			report.Stopped = fmt.Sprintf("%s/%s is %s: %s", s.Session, s.ID, s.State, s.Reason)
		}
		tell(*s)
	}
	return nil
}
