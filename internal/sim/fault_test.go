package sim

// A fault is one kind of what goes wrong.
type fault string

// The faults, by where they happen.
const (
	crashIdle     fault = "crash-between-steps"
	crashAppend   fault = "crash-before-append"
	crashHalf     fault = "crash-in-append" // some records of the group are in
	crashAppended fault = "crash-after-append"
	crashTool     fault = "crash-before-effect"
	crashEffect   fault = "crash-after-effect"
	crashRead     fault = "crash-in-read"
	crashBlob     fault = "crash-in-blob"
	crashKilled   fault = "crash-after-kill"

	commitFails fault = "commit-fails"
	commitHalf  fault = "commit-half" // some streams' records are in, the others are not
	unknownIn   fault = "commit-unknown-but-in"
	unknownOut  fault = "commit-unknown-and-out"
	diskFull    fault = "disk-full"           // for some appends
	powerCut    fault = "power-cut-in-append" // of the embedded store
	fullAtKill  fault = "disk-full-at-kill"
	tornFile    fault = "kill-file-torn" // the process died while it overwrote the older list
	conflict    fault = "store-conflict"
	readFails   fault = "read-fails"

	toolFails   fault = "tool-fails"
	toolDown    fault = "tool-not-reached"
	toolDies    fault = "tool-dies" // and is gone for a while
	toolSlow    fault = "tool-slow"
	answerLate  fault = "answer-late" // other things happen before it
	answerLost  fault = "answer-lost"
	answerNever fault = "answer-lost-before-effect"
	asksTwice   fault = "request-twice"
	hostDies    fault = "host-dies" // and is gone for a while
	hostDown    fault = "host-not-reached"
	hostBusy    fault = "host-busy"         // and says when it has time again
	hostErrs    fault = "host-answers-500"  // before its effect, or after
	hostTwice   fault = "host-called-twice" // by what is between

	clockLeaps fault = "clock-forward"
	clockBack  fault = "clock-back"
	reordered  fault = "reordered"
)

// usual is one in how many times each fault happens where it can; a seed draws which of them it has, and how often.
var usual = map[fault]int{
	crashIdle: 40, crashAppend: 120, crashHalf: 200, crashAppended: 120, crashTool: 60, crashEffect: 60, crashRead: 800, crashBlob: 4, crashKilled: 6, powerCut: 80, fullAtKill: 6, tornFile: 4,
	commitFails: 60, commitHalf: 120, unknownIn: 80, unknownOut: 120, diskFull: 150, conflict: 150, readFails: 300,
	toolFails: 12, toolDown: 16, toolDies: 60, toolSlow: 20, answerLate: 12, answerLost: 20, answerNever: 20, asksTwice: 12, hostDies: 30, hostDown: 16, hostBusy: 16, hostErrs: 16, hostTwice: 8,
	clockLeaps: 60, clockBack: 60, reordered: 2,
}

// weather draws the faults of a seed: each is there in two seeds of three, as often as usual, or three times as often.
func weather(d dice) map[fault]int {
	odds := map[fault]int{}
	for _, f := range sortedFaults() {
		switch d.faults.IntN(6) {
		case 0, 1:
		case 2:
			odds[f] = max(usual[f]/3, 2)
		default:
			odds[f] = usual[f]
		}
	}
	return odds
}

// hits reports whether a fault happens here and now.
func (w *world) hits(f fault) bool {
	odds := w.odds[f]
	if odds == 0 || w.healthy || w.wrong != nil {
		return false
	}
	if hit := w.faults.IntN(odds) == 0; !hit || w.plan.calm[w.turn] || w.plan.mute[f] {
		return false
	}
	w.stats.faults[f]++
	if f != reordered {
		w.note("fault %s", f)
	}
	return true
}

// crashed is what a dying process unwinds with.
type crashed struct{}

func (w *world) mayCrash(f fault) {
	w.sameThread()
	if w.hits(f) {
		panic(crashed{})
	}
}
