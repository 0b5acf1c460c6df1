package hypervisor

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// undolog.go: what the log says of actions that are to be taken back, and of what was done to the same resources since. The log
// is read once, from the oldest of them on, and then as it grows: the cost of an action does not rise with their number.

// A deed is an action that changed something, or may have.
type deed struct {
	session.Target
	time   time.Time
	pos    uint64 // of the record that admitted it, in commit order
	seq    uint64
	wanted bool

	image       bool // what was there before was taken, and is recognised by before or was absent
	before      audit.Hash
	absent      bool
	looked      bool // what it left was looked at, and is recognised by after or was absent
	after       audit.Hash
	afterAbsent bool
	outcomeIn   string // the stream and the record that say how it ended, beside which its undo stands
	outcomeSeq  uint64

	try    *session.SagaTry // it was a step's; nil: it was none's
	own    string           // the action that its saga's step names for its undo; empty: what takes it back stands beside its outcome
	effect string           // what that is called for; with own

	args  []byte // it was called with; nil: to be read from its record
	calls []byte // what takes it back, as recorded; nil: to be read

	kind    session.Kind // as planned
	verdict policy.Decision
	willBe  bool // planned to be taken back
}

// counts reports whether the deed is a change that stands.
func (d *deed) counts() bool { return d.Outcome != session.Unsuccessful && d.Undo != session.UndoDone }

// A history is what was read of the log.
type history struct {
	hv       *Hypervisor
	criteria func(*session.Admitted, *audit.Record) bool
	upTo     uint64             // the position read up to
	seen     map[string]uint64  // the newest record read of each session
	deeds    map[string]*deed   // by SESSION/act-12
	order    []*deed            // by position
	attempts map[string]string  // undos, and what each takes back
	sagas    map[string]*ofSaga // of which wanted actions are steps, by SESSION/sag-3
	places   map[string]bool    // resources of the wanted, and all above them
	changes  ledger
	planOnly bool // nothing will be taken back
	held     int  // bytes of args and calls that are held
}

// survey finds the actions that are wanted, and what else was done to the same since.
func (hv *Hypervisor) survey(ctx context.Context, req *UndoRequest) (*history, error) {
	h := &history{hv: hv, seen: map[string]uint64{}, deeds: map[string]*deed{}, attempts: map[string]string{}, sagas: map[string]*ofSaga{}, places: map[string]bool{}, changes: newLedger(), planOnly: req.Plan}
	since := time.Time{}
	if req.Since > 0 {
		since = hv.Now().Add(-req.Since)
	}
	stream := audit.SessionPrefix + req.Session
	h.criteria = func(e *session.Admitted, r *audit.Record) bool {
		return (req.Session == "" || r.Stream == stream) && (req.Action == "" || e.ID == req.Action) &&
			(req.Saga == "" || e.Saga != nil && e.Saga.Saga == req.Saga && !e.Saga.Undo) && (req.Agent == "" || e.Agent == req.Agent) && !r.Time.Before(since)
	}
	first, err := h.oldest(ctx, req, since)
	if err != nil {
		return nil, err
	}
	if first == 0 {
		return h, nil
	}
	for name, g := range h.sagas {
		if err := g.read(ctx, hv, name); err != nil {
			return nil, err
		}
	}
	h.upTo = first - 1
	if err := h.catchUp(ctx); err != nil {
		return h, err
	}
	for _, d := range h.order {
		if g := h.sagaOf(d); d.own != "" && g.open {
			d.Open = d.Saga
		}
	}
	return h, nil
}

// oldest returns the position of the oldest wanted action, zero if there is none, and notes what they all touch.
func (h *history) oldest(ctx context.Context, req *UndoRequest, since time.Time) (first uint64, err error) {
	n := 0
	for rec, err := range h.candidates(ctx, req, since) {
		if err != nil {
			return 0, err
		}
		for _, e := range rec.admitted {
			if !h.criteria(&e, &rec.Record) {
				continue
			}
			if n++; n > MaxUndoSteps {
				return 0, &Refused{policy.Refuse(policy.QuotaExceeded, "more than %d actions are meant; say a shorter time", MaxUndoSteps)}
			}
			if first == 0 {
				first = rec.Position
			}
			if e.Saga != nil && !e.Saga.Undo {
				name := strings.TrimPrefix(rec.Stream, audit.SessionPrefix) + "/" + e.Saga.Saga
				h.sagas[name] = &ofSaga{}
			}
			h.places[e.Resource] = true
			for above := range parents(e.Resource) {
				h.places[above] = true
			}
		}
		if req.Action != "" {
			break
		}
	}
	if first == 0 && req.Saga != "" {
		return 0, fmt.Errorf("actions of saga %s of session %s: %w", req.Saga, req.Session, ErrNotFound)
	}
	if first == 0 && req.Action != "" {
		return 0, fmt.Errorf("action %s of session %s: %w", req.Action, req.Session, ErrNotFound)
	}
	return first, nil
}

// An admission is a record with the actions that it admits.
type admission struct {
	stored
	admitted []session.Admitted
}

// candidates yields the records that may admit a wanted action.
func (h *history) candidates(ctx context.Context, req *UndoRequest, since time.Time) iter.Seq2[admission, error] {
	return func(yield func(admission, error) bool) {
		records, err := h.from(ctx, req, since)
		if err != nil {
			yield(admission{}, err)
			return
		}
		for r, err := range records {
			if err != nil {
				yield(admission{}, err)
				return
			}
			events, err := actionEvents(r)
			if err != nil {
				yield(admission{}, err)
				return
			}
			a := admission{stored: *r}
			for _, e := range events {
				if e, ok := e.(session.Admitted); ok {
					a.admitted = append(a.admitted, e)
				}
			}
			if (len(a.admitted) > 0 || req.Action != "") && !yield(a, nil) {
				return
			}
		}
	}
}

// from yields the records in which what is wanted can stand: those of its session, or of all since a time.
func (h *history) from(ctx context.Context, req *UndoRequest, since time.Time) (iter.Seq2[*stored, error], error) {
	if req.Session != "" {
		if _, err := h.hv.Session(ctx, req.Session); err != nil {
			return nil, err
		}
		seq := uint64(1)
		if req.Action != "" {
			var ok bool
			if seq, ok = seqOf(req.Action); !ok {
				return nil, fmt.Errorf("action %s: %w", req.Action, ErrNotFound)
			}
		}
		return h.hv.read(ctx, audit.SessionPrefix+req.Session, seq), nil
	}
	after, err := h.hv.positionBefore(ctx, since)
	return h.hv.tail(ctx, after), err
}

// tail yields the records of all streams behind a position.
func (hv *Hypervisor) tail(ctx context.Context, after uint64) iter.Seq2[*stored, error] {
	return func(yield func(*stored, error) bool) {
		hv.committer.Hurry()
		for rec, err := range hv.store.Tail(ctx, after) {
			if err != nil {
				yield(nil, away(fmt.Errorf("reading the log: %w", err)))
				return
			}
			envelope, err := audit.ParseRecord(rec.Body)
			if err != nil {
				yield(nil, fmt.Errorf("%s, record %d: %w", rec.Stream, rec.Seq, err))
				return
			}
			if !yield(&stored{envelope, rec.Position, audit.Hash{}, rec.Payload, rec.Body}, nil) {
				return
			}
		}
	}
}

// clockSkew is how much earlier than a record before it a record may say that it was: streams are stamped each for itself.
const clockSkew = time.Minute

// positionBefore returns a position behind which all records since a time stand, and not many older ones. Times rise with the
// positions but for clockSkew, so that it is found by halving.
func (hv *Hypervisor) positionBefore(ctx context.Context, since time.Time) (uint64, error) {
	since = since.Add(-clockSkew)
	var low, high uint64 // all records up to low are older; high is past the end, or at one that is not
	at := func(pos uint64) (*stored, error) {
		for r, err := range hv.tail(ctx, pos) {
			return r, err
		}
		return nil, nil
	}
	for high = 1; ; high *= 2 {
		r, err := at(high)
		if err != nil {
			return 0, err
		}
		if r == nil || !r.Time.Before(since) {
			break
		}
		low = r.Position
	}
	for low+1 < high {
		middle := low + (high-low)/2
		r, err := at(middle)
		if err != nil {
			return 0, err
		}
		if r == nil || !r.Time.Before(since) {
			high = middle
		} else {
			low = max(middle, min(r.Position, high-1))
		}
	}
	return low, nil
}

// actionEvents returns the events of a record of a session's that speaks of actions; nil for all others.
func actionEvents(r *stored) ([]session.Event, error) {
	if !strings.HasPrefix(r.Stream, audit.SessionPrefix) || !bytes.Contains(r.Events, []byte(`{"type":"action.`)) {
		return nil, nil
	}
	events, err := session.ParseEvents(r.Events)
	if err != nil {
		return nil, fmt.Errorf("%s, record %d: %w", r.Stream, r.Seq, err)
	}
	return events, nil
}

// catchUp reads what has come since.
func (h *history) catchUp(ctx context.Context) error {
	for r, err := range h.hv.tail(ctx, h.upTo) {
		if err != nil {
			return err
		}
		h.upTo = r.Position
		id, ok := strings.CutPrefix(r.Stream, audit.SessionPrefix)
		if !ok {
			continue
		}
		h.seen[id] = r.Seq
		events, err := actionEvents(r)
		if err != nil {
			return err
		}
		for _, e := range events {
			h.note(e, id, r)
		}
	}
	return nil
}

// note takes in what an event says of an action that matters here.
func (h *history) note(e session.Event, in string, r *stored) {
	switch e := e.(type) {
	case session.Admitted:
		h.admitted(e, in, r)
	case session.Completed:
		if d := h.deeds[in+"/"+e.ID]; d != nil {
			d.ended(session.Done, r)
			d.Calls, d.after, d.afterAbsent = d.own != "" || e.Undo != audit.Hash{}, e.After, e.AfterAbsent
			d.looked = e.AfterAbsent || e.After != audit.Hash{}
			if d.wanted {
				d.calls = h.hold(r, "undo")
			}
		}
	case session.Failed:
		h.failed(in+"/"+e.ID, r)
	case session.Unknown:
		if d := h.deeds[in+"/"+e.ID]; d != nil {
			d.ended(session.Uncertain, r)
		}
		if t := h.deeds[h.attempts[in+"/"+e.ID]]; t != nil {
			t.Undo, t.By = session.UndoDoubtful, in+"/"+e.ID
		}
	case session.Resolved:
		d := h.deeds[e.ID]
		switch {
		case d == nil:
		case e.Outcome == "failed":
			d.ended(session.Unsuccessful, r)
		default:
			d.ended(session.Done, r)
			d.Calls, d.after, d.afterAbsent = d.own != "" || e.Undo != audit.Hash{}, e.After, e.AfterAbsent
			d.looked = e.AfterAbsent || e.After != audit.Hash{}
		}
	case session.Undone:
		if t := h.deeds[e.ID]; t != nil {
			t.Undo, t.By = session.UndoDone, e.By
			if !strings.Contains(e.By, "/") {
				t.By = in + "/" + e.By
			}
		}
	default: // no other event says what became of an action
	}
}

func (d *deed) ended(how session.Result, r *stored) {
	d.Outcome, d.outcomeIn, d.outcomeSeq, d.calls = how, r.Stream, r.Seq, nil
}

const (
	maxHeld    = 32 << 20 // of all that is held
	maxHeldOne = 4 << 10  // of a part; a larger one is read again
)

// hold returns a part of a record that is at hand and will be wanted; nil: it is read when it is.
func (h *history) hold(r *stored, name string) []byte {
	if h.planOnly {
		return nil
	}
	parts, err := audit.ParsePayload(r.Payload)
	if err != nil {
		return nil // whoever reads it then says so
	}
	for i := range parts {
		if p := &parts[i]; p.Name == name && !p.External && len(p.Bytes) <= maxHeldOne && h.held+len(p.Bytes) <= maxHeld {
			h.held += len(p.Bytes)
			return bytes.Clone(p.Bytes) // not the payload around it
		}
	}
	return nil
}

// failed notes that an action did nothing, and, of an undo, that what it would have taken back stands.
func (h *history) failed(name string, r *stored) {
	if d := h.deeds[name]; d != nil {
		d.ended(session.Unsuccessful, r)
	}
	if t := h.deeds[h.attempts[name]]; t != nil && t.By == name {
		t.Undo, t.By = "", ""
	}
}

func (h *history) admitted(e session.Admitted, in string, r *stored) {
	if e.Undoes != "" {
		name := in + "/" + e.ID
		h.attempts[name] = e.Undoes
		if t := h.deeds[e.Undoes]; t != nil {
			t.Undo, t.By = session.UndoRunning, name
		}
	}
	wanted := h.criteria(&e, &r.Record)
	if !wanted && (e.ReadOnly || e.Undoes != "" || !h.touches(e.Resource)) {
		return
	}
	d := &deed{time: r.Time, pos: r.Position, seq: r.Seq, wanted: wanted, image: e.Absent || e.Image != audit.Hash{}, before: e.ImageMAC, absent: e.Absent,
		Target: session.Target{Session: in, ID: e.ID, Agent: e.Agent, Action: e.Action, Required: e.RequiredRing, Reversibility: e.Reversibility,
			ReadOnly: e.ReadOnly, Undoes: e.Undoes, Resource: e.Resource, Until: e.UndoUntil}, try: e.Saga}
	if wanted {
		d.args = h.hold(r, "args")
		h.ownUndo(d)
	}
	h.deeds[d.Name()] = d
	h.order = append(h.order, d)
	if !d.ReadOnly && d.Undoes == "" {
		h.changes.add(d)
	}
}

// touches reports whether a change of a resource may be one of what a wanted action touched.
func (h *history) touches(resource string) bool {
	if resource == "" {
		return false
	}
	if h.places[resource] {
		return true
	}
	for above := range parents(resource) {
		if h.places[above] {
			return true
		}
	}
	return false
}

// plan judges the wanted actions, newest first; an older one may follow once the newer ones that stand in its way are taken
// back. Of one action alone the verdict is given whatever it is; of many, those that left nothing behind are no steps.
func (h *history) plan(now time.Time, alone bool) []*deed {
	changes := newLedger()
	for _, d := range h.order {
		if !d.ReadOnly && d.Undoes == "" {
			changes.add(d)
		}
	}
	stands := func(d *deed) bool { return d.counts() && !d.willBe }
	var steps []*deed
	for _, d := range slices.Backward(h.order) {
		nothing := d.ReadOnly || d.Undoes != "" || !d.counts()
		if !d.wanted || nothing && !alone {
			continue
		}
		d.Changed = changes.newer(d, stands)
		d.kind, d.verdict = d.Judge(now)
		d.willBe = d.verdict.Allowed
		steps = append(steps, d)
	}
	return steps
}
