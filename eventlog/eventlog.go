package eventlog

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
)

var (
	// ErrConflict is returned when a stream's head is not where the record was decided: someone else is ahead, or the
	// stream is not as the caller believes. Nothing was written.
	ErrConflict = errors.New("stream has moved on")
	// ErrUnknown is returned when a record may or may not be in. The caller MUST forget what it believes of the stream
	// and read it again.
	ErrUnknown = errors.New("outcome of the append is unknown")
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("store is closed")
	// ErrCorrupt is returned, wrapped with the place, when what is stored contradicts itself.
	ErrCorrupt = errors.New("log is damaged")
	// ErrFormat is returned when the data was written by a newer program.
	ErrFormat = errors.New("data is of a newer format")
)

// An Append is one record to be added to a stream.
type Append struct {
	Stream  string
	Seq     uint64     // the head's plus one; 1 for a new stream
	Prev    audit.Hash // the head's leaf hash; zero for a new stream
	Body    []byte     // the record's bytes, stored verbatim; the store does not keep the slice
	Hash    audit.Hash // audit.Leaf(Body); the store believes it, the verifier does not
	Payload []byte     // audit.AppendPayload; nil for none. Durable with the record or not at all

	Deadline time.Time // when the stream, with this record, next wants attention; zero: never. Kept to the millisecond
	Owes     bool      // whether the stream, with this record, owes an effect
	Durable  bool      // whether Append must not return nil before the record would survive a power cut
}

// A Record is a record as it is stored.
type Record struct {
	Position uint64 // in commit order, across all streams; from 1, rising
	Stream   string
	Seq      uint64
	Hash     audit.Hash // as stored beside the body
	Body     []byte     // owned by the receiver
	Payload  []byte     // nil: none, or redacted
}

// A Head is the newest record of a stream.
type Head struct {
	Stream   string
	Seq      uint64
	Hash     audit.Hash
	Deadline time.Time
	Owes     bool
}

// A Log keeps records in streams.
type Log interface {
	// Append adds each record to its stream, or does not, each for itself; errs[i] speaks of recs[i], and a nil errs
	// says all are in.
	//
	// A record goes in only if its stream's head is exactly (Seq-1, Prev); otherwise ErrConflict. Sequence alone would let
	// a record decided on a lost predecessor in behind its replacement.
	// When Append returns nil for a record with Durable, that record and every record committed before it survive a power cut.
	// After any other error than ErrConflict the record is not in, unless it is ErrUnknown.
	// Records of one stream go in in the order of recs, and none goes in behind one that did not.
	Append(ctx context.Context, recs []Append) (errs []error)

	// Read yields the records of a stream from sequence number from (0 and 1 both mean the first), in order, as of some
	// moment during the call. A stream nobody wrote to yields nothing.
	Read(ctx context.Context, stream string, from uint64) iter.Seq2[Record, error]

	// Tail yields the records of all streams behind position after, in commit order without gaps, up to the newest at
	// some moment during the call. It does not wait for more.
	Tail(ctx context.Context, after uint64) iter.Seq2[Record, error]

	// Heads yields the head of every stream, in no order.
	Heads(ctx context.Context) iter.Seq2[Head, error]
}

// Blobs keep bytes too large to stand beside their record, under their commitment.
type Blobs interface {
	// PutBlob stores b under key; when it returns nil the blob survives a power cut. Storing the same key again is no error
	// and changes nothing. An orphan, whose record was never written, is harmless.
	PutBlob(ctx context.Context, key audit.Hash, b []byte) error
	// Blob returns the bytes under key, or ErrNoBlob.
	Blob(ctx context.Context, key audit.Hash) ([]byte, error)
}

// ErrNoBlob is returned for a key under which nothing is stored, or no longer.
var ErrNoBlob = errors.New("no such blob")

// A Snapshot is a stream's state at a record, so that loading need not begin at the beginning.
type Snapshot struct {
	Stream string
	Seq    uint64
	Hash   audit.Hash // of the record at Seq; a reader MUST find that record in the log before it believes State
	State  []byte
}

// Snapshots keep the newest snapshot of each stream. They are a cache: losing one costs time, and none is ever truth.
type Snapshots interface {
	// SaveSnapshot replaces the stream's snapshot. It need not survive a power cut.
	SaveSnapshot(ctx context.Context, s Snapshot) error
	// Snapshot returns the stream's snapshot, or false if there is none.
	Snapshot(ctx context.Context, stream string) (Snapshot, bool, error)
}

// A Store is all a hypervisor keeps.
type Store interface {
	Log
	Blobs
	Snapshots
	// Close makes everything appended durable and lets go of the data. Methods that are running end first.
	Close() error
}
