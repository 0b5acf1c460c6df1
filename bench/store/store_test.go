package store_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/bench/store"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/sqlitelog"
)

// A load makes groups of records of 600 B with payloads of 300 B, over so many streams, in an order that looks random.
type load struct {
	streams []eventlog.Append // the newest record of each
	next    int
	group   []eventlog.Append
}

func newLoad(streams, group int) *load {
	l := &load{group: make([]eventlog.Append, group)}
	for i := range streams {
		l.streams = append(l.streams, eventlog.Append{Stream: fmt.Sprintf("session/%08x-01k7q8w4zj", uint32(i)*2654435761), Durable: true})
	}
	for i := range l.group {
		l.group[i].Body, l.group[i].Payload = make([]byte, 600), make([]byte, 300)
	}
	return l
}

func (l *load) make() []eventlog.Append {
	for i := range l.group {
		l.next = (l.next + 7919) % len(l.streams)
		at := &l.streams[l.next]
		body, payload := l.group[i].Body, l.group[i].Payload
		binary.BigEndian.PutUint64(body, at.Seq+1)
		copy(body[8:], at.Stream)
		at.Seq, at.Prev, at.Hash = at.Seq+1, at.Hash, audit.Leaf(body)
		l.group[i] = *at
		l.group[i].Body, l.group[i].Payload = body, payload
	}
	return l.group
}

// Groups run in turns, table, file and store, so that all three see the same noise. The store's time includes its Steps.
func BenchmarkGroups(b *testing.B) {
	for _, streams := range []int{256, 20_000} {
		for _, group := range []int{1, 32, 128, 512} {
			b.Run(fmt.Sprintf("streams=%d/group=%d", streams, group), func(b *testing.B) { groups(b, streams, group) })
		}
	}
}

func groups(b *testing.B, streams, group int) {
	ctx, dir := b.Context(), b.TempDir()
	table, err := store.OpenTable(ctx, dir)
	check(b, err)
	file, err := store.OpenFile(dir)
	check(b, err)
	log, err := sqlitelog.Open(ctx, dir, nil)
	check(b, err)
	l := newLoad(streams, group)
	var inTable, inFile, inLog, stepping time.Duration
	var inTables, inLogs []time.Duration
	n := 0
	for b.Loop() {
		recs := l.make()
		t0 := time.Now()
		check(b, table.Commit(ctx, recs))
		t1 := time.Now()
		check(b, file.Commit(recs))
		t2 := time.Now()
		for _, err := range log.Append(ctx, recs) {
			check(b, err)
		}
		t3 := time.Now()
		log.Step(ctx)
		inTable, inFile, inLog, stepping = inTable+t1.Sub(t0), inFile+t2.Sub(t1), inLog+t3.Sub(t2), stepping+time.Since(t3)
		inTables, inLogs = append(inTables, t1.Sub(t0)), append(inLogs, t3.Sub(t2))
		n += group
	}
	slices.Sort(inTables)
	slices.Sort(inLogs)
	percentile := func(d []time.Duration, p int) float64 { return d[len(d)*p/100].Seconds() * 1e3 }
	rate := func(d time.Duration) float64 { return float64(n) / d.Seconds() }
	b.ReportMetric(rate(inTable), "table/s")
	b.ReportMetric(rate(inFile), "file/s")
	b.ReportMetric(rate(inLog), "append/s")
	b.ReportMetric(rate(inLog+stepping), "store/s")
	b.ReportMetric(rate(inLog)/rate(inTable), "append/table")
	b.ReportMetric(rate(inLog+stepping)/rate(inTable), "store/table")
	b.ReportMetric(percentile(inTables, 50), "table-p50-ms")
	b.ReportMetric(percentile(inLogs, 50), "p50-ms")
	b.ReportMetric(percentile(inTables, 99), "table-p99-ms")
	b.ReportMetric(percentile(inLogs, 99), "p99-ms")
	check(b, table.Close())
	check(b, file.Close())
	check(b, log.Close())
}

func check(b *testing.B, err error) {
	if err != nil {
		b.Helper()
		b.Fatal(err)
	}
}

// A log of 300,000 records of 20,000 streams is closed and opened, killed and opened, and read.
func BenchmarkWholeLog(b *testing.B) {
	const records, group = 300_000, 500
	ctx, dir := b.Context(), b.TempDir()
	log, err := sqlitelog.Open(ctx, dir, nil)
	check(b, err)
	l := newLoad(20_000, group)
	for range records / group {
		for _, err := range log.Append(ctx, l.make()) {
			check(b, err)
		}
		log.Step(ctx)
	}
	check(b, log.Close())
	perRecord := func(b *testing.B) {
		b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N*records), "ns/record")
	}
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			log, err := sqlitelog.Open(ctx, dir, nil)
			check(b, err)
			b.StopTimer()
			check(b, log.Close())
			b.StartTimer()
		}
	})
	b.Run("tail", func(b *testing.B) {
		log, err := sqlitelog.Open(ctx, dir, nil)
		check(b, err)
		for b.Loop() {
			for _, err := range log.Tail(ctx, 0) {
				check(b, err)
			}
		}
		perRecord(b)
		check(b, log.Close())
	})
	b.Run("reader", func(b *testing.B) {
		r, err := sqlitelog.OpenReader(ctx, dir)
		check(b, err)
		for b.Loop() {
			for row, err := range r.Tail(ctx, 0) {
				check(b, err)
				if audit.Leaf(row.Body) != row.Hash {
					b.Fatal("not what was hashed")
				}
			}
		}
		perRecord(b)
		check(b, r.Close())
	})
	b.Run("read a stream", func(b *testing.B) {
		log, err := sqlitelog.Open(ctx, dir, nil)
		check(b, err)
		for b.Loop() {
			for _, err := range log.Read(ctx, l.streams[7].Stream, 1) {
				check(b, err)
			}
		}
		check(b, log.Close())
	})
}
