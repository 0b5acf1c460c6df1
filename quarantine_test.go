package hypervisor_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
)

// quarantine_test.go: SPEC §3 "Quarantine".

func quarantine(t testing.TB, hv *hypervisor.Hypervisor, did policy.DID, reason policy.Reason, d time.Duration) {
	t.Helper()
	if out, err := hv.Quarantine(context.Background(), admin, did, agent.EnterQuarantine{Reason: reason, For: d}); err != nil || !out.Allowed {
		t.Fatal(out, err)
	}
}

// "reads yes; writes … no", in every session at the next command.
func TestAQuarantinedAgentReadsAndWritesNowhere(t *testing.T) {
	ctx := context.Background()
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	one := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97", bob: "0.97"})
	two := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97"})
	var tool echo
	for _, s := range []*hypervisor.Session{one, two} {
		register(s, tool.do)
		act(t, s, ann, "write", `{}`)
	}
	if d, err := hv.Quarantine(ctx, policy.Agent(bob), ann, agent.EnterQuarantine{Reason: policy.Manual}); err != nil || d.Code != policy.Forbidden {
		t.Errorf("%+v, %v", d, err)
	}
	quarantine(t, hv, ann, policy.Manual, 0)
	for _, s := range []*hypervisor.Session{one, two} {
		if out := act(t, s, ann, "write", `{}`); out.Code != policy.AgentQuarantined {
			t.Errorf("%+v", out.Decision)
		}
		if out := act(t, s, ann, "read", `{}`); !out.Allowed {
			t.Errorf("%+v", out.Decision)
		}
	}
	if out := act(t, one, bob, "write", `{}`); !out.Allowed {
		t.Errorf("another agent: %+v", out.Decision)
	}
	if d, err := hv.Release(ctx, admin, ann, agent.EndQuarantine{}); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	if out := act(t, two, ann, "write", `{}`); !out.Allowed {
		t.Errorf("%+v", out.Decision)
	}
	closeAll(t, hv)
	verify(t, store)
}

// "Ends … by time: released, or, if drift or a critical breach began it, killed with quarantine_timeout"; a restart forgets nothing.
func TestTimeEndsAQuarantine(t *testing.T) {
	for name, c := range map[string]struct {
		reason  policy.Reason
		restart bool
		away    bool // the store refuses writes when the time comes
		then    policy.Code
	}{
		"released":                 {policy.Manual, false, false, policy.OK},
		"killed":                   {policy.ForDrift, false, false, policy.AgentKilled},
		"released after a restart": {policy.Manual, true, false, policy.OK},
		"killed after a restart":   {policy.ForBreach, true, false, policy.AgentKilled},
		"released, recorded later": {policy.Manual, false, true, policy.OK},
		"killed, recorded later":   {policy.ForDrift, false, true, policy.AgentKilled},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			store, clock := newKept(), hypervisortest.NewClock()
			opts := &hypervisor.Options{Store: store, Clock: clock}
			hv := hypervisortest.Open(t, opts)
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97"})
			var tool echo
			register(s, tool.do)
			quarantine(t, hv, ann, c.reason, 0)
			if c.restart {
				closeAll(t, hv)
				hv = hypervisortest.Open(t, opts)
				var err error
				if s, err = hv.Session(ctx, s.ID()); err != nil {
					t.Fatal(err)
				}
				register(s, tool.do)
			}
			clock.Advance(agent.DefaultQuarantine - time.Second)
			steps(hv)
			if out := act(t, s, ann, "write", `{}`); out.Code != policy.AgentQuarantined {
				t.Errorf("before its end: %+v", out.Decision)
			}
			if c.away {
				store.break_(full)
			}
			clock.Advance(time.Second)
			steps(hv)
			if c.away {
				if v, err := hv.Agent(ctx, ann); err != nil || v.Quarantine == nil {
					t.Errorf("it is over, and no record says so: %+v, %v", v, err)
				}
				store.break_(nil)
				clock.Advance(2 * time.Second)
				steps(hv)
			}
			if out := act(t, s, ann, "write", `{}`); out.Code != c.then {
				t.Errorf("after its end: %+v", out.Decision)
			}
			v, err := hv.Agent(ctx, ann)
			if err != nil || v.Quarantine != nil || (v.Killed != nil) != (c.then == policy.AgentKilled) || v.Killed != nil && v.Killed.Reason != policy.ForQuarantineTimeout {
				t.Errorf("%+v, %v", v, err)
			}
			steps(hv)
			closeAll(t, hv)
			verify(t, store)
		})
	}
}

// "a second reason extends and adds".
func TestASecondReasonExtendsAQuarantine(t *testing.T) {
	clock := hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97"})
	var tool echo
	register(s, tool.do)
	quarantine(t, hv, ann, policy.Manual, time.Minute)
	quarantine(t, hv, ann, policy.ForRate, time.Minute)
	v, err := hv.Agent(context.Background(), ann)
	if err != nil || v.Quarantine == nil || !slices.Equal(v.Quarantine.Reasons, []string{"manual", "rate"}) {
		t.Fatalf("%+v, %v", v, err)
	}
	clock.Advance(119 * time.Second)
	steps(hv)
	if out := act(t, s, ann, "write", `{}`); out.Code != policy.AgentQuarantined {
		t.Errorf("%+v", out.Decision)
	}
	clock.Advance(time.Second)
	steps(hv)
	if out := act(t, s, ann, "write", `{}`); !out.Allowed {
		t.Errorf("%+v", out.Decision)
	}
}

// There is no moment in which an agent whose quarantine kills may act: it is killed before it is released.
func TestAnAgentIsNeverFreeBetweenItsQuarantineAndItsKill(t *testing.T) {
	store, clock := newKept(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97"})
	quarantine(t, hv, ann, policy.ForDrift, 0)
	free := false
	store.break_(func(recs []eventlog.Append) []error {
		free = free || !hv.InQuarantine(ann) && !hv.KilledIn(s.ID(), ann)
		return store.Store.Append(context.Background(), recs)
	})
	clock.Advance(agent.DefaultQuarantine)
	steps(hv)
	store.break_(nil)
	if free || !hv.KilledIn(s.ID(), ann) {
		t.Errorf("free %t, killed %t", free, hv.KilledIn(s.ID(), ann))
	}
}

// SPEC §2 "Breach": "critical also demotes and quarantines", and its time kills.
func TestACriticalBreachQuarantinesInEverySession(t *testing.T) {
	store, clock := newKept(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.55"})
	var tool echo
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		s.Register(action.Descriptor{ID: name, Reversibility: action.Partial}, tool.do)
		if out := act(t, s, ann, name, `{}`); out.Code != policy.RingInsufficient {
			t.Fatalf("%+v", out.Decision)
		}
	}
	clock.Advance(time.Second)
	steps(hv)
	v, err := hv.Agent(context.Background(), ann)
	if err != nil || v.Quarantine == nil || !v.Quarantine.Kills || !slices.Equal(v.Quarantine.Reasons, []string{"breach"}) {
		t.Fatalf("%+v, %v", v, err)
	}
	other := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	register(other, tool.do)
	if out := act(t, other, ann, "write", `{}`); out.Code != policy.AgentQuarantined {
		t.Errorf("%+v", out.Decision)
	}
	clock.Advance(agent.DefaultQuarantine)
	steps(hv)
	if out := act(t, other, ann, "read", `{}`); out.Code != policy.AgentKilled {
		t.Errorf("%+v", out.Decision)
	}
	closeAll(t, hv)
	verify(t, store)
}
