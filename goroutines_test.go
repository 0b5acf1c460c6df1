package hypervisor_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func goroutines() int { return runtime.NumGoroutine() }

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fastClock moves by 20 ms each time it is read.
type fastClock struct{ reads atomic.Int64 }

func (c *fastClock) Now() time.Time {
	return time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC).Add(time.Duration(c.reads.Add(1)) * 20 * time.Millisecond)
}

func (c *fastClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
