package hypervisor_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/agenthypervisor/hypervisor"
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
