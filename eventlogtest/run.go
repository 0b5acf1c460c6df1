package eventlogtest

import (
	"context"
	"testing"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
)

// An Opener opens the store of a directory. Called again with the directory of a store that is closed, it returns one on the
// same data.
type Opener func(t testing.TB, dir string) eventlog.Store

// Run holds a store to every promise of package eventlog that can be seen from outside and without faults.
func Run(t *testing.T, open Opener) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, r rig)
	}{
		{"append goes in only behind its parent", appendGoesInOnlyBehindItsParent},
		{"append refuses each record for itself", appendRefusesEachRecordForItself},
		{"append puts none in behind one that failed", appendPutsNoneBehindOneThatFailed},
		{"append keeps no slice", appendKeepsNoSlice},
		{"append takes many of one stream at once", appendTakesManyOfOneStream},
		{"read begins where it is told", readBeginsWhereToldTo},
		{"read of a stream nobody wrote to is empty", readOfUnknownStreamIsEmpty},
		{"tail is in commit order without gaps", tailIsInCommitOrder},
		{"tail and read let their caller use the store", iteratorsLetTheCallerUseTheStore},
		{"heads say deadline and debt", headsSayDeadlineAndDebt},
		{"payload comes back, and none is nil", payloadComesBack},
		{"large records come back", largeRecordsComeBack},
		{"blobs keep the first under a key", blobsKeepTheFirst},
		{"snapshots keep the newest", snapshotsKeepTheNewest},
		{"reopening keeps everything", reopeningKeepsEverything},
		{"a closed store says so", closedStoreSaysSo},
		{"a context that has ended writes nothing", endedContextWritesNothing},
		{"many writers and readers at once", manyAtOnce},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.test(t, rig{Store: open(t, dir), open: func() eventlog.Store { return open(t, dir) }})
		})
	}
}

// A rig is an open store, and the way to open it again.
type rig struct {
	eventlog.Store
	open func() eventlog.Store
}

// verifyAndClose is how each test ends.
func (r rig) verifyAndClose(t *testing.T) map[string][]eventlog.Record {
	t.Helper()
	streams := Verify(t, r)
	if err := r.Close(); err != nil {
		t.Fatalf("closing: %v", err)
	}
	return streams
}

// must appends, and fails the test unless all go in.
func must(t testing.TB, s eventlog.Log, recs ...eventlog.Append) {
	t.Helper()
	for i, err := range s.Append(t.Context(), recs) {
		if err != nil {
			t.Fatalf("appending %s %d: %v", recs[i].Stream, recs[i].Seq, err)
		}
	}
}

// errAt returns the error for record i; a nil slice says all are in.
func errAt(errs []error, i int) error {
	if errs == nil {
		return nil
	}
	return errs[i]
}

// seqs returns the sequence numbers that Read yields.
func seqs(ctx context.Context, s eventlog.Log, stream string, from uint64) (got []uint64, err error) {
	for r, err := range s.Read(ctx, stream, from) {
		if err != nil {
			return got, err
		}
		got = append(got, r.Seq)
	}
	return got, nil
}

func key(b byte) (h audit.Hash) {
	h[0], h[31] = b, ^b
	return h
}
