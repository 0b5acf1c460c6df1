package hypervisor_test

import (
	"context"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/manifest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// SPEC §9 "Manifests", §4 "A weaker source can only make an action stricter": a real call is decided by what its agent claims, also
// in the process after the next; a repeat of the join with its key is one join.
func TestAManifestNarrowsItsAgentsCallsAcrossARestart(t *testing.T) {
	ctx := context.Background()
	m, err := manifest.Parse([]byte(`{"agent_id":"did:mesh:ann","trust_level":"trusted","actions":[{"action_id":"write","reversibility":"none"},{"action_id":"read","is_admin":true}]}`))
	if err != nil {
		t.Fatal(err)
	}
	store := newKept()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store})
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{bob: "0.97"})
	var p hypervisor.Participant
	for range 2 {
		if p, err = s.Join(ctx, admin, session.Join{Agent: ann, Sigma: 970_000, Manifest: m, Key: "once"}); err != nil {
			t.Fatal(err)
		}
	}
	if p.Ring != 2 {
		t.Errorf("ring %d at σ 0.97 with a manifest that says trusted", p.Ring)
	}
	decided := func(s *hypervisor.Session) {
		t.Helper()
		var tool echo
		register(s, tool.do)
		if out := act(t, s, ann, "write", `{}`); out.Code != policy.ApprovalRequired || out.RiskWeight != action.Irreversible.Weight() {
			t.Errorf("what it says cannot be taken back: %+v", out.Decision)
		}
		if out := act(t, s, ann, "read", `{}`); out.Code != policy.RingInsufficient {
			t.Errorf("what it says is an operator's: %+v", out.Decision)
		}
		if d, err := s.DryRun(ctx, policy.Agent(ann), session.Act{Action: "write"}); err != nil || d.Code != policy.ApprovalRequired {
			t.Errorf("dry: %+v, %v", d, err)
		}
		if out := act(t, s, bob, "write", `{}`); !out.Allowed {
			t.Errorf("another's call: %+v", out.Decision)
		}
	}
	decided(s)
	id := s.ID()
	closeAll(t, hv)
	hv = hypervisortest.Open(t, &hypervisor.Options{Store: store})
	if s, err = hv.Session(ctx, id); err != nil {
		t.Fatal(err)
	}
	decided(s)
	closeAll(t, hv)
	verify(t, store)
}
