package sim

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
)

// A disk is the store as one process has it: what is in the log outlives the process, and nothing else does.
type disk struct {
	eventlog.Store
	w    *world
	boot uint64
}

var errDisk = errors.New("no space left on device")

// Append hands records to the log, as far as the weather lets it.
func (d *disk) Append(_ context.Context, recs []eventlog.Append) []error {
	w := d.w
	if d.boot != w.boot {
		return slices.Repeat([]error{eventlog.ErrClosed}, len(recs)) // by a process that is dead
	}
	w.mayCrash(crashAppend)
	if w.hits(diskFull) {
		w.full = 2 + w.faults.IntN(20)
	}
	switch {
	case w.full > 0:
		w.full--
		return slices.Repeat([]error{errDisk}, len(recs))
	case w.hits(commitFails):
		return slices.Repeat([]error{errDisk}, len(recs))
	case w.hits(unknownOut):
		d.keep(recs[:w.faults.IntN(len(recs))])
		return slices.Repeat([]error{eventlog.ErrUnknown}, len(recs))
	case w.hits(unknownIn):
		d.keep(recs)
		return slices.Repeat([]error{eventlog.ErrUnknown}, len(recs))
	case len(recs) > 1 && w.hits(crashHalf):
		d.keep(recs[:1+w.faults.IntN(len(recs)-1)])
		panic(crashed{})
	case w.logDir != "" && w.hits(powerCut):
		before := w.wal()
		d.Store.Append(context.Background(), recs)
		w.tear(before)
		panic(crashed{})
	case w.hits(commitHalf):
		return d.keepSome(recs)
	case w.hits(conflict):
		w.intrude(recs[w.faults.IntN(len(recs))].Stream)
	}
	errs := d.keep(recs)
	w.mayCrash(crashAppended)
	return errs
}

// keep appends for good, and lets the book read what is in now.
func (d *disk) keep(recs []eventlog.Append) []error {
	errs := d.Store.Append(context.Background(), recs)
	for i := range recs {
		if errs == nil || errs[i] == nil {
			d.w.book.add(&recs[i])
		}
	}
	return errs
}

// keepSome lets the records of some streams in.
func (d *disk) keepSome(recs []eventlog.Append) []error {
	errs, lost := make([]error, len(recs)), map[string]bool{}
	for i := range recs {
		if _, drawn := lost[recs[i].Stream]; !drawn {
			lost[recs[i].Stream] = d.w.faults.IntN(2) == 0
		}
		if errs[i] = errDisk; !lost[recs[i].Stream] {
			errs[i] = nil
			if one := d.keep(recs[i : i+1]); one != nil {
				errs[i] = one[0]
			}
		}
	}
	return errs
}

// Read, Tail, Blob and Snapshot fail now and then.
func (d *disk) Read(ctx context.Context, stream string, from uint64) iter.Seq2[eventlog.Record, error] {
	d.w.mayCrash(crashRead)
	if d.w.hits(readFails) {
		return func(yield func(eventlog.Record, error) bool) { yield(eventlog.Record{}, errDisk) }
	}
	return d.Store.Read(ctx, stream, from)
}

// Tail fails now and then.
func (d *disk) Tail(ctx context.Context, after uint64) iter.Seq2[eventlog.Record, error] {
	if d.w.hits(readFails) {
		return func(yield func(eventlog.Record, error) bool) { yield(eventlog.Record{}, errDisk) }
	}
	return d.Store.Tail(ctx, after)
}

// Heads come in an order that repeats.
func (d *disk) Heads(ctx context.Context) iter.Seq2[eventlog.Head, error] {
	return func(yield func(eventlog.Head, error) bool) {
		if d.w.hits(readFails) {
			yield(eventlog.Head{}, errDisk)
			return
		}
		var heads []eventlog.Head
		for h, err := range d.Store.Heads(ctx) {
			if err != nil {
				yield(h, err)
				return
			}
			heads = append(heads, h)
		}
		slices.SortFunc(heads, func(a, b eventlog.Head) int { return cmp.Compare(a.Stream, b.Stream) })
		for _, h := range heads {
			if !yield(h, nil) {
				return
			}
		}
	}
}

// PutBlob may be the last thing that a process does.
func (d *disk) PutBlob(ctx context.Context, key audit.Hash, b []byte) error {
	if d.w.hits(commitFails) {
		return errDisk
	}
	err := d.Store.PutBlob(ctx, key, b)
	d.w.mayCrash(crashBlob)
	return err
}

// Blob fails now and then.
func (d *disk) Blob(ctx context.Context, key audit.Hash) ([]byte, error) {
	if d.w.hits(readFails) {
		return nil, errDisk
	}
	return d.Store.Blob(ctx, key)
}

// Snapshot fails now and then, which costs time alone.
func (d *disk) Snapshot(ctx context.Context, stream string) (eventlog.Snapshot, bool, error) {
	if d.w.hits(readFails) {
		return eventlog.Snapshot{}, false, errDisk
	}
	return d.Store.Snapshot(ctx, stream)
}

// Close lets the process go; the log stays.
func (d *disk) Close() error { return nil }
