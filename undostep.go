package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// undostep.go: one action is taken back. Its resource is read immediately before, the undo is admitted and recorded like any
// action, and after it is looked at whether all is as before.

// An undoing is an undo under way.
type undoing struct {
	hv      *Hypervisor
	caller  policy.Caller
	history *history
	keys    map[string][32]byte // of the sessions whose images are recognised

	compensates bool // as UndoRequest has them
	limit       time.Duration
}

// tries bounds how often one step begins anew: because a session ended meanwhile, or its caller has no token left.
const tries = 100

// step takes one action back, and says in s what became of it.
func (u *undoing) step(ctx context.Context, d *deed, s *UndoStep) error {
	for range tries {
		if err := ctx.Err(); err != nil {
			return err
		}
		place, err := u.hv.undoPlace(ctx, u.caller, d.Session, u.compensates)
		if err != nil {
			var refused *Refused
			if errors.As(err, &refused) {
				s.refused(refused.Decision)
				return nil
			}
			return err
		}
		if err := u.history.catchUp(ctx); err != nil { // after the place is known: what was undone in another stands in the log by now
			return err
		}
		t, err := u.take(ctx, place, d)
		if err != nil {
			return err
		}
		if done, err := u.settleDoubts(ctx, t, s); done || err != nil {
			return err
		}
		again, err := u.takeBack(ctx, t, s)
		if err != nil || !again {
			return err
		}
	}
	return fmt.Errorf("%w: an undo of %s began %d times and was refused each time", ErrOverloaded, d.Name(), tries)
}

func (s *UndoStep) refused(d policy.Decision) {
	s.State, s.Reason, s.Decision = StepRefused, d.Reason, &d
}

// A taking is an action with all that is wanted to take it back.
type taking struct {
	*deed
	place *Session
	tool  *handler       // what did it; nil: it is not there
	by    party          // whose tools are used, for whom
	args  map[string]any // it was called with; nil: collected
	said  []byte         // the same, as it was forwarded
	reads session.Reading
	fault string // why it cannot be taken back now, beside what the records say
	now   *action.Image
	steps []resolvedCall

	remark string // what is to be said of an undo that was done; empty: nothing
}

// take reads what is kept of an action, and how its resource reads now.
func (u *undoing) take(ctx context.Context, place *Session, d *deed) (*taking, error) {
	t := &taking{deed: d, place: place}
	d.Changed = u.history.changes.newer(d, (*deed).counts)
	if !u.mayTake(d) {
		return t, nil // it is refused; nothing is read for who may not ask
	}
	raw, err := d.args, error(nil)
	if raw == nil {
		if raw, err = u.hv.partAt(ctx, audit.SessionPrefix+d.Session, d.seq, "args"); err != nil {
			return nil, err
		}
	}
	if raw == nil {
		t.fault = "what it was called with was collected"
		return t, nil
	}
	args, err := action.DecodeArgs(raw)
	if err != nil {
		return nil, fmt.Errorf("the arguments of %s: %w", d.Name(), err)
	}
	t.args, t.said = args.Values, args.Canonical
	if d.ReadOnly || d.Undoes != "" || d.Outcome == 0 || d.Outcome == session.Unsuccessful {
		return t, nil // nothing more is asked about it
	}
	t.by.line = place.lineOf(u.caller)
	if t.tool, t.by.owner, err = u.hv.toolFor(ctx, place, d.Agent, d.Action); err != nil {
		t.fault = err.Error()
		return t, nil
	}
	if err := u.readCalls(ctx, t); err != nil {
		return nil, err
	}
	return t, u.readNow(ctx, t)
}

func (u *undoing) readCalls(ctx context.Context, t *taking) error {
	if !t.Calls {
		return nil
	}
	if t.own != "" {
		return u.callOwn(ctx, t)
	}
	raw := t.deed.calls
	if raw == nil {
		var err error
		if raw, err = u.hv.partAt(ctx, t.outcomeIn, t.outcomeSeq, "undo"); err != nil {
			return err
		}
	}
	if raw == nil {
		t.fault = "what takes it back was collected"
		return nil
	}
	if err := json.Unmarshal(raw, &t.steps); err != nil {
		return fmt.Errorf("the undo of %s: %w", t.Name(), err)
	}
	return nil
}

// callOwn is readCalls of a saga's step that names its undo: that is called as the saga would have done, with what the step was.
func (u *undoing) callOwn(ctx context.Context, t *taking) error {
	by, _, err := u.hv.toolFor(ctx, t.place, t.Agent, t.own)
	if err != nil {
		t.fault = err.Error()
		return nil
	}
	t.steps = []resolvedCall{{t.own, t.said, by}}
	return nil
}

// mayTake reports whether the caller may take back what is of the action's agent (SPEC §7 "Authority").
func (u *undoing) mayTake(d *deed) bool {
	return u.caller.Role != policy.AgentRole || d.Agent == u.caller.DID
}

// readNow looks at the resource.
func (u *undoing) readNow(ctx context.Context, t *taking) error {
	if t.tool.Descriptor.Image == nil || t.fault != "" {
		return nil
	}
	key, err := u.key(ctx, t.Session)
	if err != nil {
		return err
	}
	look, cancel := t.place.inSystemsName(ctx, t.by)
	defer cancel()
	now, err := t.place.look(look, t.by, t.tool, t.args)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		t.fault = "what it changed cannot be read now: " + err.Error()
		return nil
	}
	t.now, t.reads = &now, t.reading(key, now)
	if t.reads == session.ReadsOtherwise && t.Outcome == session.Done && !t.looked {
		t.fault = "how it left what it changed could not be read then, so it cannot be known to be so still"
	}
	return nil
}

// reading compares how the resource reads with how the action found and left it.
func (d *deed) reading(key [32]byte, now action.Image) session.Reading {
	is := session.Recognise(key, now)
	switch {
	case d.looked && now.Absent == d.afterAbsent && is == d.after:
		return session.ReadsAsLeft
	case d.image && now.Absent == d.absent && is == d.before:
		return session.ReadsAsBefore
	}
	return session.ReadsOtherwise
}

// key returns the key of a session, from beside its first record.
func (u *undoing) key(ctx context.Context, id string) (key [32]byte, err error) {
	if key, ok := u.keys[id]; ok {
		return key, nil
	}
	raw, err := u.hv.partAt(ctx, audit.SessionPrefix+id, 1, "secret")
	if err != nil {
		return key, err
	}
	copy(key[:], raw) // collected: nothing of the session is recognised, and its undos are refused
	u.keys[id] = key
	return key, nil
}

// partAt returns a part of the record of a stream; nil: it has none, or no longer.
func (hv *Hypervisor) partAt(ctx context.Context, stream string, seq uint64, name string) ([]byte, error) {
	for r, err := range hv.read(ctx, stream, seq) {
		if err != nil {
			return nil, err
		}
		return hv.part(ctx, r, name)
	}
	return nil, nil
}

// settleDoubts finds out, as far as the resource shows it, whether the action took place, and whether an earlier undo of it did.
// It returns true if nothing is left to be done.
func (u *undoing) settleDoubts(ctx context.Context, t *taking, s *UndoStep) (bool, error) {
	if t.Outcome == session.Uncertain && t.tool != nil && t.fault == "" {
		if err := u.resolve(ctx, t); err != nil {
			return false, err
		}
		if g := u.history.sagaOf(t.deed); t.Outcome == session.Done && g != nil && g.open {
			s.State, s.Reason = StepLeft, fmt.Sprintf("it took place, and %s, which waited for that, goes on; cancel that, and it is taken back", t.try.Saga)
			return true, nil
		}
	}
	if t.Undo != session.UndoDoubtful || t.reads != session.ReadsAsBefore {
		return false, nil
	}
	note := session.NoteUndone{Of: t.Name(), Agent: t.Agent, By: strings.TrimPrefix(t.By, t.place.id+"/")}
	if _, err := t.place.submit(ctx, policy.System.Through("undo"), note, nil); err != nil && !errors.Is(err, session.ErrImpossible) {
		return false, err
	}
	s.State, s.By, s.Reason = StepUndone, t.By, "its outcome was not known; the resource reads as before"
	return true, u.history.catchUp(ctx)
}

// resolve records what became of an action whose outcome was not known, if its probe or its resource says so.
func (u *undoing) resolve(ctx context.Context, t *taking) error {
	d := &t.tool.Descriptor
	before, err := u.imageBefore(ctx, t)
	if err != nil {
		return err
	}
	scope := action.Scope{Args: t.args, Image: before, ID: t.ID, Session: t.Session}
	verdict := t.place.probe(ctx, t.by, t.tool, scope)
	if verdict == action.Unsaid && before != nil && t.now != nil {
		verdict = compare(d, scope, *t.now)
	}
	c := session.Resolve{Of: t.Name(), Result: session.Unsuccessful}
	switch verdict {
	case action.Unsaid:
		return nil
	case action.TookPlace:
		c.Result = session.Done
		if c.Left.Undo, err = undoCalls(d, scope); err != nil {
			c.Left.Undo = nil // it refers to an answer that nobody got
		}
		c.Left.After = t.now
	case action.DidNot:
	}
	if _, err := t.place.submit(ctx, policy.System.Through("undo"), c, nil); err != nil {
		return err
	}
	if err := u.history.catchUp(ctx); err != nil || c.Result != session.Done {
		return err
	}
	if err := u.readCalls(ctx, t); err != nil || t.now == nil {
		return err
	}
	key, err := u.key(ctx, t.Session)
	t.reads = t.reading(key, *t.now)
	return err
}

// compare tells from how the resource reads now whether an action took place.
func compare(d *action.Descriptor, scope action.Scope, now action.Image) action.Verdict {
	left, err := d.Left(scope)
	switch {
	case now.Equal(*scope.Image) && (err != nil || !left.Equal(now)):
		return action.DidNot
	case err == nil && now.Equal(left):
		return action.TookPlace
	}
	return action.Unsaid
}

// imageBefore returns what was there before an action; nil: none was taken, or it was collected.
func (u *undoing) imageBefore(ctx context.Context, t *taking) (*action.Image, error) {
	switch {
	case t.absent:
		return &action.Image{Absent: true}, nil
	case !t.image:
		return nil, nil
	}
	raw, err := u.hv.partAt(ctx, audit.SessionPrefix+t.Session, t.seq, "image")
	if err != nil || raw == nil {
		return nil, err
	}
	return &action.Image{Bytes: raw}, nil
}

// takeBack asks for the undo, does it and says how it ended. It returns true if it is to be tried again.
func (u *undoing) takeBack(ctx context.Context, t *taking, s *UndoStep) (again bool, err error) {
	tool, found, fault := u.compose(t)
	c := session.UndoStep{Of: t.Target, Reads: t.reads, Fault: fault, AsOf: u.history.seen[t.place.id], Compensates: u.compensates}
	out, started, err := t.place.start(ctx, u.caller, c, tool, found)
	switch {
	case errors.Is(err, session.ErrImpossible):
		return true, nil // the log has moved on
	case err != nil:
		return false, err
	case started == nil && out.Code == policy.RateLimited && !u.hv.opts.Stepped:
		return true, u.pause(ctx, time.Duration(out.RetryAfterMS)*time.Millisecond)
	case started == nil && out.Code == policy.SessionNotActive:
		t.place.tick(ctx) // it is over; its end may not be recorded yet
		t.place.tick(ctx)
		if _, active, err := t.place.openPlace(ctx, u.compensates); active || err != nil {
			s.refused(out.Decision)
			return false, err
		}
		return true, nil
	case started == nil:
		s.refused(out.Decision)
		if t.reads == session.ReadsOtherwise && u.caller.Role == policy.OperatorRole { // what others wrote, an agent reads by a call, governed as such
			s.Diff, err = u.diff(ctx, t)
		}
		return false, err
	}
	if u.limit > 0 {
		t.place.limit(started, u.limit)
	}
	ended, err := started.wait(context.WithoutCancel(ctx), u.hv)
	s.By = t.place.id + "/" + started.id
	switch ended.State {
	case "done":
		s.State = StepUndone
		s.Reason = t.remark
	case "failed":
		s.State = StepFailed
	default:
		s.State = StepUnknown
	}
	if ended.Err != nil && err == nil {
		s.Reason = ended.Err.Error()
	} else if err != nil { // no record says so yet, and if we crash now none ever will
		s.State, s.Reason = StepUnknown, err.Error()
	}
	return false, u.history.catchUp(ctx)
}

// pause waits until the caller has a token again.
func (u *undoing) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-u.hv.opts.Clock.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start is ask for an undo: it decides it, and returns the call once that is recorded; nil: it was refused.
func (s *Session) start(ctx context.Context, caller policy.Caller, c session.UndoStep, tool *handler, found *session.Call) (session.Outcome, *call, error) {
	if err := s.hv.exec.Reserve(); err != nil {
		return session.Outcome{}, nil, fmt.Errorf("%w: %w", ErrOverloaded, err)
	}
	var started *call
	out, t, err := s.propose(ctx, caller, c, errand{stamp: func(e *session.Env) { e.Call = found }, decided: func(out session.Outcome) {
		if out.Allowed { // who asked may go; what has begun is finished
			started = s.begin(context.WithoutCancel(ctx), c.Of.Name()+"/undo", caller, out, tool, found)
		}
	}})
	if started == nil {
		s.hv.exec.Release()
	}
	if err == nil {
		err = s.hv.wait(ctx, t)
	}
	if started != nil && err != nil {
		s.abandon(started, err)
		started = nil
	}
	return out, started, err
}
