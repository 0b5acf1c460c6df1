package executor

import (
	"container/heap"
	"context"
	"math"
	"sync"
	"time"
)

// A Clock tells the time and wakes sleepers. Implementations are safe for concurrent use.
type Clock interface {
	// Now returns the time; it never goes back while the process lives.
	Now() time.Time
	// After returns a channel that receives once d has passed.
	After(d time.Duration) <-chan time.Time
}

// Timers fire keys when their time has come. One key has one time. Safe for concurrent use.
type Timers struct {
	clock Clock
	fire  func(ctx context.Context, key string)
	wake  chan struct{}

	mu     sync.Mutex
	heap   alarms
	keys   map[string]*alarm
	asleep int64 // until when Run sleeps, in Unix nanoseconds: it need not be told of what is later
}

// An alarm is small: there is one for each open session, loaded or not.
type alarm struct {
	key   string
	at    int64 // Unix nanoseconds
	index int
}

// NewTimers returns timers that call fire from Step's goroutine.
func NewTimers(clock Clock, fire func(ctx context.Context, key string)) *Timers {
	return &Timers{clock: clock, fire: fire, wake: make(chan struct{}, 1), keys: map[string]*alarm{}}
}

// Set makes key fire at a time instead of whatever was set before; the zero time: not at all.
func (t *Timers) Set(key string, at time.Time) {
	t.mu.Lock()
	t.set(key, at)
	tell := !at.IsZero() && at.UnixNano() < t.asleep
	t.mu.Unlock()
	if !tell {
		return
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *Timers) set(key string, at time.Time) {
	a, ok := t.keys[key]
	switch {
	case at.IsZero() && !ok:
	case at.IsZero():
		heap.Remove(&t.heap, a.index)
		delete(t.keys, key)
	case !ok:
		a = &alarm{key: key, at: at.UnixNano()}
		t.keys[key] = a
		heap.Push(&t.heap, a)
	default:
		a.at = at.UnixNano()
		heap.Fix(&t.heap, a.index)
	}
}

// Next returns when the earliest alarm is due; zero: there is none.
func (t *Timers) Next() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.heap) == 0 {
		return time.Time{}
	}
	return time.Unix(0, t.heap[0].at).UTC()
}

// sleep is Next for Run, which need not be told of an alarm that is not before that.
func (t *Timers) sleep() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.heap) == 0 {
		t.asleep = math.MaxInt64
		return time.Time{}
	}
	t.asleep = t.heap[0].at
	return time.Unix(0, t.asleep).UTC()
}

// Step fires the earliest key if its time has come. It returns false if none was due.
func (t *Timers) Step(ctx context.Context) bool {
	t.mu.Lock()
	if len(t.heap) == 0 || t.clock.Now().UnixNano() < t.heap[0].at {
		t.mu.Unlock()
		return false
	}
	a := heap.Pop(&t.heap).(*alarm)
	delete(t.keys, a.key)
	t.mu.Unlock()
	t.fire(ctx, a.key)
	return true
}

// Run fires keys as their time comes until ctx ends.
func (t *Timers) Run(ctx context.Context) error {
	for {
		for t.Step(ctx) {
		}
		var due <-chan time.Time
		if next := t.sleep(); !next.IsZero() {
			due = t.clock.After(next.Sub(t.clock.Now()))
		}
		select {
		case <-due:
		case <-t.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type alarms []*alarm

func (h alarms) Len() int           { return len(h) }
func (h alarms) Less(i, j int) bool { return h[i].at < h[j].at }
func (h alarms) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push and Pop are container/heap's.
func (h *alarms) Push(x any) {
	a := x.(*alarm)
	a.index = len(*h)
	*h = append(*h, a)
}

// Pop is container/heap's.
func (h *alarms) Pop() any {
	last := len(*h) - 1
	a := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return a
}
