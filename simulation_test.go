package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

var long = flag.Bool("long", false, "run ten times as much where a run is a sample")

// A power is a simulated machine: one seeded goroutine drives the shipped rim by Step alone, in an order that the seed
// shuffles, over a store that loses writes, or keeps them and says it did not, and a process that dies anywhere.
type power struct {
	t     *testing.T
	r     *rand.Rand
	store *kept
	clock *hypervisortest.Clock
	hv    *hypervisor.Hypervisor
	boot  uint64

	ids       []string       // of the sessions that were acknowledged
	sent      map[string]int // dispatches, by the call's number
	acked     map[string]string
	given     map[string]bool // the ids that were answered
	eventual  map[string]bool // by session
	number    int
	healthy   bool // no faults and no crashes
	crashes   int
	ambiguous int
}

// crashed is what a dying process unwinds with.
type crashed struct{}

func (p *power) maybeCrash() {
	if !p.healthy && p.r.IntN(60) == 0 {
		panic(crashed{})
	}
}

// append is the store's own with the weather of the seed.
func (p *power) append(recs []eventlog.Append) []error {
	p.maybeCrash()
	fate := 0
	if !p.healthy {
		fate = p.r.IntN(25)
	}
	switch fate {
	case 1: // lost
		return slices.Repeat([]error{errors.New("disk full")}, len(recs))
	case 2: // persisted but reported lost
		p.ambiguous++
		p.store.Store.Append(context.Background(), recs)
		return slices.Repeat([]error{eventlog.ErrUnknown}, len(recs))
	}
	errs := p.store.Store.Append(context.Background(), recs)
	p.maybeCrash()
	return errs
}

// tool counts what reaches the outside, which no crash takes back.
func (p *power) tool(_ context.Context, args json.RawMessage) (json.RawMessage, error) {
	p.sent[string(args)]++
	p.maybeCrash()
	return args, nil
}

// live runs f, and begins a new process where the old one dies in it.
func (p *power) live(f func()) {
	if p.survives(f) {
		return
	}
	p.crashes++
	for p.hv = nil; p.hv == nil; {
		p.survives(p.start)
	}
}

// survives runs f and reports whether the process lived through it.
func (p *power) survives(f func()) (alive bool) {
	defer func() {
		if v := recover(); v != nil && v != any(crashed{}) {
			panic(v)
		}
	}()
	f()
	return true
}

func (p *power) start() {
	p.boot++
	hv, err := hypervisor.Open(context.Background(), &hypervisor.Options{Store: p.store, Clock: p.clock, Stepped: true, Random: hypervisortest.NewSeeded(p.boot)})
	if err == nil {
		p.hv = hv
	} else if p.healthy {
		p.t.Fatalf("a healthy start failed: %v", err)
	}
}

func (p *power) shuffle() {
	for i := range p.hv.RimSize() {
		p.hv.SwapRim(i, p.r.IntN(i+1))
	}
}

func (p *power) act() {
	ctx := context.Background()
	if len(p.ids) == 0 || p.r.IntN(12) == 0 {
		p.open(ctx)
		return
	}
	s, err := p.hv.Session(ctx, p.ids[p.r.IntN(len(p.ids))])
	if err != nil {
		return
	}
	p.equip(s)
	if p.r.IntN(25) == 0 {
		_, _ = s.Terminate(ctx, admin) // its success is judged by the log at the end
		return
	}
	p.number++
	args := fmt.Sprintf(`{"n":%d}`, p.number)
	name := []string{"read", "write", "destroy", "nothing"}[p.r.IntN(4)]
	out, err := s.Act(ctx, policy.Agent(ann), session.Act{Action: name, Args: json.RawMessage(args)})
	if err != nil || !out.Allowed {
		return
	}
	id := s.ID() + "/" + out.ID
	if p.given[id] {
		p.t.Errorf("%s was given out twice", id)
	}
	p.given[id] = true
	if name != "read" || !p.eventual[s.ID()] { // such a read may be lost
		p.acked[id] = out.State
	}
}

// equip gives a session its tools, once in each process.
func (p *power) equip(s *hypervisor.Session) {
	err := s.SetTools("", "", []hypervisor.Tool{
		{Descriptor: action.Descriptor{ID: "read", ReadOnly: true}, Do: p.tool},
		{Descriptor: action.Descriptor{ID: "write", Reversibility: action.Partial}, Do: p.tool},
		{Descriptor: action.Descriptor{ID: "destroy"}, Do: p.tool},
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *power) open(ctx context.Context) {
	cfg := &session.Config{Consistency: session.Consistency(p.r.IntN(2))}
	s, err := p.hv.CreateSession(ctx, admin, cfg)
	if err != nil {
		return
	}
	p.eventual[s.ID()] = cfg.Consistency == session.Eventual
	p.ids = append(p.ids, s.ID())
	if _, err := s.Join(ctx, admin, session.Join{Agent: ann, Sigma: 970_000}); err != nil {
		return
	}
	_ = s.Activate(ctx, admin) // a session that stays in handshaking is part of the weather
}

// One seed is one history: what was acknowledged is in the log as it was acknowledged, nothing was sent twice, what was under
// way is told as unknown, every session that was acknowledged is there, and the log verifies from its bytes.
func TestSimulatedCrashesLoseNothingThatWasAcknowledged(t *testing.T) {
	seeds := uint64(40)
	if *long {
		seeds = 1000
	}
	var crashes, acked, ambiguous int
	for seed := range seeds {
		p := &power{t: t, r: rand.New(rand.NewPCG(seed, 1)), store: newKept(), clock: hypervisortest.NewClock(), boot: seed << 20,
			sent: map[string]int{}, acked: map[string]string{}, given: map[string]bool{}, eventual: map[string]bool{}}
		p.store.break_(p.append)
		for p.hv == nil {
			p.survives(p.start)
		}
		for range 150 {
			p.live(func() {
				p.shuffle()
				p.act()
				p.clock.Advance(time.Duration(p.r.IntN(2000)) * time.Millisecond)
				for range p.r.IntN(4) {
					p.hv.Step(context.Background())
				}
			})
		}
		p.settle(seed)
		crashes, acked, ambiguous = crashes+p.crashes, acked+len(p.acked), ambiguous+p.ambiguous
	}
	t.Logf("%d seeds: %d crashes, %d ambiguous appends, %d acknowledged calls", seeds, crashes, ambiguous, acked)
}

// settle lets the weather clear, starts once more and checks the history.
func (p *power) settle(seed uint64) {
	ctx := context.Background()
	p.healthy = true
	p.start()
	for p.hv.Step(ctx) {
	}
	outcomes := map[string]string{}
	for _, id := range p.ids {
		s, err := p.hv.Session(ctx, id)
		if err != nil {
			p.t.Fatalf("seed %d: an acknowledged session is gone: %v", seed, err)
		}
		views, err := s.Actions(ctx, 0, hypervisor.MaxPage)
		if err != nil {
			p.t.Fatalf("seed %d: %v", seed, err)
		}
		for _, v := range views {
			if outcomes[id+"/"+v.ID] != "" {
				p.t.Fatalf("seed %d: %s/%s was given out twice", seed, id, v.ID)
			}
			outcomes[id+"/"+v.ID] = v.Outcome
			if v.Outcome == "running" {
				p.t.Errorf("seed %d: %s/%s still runs after the process that ran it", seed, id, v.ID)
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.acked)) {
		if outcomes[id] != p.acked[id] {
			p.t.Errorf("seed %d: %s was acknowledged as %s, and the log says %q", seed, id, p.acked[id], outcomes[id])
		}
	}
	for args, n := range p.sent {
		if n > 1 {
			p.t.Errorf("seed %d: %s was sent %d times", seed, args, n)
		}
	}
	verify(p.t, p.store)
}
