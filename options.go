package hypervisor

import (
	"crypto/rand"
	"io"
	"log/slog"
	"time"

	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
)

// A Clock tells the time and wakes sleepers. Implementations are safe for concurrent use.
type Clock interface {
	// Now returns the time. A Clock that goes back is read as standing still.
	Now() time.Time
	// After returns a channel that receives once d has passed.
	After(d time.Duration) <-chan time.Time
}

// Options are what Open can be told. The zero value, or nil, is a hypervisor in memory.
type Options struct {
	// Dir is the data directory: of the embedded store, and of the kill file. Empty: everything is kept in memory and gone with the
	// process, kills whose records a Store did not take included.
	Dir string
	// Store is used instead of the embedded one in Dir; the hypervisor closes it. Nil: Dir decides.
	Store eventlog.Store
	// Operators are those who can witness each other's administrative actions. With fewer than two, such an action is
	// recorded as unwitnessed.
	Operators []policy.DID
	// MaxLoaded bounds the sessions held in memory beyond those that are busy. Zero: 10,000.
	MaxLoaded int
	// History says whether the receipts that are presented at a join hold. Nil: nobody can say, and they change nothing unless they
	// contradict each other.
	History ReceiptVerifier
	// Logger gets what an operator of the process should know. Nil: nothing is logged.
	Logger *slog.Logger
	// Clock is the time. Nil: the machine's.
	Clock Clock
	// Random is where keys, ids and salts come from. Nil: crypto/rand. It MUST be unpredictable but in a simulation.
	Random io.Reader
	// Program is recorded as what runs the node. Empty: "library".
	Program string
	// Stepped makes the hypervisor start no goroutine: every call that must wait runs Step meanwhile, and calls to the
	// outside run in it. For simulators and tests that drive one from a single goroutine.
	Stepped bool
	// Choose says, of a Stepped hypervisor, which of n things that wait to be done is done next, from 0: what runs in goroutines of
	// its own otherwise may go in any order. Nil: the first. For simulators, whose runs repeat: nothing is left to the garbage collector then.
	Choose func(n int) int
}

const (
	defaultMaxLoaded = 10_000
	// snapshotEvery is how many records a load reads at most behind a snapshot, but for those written since the last.
	snapshotEvery = 2048
	// cancelPatience is how long Close waits for calls after it has cancelled them.
	cancelPatience = 5 * time.Second
	// settleRetry is how long an outcome that could not be recorded waits for the store.
	settleRetry = time.Second
)

func (o *Options) resolved() Options {
	var r Options
	if o != nil {
		r = *o
	}
	if r.MaxLoaded <= 0 {
		r.MaxLoaded = defaultMaxLoaded
	}
	if r.Logger == nil {
		r.Logger = slog.New(slog.DiscardHandler)
	}
	if r.Clock == nil {
		r.Clock = &wallClock{start: time.Now()}
	}
	if r.Random == nil {
		r.Random = rand.Reader
	}
	if r.Program == "" {
		r.Program = "library"
	}
	return r
}

// wallClock begins at the wall clock's time and advances by the monotonic clock, so that nobody who sets the wall clock moves
// a deadline.
type wallClock struct{ start time.Time }

func (c *wallClock) Now() time.Time {
	return c.start.Add(time.Since(c.start)).UTC().Truncate(time.Microsecond)
}

func (c *wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
