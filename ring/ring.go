package ring

import "time"

// A Ring is a level of privilege; a smaller number is more privilege (SPEC §2).
// The zero Ring is Root, which no agent is ever given: a Ring that matters is always assigned.
type Ring uint8

// The four rings.
const (
	Root       Ring = 0
	Privileged Ring = 1
	Standard   Ring = 2
	Sandbox    Ring = 3
)

// Above which score, strictly, an agent stands in a ring (SPEC §2).
const (
	PrivilegedAbove Sigma = 950_000
	StandardAbove   Sigma = 600_000
)

// ByScore returns the ring that σ_eff alone gives. Root is never given by score.
func ByScore(s Sigma) Ring {
	switch {
	case s > PrivilegedAbove:
		return Privileged
	case s > StandardAbove:
		return Standard
	}
	return Sandbox
}

// Of returns the ring of an agent: what its score gives, or an elevation where that is more, but never above its ceiling
// (SPEC §2). An elevation to Sandbox lifts nothing, and a ceiling of Root lowers nothing.
func Of(score Sigma, elevated, ceiling Ring) Ring { return max(ceiling, min(ByScore(score), elevated)) }

// Limits is what a ring allows per agent and session (SPEC §2, the table).
type Limits struct {
	Rate       int // tokens a second
	Burst      int // tokens a full bucket holds
	Concurrent int // tool calls running at once

	Network    Reach
	Files      Reach
	Subprocess Reach
}

// A Reach says how far a ring's capability goes. The zero Reach is none.
type Reach uint8

// The reaches of a capability.
const (
	None   Reach = iota // refused
	Scoped              // only what the session's configuration lists
	Full                // everything
)

var limits = [...]Limits{
	Root:       {Rate: 100, Burst: 200, Concurrent: 32, Network: Full, Files: Full, Subprocess: Full},
	Privileged: {Rate: 50, Burst: 100, Concurrent: 16, Network: Full, Files: Full, Subprocess: Full},
	Standard:   {Rate: 20, Burst: 40, Concurrent: 8, Network: Scoped, Files: Scoped, Subprocess: None},
	Sandbox:    {Rate: 5, Burst: 10, Concurrent: 2, Network: None, Files: None, Subprocess: None},
}

// Limits returns what the ring allows. A ring beyond Sandbox is treated as Sandbox.
func (r Ring) Limits() Limits { return limits[min(r, Sandbox)] }

// A Bucket is a token bucket in whole millionths of a token (SPEC §7 "Rate"). The zero Bucket is empty since the beginning
// of time, which is to say full: the first Take fills it.
type Bucket struct {
	Level int64     `json:"level"` // millionths of a token
	At    time.Time `json:"at"`    // when Level was true
	Ring  Ring      `json:"ring"`  // whose size the level is measured against
}

const token = int64(One)

// Refill returns the bucket as it stands at now in ring r: refilled at r's rate, and on a change of ring scaled to the same
// fraction, so that toggling rings refills nothing (SPEC §7). A now before b.At refills nothing either.
func (b Bucket) Refill(r Ring, now time.Time) Bucket {
	l := r.Limits()
	size := int64(l.Burst) * token
	if b.At.IsZero() {
		return Bucket{Level: size, At: now, Ring: r}
	}
	level := b.Level
	if b.Ring != r {
		level = level * int64(l.Burst) / int64(b.Ring.Limits().Burst)
	}
	elapsed := now.Sub(b.At)
	if elapsed < 0 {
		elapsed, now = 0, b.At
	}
	if whole := time.Duration(l.Burst/l.Rate+1) * time.Second; elapsed > whole {
		elapsed = whole // more than fills it; keeps the product below within range
	}
	level += elapsed.Microseconds() * int64(l.Rate)
	return Bucket{Level: min(level, size), At: now, Ring: r}
}

// Take removes one token, if there is one, from the bucket as Refill returned it; otherwise it returns how long until there is.
// A refused take costs nothing: there was nothing to take.
func (b Bucket) Take() (after Bucket, wait time.Duration, ok bool) {
	if b.Level < token {
		rate := int64(b.Ring.Limits().Rate)
		return b, time.Duration((token-b.Level+rate-1)/rate) * time.Microsecond, false
	}
	b.Level -= token
	return b, 0, true
}
