package executor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

const (
	// MaxTasks bounds the tasks that wait or run.
	MaxTasks = 8192
	// maxIdle bounds the goroutines that wait for tasks.
	maxIdle = 256
)

// ErrFull is returned when as many tasks wait or run as may.
var ErrFull = errors.New("too many calls are under way")

// A Task is something owed. It returns soon after ctx ends.
type Task func(ctx context.Context)

// An Executor runs tasks in the order they were offered, each in a goroutine of Run's that runs no other meanwhile or, one at a time and in
// the order of Choose, in Step's caller's.
// The zero value is not usable; see New. Safe for concurrent use.
type Executor struct {
	// Choose says which of n tasks that wait Step runs, from 0; nil: the first. Set before the first Step.
	Choose func(n int) int

	wake chan struct{} // holds one token when there may be work

	mu    sync.Mutex
	queue []Task // from first on
	first int
	taken int       // places reserved, waiting or running
	idle  chan Task // to goroutines of Run's that have nothing to do; nil: Run does not loop

	idlers atomic.Int64 // goroutines of Run's that wait for tasks
}

// New returns an executor without tasks.
func New() *Executor { return &Executor{wake: make(chan struct{}, 1)} }

// Reserve takes a place for a task, or returns ErrFull. It is given to Offer or Release.
func (x *Executor) Reserve() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.taken >= MaxTasks {
		return ErrFull
	}
	x.taken++
	return nil
}

// Insist takes a place where there may be none: for what must not wait until calls have ended.
func (x *Executor) Insist() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.taken++
}

// Release gives back a place that was reserved and not used.
func (x *Executor) Release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.taken--
}

// Offer puts a task behind all others, in the place that was reserved for it. It does not block.
func (x *Executor) Offer(t Task) {
	x.mu.Lock()
	if x.first == len(x.queue) { // nobody is before it, so who has nothing to do takes it without Run's waking up
		select {
		case x.idle <- t:
			x.mu.Unlock()
			return
		default:
		}
	}
	if len(x.queue) == cap(x.queue) && x.first > len(x.queue)/2 { // make room by moving, rather than by growing
		n := copy(x.queue, x.queue[x.first:])
		clear(x.queue[n:])
		x.queue, x.first = x.queue[:n], 0
	}
	x.queue = append(x.queue, t)
	x.mu.Unlock()
	select {
	case x.wake <- struct{}{}:
	default: // a token is there already
	}
}

func (x *Executor) next() (Task, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.first == len(x.queue) {
		return nil, false
	}
	t := x.queue[x.first]
	x.queue[x.first] = nil
	if x.first++; x.first == len(x.queue) {
		x.queue, x.first = x.queue[:0], 0
	}
	return t, true
}

// chosen is next in Step's order.
func (x *Executor) chosen() (Task, bool) {
	if x.Choose != nil {
		x.mu.Lock()
		if waits := x.queue[x.first:]; len(waits) > 1 {
			i := x.Choose(len(waits))
			waits[0], waits[i] = waits[i], waits[0]
		}
		x.mu.Unlock()
	}
	return x.next()
}

// Step runs the next task to its end. It returns false if none waited. A task may call Step.
func (x *Executor) Step(ctx context.Context) bool {
	t, ok := x.chosen()
	if !ok {
		return false
	}
	defer x.Release()
	t(ctx)
	return true
}

// Run starts tasks as they come until ctx ends, then waits for those that run. Tasks that still waited are not started: what
// they owe is owed at the next start.
func (x *Executor) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	idle := make(chan Task)
	x.employ(idle)
	defer close(idle)
	defer x.employ(nil)
	for {
		for t, ok := x.next(); ok; t, ok = x.next() {
			select {
			case idle <- t:
			default:
				running.Go(func() { x.work(ctx, t, idle) })
			}
		}
		select {
		case <-x.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// employ sets where Offer finds who has nothing to do.
func (x *Executor) employ(idle chan Task) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.idle = idle
}

// waiting returns the next task unless ctx has ended.
func (x *Executor) waiting(ctx context.Context) (Task, bool) {
	if ctx.Err() != nil {
		return nil, false
	}
	return x.next()
}

// work runs a task, and then those that come, unless enough others wait for them already. A goroutine of its own for each task
// would grow its stack anew each time, which costs more than most tasks.
func (x *Executor) work(ctx context.Context, t Task, more <-chan Task) {
	for ok := true; ok; {
		t(ctx)
		x.Release()
		if t, ok = x.waiting(ctx); ok { // mostly what the task just offered
			continue
		}
		if x.idlers.Add(1) > maxIdle {
			x.idlers.Add(-1)
			return
		}
		t, ok = <-more
		x.idlers.Add(-1)
	}
}
