package sim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"runtime/debug"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/memlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

const (
	defaultTurns = 120
	population   = 50 // agents
	mostNested   = 2  // late answers within late answers
	mostSteps    = 20_000
	traceLines   = 100_000
)

// A world is one machine, its agents and its tools, for one history.
type world struct {
	dice
	plan    *plan
	odds    map[fault]int
	likings []int // how often each deed is done, by its place in deeds
	turn    int
	healthy bool // nothing fails any more

	log    eventlog.Store
	clock  *hypervisortest.Clock
	hv     *hypervisor.Hypervisor
	boot   uint64 // of the process that lives; rises with each
	dir    string // where the kill file is; empty: there is none
	logDir string // where the embedded store is; empty: the store is in memory
	copies int    // of it, one for each process that has died
	torn   []byte // the WAL as a power cut has left it; nil: none has
	full   int    // appends that the disk is full for yet
	dark   int    // turns for which nobody answers at the addresses yet
	gone   int    // turns for which the tools cannot be reached yet
	depth  int    // of answers that wait for others
	steps  int    // that the turn has taken, those that calls take themselves as well

	agents   []policy.DID
	ids      []string                      // sessions that were acknowledged
	equipped map[string]uint64             // by session, the boot in which its tools were brought
	number   int                           // of the newest request
	given    map[string]string             // ids that were answered, and to what
	effects  map[string]int                // what happened outside, by tool and arguments
	keys     map[string]string             // that addresses were called with, and for what effect
	served   map[string]string             // what the addresses that know keys again have done, by key
	runs     []run                         // sagas that were acknowledged
	asked    []asked                       // calls that wait for an approval
	stops    map[policy.Scope]stop         // kills that were acknowledged and not lifted
	pressed  map[policy.Scope][]policy.DID // kills that were asked for, and who is to stand in
	apart    map[policy.DID]int            // quarantines that were acknowledged, and how many records there were
	files    map[string]string             // of the drive

	thread string // the goroutine of the history
	places uint   // where another one could have come
	book   *book
	stats  *stats
	wrong  *violation
	sum    hash.Hash
	keeps  bool // the trace is kept for reading
	trace  []string
}

// An asked is a call that needs an approval.
type asked struct {
	session string
	by      policy.DID
	act     session.Act
}

// A run is a saga that was acknowledged.
type run struct {
	session, id string
}

func newWorld(p *plan, keepTrace bool) *world {
	w := &world{dice: p.dice(wholeSeed), plan: p, turn: wholeSeed, log: memlog.New(), clock: hypervisortest.NewClock(), boot: p.seed << 20,
		equipped: map[string]uint64{}, given: map[string]string{}, effects: map[string]int{}, keys: map[string]string{}, served: map[string]string{}, stops: map[policy.Scope]stop{}, pressed: map[policy.Scope][]policy.DID{}, apart: map[policy.DID]int{},
		files: map[string]string{}, stats: newStats(), sum: sha256.New(), keeps: keepTrace}
	w.book = newBook(w)
	w.odds = weather(w.dice)
	for i := range population {
		w.agents = append(w.agents, policy.DID(fmt.Sprintf("did:mesh:a%02d", i)))
	}
	for _, d := range deeds {
		w.likings = append(w.likings, d.often*w.deeds.IntN(4)) // a seed that never does something does more of the rest
	}
	if slices.Max(w.likings) == 0 {
		w.likings[0] = 1
	}
	return w
}

// note writes a line of the trace, which the history's hash is of.
func (w *world) note(format string, args ...any) {
	w.sameThread()
	line := fmt.Sprintf(format, args...)
	w.sum.Write([]byte(line))
	w.sum.Write([]byte{'\n'})
	if w.keeps && len(w.trace) < traceLines {
		w.trace = append(w.trace, fmt.Sprintf("%4d %s %s", w.turn, w.clock.Now().Format("15:04:05.000"), line))
	}
}

func (w *world) noteRecord(rec *eventlog.Append) {
	w.sum.Write(rec.Hash[:])
	if w.keeps {
		w.trace = append(w.trace, fmt.Sprintf("%4d %s record %s %d %s", w.turn, w.clock.Now().Format("15:04:05.000"), rec.Stream, rec.Seq, rec.Body))
	}
}

// history lives through the plan's turns and the aftermath, and returns the hash of all that happened.
func (w *world) history() string {
	began := time.Now()
	w.thread = goroutine()
	w.unwound(func() {
		defer w.keepsLog()()
		defer w.keepsKills()()
		w.live(func() {}) // the first process
		for turn := range w.plan.turns {
			if w.plan.takes(turn) && w.wrong == nil {
				w.turn, w.dice, w.steps = turn, w.plan.dice(turn), 0
				w.live(w.takeTurn)
			}
		}
		w.turn, w.dice = aftermath, w.plan.dice(aftermath)
		if w.wrong == nil {
			w.settle()
		}
	})
	w.stats.seeds, w.stats.records, w.stats.took = 1, w.book.records, time.Since(began)
	w.stats.most = w.stats.took
	return hex.EncodeToString(w.sum.Sum(nil))
}

// unwound runs f until it ends or something is found wrong. What the shipped code panics with is wrong, too.
func (w *world) unwound(f func()) {
	defer func() {
		v := recover()
		if v == nil || v == any(stopped{}) {
			return
		}
		if w.wrong == nil {
			w.wrong = &violation{noPanic, fmt.Sprintf("%v\n%s", v, debug.Stack()), w.turn}
		}
	}()
	f()
}

// takeTurn is what happens in one turn: somebody asks for something, time passes, and some of what waits is done.
func (w *world) takeTurn() {
	w.gone, w.dark = max(w.gone-1, 0), max(w.dark-1, 0)
	w.act()
	w.pass()
	for range w.order.IntN(12) {
		w.mayCrash(crashIdle)
		w.stats.steps++
		if !w.hv.Step(context.Background()) {
			break
		}
	}
}

// pass lets time pass: mostly little.
func (w *world) pass() {
	switch {
	case w.hits(clockLeaps):
		w.clock.Advance(time.Duration(1+w.faults.IntN(40)) * time.Minute)
	case w.hits(clockBack):
		w.clock.Advance(-time.Duration(1+w.faults.IntN(600)) * time.Second)
	default:
		w.clock.Advance(time.Duration(w.order.IntN(3000)) * time.Millisecond)
	}
}

// choose says what is done next of what waits.
func (w *world) choose(n int) int {
	if w.steps++; w.steps > mostSteps {
		w.must(getsQuiet, false, "there is no end of what waits: %d steps", w.steps)
	}
	if n > 1 && w.hits(reordered) {
		return w.order.IntN(n)
	}
	return 0
}

// live runs f in the process that lives, and begins another where it dies.
func (w *world) live(f func()) {
	if w.hv != nil && w.survives(f) {
		return
	}
	for w.hv = nil; w.hv == nil; {
		w.survives(w.start)
	}
}

// survives reports whether the process lived through f.
func (w *world) survives(f func()) (alive bool) {
	defer func() {
		if v := recover(); v != nil {
			if v != any(crashed{}) {
				panic(v)
			}
			w.note("the process dies")
			w.depth = 0
			w.tearKillFile()
			w.logDies()
		}
	}()
	f()
	return true
}

func (w *world) start() {
	w.boot++
	loaded := 2 * mostSessions
	if w.plan.seed%2 == 1 {
		loaded = 3 // sessions are let go all the time
	}
	hv, err := hypervisor.Open(context.Background(), &hypervisor.Options{Store: &disk{w.log, w, w.boot}, Clock: w.clock, Stepped: true,
		Choose: w.choose, Random: hypervisortest.NewSeeded(w.boot), MaxLoaded: loaded, Dir: w.dir})
	w.note("start %d: %v", w.boot, err)
	w.must(getsQuiet, err == nil || !w.healthy, "a start in good weather fails: %v", err)
	if err == nil {
		w.hv = hv
		w.hv.SetAddresses(w.addresses())
		w.judgeKills()
	}
}

// act does one of the deeds.
func (w *world) act() {
	total := 0
	for _, n := range w.likings {
		total += n
	}
	at := w.deeds.IntN(total)
	if len(w.ids) < 2 { // nothing can be done before
		w.openSession()
		return
	}
	for i, n := range w.likings {
		if at -= n; at < 0 {
			deeds[i].do(w)
			return
		}
	}
}

// did counts a deed by what came of it, and notes it.
func (w *world) did(what, result string, args ...any) {
	w.stats.deeds[what+": "+result]++
	w.note("%s: %s %v", what, result, args)
}

// meanwhile lets others act while a tool has not answered.
func (w *world) meanwhile() {
	if w.depth >= mostNested {
		return
	}
	w.depth++
	for range 1 + w.order.IntN(3) {
		w.act()
		w.pass()
		for range w.order.IntN(6) {
			w.hv.Step(context.Background())
		}
	}
	w.depth--
}
