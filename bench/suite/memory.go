package suite

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/sqlitelog"
)

// memory weighs the heap, after a collection, three times over the same log of sessions with ten participants: with nothing
// but the store open, which holds all heads; with the hypervisor on it and every session used once and let go but one; and
// with every session loaded. The differences, by session, are what an evicted one costs beyond the store's head, and what
// loading adds. What a hypervisor without sessions weighs is no session's.
func memory(ctx context.Context, r *run) ([]Row, error) {
	dir := filepath.Join(r.dir, "memory")
	r.say(fmt.Sprintf("opening %d sessions of ten", r.Loaded))
	ids, err := writeSessions(ctx, dir, r.Loaded)
	if err != nil {
		return nil, err
	}
	heads, err := heapOfStore(ctx, dir)
	if err != nil {
		return nil, err
	}
	empty := filepath.Join(r.dir, "empty")
	bare, err := heapOf(ctx, empty, nil, 1)
	if err != nil {
		return nil, err
	}
	store, err := heapOfStore(ctx, empty)
	if err != nil {
		return nil, err
	}
	r.say("using each and letting it go")
	evicted, err := heapOf(ctx, dir, ids, 1)
	if err != nil {
		return nil, err
	}
	r.say("loading all")
	loaded, err := heapOf(ctx, dir, ids, len(ids)+1)
	if err != nil {
		return nil, err
	}
	n := float64(len(ids))
	return []Row{
		Row{Work: "memory, a loaded session of 10 participants", Value: (loaded - evicted) / n / 1024, Unit: "KiB", Reach: "≤ 16 KiB"}.atMost(16),
		Row{Work: "memory, an evicted session beyond the store's head", Value: (evicted - heads - (bare - store)) / n, Unit: "B", Reach: "≤ 200 B"}.atMost(200),
	}, nil
}

func heap() float64 {
	for range 3 { // what one collection finds dead, its cleanups let go of, and the next collects
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

func heapOfStore(ctx context.Context, dir string) (float64, error) {
	store, err := sqlitelog.Open(ctx, dir, nil)
	if err != nil {
		return 0, err
	}
	weight := heap()
	return weight, store.Close()
}

// heapOf opens the log, uses each session once with at most so many loaded, and weighs the heap.
func heapOf(ctx context.Context, dir string, ids []string, most int) (float64, error) {
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Dir: dir, MaxLoaded: most})
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		if _, err := hv.Session(ctx, id); err != nil {
			return 0, err
		}
	}
	weight := heap()
	return weight, hv.Close(ctx)
}

// writeSessions makes a log of active sessions with ten participants each.
func writeSessions(ctx context.Context, dir string, n int) ([]string, error) {
	const participants = 10
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Dir: dir, MaxLoaded: n + 1})
	if err != nil {
		return nil, err
	}
	ids := make([]string, n)
	err = eachOf(n, func(i int) error {
		s, err := hv.CreateSession(ctx, admin, &session.Config{MaxDuration: session.MaxDuration})
		if err != nil {
			return err
		}
		for j := range participants {
			if _, err := s.Join(ctx, admin, session.Join{Agent: policy.DID(fmt.Sprintf("did:mesh:agent-%d", j)), Sigma: high}); err != nil {
				return err
			}
		}
		ids[i] = s.ID()
		return s.Activate(ctx, admin)
	})
	if err != nil {
		return nil, err
	}
	return ids, hv.Close(ctx)
}
