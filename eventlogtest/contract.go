package eventlogtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
)

func appendGoesInOnlyBehindItsParent(t *testing.T, r rig) {
	s := Stream{Name: "session/s"}
	first := s.Next("first")
	must(t, r, first)
	for name, spoil := range map[string]func(*eventlog.Append){
		"sequence too low":    func(a *eventlog.Append) { a.Seq-- },
		"sequence too high":   func(a *eventlog.Append) { a.Seq++ },
		"sequence of nothing": func(a *eventlog.Append) { a.Seq = 0 },
		"another parent":      func(a *eventlog.Append) { a.Prev[7] ^= 1 },
		"no parent":           func(a *eventlog.Append) { a.Prev = audit.Hash{} },
		"another stream":      func(a *eventlog.Append) { a.Stream = "session/t" },
	} {
		fork := s
		bad := fork.Next(name)
		spoil(&bad)
		if err := errAt(r.Append(t.Context(), []eventlog.Append{bad}), 0); !errors.Is(err, eventlog.ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", name, err)
		}
	}
	// A record decided on a predecessor that was lost must not get in behind its replacement.
	lost := s
	lost.Next("lost")
	onLost := lost.Next("decided on what was lost")
	must(t, r, s.Next("replacement"))
	if err := errAt(r.Append(t.Context(), []eventlog.Append{onLost}), 0); !errors.Is(err, eventlog.ErrConflict) {
		t.Errorf("behind a replaced parent: %v, want ErrConflict", err)
	}
	if n := len(r.verifyAndClose(t)["session/s"]); n != 2 {
		t.Errorf("%d records are in, want 2", n)
	}
}

func appendRefusesEachRecordForItself(t *testing.T, r rig) {
	a, b, c := Stream{Name: "session/a"}, Stream{Name: "session/b"}, Stream{Name: "session/c"}
	b.Next("never stored")
	errs := r.Append(t.Context(), []eventlog.Append{a.Next("one"), b.Next("two"), c.Next("one")})
	if errAt(errs, 0) != nil || !errors.Is(errAt(errs, 1), eventlog.ErrConflict) || errAt(errs, 2) != nil {
		t.Errorf("got %v, want only the second to conflict", errs)
	}
	if got := r.verifyAndClose(t); len(got["session/a"]) != 1 || len(got["session/b"]) != 0 || len(got["session/c"]) != 1 {
		t.Errorf("what is in is not what was acknowledged: %v", got)
	}
}

func appendPutsNoneBehindOneThatFailed(t *testing.T, r rig) {
	s := Stream{Name: "session/s"}
	good := s.Next("good")
	bad := good
	bad.Prev[0] ^= 1
	// good would fit if it stood alone; it stands behind one of its stream that fails.
	errs := r.Append(t.Context(), []eventlog.Append{bad, good, s.Next("behind")})
	for i := range 3 {
		if err := errAt(errs, i); !errors.Is(err, eventlog.ErrConflict) {
			t.Errorf("record %d: %v, want ErrConflict", i, err)
		}
	}
	if got := r.verifyAndClose(t); len(got) != 0 {
		t.Errorf("something is in: %v", got)
	}
}

func appendKeepsNoSlice(t *testing.T, r rig) {
	s := Stream{Name: "session/s"}
	a := s.Next("words")
	a.Payload = []byte("payload")
	body, payload := bytes.Clone(a.Body), bytes.Clone(a.Payload)
	must(t, r, a)
	clear(a.Body)
	clear(a.Payload)
	for range 2 { // what is handed out is the receiver's, too
		for got, err := range r.Read(t.Context(), s.Name, 0) {
			if err != nil || !bytes.Equal(got.Body, body) || !bytes.Equal(got.Payload, payload) {
				t.Errorf("got %q, %q, %v", got.Body, got.Payload, err)
			}
			clear(got.Body)
			clear(got.Payload)
		}
	}
	r.verifyAndClose(t)
}

func appendTakesManyOfOneStream(t *testing.T, r rig) {
	a, b := Stream{Name: "session/a"}, Stream{Name: "session/b"}
	var group []eventlog.Append
	for i := range 600 { // more than a page
		group = append(group, a.Next(fmt.Sprint(i)))
		if i%3 == 0 {
			group = append(group, b.Next(fmt.Sprint(i)))
		}
	}
	must(t, r, group...)
	if errs := r.Append(t.Context(), nil); len(errs) != 0 {
		t.Errorf("appending nothing: %v", errs)
	}
	if got := r.verifyAndClose(t); len(got["session/a"]) != 600 || len(got["session/b"]) != 200 {
		t.Errorf("%d and %d records are in", len(got["session/a"]), len(got["session/b"]))
	}
}

func readBeginsWhereToldTo(t *testing.T, r rig) {
	s, other := Stream{Name: "session/s"}, Stream{Name: "session/o"}
	for range 10 {
		must(t, r, s.Next("mine"), other.Next("not mine"))
	}
	for from, want := range map[uint64][]uint64{
		0: {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 1: {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 8: {8, 9, 10}, 10: {10}, 11: nil, 1 << 63: nil,
	} {
		if got, err := seqs(t.Context(), r, s.Name, from); err != nil || !slices.Equal(got, want) {
			t.Errorf("from %d: %v, %v", from, got, err)
		}
	}
	for range r.Read(t.Context(), s.Name, 1) {
		break // ends early, and leaves nothing behind
	}
	r.verifyAndClose(t)
}

func readOfUnknownStreamIsEmpty(t *testing.T, r rig) {
	s := Stream{Name: "session/s"}
	must(t, r, s.Next("something"))
	if got, err := seqs(t.Context(), r, "session/S", 0); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	r.verifyAndClose(t)
}

func tailIsInCommitOrder(t *testing.T, r rig) {
	var want []string
	for i := range 300 {
		s := Stream{Name: fmt.Sprintf("session/%03d", 299-i)}
		for _, a := range s.Upto(2) {
			must(t, r, a)
			want = append(want, string(a.Body))
		}
	}
	for _, after := range []uint64{0, 1, 255, 256, 257, 599, 600, 601, 1 << 63} {
		at := after
		for rec, err := range r.Tail(t.Context(), after) {
			if err != nil {
				t.Fatalf("after %d: %v", after, err)
			}
			if rec.Position != at+1 || string(rec.Body) != want[at] {
				t.Fatalf("after %d: position %d follows %d", after, rec.Position, at)
			}
			at++
		}
		if at != max(after, 600) {
			t.Errorf("after %d: ends at %d", after, at)
		}
	}
	r.verifyAndClose(t)
}

func iteratorsLetTheCallerUseTheStore(t *testing.T, r rig) {
	s, new := Stream{Name: "session/s"}, Stream{Name: "session/new"}
	must(t, r, s.Upto(20)...)
	n := 0
	for _, err := range r.Tail(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		must(t, r, new.Next("while reading"))
		for _, err := range r.Heads(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if _, err := seqs(t.Context(), r, s.Name, 19); err != nil {
				t.Fatal(err)
			}
			if err := r.PutBlob(t.Context(), key(1), []byte("blob")); err != nil {
				t.Fatal(err)
			}
		}
		if n++; n > 40 {
			t.Fatal("Tail does not end while records are appended")
		}
	}
	r.verifyAndClose(t)
}

func headsSayDeadlineAndDebt(t *testing.T, r rig) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 123_456_789, time.FixedZone("", 3600))
	due, owing, both, neither := Stream{Name: "session/due"}, Stream{Name: "session/owing"}, Stream{Name: "both"}, Stream{Name: "neither"}
	a, b, c, d := due.Next("1"), owing.Next("1"), both.Next("1"), neither.Next("1")
	a.Deadline, b.Owes = at, true
	c.Deadline, c.Owes = time.Unix(-5, 0), true // before 1970 is a time like another
	d.Deadline, d.Owes = at, true
	must(t, r, a, b, c, d)
	must(t, r, neither.Next("2")) // the newest record counts
	want := map[string]eventlog.Head{
		due.Name:     {Stream: due.Name, Seq: 1, Hash: due.Prev, Deadline: at.Truncate(time.Millisecond).UTC()},
		owing.Name:   {Stream: owing.Name, Seq: 1, Hash: owing.Prev, Owes: true},
		both.Name:    {Stream: both.Name, Seq: 1, Hash: both.Prev, Deadline: time.Unix(-5, 0).UTC(), Owes: true},
		neither.Name: {Stream: neither.Name, Seq: 2, Hash: neither.Prev},
	}
	check := func(s eventlog.Store) {
		t.Helper()
		n := 0
		for h, err := range s.Heads(t.Context()) {
			if w := want[h.Stream]; err != nil || h.Seq != w.Seq || h.Hash != w.Hash || h.Owes != w.Owes ||
				!h.Deadline.Equal(w.Deadline) || h.Deadline.IsZero() != w.Deadline.IsZero() {
				t.Errorf("got %+v, %v, want %+v", h, err, w)
			}
			n++
		}
		if n != len(want) {
			t.Errorf("%d heads, want %d", n, len(want))
		}
	}
	check(r)
	r.verifyAndClose(t)
	again := rig{Store: r.open(), open: r.open}
	check(again)
	again.verifyAndClose(t)
}

func payloadComesBack(t *testing.T, r rig) {
	s := Stream{Name: "session/s"}
	with, without, empty := s.Next("with"), s.Next("without"), s.Next("empty")
	with.Payload, empty.Payload = []byte{1, 0, 2}, []byte{}
	must(t, r, with, without, empty)
	got := r.verifyAndClose(t)[s.Name]
	if !bytes.Equal(got[0].Payload, with.Payload) || got[1].Payload != nil || len(got[2].Payload) != 0 {
		t.Errorf("payloads are %v, %v, %v", got[0].Payload, got[1].Payload, got[2].Payload)
	}
}

func largeRecordsComeBack(t *testing.T, r rig) {
	s := Stream{Name: "session/s"}
	var want []eventlog.Append
	for i := range 12 {
		a := s.Next(string(bytes.Repeat([]byte{'a' + byte(i)}, 400_000)))
		a.Payload = bytes.Repeat([]byte{byte(i)}, 500_000)
		want = append(want, a)
	}
	must(t, r, want...)
	for i, got := range r.verifyAndClose(t)[s.Name] {
		if !bytes.Equal(got.Payload, want[i].Payload) || !bytes.Equal(got.Body, want[i].Body) {
			t.Errorf("record %d came back another", i)
		}
	}
}

func blobsKeepTheFirst(t *testing.T, r rig) {
	ctx := t.Context()
	large := bytes.Repeat([]byte("blob"), 1<<19)
	if err := errors.Join(r.PutBlob(ctx, key(1), large), r.PutBlob(ctx, key(2), nil), r.PutBlob(ctx, key(1), []byte("another"))); err != nil {
		t.Fatal(err)
	}
	got, err := r.Blob(ctx, key(1))
	if err != nil || !bytes.Equal(got, large) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if got, err := r.Blob(ctx, key(2)); err != nil || len(got) != 0 {
		t.Errorf("empty blob: %v, %v", got, err)
	}
	if _, err := r.Blob(ctx, key(3)); !errors.Is(err, eventlog.ErrNoBlob) {
		t.Errorf("no blob: %v, want ErrNoBlob", err)
	}
	r.verifyAndClose(t)
}

func snapshotsKeepTheNewest(t *testing.T, r rig) {
	ctx := t.Context()
	if _, ok, err := r.Snapshot(ctx, "session/s"); ok || err != nil {
		t.Errorf("before any: %v, %v", ok, err)
	}
	for seq := range uint64(3) {
		snap := eventlog.Snapshot{Stream: "session/s", Seq: seq, Hash: key(byte(seq)), State: fmt.Append(nil, "state ", seq)}
		if err := r.SaveSnapshot(ctx, snap); err != nil {
			t.Fatal(err)
		}
		clear(snap.State)
	}
	snap, ok, err := r.Snapshot(ctx, "session/s")
	if !ok || err != nil || snap.Stream != "session/s" || snap.Seq != 2 || snap.Hash != key(2) || string(snap.State) != "state 2" {
		t.Errorf("got %+v, %v, %v", snap, ok, err)
	}
	r.verifyAndClose(t)
}

func reopeningKeepsEverything(t *testing.T, r rig) {
	ctx := t.Context()
	s, lazy := Stream{Name: "session/s"}, Stream{Name: "session/lazy"}
	for round := range 3 {
		must(t, r, s.Upto(300)...)
		last := lazy.Next("not durable until Close")
		last.Durable = false
		must(t, r, last)
		snap := eventlog.Snapshot{Stream: s.Name, Seq: s.Seq, Hash: s.Prev, State: []byte("state")}
		if err := errors.Join(r.PutBlob(ctx, key(byte(round)), []byte("blob")), r.SaveSnapshot(ctx, snap)); err != nil {
			t.Fatal(err)
		}
		before := r.verifyAndClose(t)
		r.Store = r.open()
		after := Verify(t, r)
		for _, name := range []string{s.Name, lazy.Name} {
			if !slices.EqualFunc(before[name], after[name], sameRecord) {
				t.Fatalf("%s is not what it was", name)
			}
		}
		if b, err := r.Blob(ctx, key(byte(round))); err != nil || string(b) != "blob" {
			t.Errorf("blob: %q, %v", b, err)
		}
		if got, ok, err := r.Snapshot(ctx, s.Name); !ok || err != nil || got.Seq != s.Seq {
			t.Errorf("snapshot: %+v, %v, %v", got, ok, err)
		}
	}
	r.verifyAndClose(t)
}

func sameRecord(a, b eventlog.Record) bool {
	return a.Position == b.Position && a.Stream == b.Stream && a.Seq == b.Seq && a.Hash == b.Hash &&
		bytes.Equal(a.Body, b.Body) && bytes.Equal(a.Payload, b.Payload)
}

func closedStoreSaysSo(t *testing.T, r rig) {
	s := Stream{Name: "session/s"}
	must(t, r, s.Upto(2)...)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	_, blobErr := r.Blob(ctx, key(1))
	_, _, snapshotErr := r.Snapshot(ctx, s.Name)
	for name, err := range map[string]error{
		"Append": errAt(r.Append(ctx, s.Upto(1)), 0), "Read": first(r.Read(ctx, s.Name, 0)), "Tail": first(r.Tail(ctx, 0)), "Heads": first(r.Heads(ctx)),
		"PutBlob": r.PutBlob(ctx, key(1), nil), "Blob": blobErr,
		"SaveSnapshot": r.SaveSnapshot(ctx, eventlog.Snapshot{Stream: s.Name}), "Snapshot": snapshotErr, "Close": r.Close(),
	} {
		if !errors.Is(err, eventlog.ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", name, err)
		}
	}
}

// first returns the first error that an iterator yields.
func first[T any](all iter.Seq2[T, error]) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

func endedContextWritesNothing(t *testing.T, r rig) {
	s := Stream{Name: "session/s"}
	must(t, r, s.Upto(2)...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for _, err := range r.Tail(ctx, 0) { // ends in the middle: with an error, or with all it had read ahead
		if n++; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Tail: %v", err)
		}
		cancel()
	}
	fork := s
	for name, err := range map[string]error{
		"Append": errAt(r.Append(ctx, fork.Upto(1)), 0), "Read": first(r.Read(ctx, s.Name, 0)), "Tail": first(r.Tail(ctx, 0)), "Heads": first(r.Heads(ctx)),
		"PutBlob": r.PutBlob(ctx, key(1), nil), "SaveSnapshot": r.SaveSnapshot(ctx, eventlog.Snapshot{Stream: s.Name}),
	} {
		if !errors.Is(err, context.Canceled) || errors.Is(err, eventlog.ErrUnknown) {
			t.Errorf("%s: %v, want the context's error", name, err)
		}
	}
	must(t, r, s.Next("nothing had been written"))
	r.verifyAndClose(t)
}

func manyAtOnce(t *testing.T, r rig) {
	const writers, each = 8, 60
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			s := Stream{Name: fmt.Sprint("session/", w)}
			for i := range each {
				a := s.Next(fmt.Sprint(i))
				a.Durable = i%2 == 0
				if err := errAt(r.Append(t.Context(), []eventlog.Append{a}), 0); err != nil {
					t.Errorf("%s %d: %v", a.Stream, a.Seq, err)
					return
				}
				if got, err := seqs(t.Context(), r, s.Name, a.Seq); err != nil || !slices.Equal(got, []uint64{a.Seq}) {
					t.Errorf("%s %d cannot be read back: %v, %v", a.Stream, a.Seq, got, err)
					return
				}
			}
		})
	}
	shared := Stream{Name: "session/shared"}
	var won sync.Map // sequence number -> who won it
	for w := range 3 {
		wg.Go(func() { // three who believe they own one stream: each place goes to one of them
			for i := range each {
				mine := shared
				a := mine.Next(fmt.Sprint("writer ", w, " try ", i))
				if err := errAt(r.Append(t.Context(), []eventlog.Append{a}), 0); err == nil {
					if who, taken := won.LoadOrStore(a.Seq, w); taken {
						t.Errorf("place %d went to %v and to %d", a.Seq, who, w)
					}
				}
			}
		})
	}
	wg.Go(func() {
		for range 5 {
			if err := errors.Join(first(r.Tail(t.Context(), 0)), first(r.Heads(t.Context()))); err != nil {
				t.Errorf("reading meanwhile: %v", err)
			}
		}
	})
	wg.Wait()
	if got := r.verifyAndClose(t); len(got) != writers+1 || len(got[shared.Name]) != 1 {
		t.Errorf("%d streams, and %d records of the shared one", len(got), len(got[shared.Name]))
	}
}
