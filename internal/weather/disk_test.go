//go:build linux

package weather

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// A disk is a tmpfs of its own with a data directory on it, and a ballast that fills it.
type disk struct {
	mount, data string
	ballast     *os.File
}

const (
	diskBytes = 48 << 20
	page      = 4096
	// walBytes is how long the WAL is when SQLite writes it back into the table (sqlitelog: 2,000 pages). On a disk as small as this
	// it is not made so long before it is.
	walBytes = 2000 * (page + 24)
)

func mountDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{mount: shortDir(t)}
	if err := syscall.Mount("tmpfs", d.mount, "tmpfs", 0, fmt.Sprintf("size=%d", diskBytes)); err != nil {
		t.Skipf("skipped: mounting a tmpfs: %v; it needs root", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d.mount, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d.data = filepath.Join(d.mount, "data")
	var err error
	if d.ballast, err = os.Create(filepath.Join(d.mount, "ballast")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.ballast.Close() })
	return d
}

// fill leaves so many bytes free.
func (d *disk) fill(t *testing.T, leave int64) {
	t.Helper()
	for {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(d.mount, &fs); err != nil {
			t.Fatal(err)
		}
		size := int64(fs.Bavail)*fs.Bsize - leave
		info, err := d.ballast.Stat()
		if err == nil && size > 0 {
			err = syscall.Fallocate(int(d.ballast.Fd()), 0, info.Size(), size)
		}
		switch {
		case err == nil:
			return
		case !errors.Is(err, syscall.ENOSPC): // somebody else took room meanwhile
			t.Fatalf("filling the disk with %d bytes: %v", size, err)
		}
	}
}

// clear makes room.
func (d *disk) clear(t *testing.T) {
	t.Helper()
	if err := d.ballast.Truncate(0); err != nil {
		t.Fatal(err)
	}
}

func (d *disk) size(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(d.data, name)) // stat only: closing a descriptor of it would take our store its locks
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// A scene is a hypervisor in this process on a disk of its own.
type scene struct {
	*disk
	k     *keeper
	hv    *hypervisor.Hypervisor
	s     *hypervisor.Session
	next  int
	acked map[int]string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	c := &scene{disk: mountDisk(t), k: startKeeper(t), acked: map[int]string{}}
	var err error
	if c.hv, err = hypervisor.Open(t.Context(), &hypervisor.Options{Dir: c.data}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.hv.Close(ctx); err != nil && !errors.Is(err, hypervisor.ErrClosed) {
			t.Error(err)
		}
	})
	if c.s, err = openSession(t.Context(), c.hv, c.k.line); err != nil {
		t.Fatal(err)
	}
	return c
}

// act makes one call, by each agent in turn, and remembers it if it is acknowledged.
func (c *scene) act(t *testing.T, text, result int) (hypervisor.Outcome, error) {
	c.next++
	a := callArgs(c.next)
	a.Text += strings.Repeat("y", text)
	a.Size = result
	out, err := actOn(t.Context(), c.s, policy.Agent(agentDID(c.next%libraryAgents)), a)
	if err == nil && out.State == "done" {
		c.acked[a.N] = a.Text
	}
	return out, err
}

// mustAct makes a call that must be done.
func (c *scene) mustAct(t *testing.T, text, result int) {
	t.Helper()
	if out, err := c.act(t, text, result); err != nil || out.State != "done" {
		t.Fatalf("call %d: %+v, %v", c.next, out, err)
	}
}

// actUntilFull calls until a call cannot be recorded.
func (c *scene) actUntilFull(t *testing.T, text int) {
	t.Helper()
	for range 300 {
		out, err := c.act(t, text, 0)
		switch {
		case errors.Is(err, hypervisor.ErrStoreUnavailable):
			return
		case err != nil || out.State != "done":
			t.Fatalf("call %d: %+v, %v", c.next, out, err)
		}
	}
	t.Fatal("the disk is full, and everything is recorded")
}

// largeText makes calls that find no room where a refusal may still find some.
const largeText = 256 << 10

// isFull checks what holds while calls of that much text cannot be recorded: nothing is admitted, nothing is dispatched, refusals and reads go on.
func (c *scene) isFull(t *testing.T, text int) {
	t.Helper()
	ctx := t.Context()
	before := len(c.k.lines(t))
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			a := callArgs(1_000_000 + c.next + i)
			a.Text += strings.Repeat("y", text)
			out, err := actOn(ctx, c.s, policy.Agent(agentDID(i%libraryAgents)), a)
			if !errors.Is(err, hypervisor.ErrStoreUnavailable) || out.Allowed {
				t.Errorf("a call on a full disk: %+v, %v", out, err)
			}
		})
	}
	all.Wait()
	if after := len(c.k.lines(t)); after != before {
		t.Errorf("%d calls were dispatched that could not be recorded", after-before)
	}
	out, err := c.s.Act(ctx, policy.Agent(agentDID(0)), session.Act{Action: "nothing"})
	if err != nil || out.Code != policy.UnknownAction || out.Seq != 0 && text < largeText {
		t.Errorf("a refusal on a full disk: %+v, %v", out.Decision, err)
	}
	if state, err := c.s.State(ctx); err != nil || state.Lifecycle != session.Active {
		t.Errorf("State on a full disk: %v", err)
	}
	views, err := c.s.Actions(ctx, 0, 1000)
	if err != nil || len(views) < len(c.acked) {
		t.Errorf("Actions on a full disk: %d of %d acknowledged, %v", len(views), len(c.acked), err)
	}
	records := 0
	for _, err := range c.s.Records(ctx, 1) {
		if err != nil {
			t.Errorf("Records on a full disk: %v", err)
			break
		}
		records++
	}
	if records < 2*len(c.acked) {
		t.Errorf("Records on a full disk: %d, of %d acknowledged calls", records, len(c.acked))
	}
}

// recovers makes room and does nothing else: calls are admitted again, and what ended meanwhile is recorded.
func (c *scene) recovers(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	c.clear(t)
	c.mustAct(t, 0, 0)
	eventually(t, "every outcome is recorded", func() bool {
		state, err := c.s.State(ctx)
		return err == nil && len(state.Running) == 0
	})
	if err := endLeft(ctx, c.hv); err != nil {
		t.Error(err)
	}
	if err := c.hv.Close(ctx); err != nil {
		t.Error(err)
	}
	h := readHistory(t, c.data)
	h.holds(t, c.acked, c.k.lines(t))
	if h.count("unknown")+h.count("running") > 0 {
		t.Errorf("%d calls are unknown, %d run: the process never died", h.count("unknown"), h.count("running"))
	}
	t.Log(h.sum(c.acked, c.k.lines(t)))
}

func TestAFullDiskUnderTheWALAdmitsNothingAndRecoversByItself(t *testing.T) {
	c := newScene(t)
	c.mustAct(t, 0, 0)
	c.fill(t, 0)
	c.actUntilFull(t, 0)
	c.isFull(t, 0)
	c.recovers(t)
}

func TestAFullDiskUnderTheTableAdmitsNothingOnceTheWALIsFullToo(t *testing.T) {
	c := newScene(t)
	const text, room = 60 << 10, 1 << 20
	for c.size(t, "log.db-wal") < walBytes-room/2 {
		c.mustAct(t, 0, room/4)
	}
	c.fill(t, room) // the WAL can grow by so much, the table cannot by what the WAL holds
	table := c.size(t, "log.db")
	c.actUntilFull(t, text)
	wal := c.size(t, "log.db-wal")
	if wal < walBytes || c.size(t, "log.db") > table+room {
		t.Errorf("the WAL has %d bytes, the table went from %d to %d: writing back was not tried, or was no trouble", wal, table, c.size(t, "log.db"))
	}
	c.isFull(t, text)
	c.recovers(t)
}

func TestAFullDiskUnderABlobRefusesTheCallOrKeepsItsOutcomeForLater(t *testing.T) {
	c := newScene(t)
	const blob, room = largeText, 128 << 10
	c.mustAct(t, blob, blob)
	c.fill(t, room)
	if out, err := c.act(t, blob, 0); !errors.Is(err, hypervisor.ErrStoreUnavailable) || out.Allowed {
		t.Errorf("arguments that find no room: %+v, %v", out, err)
	}
	out, err := c.act(t, 0, blob)
	if !errors.Is(err, hypervisor.ErrStoreUnavailable) || !out.Allowed || out.ID == "" {
		t.Errorf("a result that finds no room: %+v, %v", out, err)
	}
	if got := len(c.k.lines(t)[c.next]); got != 1 {
		t.Errorf("the call happened %d times", got)
	}
	c.isFull(t, blob)
	c.mustAct(t, 0, 0) // what needs no blob goes on
	c.recovers(t)
}

func TestADiskThatFillsUnderLoadAgainAndAgainLosesNoAcknowledgedCall(t *testing.T) {
	c := newScene(t)
	ctx := t.Context()
	random := newRand(t)
	var mu sync.Mutex // guards c.acked
	var numbers, lost atomic.Int64
	hit := make(chan struct{}, 1)
	done := make(chan struct{})
	var all sync.WaitGroup
	for i := range libraryAgents * libraryCallers {
		all.Go(func() {
			for numbers.Load() < mostCalls {
				a := callArgs(int(numbers.Add(1)))
				out, err := actOn(ctx, c.s, policy.Agent(agentDID(i%libraryAgents)), a)
				switch {
				case errors.Is(err, hypervisor.ErrStoreUnavailable):
					lost.Add(1)
					select {
					case hit <- struct{}{}:
					default:
					}
				case err != nil:
					t.Errorf("call %d: %v", a.N, err)
					return
				case out.State == "done":
					mu.Lock()
					c.acked[a.N] = a.Text
					mu.Unlock()
				case out.Code == policy.ConcurrencyExceeded: // calls whose outcome is not recorded yet count as running
				case out.Code == policy.RateLimited:
					return
				default:
					t.Errorf("call %d: %+v", a.N, out)
					return
				}
			}
		})
	}
	go func() { all.Wait(); close(done) }()
	cycles := 0
	for loaded := true; loaded; {
		c.fill(t, int64(random.IntN(8))*page)
		select {
		case <-hit:
			cycles++
		case <-done:
			loaded = false
		case <-time.After(patience):
			t.Fatal("no call ends: neither done nor refused")
		}
		c.clear(t)
		for goal := numbers.Load() + 1 + random.Int64N(40); loaded && numbers.Load() < goal; {
			select {
			case <-hit: // of calls that were under way
			case <-done:
				loaded = false
			case <-time.After(time.Millisecond):
			}
		}
	}
	within(t, "the end of the load", done)
	c.next = int(numbers.Load())
	t.Logf("filled %d times; %d calls could not be recorded", cycles, lost.Load())
	if err := endLeft(ctx, c.hv); err != nil { // the buckets are empty
		t.Error(err)
	}
	var err error
	if c.s, err = openSession(ctx, c.hv, c.k.line); err != nil {
		t.Fatal(err)
	}
	c.recovers(t)
}

func TestWrapOnAFullDiskRefusesAndRecoversByItself(t *testing.T) {
	d, k := mountDisk(t), startKeeper(t)
	a := wrapped(t, wrapCommand(t, k, d.data))
	ctx, acked, n := t.Context(), map[int]string{}, 0
	act := func() answer {
		n++
		c := callArgs(n)
		got, err := a.call(ctx, "append", c)
		if err != nil {
			t.Fatalf("call %d: %v", n, err)
		}
		if got.code == "" && !got.err {
			acked[n] = c.Text
		}
		return got
	}
	fillUp := func() {
		d.fill(t, 0)
		for range 50 {
			if act().code == "store_unavailable" {
				return
			}
		}
		t.Fatal("the disk is full, and everything is recorded")
	}
	isFull := func() {
		before := len(k.lines(t))
		for range 5 {
			if got := act(); got.code != "store_unavailable" || got.seq != 0 {
				t.Errorf("a call on a full disk: %+v", got)
			}
		}
		if after := len(k.lines(t)); after != before {
			t.Errorf("%d calls were dispatched that could not be recorded", after-before)
		}
		if got, err := a.call(ctx, "nothing", callArgs(0)); err != nil || got.code != "unknown_action" || got.seq != 0 {
			t.Errorf("a refusal on a full disk: %+v, %v", got, err)
		}
		if got, err := a.call(ctx, "hypervisor__status", struct{}{}); err != nil || !strings.Contains(got.text, `"state":"active"`) {
			t.Errorf("status on a full disk: %+v, %v", got, err)
		}
	}
	if got := act(); got.code != "" {
		t.Fatal(got)
	}
	fillUp()
	isFull()
	d.clear(t)
	if got := act(); got.code != "" || got.err {
		t.Errorf("there is room again: %+v", got)
	}

	// Killed while the disk is full, it starts again only when there is room, and says why until then.
	fillUp()
	a.kill()
	k.settle(t)
	full := start(t, wrapCommand(t, k, d.data))
	if code := full.code(t); code != 3 || !strings.Contains(full.stderr.String(), "full") {
		t.Errorf("starting on a full disk: exit %d, %s; want 3 and that it is full", code, full.stderr)
	}
	d.clear(t)
	a = wrapped(t, wrapCommand(t, k, d.data))
	if got := act(); got.code != "" || got.err {
		t.Errorf("after a restart with room: %+v", got)
	}
	a.end(t)
	h := readHistory(t, d.data)
	h.holds(t, acked, k.lines(t))
	if h.count("running") > 0 || h.summary.Open > 0 {
		t.Errorf("%d calls run, %d sessions are open", h.count("running"), h.summary.Open)
	}
	t.Log(h.sum(acked, k.lines(t)))
}
