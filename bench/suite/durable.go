package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/bench/store"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/sqlitelog"
)

// durable.go: what is bound by the disk.

// A node is a hypervisor on a store that the benchmark can read, and beside it the baselines on the same disk.
type node struct {
	hv    *hypervisor.Hypervisor
	log   *sqlitelog.Store
	table *store.Table
	file  *store.File // synced with fsync
	data  *store.File // synced with fdatasync
	at    uint64      // position up to which the log was read
}

func (r *run) openNode(ctx context.Context) (n *node, err error) {
	dirs := map[string]string{}
	for _, name := range []string{"hypervisor", "table", "file", "data"} {
		dirs[name] = filepath.Join(r.dir, name)
		if err := os.MkdirAll(dirs[name], 0o700); err != nil {
			return nil, err
		}
	}
	n = &node{}
	if n.log, err = sqlitelog.Open(ctx, dirs["hypervisor"], nil); err != nil {
		return nil, err
	}
	n.hv, err = hypervisor.Open(ctx, &hypervisor.Options{Store: n.log, Dir: dirs["hypervisor"], Clock: newClock(), MaxLoaded: 2 * Long.Sessions, Program: "bench"})
	if err != nil {
		return nil, err // and with it the store
	}
	var bad [3]error
	n.table, bad[0] = store.OpenTable(ctx, dirs["table"])
	n.file, bad[1] = store.OpenFile(dirs["file"])
	n.data, bad[2] = store.OpenFile(dirs["data"])
	return n, errors.Join(bad[:]...)
}

func (n *node) close(ctx context.Context) error {
	return errors.Join(n.hv.Close(ctx), n.table.Close(), n.file.Close(), n.data.Close())
}

// openSessions opens active sessions of one ring-1 agent each.
func openSessions(ctx context.Context, hv *hypervisor.Hypervisor, n int) ([]*hypervisor.Session, error) {
	all := make([]*hypervisor.Session, n)
	return all, eachOf(n, func(i int) error {
		s, err := openSession(ctx, hv, session.Strong)
		if err != nil {
			return err
		}
		s.Register(writeCall().Descriptor, func(_ context.Context, args json.RawMessage) (json.RawMessage, error) { return args, nil })
		all[i] = s
		return nil
	})
}

func openSession(ctx context.Context, hv *hypervisor.Hypervisor, c session.Consistency) (*hypervisor.Session, error) {
	s, err := hv.CreateSession(ctx, admin, &session.Config{MaxDuration: session.MaxDuration, Consistency: c})
	if err != nil {
		return nil, err
	}
	if _, err := s.Join(ctx, admin, session.Join{Agent: ann.DID, Sigma: high}); err != nil {
		return nil, err
	}
	return s, s.Activate(ctx, admin)
}

// eachOf runs f for each number below n, many at once, and returns the first error.
func eachOf(n int, f func(i int) error) error {
	const workers = 64
	var next atomic.Int64
	return together(min(workers, n), func() error {
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			if err := f(int(i)); err != nil {
				return err
			}
		}
		return nil
	})
}

// together runs f n times at once and returns the first error.
func together(n int, f func() error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// oneCommand has an agent leave and join again, each one durable command, and after each a raw append of as many bytes.
func oneCommand(ctx context.Context, r *run) ([]Row, error) {
	n, err := r.openNode(ctx)
	if err != nil {
		return nil, err
	}
	s, err := openSession(ctx, n.hv, session.Strong)
	if err != nil {
		return nil, err
	}
	bob := policy.DID("did:mesh:bob")
	raw := []eventlog.Append{{Body: make([]byte, 600)}}
	var commands, appends []time.Duration
	for i := range 2 * (r.Calls / 2) {
		began := time.Now()
		if i%2 == 0 {
			_, err = s.Join(ctx, admin, session.Join{Agent: bob})
		} else {
			err = s.Leave(ctx, admin, session.Leave{Agent: bob})
		}
		between := time.Now()
		if err := errors.Join(err, n.file.Commit(raw)); err != nil {
			return nil, err
		}
		commands, appends = append(commands, between.Sub(began)), append(appends, time.Since(between))
	}
	p50, raw50 := percentile(commands, 50), percentile(appends, 50)
	row := Row{Work: "one durable command, p50", Value: millis(p50), Unit: "ms", Reach: "≤ 2 × raw append + 0.3 ms",
		Beside: "raw append with fsync", Baseline: millis(raw50),
		Note: fmt.Sprintf("p99 %.2f ms, raw %.2f ms", millis(percentile(commands, 99)), millis(percentile(appends, 99)))}
	return []Row{row.atMost(2*millis(raw50) + 0.3)}, n.close(ctx)
}

func rateFew(ctx context.Context, r *run) ([]Row, error) { return r.rate(ctx, 256, 256) }

func rateMany(ctx context.Context, r *run) ([]Row, error) { return r.rate(ctx, r.Sessions, 2048) }

// rate has so many callers call a tool over and over in so many sessions. Each call is two durable commands: the intent before
// it is dispatched and the outcome after. Then the very records that came of it go into the bare table and the raw files, in
// groups as large as the callers could have made. The hypervisor's time includes the indexing that has come due.
func (r *run) rate(ctx context.Context, sessions, callers int) ([]Row, error) {
	n, err := r.openNode(ctx)
	if err != nil {
		return nil, err
	}
	r.say(fmt.Sprintf("opening %d sessions", sessions))
	all, err := openSessions(ctx, n.hv, sessions)
	if err != nil {
		return nil, err
	}
	if _, err := n.newRecords(ctx); err != nil {
		return nil, err
	}
	var lasted, busy [4]time.Duration // of the hypervisor, the table, the file with fsync, with fdatasync: time, and processor time
	records := 0
	for round := range r.Rounds {
		r.say(fmt.Sprintf("round %d of %d", round+1, r.Rounds))
		used := processor()
		calling, err := n.load(ctx, all, callers, r.Round)
		if err != nil {
			return nil, err
		}
		lasted[0], busy[0] = lasted[0]+calling, busy[0]+processor()-used
		recs, err := n.newRecords(ctx)
		if err != nil {
			return nil, err
		}
		records += len(recs)
		for i, commit := range []func([]eventlog.Append) error{
			func(g []eventlog.Append) error { return n.table.Commit(ctx, g) }, n.file.Commit, n.data.CommitData,
		} {
			began, used := time.Now(), processor()
			if err := inGroups(recs, min(callers, eventlog.MaxBatch), commit); err != nil {
				return nil, err
			}
			lasted[i+1], busy[i+1] = lasted[i+1]+time.Since(began), busy[i+1]+processor()-used
		}
	}
	var rate [4]float64 // over all rounds, since some pay for the indexing of others
	for i := range rate {
		rate[i] = float64(records) / lasted[i].Seconds()
	}
	row := Row{Work: fmt.Sprintf("durable rate, %d sessions, %d callers", sessions, callers), Value: rate[0], Unit: "commands/s",
		Reach: "≥ 0.6 × the table", Beside: "the same records into one bare append-only table", Baseline: rate[1],
		Note: fmt.Sprintf("of the processor %.1f µs a command, table %.1f µs; raw file %.0f/s with fsync, %.0f/s with fdatasync",
			micros(busy[0])/float64(records), micros(busy[1])/float64(records), rate[2], rate[3])}
	return []Row{row.atLeast(0.6 * rate[1])}, n.close(ctx)
}

// load calls for so long, and returns how long it took until everything was recorded and indexed as far as is due.
func (n *node) load(ctx context.Context, all []*hypervisor.Session, callers int, long time.Duration) (time.Duration, error) {
	const stride = 7919 // sessions are called in an order that looks random
	args, began := json.RawMessage(writeArgs), time.Now()
	var next atomic.Int64
	err := together(callers, func() error {
		for time.Since(began) < long {
			s := all[next.Add(stride)%int64(len(all))]
			out, err := s.Act(ctx, ann, session.Act{Action: "write", Args: args})
			if err != nil || out.State != "done" {
				return fmt.Errorf("calling: %+v, %w", out, err)
			}
		}
		return nil
	})
	for n.log.Step(ctx) {
	}
	return time.Since(began), err
}

// newRecords returns what was appended since it was last called.
func (n *node) newRecords(ctx context.Context) (recs []eventlog.Append, err error) {
	for rec, err := range n.log.Tail(ctx, n.at) {
		if err != nil {
			return nil, err
		}
		n.at = rec.Position
		recs = append(recs, eventlog.Append{Stream: rec.Stream, Seq: rec.Seq, Hash: rec.Hash, Body: rec.Body, Payload: rec.Payload})
	}
	return recs, nil
}

func inGroups(recs []eventlog.Append, size int, commit func([]eventlog.Append) error) error {
	for len(recs) > 0 {
		n := min(size, len(recs))
		if err := commit(recs[:n]); err != nil {
			return err
		}
		recs = recs[n:]
	}
	return nil
}
