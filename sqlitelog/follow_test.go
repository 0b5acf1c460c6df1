package sqlitelog

import (
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/eventlogtest"
)

// A stream must read the same whether none, some, or all of it is in the index, and whoever opens the log anew must find it.
func TestReadIsTheSameHoweverFarTheIndexIs(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir).(*Store)
	streams := make([]eventlogtest.Stream, 26) // more records at once than a piece
	for i := range streams {
		streams[i].Name = fmt.Sprintf("session/%02d", i)
	}
	appendSome := func() {
		for i := range streams {
			if errs := s.Append(t.Context(), streams[i].Upto(10+i)); errs != nil {
				t.Fatal(errs)
			}
		}
	}
	appendSome()
	eventlogtest.Verify(t, s) // nothing is indexed
	for range 3 {
		appendSome()
		if more, err := s.step(t.Context(), 1); !more || err != nil {
			t.Fatal(more, err)
		}
		if len(s.round.entries) == 0 {
			t.Fatal("the round is over with its first piece; make it longer")
		}
		eventlogtest.Verify(t, s) // in the middle of a round
		appendSome()
		eventlogtest.Verify(t, s)

		crashed := open(t, copyFiles(t, dir, "log.db", "log.db-wal")) // and again from there
		eventlogtest.Verify(t, crashed)
		closeStore(t, crashed)

		if err := s.finish(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.indexed != s.last {
			t.Errorf("indexed up to %d of %d", s.indexed, s.last)
		}
		eventlogtest.Verify(t, s)
	}
	appendSome()
	closeStore(t, s)
	s = open(t, dir).(*Store)
	if s.indexed != s.last || len(s.pending) != 0 {
		t.Errorf("after Close, %d of %d are indexed", s.indexed, s.last)
	}
	eventlogtest.Verify(t, s)
	closeStore(t, s)
}

func TestStepWaitsUntilItIsWorthIt(t *testing.T) {
	s := open(t, t.TempDir()).(*Store)
	defer closeStore(t, s)
	fill(t, s, 10)
	if s.Step(t.Context()) {
		t.Error("it indexes ten records")
	}
}

// When nobody calls Step, appends must not let what waits grow without end.
func TestAppendKeepsUpWhenNobodySteps(t *testing.T) {
	s := open(t, t.TempDir()).(*Store)
	defer closeStore(t, s)
	fill(t, s, 1)
	real := s.pending
	s.pending = make([]entry, maxPending) // all one entry: what it indexes is of no interest here
	for i := range s.pending {
		s.pending[i] = real[0]
	}
	before := len(s.pending)
	for i := range 3 {
		stream := eventlogtest.Stream{Name: fmt.Sprint("session/more-", i)}
		if errs := s.Append(t.Context(), stream.Upto(1)); errs != nil {
			t.Fatal(errs)
		}
	}
	if len(s.pending) >= before {
		t.Errorf("%d records wait, %d before", len(s.pending), before)
	}
	s.pending = real
	s.round = round{}
}

// Two records with one sequence number in one stream must close the store.
func TestIndexFindsTwoRecordsInOnePlace(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir).(*Store)
	fill(t, s, 9)
	s.mu.Lock()
	s.pending[5].seq = s.pending[2].seq // as if the heads in memory had been wrong
	s.mu.Unlock()
	err := s.finish(t.Context())
	if !errors.Is(err, eventlog.ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
	stream := eventlogtest.Stream{Name: "session/new"}
	if errs := s.Append(t.Context(), stream.Upto(1)); len(errs) != 1 || !errors.Is(errs[0], eventlog.ErrCorrupt) {
		t.Errorf("an append behind it: %v, want ErrCorrupt", errs)
	}
	if err := s.Close(); !errors.Is(err, eventlog.ErrCorrupt) {
		t.Errorf("closing: %v, want ErrCorrupt", err)
	}
}

// An evicted session is a head in memory and nothing else: at most 200 B.
func TestHeadsAreSmall(t *testing.T) {
	const limit = 200
	for _, n := range []int{10_000, 100_000, 115_000, 230_000} { // just filled maps, and maps that have just grown
		before := heapBytes()
		table := newTable(0)
		for i := range n {
			table.put(head{stream: fmt.Sprintf("session/%08x-01k7q8w4zj", i), seq: 1, id: int64(i), first: int64(i)})
		}
		each := float64(heapBytes()-before) / float64(n)
		t.Logf("%d sessions: %.0f B each", n, each)
		if each > limit {
			t.Errorf("a head costs %.0f B, and %d are allowed", each, limit)
		}
		runtime.KeepAlive(table)
	}
}

func heapBytes() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
