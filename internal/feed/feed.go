package feed

import (
	"context"
	"sync"
	"sync/atomic"
)

// A Feed is a signal that the log has grown. Grew may be called from anywhere; Step or Run passes it on. Safe for
// concurrent use; see New.
type Feed struct {
	wake chan struct{} // holds one token when the log grew since the last Step

	awaited atomic.Bool // somebody has called More since the last signal was passed on

	mu   sync.Mutex
	grew chan struct{} // closed and replaced by each Step that passes a signal on
}

// New returns a feed of a log that has not grown yet.
func New() *Feed { return &Feed{wake: make(chan struct{}, 1), grew: make(chan struct{})} }

// Grew notes that the log has grown. It does not block.
func (f *Feed) Grew() {
	if !f.awaited.Load() {
		return // whoever calls More from now on reads what there is
	}
	select {
	case f.wake <- struct{}{}:
	default: // noted already
	}
}

// More returns a channel that is closed when the log has grown since More was called: a follower calls it, reads to the
// log's end, then waits on it.
func (f *Feed) More() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.awaited.Store(true)
	return f.grew
}

// Step passes a signal on to all who wait. It returns false if there was none.
func (f *Feed) Step(context.Context) bool {
	select {
	case <-f.wake:
		f.pass()
		return true
	default:
		return false
	}
}

func (f *Feed) pass() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.awaited.Store(false)
	close(f.grew)
	f.grew = make(chan struct{})
}

// Run passes signals on until ctx ends.
func (f *Feed) Run(ctx context.Context) error {
	for {
		select {
		case <-f.wake:
			f.pass()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
