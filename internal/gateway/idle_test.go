//go:build unix

package gateway

import (
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/agenthypervisor/hypervisor"
)

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// The active agents use a server over pipes that is all agents', and one over HTTP with a connection for each.
func TestAThousandIdleAgentsAreHeldInLittleMemoryWhileAHundredWorkAndAllAreForgotten(t *testing.T) {
	const agents, active = 1000, 100
	hv, s := crowdedSession(t, agents)
	busy := crowd(t, hv, active)
	pipe := stdio("pipe", "sdk")
	pipe.Shared = true
	h := hallOf(t, hv, s, &HubOptions{Servers: []ServerSpec{pipe, {Name: "web", Endpoint: &Endpoint{URL: sdkOverHTTP(t, nil)}, TrustAnnotations: true}}})
	postman{t: t, h: h, token: h.token(agentNo(0))}.session().say(`{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
	before, goroutines := inUse(), runtime.NumGoroutine()
	var all sync.WaitGroup
	slots := make(chan struct{}, 16)
	var mu sync.Mutex
	var streams []*http.Response
	for i := range agents {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			p := postman{t: t, h: h, token: h.token(agentNo(i)), loose: true}.session()
			p.say(`{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
			stream := p.do(http.MethodGet, "")
			mu.Lock()
			defer mu.Unlock()
			streams = append(streams, stream)
		})
	}
	all.Wait()
	held := inUse() - before
	t.Logf("%d agents with an open stream each: %d KiB an agent, both ends of the connection in it; %d goroutines", agents, held>>10/agents, runtime.NumGoroutine()-goroutines)
	if held>>10/agents > 128 {
		t.Error("that is too much")
	}
	made := h.allWork(t, busy, active)
	idle := postman{t: t, h: h, token: h.token(agentNo(agents - 1))}
	if got := idle.echo("web__echo", 1, "awake"); got != "awake" {
		t.Errorf("an idle agent that calls: %s", got)
	}
	for _, r := range streams {
		_ = r.Body.Close()
	}
	streams = nil
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	eventually(t, "the streams do not end", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.visits == 0 })
	h.clock.move(seatIdle + sweepEvery)
	h.sweep() // by hand: others wait as long as it does
	eventually(t, "the seats are not given up", func() bool { running, seats := h.up(); return running == 0 && seats == 0 })
	// As many workers as calls were under way at once wait for more: the executor keeps them.
	eventually(t, "goroutines stay", func() bool { return runtime.NumGoroutine() <= goroutines+active })
	const recorded = 16 << 10 // at most, of each call, in a log that is in memory
	if left := int64(inUse()) - int64(before); left > 8<<20+made*recorded {
		t.Errorf("%d KiB stay", left>>10)
	}
}

// busyCalls is how many calls an active agent makes at least, and patientCalls at most while it waits for the others.
const busyCalls, patientCalls = 5, 200

// allWork has agents of a session call at the same time, and checks that each gets its own answers, and that none waits for long:
// who has made its calls goes on until all have. It returns how many calls were made.
func (h *hall) allWork(t *testing.T, s *hypervisor.Session, agents int) int64 {
	t.Helper()
	var all, ready sync.WaitGroup
	var made, behind atomic.Int64
	ready.Add(agents)
	behind.Store(int64(agents))
	for i := range agents {
		all.Go(func() {
			p := postman{t: t, h: h, token: string(agentNo(i)) + " " + s.ID()}.session()
			p.echo("web__echo", 1, "warm")
			ready.Done()
			ready.Wait()
			for id := 0; id < busyCalls || behind.Load() > 0; id++ {
				if id == patientCalls {
					t.Errorf("agent %d has %d answers, and %d agents have fewer than %d", i, id, behind.Load(), busyCalls)
					return
				}
				canary := fmt.Sprintf("canary-%d-%d", i, id)
				if got := p.echo([]string{"pipe__echo", "web__echo"}[id%2], id, canary); got != canary {
					t.Errorf("agent %d, call %d: %s", i, id, got)
					return
				}
				made.Add(1)
				if id == busyCalls-1 {
					behind.Add(-1)
				}
			}
		})
	}
	all.Wait()
	return made.Load()
}
