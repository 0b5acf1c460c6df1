package executor_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/agenthypervisor/hypervisor/internal/executor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run has a part of the rim run until the test calls stop, which waits for its end.
func run(t *testing.T, part interface{ Run(context.Context) error }) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- part.Run(ctx) }()
	return func() {
		cancel()
		<-ended
	}
}

func offer(t *testing.T, x *executor.Executor, task executor.Task) {
	t.Helper()
	if err := x.Reserve(); err != nil {
		t.Fatal(err)
	}
	x.Offer(task)
}

// A task need not wait until another has ended, whoever takes it.
func TestTasksRunBesideEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := executor.New()
		stop := run(t, x)
		const tasks = 5
		for range 3 { // by goroutines that are new, and by those that have nothing to do
			met := make(chan struct{}, tasks)
			all := make(chan struct{})
			for range tasks {
				offer(t, x, func(context.Context) {
					met <- struct{}{}
					<-all
				})
			}
			for range tasks {
				<-met
			}
			close(all)
			synctest.Wait()
		}
		stop()
	})
}

func TestStepRunsTasksInTheirOrder(t *testing.T) {
	x := executor.New()
	var ran []int
	for i := range 3 {
		offer(t, x, func(context.Context) { ran = append(ran, i) })
	}
	for x.Step(t.Context()) {
	}
	if !slices.Equal(ran, []int{0, 1, 2}) {
		t.Fatalf("ran %v", ran)
	}
}

// What is offered after the end is owed at the next start; who offers it is not held up.
func TestWhatComesAfterTheEndIsNotStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := executor.New()
		stop := run(t, x)
		ran := make(chan struct{}, 2)
		offer(t, x, func(context.Context) { ran <- struct{}{} })
		<-ran // somebody has nothing to do
		stop()
		offer(t, x, func(context.Context) { ran <- struct{}{} })
		synctest.Wait()
		if len(ran) > 0 {
			t.Fatal("it was started")
		}
	})
}

// A clock notes how long its sleepers sleep.
type clock struct{ slept []time.Duration }

func (c *clock) Now() time.Time { return time.Now() }

func (c *clock) After(d time.Duration) <-chan time.Time {
	c.slept = append(c.slept, d)
	return time.After(d)
}

func TestTimersFireInTheOrderOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, fired := time.Now(), map[string]time.Duration{}
		timers := executor.NewTimers(&clock{}, func(_ context.Context, key string) { fired[key] = time.Since(began) })
		timers.Set("before", began.Add(2*time.Second))
		stop := run(t, timers)
		synctest.Wait()
		timers.Set("late", began.Add(5*time.Second))
		timers.Set("soon", began.Add(time.Second)) // earlier than what Run waits for
		timers.Set("moved", began.Add(time.Second))
		timers.Set("moved", began.Add(3*time.Second))
		timers.Set("never", began.Add(4*time.Second))
		timers.Set("never", time.Time{})
		time.Sleep(10 * time.Second)
		stop()
		want := map[string]time.Duration{"soon": time.Second, "before": 2 * time.Second, "moved": 3 * time.Second, "late": 5 * time.Second}
		if len(fired) != len(want) {
			t.Errorf("fired %v", fired)
		}
		for key, at := range want {
			if fired[key] != at {
				t.Errorf("%s fired after %s, want %s", key, fired[key], at)
			}
		}
	})
}

// Each step of a saga has an end that is set when it begins and taken away when it is done: mostly nobody need wake up for that.
func TestTimersSleepOnWhileWhatIsSetIsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{}
		timers := executor.NewTimers(c, func(context.Context, string) {})
		timers.Set("session", time.Now().Add(time.Hour))
		stop := run(t, timers)
		synctest.Wait()
		for range 100 {
			timers.Set("step", time.Now().Add(time.Minute))
			synctest.Wait()
			timers.Set("step", time.Time{})
			time.Sleep(time.Millisecond)
		}
		if len(c.slept) != 2 { // until the session's end, and then until the first step's would have been
			t.Errorf("fell asleep %d times: %v", len(c.slept), c.slept)
		}
		stop()
	})
}
