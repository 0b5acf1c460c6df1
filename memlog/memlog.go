package memlog

import (
	"bytes"
	"context"
	"iter"
	"sync"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
)

// A Store is an eventlog.Store in memory. The zero Store is empty and ready.
type Store struct {
	mu     sync.Mutex
	closed bool
	data
}

// data is what the store has. It is only added to; Store.mu guards it.
type data struct {
	pages     [][]eventlog.Record // in commit order; Position is the index plus one. Pages, since a long list costs much to grow
	room      []byte              // where bytes of records are kept next
	streams   map[string]*stream
	blobs     map[audit.Hash][]byte
	snapshots map[string]eventlog.Snapshot
}

// A stream is one stream's head, and where its records are.
type stream struct {
	head eventlog.Head
	at   []int // as indexes of the log
}

const (
	pageRecords = 1024
	leastRoom   = 4 << 10 // bytes
	mostRoom    = 256 << 10
)

// len returns how many records there are.
func (d *data) len() int {
	if len(d.pages) == 0 {
		return 0
	}
	return (len(d.pages)-1)*pageRecords + len(d.pages[len(d.pages)-1])
}

// keep copies bytes; nil stays nil.
func (d *data) keep(b []byte) []byte {
	if b == nil {
		return nil
	}
	if len(b) > cap(d.room)-len(d.room) {
		d.room = make([]byte, 0, max(min(2*cap(d.room), mostRoom), leastRoom, len(b)))
	}
	from := len(d.room)
	d.room = append(d.room, b...)
	return d.room[from:len(d.room):len(d.room)]
}

var _ eventlog.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store { return new(Store) }

// Append implements eventlog.Log.
func (s *Store) Append(ctx context.Context, recs []eventlog.Append) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return all(recs, err)
	}
	var errs []error
	failed := map[string]bool{} // none goes in behind one that did not
	for i := range recs {
		r := &recs[i]
		var head eventlog.Head
		st := s.streams[r.Stream]
		if st != nil {
			head = st.head
		}
		if failed[r.Stream] || r.Seq != head.Seq+1 || r.Prev != head.Hash {
			if errs == nil {
				errs = make([]error, len(recs))
			}
			errs[i], failed[r.Stream] = eventlog.ErrConflict, true
			continue
		}
		s.add(st, r)
	}
	return errs
}

// add puts a record behind all others; st is nil for the first of its stream.
func (s *Store) add(st *stream, r *eventlog.Append) {
	if s.streams == nil {
		s.streams = map[string]*stream{}
	}
	if st == nil {
		st = &stream{}
		s.streams[r.Stream] = st
	}
	n := s.len()
	if n%pageRecords == 0 {
		var page []eventlog.Record // of the first: most stores are small
		if n > 0 {
			page = make([]eventlog.Record, 0, pageRecords)
		}
		s.pages = append(s.pages, page)
	}
	last := &s.pages[len(s.pages)-1]
	*last = append(*last, eventlog.Record{Position: uint64(n) + 1, Stream: r.Stream, Seq: r.Seq, Hash: r.Hash, Body: s.keep(r.Body), Payload: s.keep(r.Payload)})
	st.at = append(st.at, n)
	var deadline time.Time
	if !r.Deadline.IsZero() {
		deadline = time.UnixMilli(r.Deadline.UnixMilli()).UTC()
	}
	st.head = eventlog.Head{Stream: r.Stream, Seq: r.Seq, Hash: r.Hash, Deadline: deadline, Owes: r.Owes}
}

// Read implements eventlog.Log.
func (s *Store) Read(ctx context.Context, stream string, from uint64) iter.Seq2[eventlog.Record, error] {
	return func(yield func(eventlog.Record, error) bool) {
		s.mu.Lock()
		var at []int // only ever appended to, so this is the stream as of now
		if st := s.streams[stream]; st != nil {
			at = st.at
		}
		s.mu.Unlock()
		first := min(max(from, 1)-1, uint64(len(at)))
		s.records(ctx, len(at)-int(first), func(i int) int { return at[int(first)+i] }, yield)
	}
}

// Tail implements eventlog.Log.
func (s *Store) Tail(ctx context.Context, after uint64) iter.Seq2[eventlog.Record, error] {
	return func(yield func(eventlog.Record, error) bool) {
		s.mu.Lock()
		first := min(after, uint64(s.len()))
		n := s.len() - int(first)
		s.mu.Unlock()
		s.records(ctx, n, func(i int) int { return int(first) + i }, yield)
	}
}

// records yields n records, the i-th of which stands at index(i) in the log. The lock is not held while a caller works.
func (s *Store) records(ctx context.Context, n int, index func(i int) int, yield func(eventlog.Record, error) bool) {
	for i := 0; i < max(n, 1); i++ { // at least once: an empty or closed store must say so
		s.mu.Lock()
		err := s.usable(ctx)
		var r eventlog.Record
		if err == nil && n > 0 {
			at := index(i)
			r = s.pages[at/pageRecords][at%pageRecords]
			r.Body, r.Payload = bytes.Clone(r.Body), bytes.Clone(r.Payload)
		}
		s.mu.Unlock()
		if err != nil {
			yield(eventlog.Record{}, err)
			return
		}
		if n == 0 || !yield(r, nil) {
			return
		}
	}
}

// Heads implements eventlog.Log.
func (s *Store) Heads(ctx context.Context) iter.Seq2[eventlog.Head, error] {
	return func(yield func(eventlog.Head, error) bool) {
		s.mu.Lock()
		err := s.usable(ctx)
		heads := make([]eventlog.Head, 0, len(s.streams))
		for _, st := range s.streams {
			heads = append(heads, st.head)
		}
		s.mu.Unlock()
		if err != nil {
			yield(eventlog.Head{}, err)
			return
		}
		for _, h := range heads {
			if !yield(h, nil) {
				return
			}
		}
	}
}

// PutBlob implements eventlog.Blobs.
func (s *Store) PutBlob(ctx context.Context, key audit.Hash, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return err
	}
	if s.blobs == nil {
		s.blobs = map[audit.Hash][]byte{}
	}
	if _, ok := s.blobs[key]; !ok {
		s.blobs[key] = append([]byte{}, b...)
	}
	return nil
}

// Blob implements eventlog.Blobs.
func (s *Store) Blob(ctx context.Context, key audit.Hash) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	b, ok := s.blobs[key]
	if !ok {
		return nil, eventlog.ErrNoBlob
	}
	return bytes.Clone(b), nil
}

// SaveSnapshot implements eventlog.Snapshots.
func (s *Store) SaveSnapshot(ctx context.Context, snap eventlog.Snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return err
	}
	if s.snapshots == nil {
		s.snapshots = map[string]eventlog.Snapshot{}
	}
	snap.State = append([]byte{}, snap.State...)
	s.snapshots[snap.Stream] = snap
	return nil
}

// Snapshot implements eventlog.Snapshots.
func (s *Store) Snapshot(ctx context.Context, stream string) (eventlog.Snapshot, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return eventlog.Snapshot{}, false, err
	}
	snap, ok := s.snapshots[stream]
	snap.State = bytes.Clone(snap.State)
	return snap, ok, nil
}

// Close implements eventlog.Store. A second Close returns eventlog.ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return eventlog.ErrClosed
	}
	s.closed = true
	return nil
}

// Reopen closes the store, if it is open, and returns another on the same data, as a process that comes back would have it.
func (s *Store) Reopen() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return &Store{data: s.data}
}

// usable returns why the store cannot be used, nil if it can. Called with mu held.
func (s *Store) usable(ctx context.Context) error {
	if s.closed {
		return eventlog.ErrClosed
	}
	return ctx.Err()
}

func all(recs []eventlog.Append, err error) []error {
	errs := make([]error, len(recs))
	for i := range errs {
		errs[i] = err
	}
	return errs
}
