package eventlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// MaxQueue bounds the records that wait for the store, over all streams.
	MaxQueue = 16_384
	// MaxBatch bounds the records of one transaction.
	MaxBatch = 512
	// maxBatchBytes bounds the bytes of one transaction, but for its last record.
	maxBatchBytes = 8 << 20
	// linger is how long Run lets a record wait for company that need not be durable: half of what such a record may wait until
	// it is handed to the disk (SPEC §1 "Consistency"), the other half is the store's.
	linger = 5 * time.Millisecond
)

var (
	// ErrOverloaded is returned when as many records wait as may.
	ErrOverloaded = errors.New("too many records wait for the store")
	// ErrStopped is returned for a record that still waited when the committer's Run ended.
	ErrStopped = errors.New("committer has stopped")
)

// A Committer hands the records of many streams to a log, in order and in groups. It starts no goroutine: Run loops over
// Step, or a simulator calls Step itself.
type Committer struct {
	log  Log
	wake chan struct{} // holds one token when there may be work

	mu      sync.Mutex
	queue   []queued
	urgent  bool  // something in the queue is waited for
	slots   int   // reserved and queued
	stopped error // set when Run has ended; fails what comes later

	stepping sync.Mutex // held by who steps, and guards what follows
	batch    []queued   // reused
	recs     []Append
}

type queued struct {
	lane *Lane
	rec  Append
	done func(error)
}

// NewCommitter returns a committer that appends to log.
func NewCommitter(log Log) *Committer {
	return &Committer{log: log, wake: make(chan struct{}, 1)}
}

// A Lane is one loaded handle's way into the log. Once one of its records fails, every record behind it fails too and none
// reaches the log: it was decided on a past that never was. A handle that loads its stream anew takes a new lane; what still
// waits in the old one stays behind the failed record.
type Lane struct {
	mu  sync.Mutex
	err error
}

// Err returns why the lane is dead, nil if it is not.
func (l *Lane) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *Lane) kill(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

// Reserve takes a place in the queue, or returns ErrOverloaded. It is taken before a command is decided: once state has the
// record there is no way back, so a full queue must be found out first. Every place is given to Enqueue or Release.
func (c *Committer) Reserve() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped != nil {
		return c.stopped
	}
	if c.slots >= MaxQueue {
		return ErrOverloaded
	}
	c.slots++
	return nil
}

// Release gives back a place that was reserved and not used.
func (c *Committer) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots--
}

// Enqueue puts a record behind all others, in the place that was reserved for it. done is called once, from Step, with
// Append's error for the record, or with the error of the record of its lane that failed before it; it must not block.
// Records of one lane are enqueued in the order of their sequence numbers: the caller holds its stream's lock.
func (c *Committer) Enqueue(lane *Lane, rec Append, done func(error)) {
	if c.put(queued{lane, rec, done}, true) {
		c.tell()
	}
}

// Leave is Enqueue for who hands the record over by itself, in front of a log that answers at once: Run is not woken, and the
// caller calls Help once it holds no lock that done wants.
func (c *Committer) Leave(lane *Lane, rec Append, done func(error)) {
	c.put(queued{lane, rec, done}, false)
}

// Help appends what waits, or has who is at it, or Run, do so.
func (c *Committer) Help(ctx context.Context) {
	for c.TryStep(ctx) {
	}
	c.Hurry()
}

// put queues a record, or fails it. It reports whether Run is to be told, which it is never of a record that is not Run's.
func (c *Committer) put(q queued, runs bool) (tell bool) {
	c.mu.Lock()
	stopped := c.stopped
	if stopped == nil {
		c.queue = append(c.queue, q)
	} else {
		c.slots--
	}
	if runs {
		hurry := q.rec.Durable || len(c.queue) >= MaxBatch
		tell = hurry && !c.urgent || len(c.queue) == 1
		c.urgent = c.urgent || hurry
	}
	c.mu.Unlock()
	if stopped != nil {
		q.lane.kill(stopped)
		q.done(stopped)
		return false
	}
	return tell
}

// Hurry has Run append what is queued without waiting for company: somebody waits for it.
func (c *Committer) Hurry() {
	c.mu.Lock()
	tell := len(c.queue) > 0 && !c.urgent
	c.urgent = c.urgent || tell
	c.mu.Unlock()
	if tell {
		c.tell()
	}
}

// tell wakes Run.
func (c *Committer) tell() {
	select {
	case c.wake <- struct{}{}:
	default: // a token is there already
	}
}

// Step appends the next group and tells each record's owner. It returns false if nothing waited. Of those who call it at once one
// steps and the others wait. The end of ctx tears no group: it is of many callers.
func (c *Committer) Step(ctx context.Context) bool {
	c.stepping.Lock()
	defer c.stepping.Unlock()
	return c.step(ctx)
}

// TryStep is Step that returns false, too, while another steps: for who would otherwise wait for Run to take up a record, in
// front of a log that answers at once.
func (c *Committer) TryStep(ctx context.Context) bool {
	if !c.stepping.TryLock() {
		return false
	}
	defer c.stepping.Unlock()
	return c.step(ctx)
}

func (c *Committer) step(ctx context.Context) bool {
	if !c.take() {
		return false
	}
	if ctx.Done() != nil {
		ctx = context.WithoutCancel(ctx)
	}
	live := c.batch[:0]
	c.recs = c.recs[:0]
	for _, q := range c.batch {
		if err := q.lane.Err(); err != nil {
			c.finish(q, err)
			continue
		}
		live = append(live, q)
		c.recs = append(c.recs, q.rec)
	}
	if len(live) > 0 {
		errs := c.log.Append(ctx, c.recs)
		for i, q := range live {
			var err error
			if errs != nil {
				err = errs[i]
			}
			// A store must not let a record in behind a failed one of its stream; should one do so, its owner must not believe it.
			if dead := q.lane.Err(); dead != nil {
				err = dead
			}
			c.finish(q, err)
		}
	}
	clear(c.batch) // let go of the bodies
	clear(c.recs)
	return true
}

// take moves the next group from the queue to c.batch.
func (c *Committer) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, size := 0, 0
	for n < len(c.queue) && n < MaxBatch && size < maxBatchBytes {
		size += len(c.queue[n].rec.Body) + len(c.queue[n].rec.Payload)
		n++
	}
	c.batch = append(c.batch[:0], c.queue[:n]...)
	rest := copy(c.queue, c.queue[n:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	c.slots -= n
	c.urgent = c.urgent && rest > 0
	return n > 0
}

func (c *Committer) finish(q queued, err error) {
	if err != nil {
		q.lane.kill(fmt.Errorf("a record before it failed: %w", err))
	}
	q.done(err)
}

// Run appends groups until ctx ends, then appends what waits and returns. What comes after that fails with ErrStopped. Records that
// need not be durable wait up to linger for others, unless there is one in the queue that must be, or Hurry is called.
func (c *Committer) Run(ctx context.Context) error {
	due := time.NewTimer(linger)
	defer due.Stop()
	for {
		waiting, urgent := c.waiting()
		for urgent && c.Step(ctx) {
			waiting, urgent = c.waiting()
		}
		if waiting {
			due.Reset(linger)
		}
		select {
		case <-c.wake:
		case <-due.C:
			for c.Step(ctx) {
			}
		case <-ctx.Done():
			c.mu.Lock()
			c.stopped = ErrStopped
			c.mu.Unlock()
			for c.Step(ctx) {
			}
			return ctx.Err()
		}
	}
}

// waiting reports whether anything is queued, and whether it is to be appended at once.
func (c *Committer) waiting() (any, urgent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) > 0, c.urgent
}
