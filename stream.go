package hypervisor

import (
	"context"
	"encoding/hex"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/internal/feed"
	"github.com/agenthypervisor/hypervisor/policy"
)

// A stream is the live end of one stream of the log: what the next record follows. Its owner's lock guards it.
type stream struct {
	hv   *Hypervisor
	name string
	seq  uint64
	head audit.Hash
	tree audit.Tree // of all the stream's records
	lane *eventlog.Lane
	lost func() // called when a record of it is not in, mostly from the committer; nil: nobody needs to know

	newest  *ticket      // of the newest record handed to the committer; nil: none yet
	pending atomic.Int64 // records handed over and not answered
	events  []byte       // scratch
}

// A ticket is the wait for one record.
type ticket struct {
	st      *stream
	body    *[]byte        // the record's bytes, until its fate is known
	then    func()         // nil: nothing follows
	fate    sync.WaitGroup // at zero once the record's fate is known
	settled atomic.Bool    // it is
	err     error          // valid then
}

// tell says what became of the record. The committer calls it, once.
func (t *ticket) tell(err error) {
	st := t.st
	st.pending.Add(-1)
	st.hv.putBody(t.body)
	t.body, t.err = nil, err
	switch {
	case err == nil:
		st.hv.feed.Grew()
		if t.then != nil {
			t.then()
		}
	case st.lost != nil:
		st.lost()
	}
	t.st, t.then = nil, nil
	t.settled.Store(true)
	t.fate.Done()
}

// wait returns when the record's fate is known: nil, or why it is not in.
func (hv *Hypervisor) wait(ctx context.Context, t *ticket) error {
	if t == nil {
		return nil
	}
	// A record that is on its way cannot be called back, so the caller's end does not end the wait: a store always answers.
	// Only the committer is stepped here: the caller may hold a lock that a deadline or a call would want.
	for open := hv.opts.Stepped || hv.atOnce; open; {
		open = !t.settled.Load() && hv.committer.TryStep(ctx)
	}
	if !t.settled.Load() {
		hv.committer.Hurry()
		t.fate.Wait()
	}
	if t.err != nil {
		return away(t.err)
	}
	return nil
}

// help hands over what waits for a store that answers at once: another goroutine would have to be woken to do so.
func (hv *Hypervisor) help(ctx context.Context) {
	if hv.atOnce && !hv.opts.Stepped {
		hv.committer.Help(ctx)
	}
}

// A draft is a record about to be handed over.
type draft struct {
	at       time.Time
	caller   policy.Caller
	trace    string
	events   []byte
	payload  []byte
	deadline time.Time
	owes     bool
	durable  bool
	then     func() // called once the record is in, from the committer
}

// write hands a record to the committer, in the place that was reserved. The owner's lock is held; state has the record already. Who
// calls it calls wait, or help, once it does not hold the lock any more.
func (st *stream) write(d draft) *ticket {
	rec := audit.Record{Stream: st.name, Seq: st.seq + 1, Time: d.at, Trace: d.trace, Prev: st.head, Events: d.events,
		Caller: audit.Caller{DID: string(d.caller.DID), Role: d.caller.Role.String(), Via: d.caller.Via}}
	t := &ticket{st: st, then: d.then, body: st.hv.body()}
	t.fate.Add(1)
	*t.body = rec.Append(*t.body)
	leaf := audit.Leaf(*t.body)
	a := eventlog.Append{Stream: st.name, Seq: rec.Seq, Prev: st.head, Body: *t.body, Hash: leaf, Payload: d.payload,
		Deadline: d.deadline, Owes: d.owes, Durable: d.durable}
	st.seq, st.head, st.newest = rec.Seq, leaf, t
	st.tree.Add(leaf)
	st.pending.Add(1)
	if st.hv.atOnce {
		st.hv.committer.Leave(st.lane, a, t.tell)
	} else {
		st.hv.committer.Enqueue(st.lane, a, t.tell)
	}
	return t
}

// body returns room for a record's bytes. putBody takes it back once the record is in, or is not: the store keeps none.
func (hv *Hypervisor) body() *[]byte {
	if b, ok := hv.bodies.Get().(*[]byte); ok {
		*b = (*b)[:0]
		return b
	}
	b := make([]byte, 0, 1<<10)
	return &b
}

func (hv *Hypervisor) putBody(b *[]byte) {
	const most = 16 << 10 // a larger one is rare, and would be kept for small ones
	if cap(*b) <= most {
		hv.bodies.Put(b)
	}
}

// A stored is a record read back, with its envelope read.
type stored struct {
	audit.Record
	Position uint64
	Leaf     audit.Hash
	Payload  []byte
	Body     []byte
}

// read yields the records of a stream from a sequence number on, checked against each other: each follows the one before.
func (hv *Hypervisor) read(ctx context.Context, name string, from uint64) iter.Seq2[*stored, error] {
	return func(yield func(*stored, error) bool) {
		hv.committer.Hurry() // what was acknowledged early is soon there too
		var seq uint64
		var head audit.Hash
		for rec, err := range hv.store.Read(ctx, name, from) {
			if err != nil {
				yield(nil, away(fmt.Errorf("reading %s: %w", name, err)))
				return
			}
			envelope, bad := audit.ParseRecord(rec.Body)
			if bad == nil && seq > 0 && (envelope.Seq != seq+1 || envelope.Prev != head) {
				bad = eventlog.ErrCorrupt
			}
			if bad != nil {
				yield(nil, fmt.Errorf("%s, record %d: %w", name, rec.Seq, bad))
				return
			}
			r := &stored{envelope, rec.Position, audit.Leaf(rec.Body), rec.Payload, rec.Body}
			seq, head = r.Seq, r.Leaf
			if !yield(r, nil) {
				return
			}
		}
	}
}

// traceParent writes a W3C trace context (https://www.w3.org/TR/trace-context/#traceparent-header).
func traceParent(id [16]byte, span [8]byte) string {
	b := append(make([]byte, 0, 55), "00-"...)
	b = hex.AppendEncode(b, id[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, span[:])
	return string(append(b, "-01"...))
}

// A follower drives the part of a store that catches up behind its appends, such as an index.
type follower struct {
	feed *feed.Feed
	step func(context.Context) bool
}

// Step lets the store catch up a little.
func (f *follower) Step(ctx context.Context) bool { return f.step(ctx) }

// Run lets the store catch up whenever the log has grown, until ctx ends.
func (f *follower) Run(ctx context.Context) error {
	for {
		more := f.feed.More()
		for ctx.Err() == nil && f.step(ctx) {
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
