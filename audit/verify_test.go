package audit_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/agenthypervisor/hypervisor/audit"
)

func TestAnUntouchedLogVerifies(t *testing.T) {
	b := smallBook()
	for n := range len(b.log) + 1 { // with every head anybody may have written down
		sum, err := verify(b.log, &audit.Verifier{Blobs: b.blobs, Head: b.head(n)})
		if err != nil {
			t.Fatalf("head of %d records: %v", n, err)
		}
		whole := b.head(len(b.log))
		if want := (audit.Summary{Sessions: 5, Open: 3, Records: whole.Records, Root: whole.Root}); sum != want {
			t.Fatalf("summary is %+v, want %+v", sum, want)
		}
	}
}

// A crash may end the log behind any record: no prefix of an honest log is at fault.
func TestEveryPrefixOfALogVerifies(t *testing.T) {
	b := smallBook()
	for n := range b.log {
		if _, err := verify(b.log[:n], &audit.Verifier{Blobs: b.blobs}); err != nil {
			t.Errorf("first %d records: %v", n, err)
		}
	}
}

// SPEC §8: "they can be redacted and collected, and proofs still verify".
func TestARedactedPayloadIsNoFault(t *testing.T) {
	b := smallBook()
	log := copyLog(b.log)
	for i := range log {
		log[i].Payload = nil
	}
	if _, err := verify(log, &audit.Verifier{Blobs: b.blobs}); err != nil {
		t.Errorf("payloads redacted: %v", err)
	}
	if _, err := verify(b.log, &audit.Verifier{Blobs: blobs{}}); err != nil {
		t.Errorf("blobs redacted: %v", err)
	}
}

// wantFault checks that err is a fault in stream at seq, or at one of the others where the place cannot be known better.
func wantFault(t *testing.T, what string, err error, stream string, seqs ...uint64) {
	t.Helper()
	fault, ok := errors.AsType[*audit.Fault](err)
	switch {
	case !ok:
		t.Errorf("%s: got %v, want a fault in %s %v", what, err, stream, seqs)
	case fault.Stream != stream || len(seqs) > 0 && !slices.Contains(seqs, fault.Seq):
		t.Errorf("%s: fault is told of %q %d (%s), want %s %v", what, fault.Stream, fault.Seq, fault.What, stream, seqs)
	case fault.What == "":
		t.Errorf("%s: fault says nothing", what)
	}
}

// SPEC §8: "A verifier reports any change …, and where."
func TestEveryFlippedByteIsFoundWhereItIs(t *testing.T) {
	b := smallBook()
	for i, honest := range b.log {
		flip := func(field string, n int, change func(r *audit.Stored, at int)) {
			for at := range n {
				log := slices.Clone(b.log)
				change(&log[i], at)
				_, err := verify(log, &audit.Verifier{Blobs: b.blobs})
				wantFault(t, fmt.Sprintf("%s of record %d, byte %d", field, i, at), err, honest.Stream, honest.Seq)
			}
		}
		flip("body", len(honest.Body), func(r *audit.Stored, at int) { r.Body = flipped(r.Body, at) })
		flip("hash", len(honest.Hash), func(r *audit.Stored, at int) { r.Hash[at] ^= 1 })
		flip("stream", len(honest.Stream), func(r *audit.Stored, at int) { r.Stream = string(flipped([]byte(r.Stream), at)) })
		flip("seq", 8, func(r *audit.Stored, at int) { r.Seq ^= 1 << (8 * at) })
		flip("position", 8, func(r *audit.Stored, at int) { r.Position ^= 1 << (8 * at) })
		flip("payload", len(honest.Payload), func(r *audit.Stored, at int) { r.Payload = flipped(r.Payload, at) })
	}
}

func flipped(b []byte, at int) []byte {
	b = slices.Clone(b)
	b[at] ^= 1
	return b
}
