package hypervisor_test

import (
	"context"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/drift"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// SPEC §9 "Drift": a report of critical drift takes the agent's standing in every session and quarantines it, once for a key, and a
// restart does not bring it back.
func TestCriticalDriftTakesAnAgentsStandingEverywhere(t *testing.T) {
	ctx := context.Background()
	cmvk := policy.Caller{DID: "did:mesh:cmvk", Role: policy.ServiceRole}
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	one := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97", bob: "0.97"})
	two := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97"})
	var tool echo
	for _, s := range []*hypervisor.Session{one, two} {
		register(s, tool.do)
		act(t, s, ann, "write", `{}`)
	}
	near := session.ReportDrift{Agent: bob, Metric: drift.Cosine, Claimed: drift.Vector{1, 0}, Observed: drift.Vector{7, 0}}
	if d, err := one.ReportDrift(ctx, cmvk, near); err != nil || d.Level != drift.None {
		t.Errorf("%+v, %v", d, err)
	}
	far := session.ReportDrift{Agent: ann, Metric: drift.Cosine, Claimed: drift.Vector{1, 0}, Observed: drift.Vector{0, 7}, Key: "k"}
	for range 2 {
		if d, err := one.ReportDrift(ctx, cmvk, far); err != nil || d.Level != drift.Critical || d.Distance != 1_000_000 || d.By != cmvk.DID {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	check := func() {
		t.Helper()
		v, err := hv.Agent(ctx, ann)
		if err != nil || !v.Blacklisted || v.Sigma != 0 || v.Quarantine == nil || !v.Quarantine.Kills || len(v.Quarantine.Reasons) != 1 {
			t.Errorf("%+v, %v", v, err)
		}
	}
	check()
	if out := act(t, two, ann, "write", `{}`); out.Allowed {
		t.Errorf("in another session: %+v", out.Decision)
	}
	if out := act(t, one, bob, "write", `{}`); !out.Allowed {
		t.Errorf("another agent: %+v", out.Decision)
	}
	closeAll(t, hv)
	hv = hypervisortest.Open(t, &hypervisor.Options{Store: store})
	check()
	closeAll(t, hv)
	verify(t, store)
}
