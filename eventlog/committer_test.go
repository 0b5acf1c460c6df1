package eventlog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/eventlogtest"
	"github.com/agenthypervisor/hypervisor/memlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A spy is a log that notes the groups it is given, and fails those it is told to.
type spy struct {
	eventlog.Log
	mu     sync.Mutex // guards groups where Run appends
	groups [][]string // "stream seq"
	fail   func(group int, rec eventlog.Append) error
}

func (s *spy) Append(ctx context.Context, recs []eventlog.Append) []error {
	var names []string
	errs := make([]error, len(recs))
	failed := map[string]error{}
	var pass []eventlog.Append
	var at []int
	for i, r := range recs {
		names = append(names, fmt.Sprintf("%s %d", r.Stream, r.Seq))
		if s.fail != nil && failed[r.Stream] == nil {
			failed[r.Stream] = s.fail(len(s.groups), r)
		}
		if errs[i] = failed[r.Stream]; errs[i] == nil {
			pass, at = append(pass, r), append(at, i)
		}
	}
	s.mu.Lock()
	s.groups = append(s.groups, names)
	s.mu.Unlock()
	for i, err := range s.Log.Append(ctx, pass) {
		errs[at[i]] = err
	}
	return errs
}

func newSpy() *spy { return &spy{Log: memlog.New()} }

// enqueue takes a place and puts rec in it; *told becomes what the committer says.
func enqueue(t testing.TB, c *eventlog.Committer, lane *eventlog.Lane, rec eventlog.Append) (told *[]error) {
	t.Helper()
	if err := c.Reserve(); err != nil {
		t.Fatal(err)
	}
	told = new([]error)
	c.Enqueue(lane, rec, func(err error) { *told = append(*told, err) })
	return told
}

func TestCommitterKeepsTheOrderOfAllStreams(t *testing.T) {
	log := newSpy()
	c := eventlog.NewCommitter(log)
	a, b := eventlogtest.Stream{Name: "a"}, eventlogtest.Stream{Name: "b"}
	la, lb := new(eventlog.Lane), new(eventlog.Lane)
	var want []string
	for i := range 1300 {
		s, lane := &a, la
		if i%3 == 0 {
			s, lane = &b, lb
		}
		rec := s.Next("word")
		enqueue(t, c, lane, rec)
		want = append(want, fmt.Sprintf("%s %d", rec.Stream, rec.Seq))
	}
	for c.Step(t.Context()) {
	}
	if got := slices.Concat(log.groups...); !slices.Equal(got, want) {
		t.Errorf("order is not that of Enqueue")
	}
	for i, g := range log.groups {
		if len(g) > eventlog.MaxBatch || (i < len(log.groups)-1 && len(g) != eventlog.MaxBatch) {
			t.Errorf("group %d has %d records, the bound is %d", i, len(g), eventlog.MaxBatch)
		}
	}
}

func TestCommitterBoundsTheBytesOfAGroup(t *testing.T) {
	log := newSpy()
	c := eventlog.NewCommitter(log)
	s, lane := eventlogtest.Stream{Name: "a"}, new(eventlog.Lane)
	for range 10 {
		rec := s.Next("word")
		rec.Payload = make([]byte, 3<<20)
		enqueue(t, c, lane, rec)
	}
	for c.Step(t.Context()) {
	}
	for _, g := range log.groups {
		if len(g) > 3 { // 8 MiB, but for the last record
			t.Errorf("a group of %d records of 3 MiB", len(g))
		}
	}
}

func TestCommitterIsOverloadedWhenAllPlacesAreTaken(t *testing.T) {
	c := eventlog.NewCommitter(newSpy())
	for range eventlog.MaxQueue {
		if err := c.Reserve(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Reserve(); !errors.Is(err, eventlog.ErrOverloaded) {
		t.Errorf("got %v, want ErrOverloaded", err)
	}
	c.Release()
	s := eventlogtest.Stream{Name: "a"}
	enqueue(t, c, new(eventlog.Lane), s.Next("word")) // in the place given back
	if err := c.Reserve(); !errors.Is(err, eventlog.ErrOverloaded) {
		t.Errorf("a waiting record: %v, want ErrOverloaded", err)
	}
	c.Step(t.Context())
	if err := c.Reserve(); err != nil {
		t.Errorf("a place that became free: %v", err)
	}
}

func TestCommitterFailsAllBehindAFailedRecordOfItsLane(t *testing.T) {
	lost := errors.New("lost")
	log := newSpy()
	log.fail = func(group int, r eventlog.Append) error {
		if r.Stream == "a" && r.Seq == 2 {
			return lost
		}
		return nil
	}
	c := eventlog.NewCommitter(log)
	a, b := eventlogtest.Stream{Name: "a"}, eventlogtest.Stream{Name: "b"}
	la, lb := new(eventlog.Lane), new(eventlog.Lane)
	first := enqueue(t, c, la, a.Next("1"))
	fails := enqueue(t, c, la, a.Next("2"))
	sameGroup := enqueue(t, c, la, a.Next("3"))
	other := enqueue(t, c, lb, b.Next("1"))
	c.Step(t.Context())
	nextGroup := enqueue(t, c, la, a.Next("4"))
	otherNext := enqueue(t, c, lb, b.Next("2"))
	c.Step(t.Context())
	for name, told := range map[string]*[]error{"first": first, "other": other, "other next": otherNext} {
		if len(*told) != 1 || (*told)[0] != nil {
			t.Errorf("%s: told %v, want once nil", name, *told)
		}
	}
	for name, told := range map[string]*[]error{"fails": fails, "same group": sameGroup, "next group": nextGroup} {
		if len(*told) != 1 || !errors.Is((*told)[0], lost) {
			t.Errorf("%s: told %v, want once what happened", name, *told)
		}
	}
	if want := []string{"b 2"}; !slices.Equal(log.groups[1], want) {
		t.Errorf("the second group is %v, want %v", log.groups[1], want)
	}
	if err := la.Err(); !errors.Is(err, lost) {
		t.Errorf("lane: %v", err)
	}
	if err := lb.Err(); err != nil {
		t.Errorf("the other lane: %v", err)
	}
}

// A store that lets a record in behind a failed one breaks its contract; its owner must not be told that it is in.
func TestCommitterDoesNotBelieveAStoreThatLetsOneInBehindAFailedOne(t *testing.T) {
	log := &spy{Log: liar{memlog.New()}}
	c := eventlog.NewCommitter(log)
	s, lane := eventlogtest.Stream{Name: "a"}, new(eventlog.Lane)
	enqueue(t, c, lane, s.Next("1"))
	behind := enqueue(t, c, lane, s.Next("2"))
	c.Step(t.Context())
	if len(*behind) != 1 || (*behind)[0] == nil {
		t.Errorf("told %v, want an error", *behind)
	}
}

// A liar fails the first record of a group, and says of all others that they are in.
type liar struct{ eventlog.Log }

func (liar) Append(_ context.Context, recs []eventlog.Append) []error {
	errs := make([]error, len(recs))
	errs[0] = errors.New("lost")
	return errs
}

func TestRunAppendsWhatWaitsAndThenFailsWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSpy()
		c := eventlog.NewCommitter(log)
		s, lane := eventlogtest.Stream{Name: "a"}, new(eventlog.Lane)
		waiting := enqueue(t, c, lane, s.Next("before Run"))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		synctest.Wait()
		if len(*waiting) != 1 || (*waiting)[0] != nil {
			t.Errorf("what waited before Run: %v", *waiting)
		}
		running := enqueue(t, c, lane, s.Next("while it runs"))
		synctest.Wait()
		if len(*running) != 1 || (*running)[0] != nil {
			t.Errorf("what came while it ran: %v", *running)
		}
		reserved := c.Reserve()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) || reserved != nil {
			t.Errorf("Run: %v, %v", err, reserved)
		}
		var late []error
		c.Enqueue(lane, s.Next("too late"), func(err error) { late = append(late, err) })
		if len(late) != 1 || !errors.Is(late[0], eventlog.ErrStopped) {
			t.Errorf("a record in a place reserved before: %v, want ErrStopped", late)
		}
		if err := c.Reserve(); !errors.Is(err, eventlog.ErrStopped) {
			t.Errorf("Reserve: %v, want ErrStopped", err)
		}
		if c.Step(t.Context()) || len(log.groups) != 2 {
			t.Errorf("%d groups, want 2 and nothing left", len(log.groups))
		}
	})
}

// SPEC §1 "Consistency": what need not be durable first is handed to the disk within 10 ms; until then it waits for company.
func TestRunLetsARecordWaitThatNeedNotBeDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSpy()
		c := eventlog.NewCommitter(log)
		s, lane := eventlogtest.Stream{Name: "a"}, new(eventlog.Lane)
		next := func(durable bool) {
			rec := s.Next("word")
			rec.Durable = durable
			enqueue(t, c, lane, rec)
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		for _, tt := range []struct {
			what string
			do   func()
			want int // records appended in all
		}{
			{"one comes", func() { next(false) }, 0},
			{"and another", func() { time.Sleep(4 * time.Millisecond); next(false) }, 0},
			{"10 ms are over since the first", func() { time.Sleep(6 * time.Millisecond) }, 2},
			{"one comes", func() { next(false) }, 2},
			{"and one that must be durable", func() { next(true) }, 4},
			{"one comes", func() { next(false) }, 4},
			{"and is waited for", c.Hurry, 5},
			{"nothing comes", func() { c.Hurry(); time.Sleep(time.Second) }, 5},
			{"one comes", func() { next(false) }, 5},
			{"Run ends", func() { cancel(); <-ended }, 6},
		} {
			tt.do()
			synctest.Wait()
			log.mu.Lock()
			got := len(slices.Concat(log.groups...))
			log.mu.Unlock()
			if got != tt.want {
				t.Errorf("%s: %d records appended, want %d", tt.what, got, tt.want)
			}
		}
		if len(log.groups) != 4 {
			t.Errorf("in %d groups, want 4: %v", len(log.groups), log.groups)
		}
	})
}

// No record may be lost between a full queue, many sessions, and the end of Run: each is told once, and told what is true.
func TestRunTellsEachOwnerOnce(t *testing.T) {
	store := memlog.New()
	c := eventlog.NewCommitter(store)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	const sessions, each = 50, 100
	acknowledged := make([]uint64, sessions)
	var wg sync.WaitGroup
	for i := range sessions {
		wg.Go(func() {
			s, lane := eventlogtest.Stream{Name: fmt.Sprint("session/", i)}, new(eventlog.Lane)
			told := make(chan error, each)
			n := 0
			for ; n < each && c.Reserve() == nil; n++ {
				c.Enqueue(lane, s.Next("word"), func(err error) { told <- err })
				if i == 0 && n == each/2 {
					cancel()
				}
			}
			for range n {
				if err := <-told; err == nil {
					acknowledged[i]++
				}
			}
		})
	}
	wg.Wait()
	cancel()
	<-ended
	log := eventlogtest.Verify(t, store)
	for i, n := range acknowledged {
		if got := len(log[fmt.Sprint("session/", i)]); uint64(got) != n {
			t.Errorf("session %d: %d records are in, %d were acknowledged", i, got, n)
		}
	}
}

func TestTryStepStepsUnlessAnotherDoes(t *testing.T) {
	s := newSpy()
	c := eventlog.NewCommitter(s)
	meanwhile := []bool{}
	s.fail = func(int, eventlog.Append) error {
		meanwhile = append(meanwhile, c.TryStep(t.Context()))
		return nil
	}
	stream := eventlogtest.Stream{Name: "a"}
	told := enqueue(t, c, new(eventlog.Lane), stream.Next("word"))
	if !c.TryStep(t.Context()) || len(*told) != 1 || (*told)[0] != nil {
		t.Fatalf("the record's owner was told %v", *told)
	}
	if !slices.Equal(meanwhile, []bool{false}) {
		t.Fatalf("while one steps, others are told %v", meanwhile)
	}
	if c.TryStep(t.Context()) {
		t.Fatal("there was nothing left to append")
	}
}

// What is left is appended by who left it; and by Run, where another steps just then and does not see it.
func TestWhatIsLeftIsAppendedByWhoHelps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpy()
		c := eventlog.NewCommitter(s)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		stream, lane := eventlogtest.Stream{Name: "a"}, new(eventlog.Lane)
		var told []error
		leave := func() {
			if err := c.Reserve(); err != nil {
				t.Fatal(err)
			}
			c.Leave(lane, stream.Next("word"), func(err error) { told = append(told, err) })
		}
		leave()
		synctest.Wait()
		if len(told) != 0 {
			t.Fatal("nobody has helped, and it is in")
		}
		s.fail = func(group int, _ eventlog.Append) error {
			if group == 0 { // while the first is appended
				leave()
				c.Help(ctx)
			}
			return nil
		}
		c.Help(ctx)
		synctest.Wait()
		if !slices.Equal(told, []error{nil, nil}) {
			t.Fatalf("their owners were told %v", told)
		}
		cancel()
		<-ended
	})
}
