//go:build unix

package gateway

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

var long = flag.Bool("long", false, "5,000 calls of each client instead of 50: a million in all, in a log on disk of some gigabytes")

// A rushingClock moves by 20 ms each time it is read, so that no rate is ever exceeded.
type rushingClock struct{ reads atomic.Int64 }

func (c *rushingClock) Now() time.Time {
	return time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC).Add(time.Duration(c.reads.Add(1)) * 20 * time.Millisecond)
}

func (c *rushingClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// crowdedSession opens a session of many agents, at σ 0.80 each.
func crowdedSession(t testing.TB, agents int) (*hypervisor.Hypervisor, *hypervisor.Session) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	opt := &hypervisor.Options{Clock: &rushingClock{}}
	if *long { // in memory a million calls and what the collector lets stand are 24 GB
		opt.Dir = t.TempDir()
	}
	hv, err := hypervisor.Open(ctx, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hv.Close(ctx) })
	return hv, crowd(t, hv, agents)
}

// crowd opens one more session of many agents.
func crowd(t testing.TB, hv *hypervisor.Hypervisor, agents int) *hypervisor.Session {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	admin := policy.Operator("did:mesh:admin")
	s, err := hv.CreateSession(ctx, admin, &session.Config{MaxParticipants: 1000, MaxDuration: session.MaxDuration})
	if err != nil {
		t.Fatal(err)
	}
	for i := range agents {
		if _, err := s.Join(ctx, admin, session.Join{Agent: agentNo(i), Sigma: ring.MustSigma("0.80")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Activate(ctx, admin); err != nil {
		t.Fatal(err)
	}
	return s
}

func agentNo(i int) policy.DID { return policy.DID(fmt.Sprintf("did:mesh:agent-%d", i)) }

func TestNoClientGetsAnothersAnswerThoughAllUseTheSameIDs(t *testing.T) {
	const clients, each = 200, 8 // a ring-2 agent may have so many calls under way
	calls := 50
	if *long {
		calls = 5000
	}
	hv, s := crowdedSession(t, clients/each)
	h := hallOf(t, hv, s, &HubOptions{MaxConnections: 1000, Servers: []ServerSpec{
		func() ServerSpec { p := stdio("pipe", "sdk"); p.Shared = true; return p }(),
		{Name: "web", Endpoint: &Endpoint{URL: sdkOverHTTP(t, &mcp.StreamableHTTPOptions{Stateless: true})}, Shared: true, TrustAnnotations: true},
		{Name: "own", Endpoint: &Endpoint{URL: sdkOverHTTP(t, nil)}, TrustAnnotations: true},
	}})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}} // each keeps its connection: a million dials would exhaust the ports
	t.Cleanup(client.CloseIdleConnections)
	var wrong, done atomic.Int64
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			p := postman{t: t, h: h, token: h.token(agentNo(i / each)), loose: true, client: client}
			if i%2 == 0 {
				p = p.session()
			}
			for id := 1; id <= calls; id++ {
				server := []string{"pipe", "web", "own"}[(i+id)%3]
				canary := fmt.Sprintf("canary-%d-%d", i, id)
				if got := p.echo(server+"__echo", id, canary); got != canary {
					wrong.Add(1)
					t.Errorf("client %d, call %d of %s: %s", i, id, server, got)
					return
				}
				if n := done.Add(1); n%50_000 == 0 {
					t.Logf("%d calls", n)
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d clients, %d calls, %d wrong", clients, done.Load(), wrong.Load())
}

// echo makes a call as a modern client, or in the postman's session, and returns the canary that comes back.
func (p postman) echo(tool string, id int, canary string) string {
	meta := ""
	if p.extra == nil {
		meta = `,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"x","version":"1"}}`
		p.extra = map[string]string{versionHeader: "2026-07-28", methodHeader: "tools/call", nameHeader: tool}
	}
	m, resp := p.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%q,"arguments":{"canary":%q}%s}}`, id, tool, canary, meta))
	if resp.StatusCode != http.StatusOK || m.Error != nil || string(m.ID) != fmt.Sprint(id) {
		return fmt.Sprintf("%s %+v id %s", resp.Status, m.Error, m.ID)
	}
	var r struct{ Content []struct{ Text string } }
	var args struct{ Canary string }
	if json.Unmarshal(m.Result, &r) != nil || len(r.Content) != 1 || json.Unmarshal([]byte(r.Content[0].Text), &args) != nil {
		return string(m.Result)
	}
	return args.Canary
}
