package session

import (
	"slices"
	"strconv"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// A Lifecycle is where a session stands (SPEC §1): handshaking → active → terminating → archived.
// The zero value is Absent: nothing has been recorded.
type Lifecycle uint8

// The stations. Creation passes through created into handshaking in one record.
const (
	Absent Lifecycle = iota
	Handshaking
	Active
	Terminating
	Archived
)

var lifecycles = [...]string{"absent", "handshaking", "active", "terminating", "archived"}

// String returns the station's word.
func (l Lifecycle) String() string { return lifecycles[l] }

// MarshalText returns the station's word.
func (l Lifecycle) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a station's word; any other is an error of the snapshot it stands in.
func (l *Lifecycle) UnmarshalText(b []byte) error { return readWord(l, lifecycles[:], b) }

// State is a session as the fold of its records. It is data: exported so that it can be shown and kept as a snapshot,
// and only Apply changes it. The zero State is the session before its first record.
type State struct {
	ID           string                      `json:"id"`
	Seq          uint64                      `json:"seq"`  // of the newest record applied
	Time         time.Time                   `json:"time"` // of the newest record
	Lifecycle    Lifecycle                   `json:"lifecycle"`
	Config       Config                      `json:"config"` // resolved
	Opener       policy.DID                  `json:"opener"`
	Opened       time.Time                   `json:"opened"`
	Ends         time.Time                   `json:"ends"`              // when max_duration is over
	Grace        time.Time                   `json:"grace"`             // while terminating: when running calls are cancelled; zero once they have been
	Patience     time.Time                   `json:"patience,omitzero"` // once they have been: when those without an outcome are recorded as unknown
	Epoch        uint64                      `json:"epoch"`             // from 1; a new one after each unclean stop
	NodeEpoch    uint64                      `json:"node_epoch"`
	ForcedStrong bool                        `json:"forced_strong,omitempty"` // an eventual session that admitted a non-reversible action
	Participants map[policy.DID]*Participant `json:"participants"`
	Running      map[string]*Running         `json:"running"` // by action id
	Left         map[policy.DID]*Participant `json:"left"`    // who took part before, as they left
	Elevations   map[policy.DID]*Elevation   `json:"elevations"`
	Breakers     []policy.DID                `json:"breakers,omitempty"` // whose second critical breach is not yet followed by its slash; nil: nobody's
	Approvals    map[string]*Approval        `json:"approvals"`          // by approval id: open, granted, denied, and expired ones not yet told of
	Keys         map[string]KeyUse           `json:"keys"`               // by caller and idempotency key
	KeyOrder     []string                    `json:"key_order"`          // the same, oldest first
	Killed       bool                        `json:"killed,omitempty"`
	Kills        map[policy.DID]policy.Kill  `json:"kills,omitempty"`  // of agents in this session; nil: none
	Lifted       map[policy.DID]string       `json:"lifted,omitempty"` // the kill of each agent that was lifted last, by its id; nil: none
	Conduct      map[policy.DID]*Conduct     `json:"conduct,omitempty"`
	Owed         []OwedEntry                 `json:"owed,omitempty"`      // to agents' streams, oldest first
	Entries      uint64                      `json:"entries,omitempty"`   // owed ever
	Bonds        map[string]*Bond            `json:"bonds,omitempty"`     // by the vouch's id
	BondsDue     time.Time                   `json:"bonds_due,omitzero"`  // when the next active one expires; zero: none does
	Answering    int                         `json:"answering,omitempty"` // bonds that have ended and answer for calls
	Slashes      map[string]*Cascade         `json:"slashes,omitempty"`   // whose cascade is not over
	Asked        *WitnessAsked               `json:"asked,omitempty"`     // the newest act of ring 0 that a second operator may complete
	Sagas        map[string]*Saga            `json:"sagas,omitempty"`     // that have not ended, and some that have; nil: none
	SagasOpen    []string                    `json:"sagas_open,omitempty"`
	SagasEnded   []string                    `json:"sagas_ended,omitempty"` // that are remembered, the one that ended first first
	Attributing  int                         `json:"attributing,omitempty"` // sagas of which is to be found out who bears that they failed
	Closed       bool                        `json:"closed,omitempty"`      // nothing runs any more, and clean sessions are credited
	Kind         string                      `json:"kind,omitempty"`        // KindUndo, or empty
	Of           string                      `json:"of,omitempty"`          // the session whose actions one of KindUndo takes back
	Undos        map[string]*UndoMark        `json:"undos"`                 // by the action they take back, SESSION/act-12; the ended ones for a while
}

// A Participant is an agent in the session.
type Participant struct {
	Joined  time.Time   `json:"joined"`
	Ring    ring.Ring   `json:"ring"`   // as last recorded; decisions compute it anew
	Bucket  ring.Bucket `json:"bucket"` // as the recorded calls left it
	Running int         `json:"running"`
	// Probation says that the agent's risk when it joined holds it in ring 3 (SPEC §3).
	Probation bool       `json:"probation,omitempty"`
	Parent    policy.DID `json:"parent,omitempty"`    // who brought it; empty: no agent
	Held      ring.Ring  `json:"held,omitempty"`      // the ring a demotion holds it in until an operator lifts it; zero: none
	Manifest  *Presented `json:"manifest,omitempty"`  // what it says of itself; nil: nothing. Never written to
	History   *History   `json:"history,omitempty"`   // what its receipts told; nil: it brought none. Never written to
	Window    *Window    `json:"window,omitempty"`    // nil: it has not called
	Incidents int        `json:"incidents,omitempty"` // that it has reported itself
}

// A Running is an admitted action whose outcome is not recorded.
type Running struct {
	Agent       policy.DID `json:"agent"`
	Action      string     `json:"action"`
	ReadOnly    bool       `json:"read_only,omitempty"`
	Incarnation string     `json:"incarnation"` // of the process that started it
	Key         string     `json:"key,omitempty"`
	Seq         uint64     `json:"seq"`
	During      string     `json:"during,omitempty"`    // the action in whose course it was asked for
	Asked       int        `json:"asked,omitempty"`     // how many were asked for in its course
	Undoes      string     `json:"undoes,omitempty"`    // SESSION/act-12: the action that this one takes back
	UndoesOf    policy.DID `json:"undoes_of,omitempty"` // whose that is
	Saga        *SagaTry   `json:"saga,omitempty"`      // the try of a saga's step that it is; nil: none
}

// NewState returns the state before the first record.
func NewState(id string) *State {
	return &State{ID: id, Participants: map[policy.DID]*Participant{}, Running: map[string]*Running{},
		Left: map[policy.DID]*Participant{}, Elevations: map[policy.DID]*Elevation{}, Approvals: map[string]*Approval{}, Keys: map[string]KeyUse{}, Undos: map[string]*UndoMark{}}
}

// strong reports whether acknowledgements must be durable, whatever they are about.
func (s *State) strong() bool { return s.Config.Consistency == Strong || s.ForcedStrong }

// ordered returns a map's keys in an order, so that the map's own never reaches an event; nil for none, which is the common case.
func ordered[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	if len(m) == 0 {
		return nil
	}
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	return keys
}

// next returns the number of the record that a command's events stand in.
func (s *State) next(env *Env) uint64 {
	if env.Within {
		return s.Seq
	}
	return s.Seq + 1
}

// newID returns an id for what a command's record brings. Ids derive from sequence numbers and carry the epoch, so none is
// given out twice, not even after records were lost (SPEC §1).
func (s *State) newID(env *Env, prefix string) string {
	b := append(make([]byte, 0, 24), prefix...)
	if s.Epoch > 1 {
		b = strconv.AppendUint(b, s.Epoch, 10)
		b = append(b, '.')
	}
	return string(strconv.AppendUint(b, s.next(env), 10))
}

// Due returns when the session next wants a Tick: at once if that time is past, never if it is zero.
func Due(s *State) time.Time {
	switch s.Lifecycle {
	case Absent, Archived:
		return time.Time{}
	case Terminating:
		if s.idle() && len(s.Owed) > 0 {
			return time.Time{} // once all is told
		}
		if s.idle() {
			return s.Time // at once: nothing holds the end up
		}
		if s.Grace.IsZero() {
			return earlier(s.Patience, s.sagaDue())
		}
		return earlier(s.Grace, s.sagaDue())
	}
	if len(s.Breakers) > 0 && len(s.Slashes) < maxLiveSlashes {
		return s.Time // at once: somebody is to be slashed
	}
	due := earlier(s.Ends, s.sagaDue())
	if !s.BondsDue.IsZero() && s.BondsDue.Before(due) {
		due = s.BondsDue
	}
	for _, a := range s.Approvals {
		if a.Status != ExpiredUnspoken && a.Expires.Before(due) {
			due = a.Expires
		}
	}
	for _, e := range s.Elevations {
		if e.Until.Before(due) {
			due = e.Until
		}
	}
	return due
}

// idle reports whether nothing is under way that the end of the session waits for.
func (s *State) idle() bool {
	return len(s.Running) == 0 && len(s.openSagas()) == 0 && s.Attributing == 0
}

// earlier returns the earlier of two times, of which a zero one is never.
func earlier(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

// Owes reports whether a process that opens the log must look at the session before anyone calls it: a call was under way, or a
// saga is, an agent is to be told something, or the system stream may not know of its opening or its end yet.
func Owes(s *State) bool {
	return !s.idle() || len(s.Owed) > 0 || s.Seq == 1 || s.Lifecycle == Archived
}

// Env is what a decision may know beyond the session's own state. All of it is stamped by package hypervisor.
type Env struct {
	Now         time.Time // UTC, in whole microseconds as a record tells time, and not before State.Time
	ClockBehind bool      // Recover alone: this process finds its wall clock behind the newest record
	Caller      policy.Caller
	Key         Key                           // the caller's idempotency key; zero: none
	Standings   map[policy.DID]agent.Standing // of the participants and of who is joining, at their streams' durable heads; read only. Absent: a newcomer
	Scores      *Scores                       // what stands behind each agent; nil: it is added up
	Call        *Call                         // the call an Act asks for; nil: no such action is known
	Rules       policy.Rules
	RulesID     string   // the version an approval is bound to
	Random      [32]byte // salts derive from it
	Secret      [32]byte // the session's key
	Incarnation string   // of this process
	NodeEpoch   uint64
	Operators   int                  // how many are configured: with two or more, admin actions need a witness
	Tallies     map[policy.DID]Tally // refusals not yet written and bucket levels; read only
	Kills       policy.Kills         // in force, as far as this process knows: also those that are in no record yet
	// Within says that the newest record, which is applied and not written yet, brought the command about and takes its events too:
	// the admission of a saga's step stands behind the outcome that began it. No other command that is decided so may give out an id.
	Within bool
}

// A Call is what the rim found out about an Act before it is decided.
type Call struct {
	Descriptor action.Descriptor
	Digest     audit.Hash     // of the descriptor
	Changed    bool           // the tool's definition is not the one that was pinned
	Args       []byte         // re-serialised from the one decoding, as they are decided on and forwarded
	Values     map[string]any // the same, decoded
	Fault      string         // why the arguments cannot be had from the tool's schema; empty: they can
	Resource   string         // what is touched, normalised; empty: unknown
	Server     string         // whose tool it is; empty: the embedding program's

	Untried    bool              // the rim has not looked yet: decided as if Image were so, and not admitted before it has
	Image      action.ImageState // what the rim has of the resource as it is before the call
	Before     action.Image      // with ImageTaken and ImageAbsent
	ImageFault string            // with ImageFailed: why, for the agent
	Steps      []Call            // of an UndoStep: the calls it is made of
}

// kept returns a copy, for what holds an Env longer than a call, as the compiler sees it: so that of the other commands none escapes
// to the heap.
func (e *Env) kept() *Env {
	kept := *e
	return &kept
}

// standing returns what is known of an agent.
func (e *Env) standing(did policy.DID) agent.Standing {
	if s, ok := e.Standings[did]; ok {
		return s
	}
	return agent.Newcomer
}

// sigma returns an agent's σ_raw: its own score, which no bond lifts.
func (e *Env) sigma(did policy.DID) ring.Sigma { return e.standing(did).Sigma }
