//go:build unix

package weather

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	callers    = 18     // calls an agent has in flight; ring 1 lets 16 run
	roundCalls = 10_000 // numbers of one round
	burst      = 100    // calls ring 1 lets through at once (SPEC §7 "Rate")
)

func rounds() int {
	if *long {
		return longRounds
	}
	return ciRounds
}

type args struct {
	N    int    `json:"n"`
	Text string `json:"text"`
	Size int    `json:"size,omitempty"`
}

func callArgs(n int) args { return args{N: n, Text: fmt.Sprintf("ask-%d-", n)} }

// A moment is when a process is killed: when so many calls are acknowledged and a little later, or so long after its start, ready
// or not.
type moment struct {
	acks   int64 // -1: they do not matter
	ending bool  // its input is closed first: it is killed while it ends
	later  time.Duration
}

func drawMoment(r *rand.Rand, most int64) moment {
	switch r.IntN(8) {
	case 0, 1:
		return moment{-1, false, time.Duration(r.IntN(400)) * time.Millisecond}
	case 2:
		return moment{1 + r.Int64N(most), true, time.Duration(r.IntN(30_000)) * time.Microsecond}
	}
	return moment{1 + r.Int64N(most), false, time.Duration(r.IntN(5000)) * time.Microsecond}
}

// strike kills the process at the moment, or when the load is over.
func (m moment) strike(t testing.TB, p *proc, acked *atomic.Int64, ack <-chan struct{}, over <-chan struct{}) {
	t.Helper()
	late := time.After(patience)
	for m.acks >= 0 && acked.Load() < m.acks {
		select {
		case <-ack:
			continue
		case <-over:
		case <-p.exited:
		case <-late:
			t.Fatalf("after %v: %d calls acknowledged of %d; it said: %s", patience, acked.Load(), m.acks, last(p.stderr.String(), 2000))
		}
		break
	}
	if m.ending {
		_ = p.stdin.Close()
	}
	select {
	case <-time.After(m.later): // the moment is the subject here, nothing waits for it
	case <-p.exited:
	}
	p.kill()
}

// An acks is what agents were told, kept where no kill reaches it.
type acks struct {
	mu    sync.Mutex
	texts map[int]string
	n     atomic.Int64  // of this round
	more  chan struct{} // holds one token
}

func newAcks() *acks { return &acks{texts: map[int]string{}, more: make(chan struct{}, 1)} }

func (a *acks) add(n int, text string) {
	a.mu.Lock()
	a.texts[n] = text
	a.mu.Unlock()
	a.n.Add(1)
	select {
	case a.more <- struct{}{}:
	default:
	}
}

func TestWrapKilledAtAnyMomentLosesNoAcknowledgedCallAndRepeatsNone(t *testing.T) {
	random, k, dir, acked := newRand(t), startKeeper(t), shortDir(t), newAcks()
	refused := 0
	for round := range rounds() {
		m := drawMoment(random, burst*2/3)
		p := start(t, wrapCommand(t, k, dir))
		acked.n.Store(0)
		var load sync.WaitGroup
		over := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		load.Go(func() {
			if a, err := connect(ctx, p); err == nil { // else it was killed before it answered
				refused += a.load(ctx, round*roundCalls, acked)
				close(over)
				<-p.exited
				_ = a.mcp.Close()
			}
		})
		m.strike(t, p, &acked.n, acked.more, over)
		cancel()
		load.Wait()
		k.settle(t)
		if !m.ending && p.cmd.ProcessState.ExitCode() >= 0 {
			t.Fatalf("round %d: the process ended by itself: %s", round, last(p.stderr.String(), 2000))
		}
		readHistory(t, dir).holds(t, acked.texts, k.lines(t))
		if t.Failed() {
			t.Fatalf("round %d, killed at %+v with %d acknowledged; it said: %s", round, m, acked.n.Load(), last(p.stderr.String(), 2000))
		}
	}
	wrapped(t, wrapCommand(t, k, dir)).end(t)
	h := readHistory(t, dir)
	h.holds(t, acked.texts, k.lines(t))
	if h.count("running") > 0 || h.summary.Open > 0 {
		t.Errorf("after a clean end %d calls run and %d sessions are open", h.count("running"), h.summary.Open)
	}
	t.Logf("wrap, %d rounds: %s; refused %d; ends: %v", rounds(), h.sum(acked.texts, k.lines(t)), refused, h.reasons)
}

// load calls as fast as it can until no answer comes any more, or the bucket is empty, and returns how often it was refused.
func (a *agent) load(ctx context.Context, base int, acked *acks) int {
	var numbers, refused atomic.Int64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for {
				n := base + int(numbers.Add(1))
				tool := "append"
				if n%7 == 0 {
					tool = "peek"
				}
				c := callArgs(n)
				got, err := a.call(ctx, tool, c)
				switch {
				case err != nil || got.code == "rate_limited":
					return
				case got.code != "":
					refused.Add(1)
				case !got.err && tool == "append":
					acked.add(n, c.Text)
				}
			}
		})
	}
	all.Wait()
	return int(refused.Load())
}

func TestLibraryKilledAtAnyMomentLosesNoAcknowledgedCallAndRepeatsNone(t *testing.T) {
	random, k, dir, acked := newRand(t), startKeeper(t), shortDir(t), newAcks()
	for round := range rounds() {
		m := drawMoment(random, 150)
		p := start(t, libraryCommand(t, k, dir, round*roundCalls))
		acked.n.Store(0)
		over := make(chan struct{})
		var heard sync.WaitGroup
		heard.Go(func() { hear(p, acked, over) })
		m.strike(t, p, &acked.n, acked.more, over)
		heard.Wait()
		k.settle(t)
		if code := p.cmd.ProcessState.ExitCode(); code >= 0 && !m.ending {
			t.Fatalf("round %d: the process ended by itself with %d: %s", round, code, p.stderr)
		}
		if round%10 == 9 {
			readHistory(t, dir).holds(t, acked.texts, k.lines(t))
		}
		if t.Failed() {
			t.Fatalf("round %d, killed at %+v; it said: %s", round, m, last(p.stderr.String(), 2000))
		}
	}
	p := start(t, libraryCommand(t, k, dir, rounds()*roundCalls))
	over := make(chan struct{})
	go hear(p, acked, over)
	within(t, "the load's end", over)
	_ = p.stdin.Close()
	if code := p.code(t); code != 0 {
		t.Errorf("exit %d", code)
	}
	h := readHistory(t, dir)
	h.holds(t, acked.texts, k.lines(t))
	if h.count("running") > 0 || h.summary.Open > 0 {
		t.Errorf("after a clean end %d calls run and %d sessions are open", h.count("running"), h.summary.Open)
	}
	t.Logf("library, %d rounds of %d agents: %s", rounds(), libraryAgents, h.sum(acked.texts, k.lines(t)))
}

// hear takes in the library process's acknowledgements to the last whole line, and closes over when its load is over.
func hear(p *proc, acked *acks, over chan struct{}) {
	ended := false
	in := bufio.NewReader(p.stdout)
	for {
		text, err := in.ReadString('\n')
		if err != nil {
			break
		}
		var n int
		switch {
		case strings.HasPrefix(text, "over"):
			ended = true
			close(over)
		default:
			if _, err := fmt.Sscanf(text, "acked %d\n", &n); err == nil {
				acked.add(n, callArgs(n).Text)
			}
		}
	}
	if !ended {
		close(over)
	}
}
