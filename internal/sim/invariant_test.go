package sim

import (
	"bytes"
	"fmt"
	"runtime"
)

// An invariant is what must hold in every history, by its name.
type invariant string

// The invariants.
const (
	acknowledged invariant = "acknowledged is recorded"
	harmOnce     invariant = "a non-idempotent effect happens at most once"
	sagasEnd     invariant = "every saga ends"
	waitsEnd     invariant = "what a saga waits for has a deadline, and a command that ends it"
	noMoreThanSo invariant = "a saga claims no more than is so"
	inReverse    invariant = "what is compensated is compensated in reverse order, once"
	stillStands  invariant = "nothing is dispatched after an acknowledged kill or quarantine"
	keyOnce      invariant = "an address is called with one key for one effect, and has it once"
	handedOn     invariant = "a step is done by its agent, or where that one cannot by a substitute"
	goalsStand   invariant = "what a checkpoint says is reached is not done again"
	killKept     invariant = "an acknowledged kill outlives its process"
	undoneOnce   invariant = "what is taken back is taken back once"
	ringHolds    invariant = "no action above the ring at its decision"
	rateHolds    invariant = "admissions are at most burst + rate × time"
	bondsHold    invariant = "bonds are conserved, and at most 80 % of σ is bonded"
	decided      invariant = "a decision for each record, a record for each admission"
	logVerifies  invariant = "the log verifies"
	getsQuiet    invariant = "after faults stop all is quiet within bounded steps"
	idsOnce      invariant = "no id is given out twice"
	memoryIsLog  invariant = "what is in memory is what the log says"
	oneThread    invariant = "one goroutine does everything"
	noPanic      invariant = "the shipped code does not panic"
)

// invariants lists them all.
var invariants = []invariant{acknowledged, harmOnce, sagasEnd, waitsEnd, noMoreThanSo, inReverse, stillStands, keyOnce, handedOn, goalsStand, killKept, undoneOnce, ringHolds, rateHolds, bondsHold,
	decided, logVerifies, getsQuiet, idsOnce, memoryIsLog, oneThread, noPanic}

// A violation is an invariant that did not hold.
type violation struct {
	of   invariant
	what string
	turn int
}

func (v *violation) String() string { return fmt.Sprintf("%s: %s (turn %d)", v.of, v.what, v.turn) }

// stopped is what a history unwinds with once it has shown what is wrong.
type stopped struct{}

// must counts a check, and ends the history where it fails.
func (w *world) must(of invariant, holds bool, format string, args ...any) {
	w.stats.checks[of]++
	if holds {
		return
	}
	if w.wrong == nil {
		w.wrong = &violation{of, fmt.Sprintf(format, args...), w.turn}
		w.note("VIOLATION %s", w.wrong)
	}
	panic(stopped{})
}

// sameThread checks that it is called from the goroutine of the history, at every eighth of the places where it could: to ask costs more
// than all the rest of a place. It ends nothing: a panic in another goroutine would end the program.
func (w *world) sameThread() {
	if w.places++; w.places%8 != 0 {
		return
	}
	w.stats.checks[oneThread]++
	if is := goroutine(); is != w.thread && w.wrong == nil {
		w.wrong = &violation{oneThread, fmt.Sprintf("goroutine %s does what goroutine %s should", is, w.thread), w.turn}
	}
}

// goroutine returns the number of the one that asks.
func goroutine() string {
	var b [40]byte
	words := bytes.Fields(b[:runtime.Stack(b[:], false)])
	return string(words[1])
}
