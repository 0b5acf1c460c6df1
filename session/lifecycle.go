package session

import (
	"bytes"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// lifecycle.go: created → handshaking → active → terminating → archived, each step a record (SPEC §1).

// grace is how long calls may still run after the end has begun (SPEC §1 "End").
const grace = 30 * time.Second

// patience is how long a cancelled call may take to say how it ended, before it is recorded as unknown (SPEC §1 "End").
const patience = 5 * time.Minute

const maxReasonBytes = 256 // of a Terminate

// The published names.
const (
	createdType    = "session.created"
	activatedType  = "session.activated"
	terminatedType = "session.terminated"
	cancellingType = "session.cancelling"
	archivedType   = "session.archived"
	epochType      = "session.epoch_opened"
	strongType     = "session.consistency_forced"
)

// Create opens the session and enters handshaking. Only an operator may.
type Create struct {
	Config Config
	Undoes string // the session, now ended, whose actions are taken back here: one of KindUndo; empty: an ordinary session
}

// Activate lets the participants act. It needs one (SPEC §1).
type Activate struct{}

// Terminate begins the session's end: no new actions, running ones finish or are cancelled after a grace time.
type Terminate struct {
	Reason string // operator, end_of_input, …; empty: operator
}

// Tick lets time do what is due: the end at max_duration, the grace time, approvals that ran out, refusals not yet written.
type Tick struct {
	All bool // also write refusals that are not due yet: the process is about to end
}

func (Create) command()    {}
func (Activate) command()  {}
func (Terminate) command() {}
func (Tick) command()      {}

// Created is a session's first event.
type Created struct {
	ID        string     `json:"id"`
	Config    Config     `json:"config"`
	Opener    policy.DID `json:"opener"`
	Secret    audit.Hash `json:"secret"` // commitment to the session's key
	NodeEpoch uint64     `json:"node_epoch"`
	Kind      string     `json:"kind,omitempty"` // KindUndo, or empty
	Of        string     `json:"of,omitempty"`   // the session whose actions it takes back
}

func decideCreate(s *State, env *Env, c Create) (Outcome, error) {
	if s.Lifecycle != Absent {
		return Outcome{}, fmt.Errorf("%w: session %s exists", ErrImpossible, s.ID)
	}
	if !ValidID(s.ID) {
		return Outcome{}, fmt.Errorf("%w: %q cannot name a session: letters and digits, ._:- within, at most %d bytes", ErrImpossible, s.ID, MaxIDBytes)
	}
	if !env.Caller.Runs() {
		return refuse(policy.Forbidden, "only an operator creates sessions; %s is %s", env.Caller.DID, env.Caller.Role), nil
	}
	cfg, err := c.Config.Resolved()
	if err != nil {
		return Outcome{}, err
	}
	secret := part(env, "secret", bytes.Clone(env.Secret[:]))
	e := Created{ID: s.ID, Config: cfg, Opener: env.Caller.DID, Secret: secret.Commitment(), NodeEpoch: env.NodeEpoch}
	if c.Undoes != "" {
		if env.Caller.Role != policy.SystemRole {
			return refuse(policy.Forbidden, "a session of kind undo opens by itself, when an action of one that has ended is taken back"), nil
		}
		e.Kind, e.Of = KindUndo, c.Undoes
	}
	out := allow(e)
	out.ID, out.Parts = s.ID, []audit.Part{secret}
	return out, nil
}

// Append appends the event's JSON.
func (e Created) Append(dst []byte) []byte {
	return audit.Event(dst, createdType).Str("id", e.ID).Raw("config", e.Config.append(make([]byte, 0, 256))).Str("opener", string(e.Opener)).
		Hash("secret", e.Secret).Uint("node_epoch", e.NodeEpoch).OptStr("kind", e.Kind).OptStr("of", e.Of).End()
}

func (e Created) apply(s *State, at Stamp) {
	s.Lifecycle, s.Config, s.Opener = Handshaking, e.Config, e.Opener
	s.Opened, s.Ends = at.Time, at.Time.Add(e.Config.MaxDuration)
	s.Epoch, s.NodeEpoch = 1, e.NodeEpoch
	s.Kind, s.Of = e.Kind, e.Of
}

// Activated is recorded when the participants may act.
type Activated struct{}

func decideActivate(s *State, env *Env) Outcome {
	switch {
	case !env.Caller.Runs():
		return refuse(policy.Forbidden, "only an operator activates a session")
	case s.Lifecycle != Handshaking:
		return refuse(policy.SessionNotActive, "session %s is %s; only a handshaking session can be activated", s.ID, s.Lifecycle)
	case len(s.Participants) == 0 && s.Kind != KindUndo: // there the undoer may be an operator, who is no participant
		return refuse(policy.SessionNotActive, "session %s has no participant; join one, then activate", s.ID)
	}
	return allow(Activated{})
}

// Append appends the event's JSON.
func (Activated) Append(dst []byte) []byte { return audit.Event(dst, activatedType).End() }

func (Activated) apply(s *State, _ Stamp) { s.Lifecycle = Active }

// Terminated is recorded when the end begins.
type Terminated struct {
	Reason string    `json:"reason"`
	Grace  time.Time `json:"grace"` // when running calls are cancelled
}

func decideTerminate(s *State, env *Env, c Terminate) Outcome {
	switch {
	case !env.Caller.Runs():
		return refuse(policy.Forbidden, "only an operator ends a session")
	case s.Lifecycle == Absent:
		return refuse(policy.NotFound, "there is no session %s", s.ID)
	case len(c.Reason) > maxReasonBytes || !utf8.ValidString(c.Reason):
		return refuse(policy.InvalidArguments, "a reason is text of at most %d bytes", maxReasonBytes)
	case s.Lifecycle >= Terminating:
		return Outcome{Decision: policy.Allow(), Durable: true} // it ends already; saying so twice is no error
	}
	reason := c.Reason
	if reason == "" {
		reason = "operator"
	}
	out := allow(s.endEvents(env, reason, grace)...)
	out.Tallies = s.settled(env, true)
	return out
}

// endEvents begins the end: refusals still unwritten, approvals that nobody will use, then the step itself.
func (s *State) endEvents(env *Env, reason string, grace time.Duration) []Event {
	events := s.flush(env, true)
	for _, id := range s.approvalIDs() {
		if a := s.Approvals[id]; a.Status == Open || a.Status == Granted {
			events = append(events, ApprovalExpired{ID: id, Why: "session ended"})
		}
	}
	for _, did := range s.elevatedIDs() {
		events = append(events, ElevationExpired{s.Elevations[did].ID, did, whyEnded})
	}
	events = append(events, Terminated{reason, env.Now.Add(grace)})
	if s.idle() {
		events = append(events, s.close()...)
	}
	return events
}

// Append appends the event's JSON.
func (e Terminated) Append(dst []byte) []byte {
	return audit.Event(dst, terminatedType).Str("reason", e.Reason).Time("grace", e.Grace).End()
}

func (e Terminated) apply(s *State, _ Stamp) { s.Lifecycle, s.Grace = Terminating, e.Grace }

// Cancelling is recorded when the grace time is over and calls still run. What they answer is recorded yet.
type Cancelling struct {
	IDs []string `json:"ids"`
}

// Append appends the event's JSON.
func (e Cancelling) Append(dst []byte) []byte {
	return audit.Event(dst, cancellingType).Strs("ids", e.IDs).End()
}

func (Cancelling) apply(s *State, at Stamp) { s.Grace, s.Patience = time.Time{}, at.Time.Add(patience) }

// SessionArchived is a session's last event, in its last record.
type SessionArchived struct{}

// Append appends the event's JSON.
func (SessionArchived) Append(dst []byte) []byte { return audit.Event(dst, archivedType).End() }

func (SessionArchived) apply(s *State, _ Stamp) {
	s.Lifecycle = Archived
	s.Keys, s.KeyOrder = map[string]KeyUse{}, nil // nobody can repeat a command any more
	s.Undos = map[string]*UndoMark{}              // readers of the log find them
}

func decideTick(s *State, env *Env, c Tick) Outcome {
	if s.Lifecycle == Absent || s.Lifecycle == Archived {
		return Outcome{Decision: policy.Allow()}
	}
	all := c.All
	var first, step []Event
	switch {
	case s.Lifecycle != Terminating && !env.Now.Before(s.Ends):
		out := allow(s.endEvents(env, "max_duration", grace)...)
		out.Tallies = s.settled(env, true)
		return out
	case s.Lifecycle != Terminating:
		first = s.review(env) // what refusals bring about is computed from the rings as they are
		step = slices.Concat(s.expire(env), s.expireBonds(env), s.slashBreaker(env))
	case s.idle() && len(s.Owed) > 0: // archived is the last record, so what is owed is told before
	case s.idle():
		if step = s.close(); step == nil {
			step, all = []Event{SessionArchived{}}, true
		}
	case !s.Grace.IsZero() && !env.Now.Before(s.Grace):
		step = []Event{Cancelling{s.runningIDs()}}
	case s.Grace.IsZero() && !env.Now.Before(s.Patience):
		for _, id := range s.runningIDs() {
			step = append(step, Unknown{ID: id, Why: whyNoAnswer})
		}
	}
	out := allow(slices.Concat(first, s.flush(env, all), step)...)
	out.Tallies = s.settled(env, all)
	return out
}

// EpochOpened is recorded at the first use after an unclean stop: ids go on in a new epoch (SPEC §1).
type EpochOpened struct {
	Epoch     uint64 `json:"epoch"`
	NodeEpoch uint64 `json:"node_epoch"`
}

// Append appends the event's JSON.
func (e EpochOpened) Append(dst []byte) []byte {
	return audit.Event(dst, epochType).Uint("epoch", e.Epoch).Uint("node_epoch", e.NodeEpoch).End()
}

func (e EpochOpened) apply(s *State, _ Stamp) { s.Epoch, s.NodeEpoch = e.Epoch, e.NodeEpoch }

// ConsistencyForced is recorded with the first non-reversible action an eventual session admits (SPEC §1).
type ConsistencyForced struct{}

// Append appends the event's JSON.
func (ConsistencyForced) Append(dst []byte) []byte { return audit.Event(dst, strongType).End() }

func (ConsistencyForced) apply(s *State, _ Stamp) { s.ForcedStrong = true }
