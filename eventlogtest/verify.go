package eventlogtest

import (
	"context"
	"fmt"
	"testing"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
)

// Verify reads the whole log and fails the test unless its bytes prove it whole: positions rise without gaps, each record's
// hash is its body's, each body names its stream, its sequence number and the hash of the record before, every stream read
// by itself is the same, and the heads are the last of them. It returns what is there, by stream.
func Verify(t testing.TB, s eventlog.Store) map[string][]eventlog.Record {
	t.Helper()
	streams, err := verify(t.Context(), s)
	if err != nil {
		t.Fatalf("log is not whole: %v", err)
	}
	return streams
}

func verify(ctx context.Context, s eventlog.Store) (map[string][]eventlog.Record, error) {
	streams := map[string][]eventlog.Record{}
	position := uint64(0)
	for r, err := range s.Tail(ctx, 0) {
		if err != nil {
			return nil, err
		}
		if r.Position != position+1 {
			return nil, fmt.Errorf("position %d follows %d", r.Position, position)
		}
		position = r.Position
		var before eventlog.Record
		if have := streams[r.Stream]; len(have) > 0 {
			before = have[len(have)-1]
		}
		if err := follows(r, before); err != nil {
			return nil, fmt.Errorf("position %d: %w", position, err)
		}
		streams[r.Stream] = append(streams[r.Stream], r)
	}
	for stream, recs := range streams {
		if err := sameAlone(ctx, s, stream, recs); err != nil {
			return nil, err
		}
	}
	return streams, sameHeads(ctx, s, streams)
}

func follows(r, before eventlog.Record) error {
	said, err := audit.ParseRecord(r.Body)
	switch {
	case err != nil:
		return err
	case audit.Leaf(r.Body) != r.Hash:
		return fmt.Errorf("hash stored beside the body is not the body's")
	case said.Stream != r.Stream || said.Seq != r.Seq:
		return fmt.Errorf("body says it is %s %d, and stands as %s %d", said.Stream, said.Seq, r.Stream, r.Seq)
	case r.Seq != before.Seq+1:
		return fmt.Errorf("%s %d follows %d", r.Stream, r.Seq, before.Seq)
	case said.Prev != before.Hash:
		return fmt.Errorf("%s %d was not decided on the record before it", r.Stream, r.Seq)
	}
	return nil
}

func sameAlone(ctx context.Context, s eventlog.Store, stream string, want []eventlog.Record) error {
	n := 0
	for r, err := range s.Read(ctx, stream, 1) {
		if err != nil {
			return err
		}
		if n >= len(want) || r.Position != want[n].Position || r.Seq != want[n].Seq || string(r.Body) != string(want[n].Body) {
			return fmt.Errorf("record %d of %s read by itself is another", n+1, stream)
		}
		n++
	}
	if n != len(want) {
		return fmt.Errorf("%s has %d records, and %d read by itself", stream, len(want), n)
	}
	return nil
}

func sameHeads(ctx context.Context, s eventlog.Store, streams map[string][]eventlog.Record) error {
	n := 0
	for h, err := range s.Heads(ctx) {
		if err != nil {
			return err
		}
		recs := streams[h.Stream]
		if len(recs) == 0 || recs[len(recs)-1].Seq != h.Seq || recs[len(recs)-1].Hash != h.Hash {
			return fmt.Errorf("head of %s is %d, which is not its last record", h.Stream, h.Seq)
		}
		n++
	}
	if n != len(streams) {
		return fmt.Errorf("%d heads of %d streams", n, len(streams))
	}
	return nil
}
