//go:build unix

package gateway

import (
	"net/http"
	"runtime"
	"sync"
	"testing"
)

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

func TestAThousandIdleAgentsAreHeldInLittleMemoryAndForgotten(t *testing.T) {
	const agents = 1000
	hv, s := crowdedSession(t, agents)
	h := hallOf(t, hv, s, &HubOptions{Servers: []ServerSpec{stdio("one", "sdk")}})
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
	for _, r := range streams {
		_ = r.Body.Close()
	}
	streams = nil
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	eventually(t, "the streams do not end", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.visits == 0 })
	h.pass(int(seatIdle/sweepEvery) + 1)
	eventually(t, "the seats are not given up", func() bool { running, seats := h.up(); return running == 0 && seats == 0 })
	eventually(t, "goroutines stay", func() bool { return runtime.NumGoroutine() <= goroutines })
	if left := int64(inUse()) - int64(before); left > 8<<20 {
		t.Errorf("%d KiB stay", left>>10)
	}
}
