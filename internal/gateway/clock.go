package gateway

import "time"

// A Clock tells the time and wakes waiters. It is safe for concurrent use.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// WallClock is the machine's own.
type WallClock struct{}

// Now returns time.Now.
func (WallClock) Now() time.Time { return time.Now() }

// After returns time.After.
func (WallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
