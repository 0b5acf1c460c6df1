package hypervisortest

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// Admin is the operator of a test's hypervisor.
var Admin = policy.Operator("did:mesh:admin")

// A Clock stands still until Advance. Safe for concurrent use.
type Clock struct {
	mu      sync.Mutex
	now     time.Time
	waiters []waiter
}

type waiter struct {
	at time.Time
	ch chan time.Time
}

// NewClock returns a clock that stands at a fixed time.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)} }

// Now returns where the clock stands.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// After returns a channel that receives once the clock was moved by d.
func (c *Clock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	if d <= 0 {
		ch <- c.now
		return ch
	}
	c.waiters = append(c.waiters, waiter{c.now.Add(d), ch})
	return ch
}

// Advance moves the clock, backward too.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	var rest []waiter
	for _, w := range c.waiters {
		if w.at.After(c.now) {
			rest = append(rest, w)
			continue
		}
		w.ch <- c.now
	}
	c.waiters = rest
}

// Seeded is randomness that repeats: for simulations only.
type Seeded struct{ r *rand.ChaCha8 }

// NewSeeded returns the randomness of a seed.
func NewSeeded(seed uint64) *Seeded {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return &Seeded{rand.NewChaCha8(key)}
}

// Read fills b; it never fails.
func (s *Seeded) Read(b []byte) (int, error) { return s.r.Read(b) }

// Open returns a hypervisor that is driven by Step. The test closes it. opts may be nil; its Clock, Random and Stepped are
// filled in where they are zero.
func Open(t testing.TB, opts *hypervisor.Options) *hypervisor.Hypervisor {
	t.Helper()
	var o hypervisor.Options
	if opts != nil {
		o = *opts
	}
	if o.Clock == nil {
		o.Clock = NewClock()
	}
	if o.Random == nil {
		o.Random = NewSeeded(1)
	}
	o.Stepped = true
	hv, err := hypervisor.Open(context.Background(), &o)
	if err != nil {
		t.Fatalf("opening a hypervisor: %v", err)
	}
	return hv
}

// Session returns an active session in which each agent takes part with its σ.
func Session(t testing.TB, hv *hypervisor.Hypervisor, cfg *session.Config, agents map[policy.DID]string) *hypervisor.Session {
	t.Helper()
	ctx := context.Background()
	s, err := hv.CreateSession(ctx, Admin, cfg)
	if err != nil {
		t.Fatalf("creating a session: %v", err)
	}
	for did, sigma := range agents {
		if _, err := s.Join(ctx, Admin, session.Join{Agent: did, Sigma: ring.MustSigma(sigma)}); err != nil {
			t.Fatalf("joining %s: %v", did, err)
		}
	}
	if err := s.Activate(ctx, Admin); err != nil {
		t.Fatalf("activating: %v", err)
	}
	return s
}
