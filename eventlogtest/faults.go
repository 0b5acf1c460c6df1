package eventlogtest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/agenthypervisor/hypervisor/eventlog"
)

// A Result is what must come of a record whose write fails at a site.
type Result string

const (
	// Refused: the caller sees an error that is not ErrUnknown, and the record is not in the log.
	Refused Result = "error, gone"
	// UnknownGone: the caller sees ErrUnknown, and the record is not in the log.
	UnknownGone Result = "unknown, gone"
	// UnknownThere: the caller sees ErrUnknown, and the record is in the log.
	UnknownThere Result = "unknown, there"
	// Acknowledged: the caller sees no error, and the record is in the log.
	Acknowledged Result = "acknowledged, there"
)

// A Site is a place where a store writes, and what must come of a record when the write there is lost, and when it is done
// but reported as lost, such as by a timeout.
type Site struct {
	Name            string
	Lost, Persisted Result
}

// A Faulty is a store in which a write can be made to fail.
type Faulty struct {
	Open func(t testing.TB) eventlog.Store // opens it, and after Close the same data again
	Arm  func(site string, persisted bool) // makes the next write at the site fail, once
	Hit  func() bool                       // disarms it, and returns whether it has struck
}

// Faults makes each write fail in each way, with the committer in front, in each of some situations that matter; then reads
// the whole log and verifies it from bytes, in the store that had the fault and in one that is opened anew. It prints a table.
func Faults(t *testing.T, sites []Site, newFaulty func(t *testing.T) Faulty) {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	n := 0
	fmt.Fprintln(w, "write\tfault\tsituation\tthe struck: caller saw, log has\tthose behind it\tthe others")
	for _, site := range sites {
		for _, persisted := range []bool{false, true} {
			for _, sit := range situations {
				fault, want := "lost", site.Lost
				if persisted {
					fault, want = "persisted, reported lost", site.Persisted
				}
				t.Run(strings.Join([]string{site.Name, fault, sit.name}, "/"), func(t *testing.T) {
					f := newFaulty(t)
					x := newTrial(t, f, func() { f.Arm(site.Name, persisted) })
					sit.play(x)
					if !x.hit {
						want = Acknowledged // such as a second insert where there is one
					}
					struck, behind, others := x.judge(want)
					if x.hit {
						n++
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", site.Name, fault, sit.name, struck, behind, others)
					}
				})
			}
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d faults\n%s", n, text.String())
}

// situations: what was going on when the write failed.
var situations = []struct {
	name string
	play func(x *trial)
}{
	{"one record", func(x *trial) {
		x.arm()
		x.struck(x.lane(), x.stream("a"))
		x.step()
	}},
	{"one record that need not be durable", func(x *trial) {
		x.durable = false
		x.arm()
		x.struck(x.lane(), x.stream("a"))
		x.step()
	}},
	{"a group of three sessions", func(x *trial) {
		x.arm()
		for _, name := range []string{"a", "b", "c"} {
			x.struck(x.lane(), x.stream(name))
		}
		x.step()
	}},
	{"second of two queued, first struck", func(x *trial) { // it was decided on a past that never was
		s, lane := x.stream("a"), x.lane()
		x.arm()
		x.struck(lane, s)
		x.struck(lane, s) // in one group: struck with it
		x.step()
		x.behind(lane, s) // enqueued when the first had failed already
		x.step()
	}},
	{"second of two in the next group, first struck", func(x *trial) {
		s, lane := x.stream("a"), x.lane()
		x.arm()
		x.struck(lane, s)
		x.fillGroup()
		x.behind(lane, s)
		x.other(x.lane(), x.stream("b")) // shares the next group, and is none the worse
		x.step()
		x.step()
	}},
	{"the same, and the session reloaded in between", func(x *trial) {
		s, lane := x.stream("a"), x.lane()
		x.arm()
		x.struck(lane, s)
		x.fillGroup()
		x.behind(lane, s)
		x.step()
		x.other(x.lane(), x.reload("a")) // decided anew, on what is there; stands behind the old lane's record
		x.step()
	}},
}

// A trial is one fault in one situation.
type trial struct {
	t         *testing.T
	faulty    Faulty
	store     eventlog.Store
	committer *eventlog.Committer
	arm       func()
	hit       bool // whether the fault struck
	durable   bool // what is sent next
	sent      []*sent
}

// newTrial opens the store and gives three streams two records each.
func newTrial(t *testing.T, f Faulty, arm func()) *trial {
	x := &trial{t: t, faulty: f, store: f.Open(t), arm: arm, durable: true}
	x.committer = eventlog.NewCommitter(x.store)
	for _, name := range []string{"session/a", "session/b", "session/c"} {
		s := Stream{Name: name}
		must(t, x.store, s.Upto(2)...)
	}
	return x
}

// A sent record was handed to the committer.
type sent struct {
	rec  eventlog.Append
	role role
	told int // how often the committer spoke
	err  error
}

type role int

const (
	isStruck role = iota
	isBehind
	isOther
)

func (x *trial) lane() *eventlog.Lane { return new(eventlog.Lane) }

// stream returns one of the three streams as it was at the beginning.
func (x *trial) stream(name string) *Stream {
	s := &Stream{Name: "session/" + name}
	s.Upto(2)
	return s
}

// reload returns a stream as the log has it.
func (x *trial) reload(name string) *Stream {
	s := &Stream{Name: "session/" + name}
	for r, err := range x.store.Read(x.t.Context(), s.Name, 0) {
		if err != nil {
			x.t.Fatalf("reloading: %v", err)
		}
		s.Seq, s.Prev = r.Seq, r.Hash
	}
	return s
}

func (x *trial) struck(lane *eventlog.Lane, s *Stream) { x.send(lane, s, isStruck) }
func (x *trial) behind(lane *eventlog.Lane, s *Stream) { x.send(lane, s, isBehind) }
func (x *trial) other(lane *eventlog.Lane, s *Stream)  { x.send(lane, s, isOther) }

// fillGroup sends so much that what is sent next stands in the next group.
func (x *trial) fillGroup() {
	s, lane := x.stream("c"), x.lane()
	for len(x.sent) < eventlog.MaxBatch {
		x.struck(lane, s)
	}
}

func (x *trial) send(lane *eventlog.Lane, s *Stream, as role) {
	p := &sent{rec: s.Next(fmt.Sprint("sent ", len(x.sent))), role: as}
	p.rec.Payload, p.rec.Durable = []byte("payload"), x.durable
	x.sent = append(x.sent, p)
	if err := x.committer.Reserve(); err != nil {
		x.t.Fatal(err)
	}
	x.committer.Enqueue(lane, p.rec, func(err error) { p.told, p.err = p.told+1, err })
}

// step lets the committer append a group. The fault strikes in the first group or not at all.
func (x *trial) step() {
	x.committer.Step(x.t.Context())
	x.hit = x.faulty.Hit() || x.hit
}

// judge compares what the callers saw with what is in the log, and returns it in words.
func (x *trial) judge(want Result) (struck, behind, others string) {
	x.t.Helper()
	results := x.results(Verify(x.t, x.store)) // the store that had the fault
	if err := x.store.Close(); err != nil {
		x.t.Errorf("closing: %v", err)
	}
	x.store = x.faulty.Open(x.t)
	for i, again := range x.results(Verify(x.t, x.store)) {
		if again != results[i] {
			x.t.Errorf("record %d: %s, and after opening again: %s", i, results[i], again)
		}
	}
	words := [3]string{"-", "-", "-"}
	for i, p := range x.sent {
		wanted := [3]Result{want, Refused, Acknowledged}[p.role]
		if p.told != 1 {
			x.t.Errorf("record %d was spoken of %d times", i, p.told)
		}
		got := results[i]
		if p.role == isBehind && got == UnknownGone {
			got = Refused // behind an unknown one it may say why
		}
		if x.hit && got != wanted {
			x.t.Errorf("record %d (%s %d): %s, want %s; error: %v", i, p.rec.Stream, p.rec.Seq, results[i], wanted, p.err)
		}
		words[p.role] = string(results[i])
	}
	for _, name := range []string{"a", "z"} { // and life goes on
		must(x.t, x.store, x.reload(name).Next("goes on"))
	}
	Verify(x.t, x.store)
	if err := x.store.Close(); err != nil {
		x.t.Errorf("closing: %v", err)
	}
	return words[isStruck], words[isBehind], words[isOther]
}

// results says for each record sent what its caller saw and what the log has.
func (x *trial) results(log map[string][]eventlog.Record) []Result {
	all := make([]Result, len(x.sent))
	for i, p := range x.sent {
		saw, has := "error", "gone"
		switch {
		case p.err == nil:
			saw = "acknowledged"
		case errors.Is(p.err, eventlog.ErrUnknown):
			saw = "unknown"
		}
		if recs := log[p.rec.Stream]; uint64(len(recs)) >= p.rec.Seq && bytes.Equal(recs[p.rec.Seq-1].Body, p.rec.Body) {
			has = "there"
		}
		all[i] = Result(saw + ", " + has)
		if p.err == nil && has == "gone" || saw == "error" && has == "there" {
			x.t.Errorf("record %d (%s %d): %s; error: %v", i, p.rec.Stream, p.rec.Seq, all[i], p.err)
		}
	}
	return all
}
