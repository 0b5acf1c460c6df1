package hypervisor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// SPEC §3: "The caller's standing is read at every command, so a drop counts at the next call of every session."
func TestDropCountsAtTheNextCallOfEverySession(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	const defaultParticipants = 10
	var tool echo
	var all []*hypervisor.Session
	for i := range 3 {
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80", bob: "0.80"})
		register(s, tool.do)
		for j := range 40 { // most find no place: strangers, more than a session keeps in mind
			guest := policy.DID(fmt.Sprintf("did:mesh:guest-%d-%d", i, j))
			_, err := s.Join(context.Background(), admin, session.Join{Agent: guest})
			if (err == nil) != (j < defaultParticipants-2) {
				t.Fatalf("guest %d: %v", j, err)
			}
		}
		all = append(all, s)
	}
	if _, err := hv.SetSigma(context.Background(), admin, ann, ring.MustSigma("0.10")); err != nil {
		t.Fatal(err)
	}
	for i, s := range all {
		if out := act(t, s, ann, "write", `{}`); out.Code != policy.RingInsufficient {
			t.Errorf("session %d: %s", i, out.Code)
		}
		if out := act(t, s, bob, "write", `{}`); !out.Allowed {
			t.Errorf("session %d: another's standing moved: %s", i, out.Code)
		}
	}
}

// SPEC §3: a restart does not bring the slashed back, whatever the configuration says again.
func TestRestartDoesNotBringTheSlashedBack(t *testing.T) {
	store, ctx := newKept(), context.Background()
	for boot := range 3 {
		hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Random: hypervisortest.NewSeeded(uint64(boot + 1))})
		if d, err := hv.SetSigma(ctx, admin, ann, ring.MustSigma("0.80")+ring.Sigma(boot)); err != nil || !d.Allowed {
			t.Fatalf("the configuration at start %d: %+v, %v", boot, d, err)
		}
		if boot == 0 {
			if d, err := hv.Slash(ctx, admin, ann, agent.Slash{}); err != nil || !d.Allowed {
				t.Fatalf("%+v, %v", d, err)
			}
		}
		v, err := hv.Agent(ctx, ann)
		if err != nil || v.Sigma != 0 || !v.Blacklisted {
			t.Errorf("start %d: %+v, %v", boot, v, err)
		}
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{bob: "0.80"})
		var refused *hypervisor.Refused
		for _, sigma := range []ring.Sigma{0, ring.One} { // said or not
			if _, err := s.Join(ctx, admin, session.Join{Agent: ann, Sigma: sigma}); !errors.As(err, &refused) || refused.Decision.Code != policy.Blacklisted {
				t.Errorf("start %d: %v", boot, err)
			}
		}
		closeAll(t, hv)
	}
	verify(t, store)
}

// An agent's stream gets many entries; what is read to know its standing is bounded, and a snapshot that lies is passed over.
func TestAgentIsReadFromItsNewestSnapshot(t *testing.T) {
	store, ctx := &countingReads{kept: newKept()}, context.Background()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	const entries = 200
	for i := range entries {
		sigma := ring.Sigma(100_000 + i)
		if _, err := hv.RegisterAgent(ctx, admin, ann, &sigma); err != nil {
			t.Fatal(err)
		}
	}
	closeAll(t, hv)
	for _, c := range []struct {
		name  string
		spoil func(*eventlog.Snapshot)
		most  int
	}{
		{"sound", func(*eventlog.Snapshot) {}, 65},
		{"not of this log", func(s *eventlog.Snapshot) {
			s.State = bytes.Replace(s.State, []byte(s.Hash.String()), []byte(audit.Hash{}.String()), 1)
			s.Hash = audit.Hash{}
		}, entries + 65},
		{"not a snapshot", func(s *eventlog.Snapshot) { s.State = []byte("{") }, entries},
	} {
		snap, ok, err := store.Snapshot(ctx, audit.AgentPrefix+string(ann))
		if err != nil || !ok {
			t.Fatalf("no snapshot: %v", err)
		}
		c.spoil(&snap)
		if err := store.SaveSnapshot(ctx, snap); err != nil {
			t.Fatal(err)
		}
		hv = hypervisortest.Open(t, &hypervisor.Options{Store: store})
		store.read = 0
		v, err := hv.Agent(ctx, ann)
		if err != nil || v.Sigma != 100_000+entries-1 || v.Records != entries {
			t.Errorf("%s: %+v, %v", c.name, v, err)
		}
		if store.read > c.most {
			t.Errorf("%s: %d records were read, want at most %d", c.name, store.read, c.most)
		}
		closeAll(t, hv)
	}
}

// countingReads counts the records that are read.
type countingReads struct {
	*kept
	read int
}

func (c *countingReads) Read(ctx context.Context, stream string, from uint64) iter.Seq2[eventlog.Record, error] {
	return func(yield func(eventlog.Record, error) bool) {
		for r, err := range c.kept.Read(ctx, stream, from) {
			c.read++
			if !yield(r, err) {
				return
			}
		}
	}
}

// SPEC §3: a clean session credits, once a day, who completed a changing call in it; the ledger says for which session.
func TestCleanSessionCreditsWhoDidSomething(t *testing.T) {
	store, clock, ctx := newKept(), hypervisortest.NewClock(), context.Background()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	var ends []string
	for i, c := range []struct{ after, want string }{{"0s", "0.804"}, {"1h", "0.804"}, {"24h", "0.80792"}} {
		d, err := time.ParseDuration(c.after)
		if err != nil {
			t.Fatal(err)
		}
		clock.Advance(d)
		s, err := hv.CreateSession(ctx, admin, nil)
		if err != nil {
			t.Fatal(err)
		}
		sigma := ring.MustSigma("0.80")
		if i > 0 {
			sigma = 0 // not said: as it stands
		}
		for _, did := range []policy.DID{ann, bob} {
			if _, err := s.Join(ctx, admin, session.Join{Agent: did, Sigma: sigma}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Activate(ctx, admin); err != nil {
			t.Fatal(err)
		}
		var tool echo
		register(s, tool.do)
		act(t, s, ann, "write", `{}`)
		act(t, s, bob, "read", `{}`)
		if _, err := s.Terminate(ctx, admin); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, s.ID())
		v, err := hv.Agent(ctx, ann)
		if err != nil || v.Sigma.String() != c.want {
			t.Errorf("%d: ann has σ %s, want %s; %v", i, v.Sigma, c.want, err)
		}
		if v, err := hv.Agent(ctx, bob); err != nil || v.Sigma.String() != "0.80" {
			t.Errorf("%d: bob, who only read, has σ %s, %v", i, v.Sigma, err)
		}
	}
	var from []string
	for e, err := range hv.Ledger(ctx, ann, 1) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == agent.Clean {
			from = append(from, e.Session)
		}
	}
	if !slices.Equal(from, []string{ends[0], ends[2]}) {
		t.Errorf("credited for %v of %v", from, ends)
	}
	closeAll(t, hv)
	verify(t, store)
}

// What an agent could not be told is told later, once; the session ends after that.
func TestWhatIsOwedIsToldOnceTheStoreIsBack(t *testing.T) {
	for name, fault := range map[string]struct {
		text string
		kept bool
	}{
		"the agent's record is lost": {"agent.standing_moved", false}, "it is reported lost": {"agent.standing_moved", true},
		"the session's is lost": {"session.told", false}, "it is reported lost too": {"session.told", true},
	} {
		t.Run(name, func(t *testing.T) {
			store, clock, ctx := newKept(), hypervisortest.NewClock(), context.Background()
			hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
			s := hypervisortest.Session(t, hv, &session.Config{MaxDuration: time.Minute}, map[policy.DID]string{ann: "0.80"})
			var tool echo
			register(s, tool.do)
			act(t, s, ann, "write", `{}`)
			store.break_(store.failing(fault.text, eventlog.ErrUnknown, fault.kept))
			clock.Advance(time.Minute)
			steps(hv)
			store.break_(nil)
			for range 3 {
				clock.Advance(2 * time.Second)
				steps(hv)
			}
			if open := hv.OpenSessions(); len(open) != 0 {
				t.Errorf("not ended: %v", open)
			}
			if v, err := hv.Agent(ctx, ann); err != nil || v.Sigma.String() != "0.804" || v.Records != 2 {
				t.Errorf("%+v, %v", v, err)
			}
			verify(t, store)
		})
	}
}

// SPEC §3: "The caller's standing is read at every command": also one whose record was reported lost, and is there all the same.
func TestAQuarantineReportedLostCountsOnceItIsFoundInTheLog(t *testing.T) {
	store, clock, ctx := newKept(), hypervisortest.NewClock(), context.Background()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	var tool echo
	register(s, tool.do)
	store.break_(store.failing("quarantine_entered", eventlog.ErrUnknown, true))
	if _, err := hv.Quarantine(ctx, admin, ann, agent.EnterQuarantine{Reason: policy.Manual, For: time.Minute}); !errors.Is(err, hypervisor.ErrStoreUnavailable) {
		t.Fatal(err)
	}
	store.break_(nil)
	steps(hv)
	if out := act(t, s, ann, "write", `{}`); out.Code != policy.AgentQuarantined {
		t.Errorf("%+v", out.Decision)
	}
	clock.Advance(2 * time.Minute)
	steps(hv)
	if out := act(t, s, ann, "write", `{}`); !out.Allowed {
		t.Errorf("when its time is over: %+v", out.Decision)
	}
	verify(t, store)
}
