package sqlitelog

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/agenthypervisor/hypervisor/eventlog"
)

// A row is a record that goes in, with the head it makes.
type row struct {
	rec    *eventlog.Append
	parent int64 // id of the stream's record before; 0 for its first
	head   head
}

// Append implements eventlog.Log. All records that go in do so in one transaction, which syncs if one of them is Durable.
func (s *Store) Append(ctx context.Context, recs []eventlog.Append) []error {
	if len(recs) == 0 {
		return nil
	}
	s.keepUp(ctx)
	release, err := s.useToWrite(ctx)
	if err != nil {
		return failRest(recs, nil, fmt.Errorf("appending records: %w", err))
	}
	defer release()
	ctx = context.WithoutCancel(ctx) // a group is never torn; and a context that can end costs a goroutine a statement
	errs := s.admit(recs)
	defer clear(s.rows) // let go of the bodies
	if len(s.rows) == 0 {
		return errs
	}
	durable := false
	for i := range s.rows {
		durable = durable || s.rows[i].rec.Durable
	}
	err = s.tx(ctx, durable, func() error { return s.insert(ctx) })
	if errors.Is(err, errOutcome) {
		err = fmt.Errorf("%w: %w", eventlog.ErrUnknown, err)
	}
	if err != nil {
		return failRest(recs, errs, fmt.Errorf("appending records: %w", err))
	}
	s.accept(durable)
	return errs
}

// admit compares each record with its stream's head, as the records before it in the group leave it, and fills s.rows with
// those that go in.
func (s *Store) admit(recs []eventlog.Append) (errs []error) {
	const failed = -1 // none goes in behind one that did not
	s.rows = s.rows[:0]
	clear(s.newest)
	for i := range recs {
		r := &recs[i]
		var before head
		at, again := s.newest[r.Stream]
		switch {
		case again && at != failed:
			before = s.rows[at].head
		case !again:
			_, before = s.table.look(r.Stream)
		}
		if at == failed || r.Seq != before.seq+1 || r.Prev != before.hash {
			if errs == nil {
				errs = make([]error, len(recs))
			}
			errs[i], s.newest[r.Stream] = eventlog.ErrConflict, failed
			continue
		}
		s.newest[r.Stream] = len(s.rows)
		id := s.last + int64(len(s.rows)) + 1
		s.rows = append(s.rows, row{rec: r, parent: before.id, head: head{
			stream: r.Stream, hash: r.Hash, seq: r.Seq, first: cmp.Or(before.first, id), id: id, wants: wants(r.Deadline, r.Owes),
		}})
	}
	return errs
}

func (s *Store) insert(ctx context.Context) error {
	for i := range s.rows {
		r := &s.rows[i]
		var parent, payload any
		if r.parent != 0 {
			parent = r.parent
		}
		if len(r.rec.Payload) > 0 {
			payload = r.rec.Payload
		}
		s.args = append(s.args[:0], r.head.id, r.head.stream, int64(r.head.seq), parent, r.head.hash[:], r.head.deadline(),
			r.head.owes(), r.rec.Body, payload)
		if _, err := s.file.insert.ExecContext(ctx, s.args...); err != nil {
			return fmt.Errorf("inserting record: %w", err)
		}
	}
	return nil
}

// accept makes what was committed what is known.
func (s *Store) accept(durable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.rows {
		h := &s.rows[i].head
		s.pending = append(s.pending, entry{place: s.table.put(*h), seq: h.seq, id: h.id})
	}
	s.last = s.rows[len(s.rows)-1].head.id
	if durable {
		s.synced = s.last
	}
}

// failRest gives err to each record that has none yet.
func failRest(recs []eventlog.Append, errs []error, err error) []error {
	if errs == nil {
		errs = make([]error, len(recs))
	}
	for i := range errs {
		if errs[i] == nil {
			errs[i] = err
		}
	}
	return errs
}
