package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/sqlitelog"
	"github.com/agenthypervisor/hypervisor/system"
)

// log.go: what grows with the log.

// longLog writes a log of real records, then verifies it, and serves from a copy as a crash would have left it.
func longLog(ctx context.Context, r *run) ([]Row, error) {
	dir, crashed := filepath.Join(r.dir, "log"), filepath.Join(r.dir, "crashed")
	open, err := r.writeLog(ctx, dir, crashed)
	if err != nil {
		return nil, fmt.Errorf("writing the log: %w", err)
	}
	verified, err := r.verify(ctx, dir)
	if err != nil {
		return nil, err
	}
	r.say("starting again")
	began := time.Now()
	first, err := firstCall(ctx, crashed, open)
	if err != nil {
		return nil, err
	}
	restart := Row{Work: fmt.Sprintf("restart after a crash with %d records: Open to the first governed call", r.Records), Value: first.Sub(began).Seconds(),
		Unit: "s", Reach: "≤ 2 s for 1M"}
	return []Row{verified, restart.atMost(2)}, nil
}

// A logWriter appends to a store in groups.
type logWriter struct {
	store *sqlitelog.Store
	group []eventlog.Append
	err   error
	total int

	state *system.State // of the node, with its chain
	head  audit.Hash
	now   time.Time
}

func (w *logWriter) add(ctx context.Context, a eventlog.Append) {
	w.group = append(w.group, a)
	w.total++
	if len(w.group) == eventlog.MaxBatch {
		w.flush(ctx)
	}
}

func (w *logWriter) flush(ctx context.Context) {
	for _, err := range w.store.Append(ctx, w.group) {
		if w.err == nil {
			w.err = err
		}
	}
	w.group = w.group[:0]
	for w.store.Step(ctx) { // as the daemon does while it runs
	}
}

// node records a command of the system stream.
func (w *logWriter) node(ctx context.Context, c system.Command) {
	out := system.Decide(w.state, system.Env{Caller: policy.System}, c)
	w.now = w.now.Add(time.Millisecond)
	system.Apply(w.state, w.state.Seq+1, w.now, out.Events)
	rec := audit.Record{Stream: audit.SystemStream, Seq: w.state.Seq, Time: w.now, Trace: trace, Prev: w.head, Events: system.AppendEvents(nil, out.Events),
		Caller: audit.Caller{DID: string(policy.System.DID), Role: policy.System.Role.String(), Via: policy.System.Via}}
	body := rec.Append(nil)
	leaf := audit.Leaf(body)
	w.add(ctx, eventlog.Append{Stream: rec.Stream, Seq: rec.Seq, Prev: w.head, Body: body, Hash: leaf, Durable: true})
	w.head = leaf
}

// writeLog fills dir with sessions of a hundred records, eight running at once, all but the last eight ended, and copies it as
// it stands on the disk before it is closed. It returns a session that is open.
func (r *run) writeLog(ctx context.Context, dir, crashed string) (open string, err error) {
	const atOnce, actions = 8, 47
	w := &logWriter{state: system.NewState(), now: lately()}
	if w.store, err = sqlitelog.Open(ctx, dir, nil); err != nil {
		return "", err
	}
	w.node(ctx, system.Start{Incarnation: "0123456789abcdef", Program: "bench"})
	call, room := writeCall(), scratch{}
	for n := 0; w.total < r.Records && w.err == nil; n++ {
		r.say(fmt.Sprintf("writing the log: %d of %d records", w.total, r.Records))
		running := make([]*kernel, atOnce)
		for i := range running {
			open = fmt.Sprintf("ses-%08d", n*atOnce+i)
			k := newKernel(open, &room)
			k.keep = func(a eventlog.Append) { w.add(ctx, a) }
			k.do(admin, session.Create{Config: session.Config{MaxDuration: session.MaxDuration}}, nil)
			w.node(ctx, system.Open{Session: open})
			k.do(admin, session.Join{Agent: ann.DID}, nil)
			k.do(admin, session.Activate{}, nil)
			running[i] = k
		}
		for range actions {
			for _, k := range running {
				k.settle(k.act(call))
			}
		}
		for _, k := range running {
			if w.total+3*atOnce < r.Records {
				w.node(ctx, system.Commit{Session: k.state.ID, Summary: k.end(), Records: k.tree.Size})
			}
		}
	}
	if w.flush(ctx); w.err != nil {
		return "", w.err
	}
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
		return "", err
	}
	return open, w.store.Close()
}

// verify reads the log twice, once without looking at it.
func (r *run) verify(ctx context.Context, dir string) (Row, error) {
	read := func(add func(audit.Stored) error) (time.Duration, error) {
		began := time.Now()
		log, err := sqlitelog.OpenReader(ctx, dir)
		if err != nil {
			return 0, err
		}
		for row, err := range log.Tail(ctx, 0) {
			if err == nil {
				err = add(audit.Stored{Position: row.Position, Stream: row.Stream, Seq: row.Seq, Hash: row.Hash, Body: row.Body, Payload: row.Payload})
			}
			if err != nil {
				return 0, err
			}
		}
		return time.Since(began), log.Close()
	}
	r.say("reading the log")
	reading, err := read(func(audit.Stored) error { return nil })
	if err != nil {
		return Row{}, err
	}
	r.say("verifying the log")
	v, used := &audit.Verifier{}, processor()
	verifying, err := read(v.Add)
	if err != nil {
		return Row{}, err
	}
	used = processor() - used
	sum, err := v.Close()
	if err != nil {
		return Row{}, err
	}
	const million = 1e6
	row := Row{Work: fmt.Sprintf("verify %d records of %d sessions", sum.Records, sum.Sessions), Value: verifying.Seconds(), Unit: "s",
		Reach: "≤ 5 s for 1M", Beside: "reading alone", Baseline: reading.Seconds(), Note: fmt.Sprintf("of the processor %.2f s", used.Seconds())}
	return row.atMost(5 * float64(sum.Records) / million), nil
}

// firstCall starts a hypervisor on a directory and returns when a call in a session was answered.
func firstCall(ctx context.Context, dir, id string) (time.Time, error) {
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Dir: dir, Clock: newClock()})
	if err != nil {
		return time.Time{}, err
	}
	s, err := hv.Session(ctx, id)
	if err != nil {
		return time.Time{}, err
	}
	s.Register(action.Descriptor{ID: "read", ReadOnly: true}, func(_ context.Context, args json.RawMessage) (json.RawMessage, error) { return args, nil })
	out, err := s.Act(ctx, ann, session.Act{Action: "read"})
	if err == nil && out.State != "done" {
		err = fmt.Errorf("the first call: %+v", out)
	}
	answered := time.Now()
	if err != nil {
		return answered, err
	}
	return answered, hv.Close(ctx)
}
