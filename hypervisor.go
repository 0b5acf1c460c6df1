package hypervisor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/internal/executor"
	"github.com/agenthypervisor/hypervisor/internal/feed"
	"github.com/agenthypervisor/hypervisor/memlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/sqlitelog"
	"github.com/agenthypervisor/hypervisor/system"
)

var (
	// ErrNotFound is returned for a session, action or approval that does not exist.
	ErrNotFound = errors.New("not found")
	// ErrStoreUnavailable is returned when a command could not be recorded. What it asked for did not happen, or, for an
	// outcome, is recorded later.
	ErrStoreUnavailable = errors.New("store unavailable")
	// ErrOverloaded is returned when too many commands or calls are under way. Nothing was decided.
	ErrOverloaded = errors.New("overloaded")
	// ErrClosed is returned by every command after Close has begun, by what still waits when it ends, and by everything then.
	ErrClosed = errors.New("hypervisor is closed")
)

// A Hypervisor is a node: its sessions, its agents' standings, its log. Safe for concurrent use.
type Hypervisor struct {
	opts        Options
	store       eventlog.Store
	atOnce      bool // the store answers without waiting for anything, so who waits for a record may as well hand it over
	incarnation string
	clockBehind bool // the wall clock was behind the newest record when this process began

	committer *eventlog.Committer
	exec      *executor.Executor
	timers    *executor.Timers
	feed      *feed.Feed
	rim       []stepper

	system   *systemHandle
	agents   *standings
	reports  *reporting
	kills    *killSwitch
	reviews  reviewing
	ruling   sync.Mutex // held over SetRules, so that the newest record of rules is of those in force
	rules    atomic.Pointer[ruleSet]
	equipper atomic.Pointer[Equipper]

	addresses  atomic.Pointer[Addresses]   // that may be called; nil: none
	reputation atomic.Pointer[Reputation]  // asked at every join; nil: none is
	drifts     atomic.Pointer[DriftSource] // asked at joins and after calls; nil: none is
	bodies     sync.Pool                   // of *[]byte: records' bytes on their way to the store
	gate       sync.RWMutex                // held for writing while closing is set, so that no one enters unseen
	closing    atomic.Bool                 // nobody enters any more
	busy       sync.WaitGroup              // who has entered, and calls without an answer
	cutOff     atomic.Bool                 // a call that begins is cancelled at once

	renewing sync.Mutex // held while an alias's successor is opened

	mu       sync.Mutex
	sessions map[string]*Session
	resting  map[string]weak.Pointer[Session] // what was let go and somebody may still hold: one session has one handle
	loaded   map[*Session]struct{}            // those with a state in memory
	// laters are tasks that wait for a timer, by its key.
	laters    map[string]func(context.Context)
	nextLater uint64
	asleep    []string // sessions in which something is due and that are not loaded
	rousing   int      // tasks that load them

	stopWork, stopLog context.CancelFunc
	worked            chan struct{} // closed when executor and timers have ended
	stopped           chan struct{} // closed when the rest of the rim has: nothing is recorded any more
}

// A stepper is a part of the rim: Step does one thing and says whether there was one; Run loops over it.
type stepper interface {
	Step(ctx context.Context) bool
	Run(ctx context.Context) error
}

type ruleSet struct {
	rules   policy.Rules
	version string
}

// Open makes a hypervisor. It takes over the data directory, records that it runs, and finds out what earlier processes left
// undone. It returns the store's error if that cannot be opened, such as sqlitelog.ErrHeld for a directory another process holds.
func Open(ctx context.Context, opts *Options) (*Hypervisor, error) {
	o := opts.resolved()
	store, err := openStore(ctx, o)
	if err != nil {
		return nil, err
	}
	hv := &Hypervisor{opts: o, store: store, sessions: map[string]*Session{}, resting: map[string]weak.Pointer[Session]{}, laters: map[string]func(context.Context){},
		loaded: map[*Session]struct{}{}, worked: make(chan struct{}), stopped: make(chan struct{}),
		committer: eventlog.NewCommitter(store), exec: executor.New(), feed: feed.New()}
	_, hv.atOnce = store.(*memlog.Store)
	hv.exec.Choose = o.Choose
	hv.timers = executor.NewTimers(o.Clock, hv.tick)
	hv.system = &systemHandle{hv: hv, seen: map[string]system.Seen{}}
	hv.agents = &standings{hv: hv, handles: map[policy.DID]*agentHandle{}}
	hv.reports = &reporting{hv: hv, queued: map[policy.DID]struct{}{}}
	hv.kills = newKillSwitch(hv)
	if o.Dir != "" {
		if err := hv.kills.open(o.Dir); err != nil {
			return nil, errors.Join(err, store.Close())
		}
	}
	hv.rules.Store(&ruleSet{rules: policy.NoRules{}})
	hv.rim = []stepper{hv.committer, hv.exec, hv.timers, hv.feed}
	if f, ok := store.(interface{ Step(context.Context) bool }); ok {
		hv.rim = append(hv.rim, &follower{feed: hv.feed, step: f.Step})
	}
	var id [8]byte
	if err := hv.random(id[:]); err != nil {
		return nil, errors.Join(err, hv.kills.close(), store.Close())
	}
	hv.incarnation = hex.EncodeToString(id[:])
	hv.run()
	if err := hv.begin(ctx); err != nil {
		hv.endWork(true)
		hv.halt()
		return nil, errors.Join(err, hv.kills.close(), store.Close())
	}
	return hv, nil
}

func openStore(ctx context.Context, o Options) (eventlog.Store, error) {
	switch {
	case o.Store != nil:
		return o.Store, nil
	case o.Dir == "":
		return memlog.New(), nil
	}
	return sqlitelog.Open(ctx, o.Dir, nil)
}

// begin records the start and arms what earlier processes owe.
func (hv *Hypervisor) begin(ctx context.Context) error {
	if err := hv.system.load(ctx); err != nil {
		return fmt.Errorf("reading the system stream: %w", err)
	}
	newest := hv.system.state.Time
	if k := hv.system.state.Killed; k != nil {
		hv.kills.learn(*k)
	}
	if hv.opts.Clock.Now().Before(newest) {
		hv.clockBehind = true
		hv.opts.Logger.Warn("the clock is behind the newest record; unused grants end", "record", newest)
	}
	if _, err := hv.system.submit(ctx, policy.System, system.Start{Incarnation: hv.incarnation, Program: hv.opts.Program}); err != nil {
		return fmt.Errorf("recording the start: %w", err)
	}
	for head, err := range hv.store.Heads(ctx) {
		if err != nil {
			return fmt.Errorf("reading the heads: %w", err)
		}
		hv.arm(head)
	}
	return hv.kills.begin()
}

// run starts the goroutines that own the rim's. endWork ends the parts that do what is owed, then halt those that record it.
func (hv *Hypervisor) run() {
	var work, log context.Context
	work, hv.stopWork = context.WithCancel(context.Background())
	log, hv.stopLog = context.WithCancel(context.Background())
	if hv.opts.Stepped {
		close(hv.worked)
		close(hv.stopped)
		return
	}
	does := func(part stepper) bool { return part == hv.exec || part == hv.timers }
	go hv.runParts(work, hv.worked, slices.DeleteFunc(slices.Clone(hv.rim), func(part stepper) bool { return !does(part) }))
	go hv.runParts(log, hv.stopped, slices.DeleteFunc(slices.Clone(hv.rim), does))
}

// runParts runs parts until ctx ends, and closes ended when all have.
func (hv *Hypervisor) runParts(ctx context.Context, ended chan<- struct{}, parts []stepper) {
	defer close(ended)
	var running sync.WaitGroup
	for _, part := range parts {
		running.Go(func() {
			if err := part.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				hv.opts.Logger.Error("a part of the hypervisor has ended", "part", fmt.Sprintf("%T", part), "error", err)
			}
		})
	}
	running.Wait()
}

// endWork ends executor and timers. They are waited for unless a call is left behind, which the executor waits for itself.
func (hv *Hypervisor) endWork(all bool) {
	hv.stopWork()
	if all {
		<-hv.worked
	}
}

// halt ends the parts that record, once all that waits for the store is in it.
func (hv *Hypervisor) halt() {
	hv.stopLog()
	<-hv.stopped
}

// enter lets a command in, which leaves again; ErrClosed once Close has begun.
func (hv *Hypervisor) enter() error {
	hv.gate.RLock()
	defer hv.gate.RUnlock()
	if hv.closing.Load() {
		return ErrClosed
	}
	hv.busy.Add(1)
	return nil
}

func (hv *Hypervisor) leave() { hv.busy.Done() }

// reserve takes a place in the committer's queue, or returns ErrOverloaded, or ErrClosed.
func (hv *Hypervisor) reserve() error {
	err := hv.committer.Reserve()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, eventlog.ErrStopped):
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrOverloaded, err)
}

// away says what the store's error means to a caller.
func away(err error) error {
	if errors.Is(err, eventlog.ErrClosed) || errors.Is(err, eventlog.ErrStopped) {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return fmt.Errorf("%w: %w", ErrStoreUnavailable, err)
}

// Step does one thing that waits to be done: an append, a call, a deadline, a signal. It returns false if there was none. It is
// for a hypervisor opened with Stepped.
func (hv *Hypervisor) Step(ctx context.Context) bool {
	first := 0
	if hv.opts.Choose != nil {
		first = hv.opts.Choose(len(hv.rim))
	}
	for i := range hv.rim {
		if hv.rim[(first+i)%len(hv.rim)].Step(ctx) {
			return true
		}
	}
	return false
}

// await waits for done, doing what waits to be done meanwhile if nobody else does.
func (hv *Hypervisor) await(ctx context.Context, done <-chan struct{}) error {
	if !hv.opts.Stepped {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-hv.stopped: // nobody is left to do it
		}
		select {
		case <-done:
			return nil
		default:
			return ErrClosed
		}
	}
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if !hv.Step(ctx) {
			return errors.New("hypervisor: nothing is left to do, and what is waited for has not happened")
		}
	}
}

// Logger returns the options' logger, never nil.
func (hv *Hypervisor) Logger() *slog.Logger { return hv.opts.Logger }

// random fills b from the options' source.
func (hv *Hypervisor) random(b []byte) error {
	if _, err := io.ReadFull(hv.opts.Random, b); err != nil {
		return fmt.Errorf("reading randomness: %w", err)
	}
	return nil
}

// SetRules puts an operator's policies in force for all sessions, from their next command on; version is what approvals are
// bound to, so grants for calls under other rules die. An operator's.
func (hv *Hypervisor) SetRules(ctx context.Context, caller policy.Caller, rules policy.Rules, version string) (policy.Decision, error) {
	if err := hv.enter(); err != nil {
		return policy.Decision{}, err
	}
	defer hv.leave()
	hv.ruling.Lock()
	defer hv.ruling.Unlock()
	d, err := hv.system.submit(ctx, caller, system.LoadRules{Version: version})
	if err == nil && d.Allowed {
		hv.rules.Store(&ruleSet{rules, version})
	}
	return d, err
}

// NoteConfig records that a configuration is in force, by the SHA-256 of its text, unless it is already. An operator's.
func (hv *Hypervisor) NoteConfig(ctx context.Context, caller policy.Caller, digest audit.Hash) (policy.Decision, error) {
	return hv.system.submit(ctx, caller, system.LoadConfig{Digest: digest})
}

// Close ends the hypervisor: it admits nothing more, lets running calls finish until ctx ends, then cancels them, records its
// end and closes the store. What could not be finished is found by the next start.
func (hv *Hypervisor) Close(ctx context.Context) error {
	hv.gate.Lock()
	begun := hv.closing.Swap(true)
	hv.gate.Unlock()
	if begun {
		return ErrClosed
	}
	all := hv.drain(ctx)
	hv.endWork(all)
	end := context.WithoutCancel(ctx)
	hv.putAway(end)
	_, err := hv.system.submit(end, policy.System, system.Stop{})
	hv.halt()
	return errors.Join(err, hv.kills.close(), hv.store.Close())
}

// drain waits for what has entered and for the running calls, and cancels the calls that outlast ctx. It returns false if some
// ignore that, and are left behind.
func (hv *Hypervisor) drain(ctx context.Context) (all bool) {
	if hv.opts.Stepped {
		for hv.Step(ctx) {
		}
		return true
	}
	idle := make(chan struct{})
	go func() { // ends with the last call, which the cancelling below brings about
		hv.busy.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		return true
	case <-ctx.Done():
	}
	hv.cutOff.Store(true)
	for _, s := range hv.handles() {
		s.mu.Lock()
		s.cancelCalls(errClosing)
		s.mu.Unlock()
	}
	select {
	case <-idle:
		return true
	case <-hv.opts.Clock.After(cancelPatience):
		hv.opts.Logger.Warn("calls that ignore their cancellation are left behind; their outcome is recorded as unknown by the next start")
		return false
	}
}

// putAway writes what only memory holds: outcomes the store did not take before, refusals that were counted, and snapshots.
func (hv *Hypervisor) putAway(ctx context.Context) {
	for _, s := range hv.handles() {
		if err := s.putAway(ctx); err != nil {
			hv.opts.Logger.Warn("putting a session away", "session", s.id, "error", err)
		}
	}
}

func (hv *Hypervisor) handles() []*Session {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	all := make([]*Session, 0, len(hv.sessions))
	for _, s := range hv.sessions {
		all = append(all, s)
	}
	return all
}

// now is the time of a command in a stream whose newest record is of last: it never goes back.
func (hv *Hypervisor) now(last time.Time) time.Time {
	now := hv.opts.Clock.Now().UTC().Truncate(time.Microsecond)
	if now.Before(last) {
		return last
	}
	return now
}
