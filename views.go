package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

// views.go: what can be read. All of it is made of the log's records; nothing here changes anything.

// A Record is one record of a stream as it is stored.
type Record struct {
	Position uint64 // in commit order, across all streams
	Seq      uint64
	Body     json.RawMessage // the record's bytes, verbatim
}

// Records yields the session's records from a sequence number on, up to the newest.
func (s *Session) Records(ctx context.Context, from uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for r, err := range s.hv.read(ctx, audit.SessionPrefix+s.id, from) {
			if err != nil {
				yield(Record{}, err)
				return
			}
			if !yield(Record{r.Position, r.Seq, r.Body}, nil) {
				return
			}
		}
	}
}

// An ActionView is an action as its records tell it.
type ActionView struct {
	ID            string               `json:"id"`
	Session       string               `json:"session"`
	Agent         policy.DID           `json:"agent"`
	Action        string               `json:"action"`
	Seq           uint64               `json:"seq"` // of the record that admitted it
	Time          time.Time            `json:"time"`
	Ring          ring.Ring            `json:"ring"`
	RequiredRing  ring.Ring            `json:"required_ring"`
	SigmaEff      ring.Sigma           `json:"sigma_eff"`
	RiskWeight    action.Omega         `json:"risk_weight"`
	Reversibility action.Reversibility `json:"reversibility"`
	ReadOnly      bool                 `json:"read_only"`
	Resource      string               `json:"resource,omitempty"`   // "server:resource"
	UndoUntil     *time.Time           `json:"undo_until,omitempty"` // when its undo window closes
	Undoes        string               `json:"undoes,omitempty"`     // the action that it took back, SESSION/act-12
	Approval      string               `json:"approval,omitempty"`
	During        string               `json:"during,omitempty"` // the action in whose course a server asked for this one
	Saga          string               `json:"saga,omitempty"`   // the saga of which it is a step, or a step's undo
	Args          json.RawMessage      `json:"args,omitempty"`   // empty: collected
	Outcome       string               `json:"outcome"`          // running, done, failed, unknown
	Why           string               `json:"why,omitempty"`
	Result        json.RawMessage      `json:"result,omitempty"` // empty: nothing was answered, or collected
	OutcomeSeq    uint64               `json:"outcome_seq,omitempty"`
	Ended         *time.Time           `json:"ended,omitempty"`
}

// MaxPage bounds what one call of a list returns.
const MaxPage = 1000

// Actions returns actions admitted behind a sequence number, oldest first, at most limit of them (1 to MaxPage).
func (s *Session) Actions(ctx context.Context, after uint64, limit int) ([]ActionView, error) {
	limit = min(max(limit, 1), MaxPage)
	var views []*ActionView
	open := map[string]*ActionView{}
	for r, err := range s.hv.read(ctx, audit.SessionPrefix+s.id, after+1) {
		if err != nil {
			return nil, err
		}
		admitted, err := s.foldAction(ctx, r, open, len(views) < limit)
		if err != nil {
			return nil, err
		}
		if admitted != nil {
			views = append(views, admitted)
		}
		if len(views) == limit && len(open) == 0 {
			break
		}
	}
	out := make([]ActionView, len(views))
	for i, v := range views {
		out[i] = *v
	}
	return out, nil
}

// Action returns one action, or ErrNotFound.
func (s *Session) Action(ctx context.Context, id string) (ActionView, error) {
	if seq, ok := seqOf(id); ok {
		has, err := s.hv.admits(ctx, s.id, seq, id)
		if err != nil {
			return ActionView{}, err
		}
		if has {
			return s.actionAt(ctx, seq)
		}
	}
	return ActionView{}, fmt.Errorf("action %s: %w", id, ErrNotFound)
}

// Explain says why an action was decided as it was: from the state that the records before it make, since nothing of it is kept.
func (s *Session) Explain(ctx context.Context, v ActionView) (policy.Explanation, error) {
	state := session.NewState(s.id)
	for r, err := range s.hv.read(ctx, audit.SessionPrefix+s.id, 1) {
		if err != nil {
			return policy.Explanation{}, err
		}
		events, err := session.ParseEvents(r.Events)
		if err != nil {
			return policy.Explanation{}, fmt.Errorf("record %d: %w", r.Seq, err)
		}
		if r.Seq == v.Seq {
			for _, e := range events {
				if e, ok := e.(session.Admitted); ok {
					return state.Explain(e, r.Time), nil
				}
			}
			break
		}
		session.Apply(state, session.Stamp{Seq: r.Seq, Time: r.Time, Caller: policy.DID(r.Caller.DID)}, events)
	}
	return policy.Explanation{}, fmt.Errorf("the action of record %d: %w", v.Seq, ErrNotFound)
}

// actionAt returns the action that the record at seq admitted.
func (s *Session) actionAt(ctx context.Context, seq uint64) (ActionView, error) {
	views, err := s.Actions(ctx, seq-1, 1)
	if err != nil {
		return ActionView{}, err
	}
	if len(views) == 0 || views[0].Seq != seq {
		return ActionView{}, fmt.Errorf("the action of record %d: %w", seq, ErrNotFound)
	}
	return views[0], nil
}

// foldAction takes what a record says of actions into the views; a new one is returned if it is wanted.
func (s *Session) foldAction(ctx context.Context, r *stored, open map[string]*ActionView, want bool) (admitted *ActionView, err error) {
	events, err := session.ParseEvents(r.Events)
	if err != nil {
		return nil, fmt.Errorf("record %d: %w", r.Seq, err)
	}
	end := func(id, word, why string) error {
		v := open[id]
		if v == nil {
			return nil
		}
		if word != "unknown" { // it may be found out later
			delete(open, id)
		}
		v.Outcome, v.Why, v.OutcomeSeq, v.Ended = word, why, r.Seq, &r.Time
		v.Result, err = s.hv.part(ctx, r, "output")
		return err
	}
	for _, e := range events {
		switch e := e.(type) {
		case session.Admitted:
			if !want {
				continue
			}
			v := &ActionView{ID: e.ID, Session: s.id, Agent: e.Agent, Action: e.Action, Seq: r.Seq, Time: r.Time, Ring: e.Ring,
				RequiredRing: e.RequiredRing, SigmaEff: e.SigmaEff, RiskWeight: e.RiskWeight, Reversibility: e.Reversibility,
				ReadOnly: e.ReadOnly, Resource: e.Resource, Undoes: e.Undoes, Approval: e.Approval, During: e.During, Outcome: "running"}
			if e.Saga != nil {
				v.Saga = e.Saga.Saga
			}
			if !e.UndoUntil.IsZero() {
				v.UndoUntil = &e.UndoUntil
			}
			if v.Args, err = s.hv.part(ctx, r, "args"); err != nil {
				return nil, err
			}
			admitted, open[e.ID] = v, v
		case session.Completed:
			err = end(e.ID, "done", "")
		case session.Failed:
			err = end(e.ID, "failed", e.Why)
		case session.Unknown:
			err = end(e.ID, "unknown", e.Why)
		case session.Resolved:
			if id, ok := strings.CutPrefix(e.ID, s.id+"/"); ok {
				err = end(id, e.Outcome, "found out later")
			}
		default: // no other event is about an action
		}
		if err != nil {
			return nil, err
		}
	}
	return admitted, nil
}

// part returns the bytes of a record's part; nil if there is none, or no longer.
func (hv *Hypervisor) part(ctx context.Context, r *stored, name string) ([]byte, error) {
	if r.Payload == nil {
		return nil, nil
	}
	parts, err := audit.ParsePayload(r.Payload)
	if err != nil {
		return nil, fmt.Errorf("%s, record %d: %w", r.Stream, r.Seq, err)
	}
	for i := range parts {
		if parts[i].Name == name {
			return hv.bytesOf(ctx, &parts[i])
		}
	}
	return nil, nil
}

// bytesOf returns a part's bytes, from the blobs if they stand there; nil if they were collected.
func (hv *Hypervisor) bytesOf(ctx context.Context, p *audit.Part) ([]byte, error) {
	if !p.External {
		return p.Bytes, nil
	}
	b, err := hv.store.Blob(ctx, p.Outside)
	if errors.Is(err, eventlog.ErrNoBlob) {
		return nil, nil
	}
	return b, err
}

// An ApprovalView is an approval with what it is about.
type ApprovalView struct {
	session.Approval
	Session string          `json:"session"`
	Args    json.RawMessage `json:"args,omitempty"`
}

// Approvals returns the session's approvals in the order they were opened: open, granted, denied, expired unused.
func (s *Session) Approvals(ctx context.Context) ([]ApprovalView, error) {
	state, err := s.State(ctx)
	if err != nil {
		return nil, err
	}
	var views []ApprovalView
	for _, a := range slices.SortedFunc(maps.Values(state.Approvals), func(a, b *session.Approval) int { return int(a.Seq) - int(b.Seq) }) {
		v := ApprovalView{Approval: *a, Session: s.id}
		if v.Args, err = s.approvalArgs(ctx, a.Seq); err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	return views, nil
}

// approvalArgs returns what an approval is for, from beside the record that opened it; nil: collected.
func (s *Session) approvalArgs(ctx context.Context, opened uint64) (json.RawMessage, error) {
	for r, err := range s.hv.read(ctx, audit.SessionPrefix+s.id, opened) {
		if err != nil {
			return nil, err
		}
		return s.hv.part(ctx, r, "args")
	}
	return nil, nil
}

// Sessions yields the ids of all sessions whose log is kept, in no order.
func (hv *Hypervisor) Sessions(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for head, err := range hv.store.Heads(ctx) {
			if err != nil {
				yield("", away(fmt.Errorf("reading the heads: %w", err)))
				return
			}
			if id, ok := strings.CutPrefix(head.Stream, audit.SessionPrefix); ok && !yield(id, nil) {
				return
			}
		}
	}
}

// OpenSessions returns the ids of the sessions whose summary is not recorded, in order.
func (hv *Hypervisor) OpenSessions() []string {
	hv.system.mu.Lock()
	defer hv.system.mu.Unlock()
	return slices.Sorted(maps.Keys(hv.system.state.Open))
}

// FindAction returns the sessions that have an action of this id, in order, at most the first limit of them. An id holds the
// number of the record that admitted it, so a session costs the reading of one record.
func (hv *Hypervisor) FindAction(ctx context.Context, id string, limit int) ([]string, error) {
	seq, ok := seqOf(id)
	if !ok {
		return nil, nil
	}
	var found []string
	for session, err := range hv.Sessions(ctx) {
		if err != nil {
			return nil, err
		}
		has, err := hv.admits(ctx, session, seq, id)
		if err != nil {
			return nil, err
		}
		if has {
			found = append(found, session)
		}
	}
	slices.Sort(found)
	return found[:min(len(found), limit)], nil
}

// seqOf returns the number of the record that an id was made of: 12 of act-12 and of act-2.12.
func seqOf(id string) (uint64, bool) {
	_, number, ok := strings.Cut(id, "-")
	if i := strings.IndexByte(number, '.'); i >= 0 {
		number = number[i+1:]
	}
	seq, err := strconv.ParseUint(number, 10, 64)
	return seq, ok && err == nil && seq > 0
}

// admits reports whether a session's record admits the action of an id.
func (hv *Hypervisor) admits(ctx context.Context, session string, seq uint64, id string) (bool, error) {
	for r, err := range hv.read(ctx, audit.SessionPrefix+session, seq) {
		if err != nil {
			return false, err
		}
		return strings.Contains(string(r.Events), `{"type":"action.admitted","id":"`+id+`"`), nil
	}
	return false, nil
}

// An Event is one event of the log, with the record it stands in.
type Event struct {
	Position uint64 // of its record in commit order: where to resume behind
	Stream   string
	Seq      uint64
	Time     time.Time
	Caller   audit.Caller
	Trace    string
	Value    any // a session.Event, an agent.Event or a system.Event, by the stream's prefix
}

// Follow yields every event of the log behind a position, in commit order and without gaps, and then those that come, until
// ctx ends or the caller stops; ErrClosed says that the hypervisor has ended. Zero begins at the beginning. A follower that was
// away resumes behind the Position it saw last, or behind the one before if it stopped between two events of a record; a slow
// one holds up nobody.
func (hv *Hypervisor) Follow(ctx context.Context, after uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		hv.committer.Hurry() // for what was acknowledged already; what comes, comes soon
		for ctx.Err() == nil {
			more := hv.feed.More()
			for rec, err := range hv.store.Tail(ctx, after) {
				if err == nil {
					err = yieldEvents(rec, func(e Event) bool { return yield(e, nil) })
				}
				if errors.Is(err, errDone) {
					return
				}
				if errors.Is(err, eventlog.ErrClosed) {
					err = away(err)
				}
				if err != nil {
					yield(Event{}, err)
					return
				}
				after = rec.Position
			}
			if err := hv.await(ctx, more); err != nil {
				if errors.Is(err, ErrClosed) {
					yield(Event{}, err)
				}
				return
			}
		}
	}
}

var errDone = errors.New("the follower has stopped")

func yieldEvents(rec eventlog.Record, yield func(Event) bool) error {
	envelope, err := audit.ParseRecord(rec.Body)
	if err != nil {
		return fmt.Errorf("%s, record %d: %w", rec.Stream, rec.Seq, err)
	}
	values, err := parseAny(envelope)
	if err != nil {
		return fmt.Errorf("%s, record %d: %w", rec.Stream, rec.Seq, err)
	}
	for _, v := range values {
		if !yield(Event{rec.Position, envelope.Stream, envelope.Seq, envelope.Time, envelope.Caller, envelope.Trace, v}) {
			return errDone
		}
	}
	return nil
}

// parseAny reads a record's events with the codec of its stream's kernel.
func parseAny(r audit.Record) ([]any, error) {
	switch {
	case r.Stream == audit.SystemStream:
		return anys(system.ParseEvents(r.Events))
	case strings.HasPrefix(r.Stream, audit.AgentPrefix):
		return anys(agent.ParseEvents(r.Events))
	}
	return anys(session.ParseEvents(r.Events))
}

func anys[E any](events []E, err error) ([]any, error) {
	out := make([]any, len(events))
	for i, e := range events {
		out[i] = e
	}
	return out, err
}
