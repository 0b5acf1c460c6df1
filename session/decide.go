package session

import (
	"errors"
	"fmt"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// A Command asks for something, in the imperative.
//
//sumtype:decl
type Command interface{ command() }

// An Event is something that happened, in the past tense: the content of a record.
//
//sumtype:decl
type Event interface {
	// Append appends the event as a JSON object whose "type" is its published name.
	Append(dst []byte) []byte
	apply(s *State, at Stamp) // cannot fail, decides nothing
}

// A Stamp is what the envelope of a record says about the events in it.
type Stamp struct {
	Seq    uint64
	Time   time.Time
	Caller policy.DID
	Within bool // they stand behind others, applied already, in the newest record (Env.Within); a record that is read is applied at once
}

// An Effect is something owed because of a record. The executor does it; its outcome comes back as a command.
//
//sumtype:decl
type Effect interface{ effect() }

// The effects.
type (
	// Announce is owed by a session's first record: its opening in the system stream.
	Announce struct{}
	// Dispatch is owed by an action that was started: the call to the outside. It is owed once; a process that
	// finds it owed by another records the outcome as unknown.
	Dispatch struct{ ID string }
	// Cancel is owed when the grace time of an ending session is over: the end of the calls that still run.
	Cancel struct{ IDs []string }
	// Tell is owed by events that move standings: the entries that are owed, in their agents' streams.
	Tell struct{}
	// Try is owed by each try of a saga's step: the action, or the undo, that it is. See Tries.
	Try struct{ Saga string }
	// Rest is owed by a saga that has ended, or waits: those who wait for that are told.
	Rest struct {
		Saga   string
		Failed bool // who bears that it failed is to be found out
	}
	// Seal is owed by a session's last record: its summary in the system stream.
	Seal struct{}
)

func (Announce) effect() {}
func (Dispatch) effect() {}
func (Cancel) effect()   {}
func (Tell) effect()     {}
func (Try) effect()      {}
func (Rest) effect()     {}
func (Seal) effect()     {}

// An Outcome is what Decide found: the decision, and what is to be recorded because of it.
type Outcome struct {
	policy.Decision
	ID      string       // of the action or approval that the command made or concerns; empty: none
	Events  []Event      // empty: nothing is recorded
	Parts   []audit.Part // what the events commit to
	Durable bool         // the answer waits until the record is durable
	Repeats *KeyUse      // the command repeats one with the same idempotency key: answer from its records
	Tallies []TallyOf    // what the decision made of the tallies it read
}

// ErrImpossible is returned, wrapped with what is wrong, for a command that speaks of what cannot be: it is the caller's
// mistake, not a refusal, and nothing is recorded.
var ErrImpossible = errors.New("command cannot be decided")

// Decide answers a command. It reads s, env and c and changes none of them. The error is ErrImpossible, ErrConfig, or
// ErrImageWanted.
func Decide(s *State, env *Env, c Command) (Outcome, error) {
	if _, err := policy.ParseDID(string(env.Caller.DID)); err != nil {
		return Outcome{}, fmt.Errorf("%w: the caller is %w", ErrImpossible, err) // no record could name it so that it can be read back
	}
	if out, done := decideKey(s, env); done {
		return out, nil
	}
	out, err := decide(s, env, c)
	if err == nil {
		out = s.pace(env, c, out)
		s.followSagas(env, c, &out)
		s.unreached(&out)
	}
	if err != nil || len(out.Events) == 0 {
		return out, err
	}
	out.Events = append(out.Events, s.freed(out.Events)...)
	if out.Allowed {
		recordKey(env, &out)
	}
	out.Seq = s.next(env)
	return out, nil
}

func decide(s *State, env *Env, c Command) (Outcome, error) {
	switch c := c.(type) {
	case Create:
		return decideCreate(s, env, c)
	case Join:
		return decideJoin(s, env, c), nil
	case Leave:
		return decideLeave(s, env, c), nil
	case Activate:
		return decideActivate(s, env), nil
	case Act:
		if c.Saga != nil {
			if err := s.isTry(*c.Saga); err != nil {
				return Outcome{}, err
			}
		}
		return decideAct(s, env, c)
	case RunSaga:
		return decideRunSaga(s, env, c), nil
	case AnswerSaga:
		return decideAnswerSaga(s, env, c)
	case ResolveSaga:
		return decideResolveSaga(s, env, c), nil
	case CancelSaga:
		return decideCancelSaga(s, env, c), nil
	case InvalidateGoal:
		return decideInvalidateGoal(s, env, c), nil
	case UndoStep:
		return decideUndo(s, env, c)
	case NoteUndone:
		return decideNoteUndone(s, env, c)
	case Resolve:
		return decideResolve(s, env, c)
	case Settle:
		return decideSettle(s, env, c)
	case Grant:
		return decideGrant(s, env, c), nil
	case Deny:
		return decideDeny(s, env, c), nil
	case Vote:
		return decideVote(s, env, c), nil
	case Kill:
		return decideKill(s, env, c)
	case LiftKill:
		return decideLiftKill(s, env, c), nil
	case Vouch:
		return decideVouch(s, env, c), nil
	case Withdraw:
		return decideWithdraw(s, env, c), nil
	case Slash:
		return decideSlash(s, env, c), nil
	case Told:
		return decideTold(s, env, c), nil
	case Elevate:
		return decideElevate(s, env, c), nil
	case EndElevation:
		return decideEndElevation(s, env, c), nil
	case ReportDrift:
		return decideReportDrift(s, env, c), nil
	case AttributeSaga:
		return decideAttributeSaga(s, env, c)
	case RaiseIncident:
		return decideRaiseIncident(s, env, c), nil
	case LiftDemotion:
		return decideLiftDemotion(s, env, c), nil
	case Terminate:
		return decideTerminate(s, env, c), nil
	case Tick:
		return decideTick(s, env, c), nil
	case Recover:
		return decideRecover(s, env, c), nil
	}
	panic(fmt.Sprintf("session: unknown command %T", c))
}

// Apply folds a record into the state and returns what is newly owed.
func Apply(s *State, at Stamp, events []Event) []Effect {
	if at.Seq != s.Seq+1 && !(at.Within && at.Seq == s.Seq) {
		panic(fmt.Sprintf("session: record %d applied to %s at %d", at.Seq, s.ID, s.Seq))
	}
	s.Seq, s.Time = at.Seq, at.Time
	var owed []Effect
	for _, e := range events {
		e.apply(s, at)
		if e, ok := e.(interface{ owes() Effect }); ok {
			if effect := e.owes(); effect != nil {
				owed = append(owed, effect)
			}
		}
	}
	return owed
}

func (Created) owes() Effect         { return Announce{} }
func (e Started) owes() Effect       { return Dispatch{e.ID} }
func (e Cancelling) owes() Effect    { return Cancel(e) }
func (SessionArchived) owes() Effect { return Seal{} }

// refuse is an answer that is not recorded.
func refuse(code policy.Code, format string, args ...any) Outcome {
	return Outcome{Decision: policy.Refuse(code, format, args...)}
}

// allow is an answer that is recorded and waited for.
func allow(events ...Event) Outcome {
	return Outcome{Decision: policy.Allow(), Events: events, Durable: true}
}
