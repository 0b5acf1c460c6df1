package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// An oracle is a drift service: it is asked whenever it may be.
type oracle struct {
	says  map[policy.DID]ring.Sigma // who is not in it is not known
	asked []policy.DID
	deaf  bool // it wants nothing
}

func (o *oracle) Wants(string, policy.DID) bool { return !o.deaf }

func (o *oracle) Observe(_ context.Context, _ string, did policy.DID) (session.ReportDrift, error) {
	o.asked = append(o.asked, did)
	d, known := o.says[did]
	if !known {
		return session.ReportDrift{}, errors.New("down")
	}
	return session.ReportDrift{Distance: d}, nil
}

// SPEC §9 "Drift": a service that is asked demotes and slashes as one that reports does; it is asked at a join and after what an agent
// does; the same finding demotes once; "when one is down the result is 'unknown', which raises nobody", and lowers nobody.
func TestADriftServiceIsAskedAtAJoinAndAfterCalls(t *testing.T) {
	hv, ctx := hypervisortest.Open(t, nil), context.Background()
	o := &oracle{says: map[policy.DID]ring.Sigma{ann: 350_000}}
	hv.SetDriftSource(o)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.97", bob: "0.80"})
	register(s, (&echo{}).do)
	settled(hv)
	slices.Sort(o.asked)
	if !slices.Equal(o.asked, []policy.DID{ann, bob}) {
		t.Errorf("asked at the joins: %v", o.asked)
	}
	in := func(did policy.DID) ring.Ring {
		t.Helper()
		p, err := s.Participant(ctx, did)
		if err != nil {
			t.Fatal(err)
		}
		return p.Ring
	}
	if in(ann) != ring.Standard || in(bob) != ring.Standard {
		t.Errorf("ann, who has moved by 0.35, in ring %d; bob, of whom nothing is known, in ring %d", in(ann), in(bob))
	}
	if out := act(t, s, ann, "write", `{}`); !out.Allowed {
		t.Fatalf("%+v", out.Decision)
	}
	settled(hv)
	if len(o.asked) != 3 || o.asked[2] != ann || in(ann) != ring.Standard {
		t.Errorf("asked %v; the same finding again: ring %d", o.asked, in(ann))
	}
	o.says[bob] = 500_000
	if out := act(t, s, bob, "write", `{}`); !out.Allowed {
		t.Fatalf("%+v", out.Decision)
	}
	settled(hv)
	if v, err := hv.Agent(ctx, bob); err != nil || !v.Blacklisted {
		t.Errorf("%+v, %v", v, err)
	}
	drifts := events[session.BehaviorDrift](t, s)
	if len(drifts) != 2 || drifts[0].By != "did:mesh:drift" || drifts[1].Agent != bob {
		b, _ := json.Marshal(drifts)
		t.Errorf("%s", b)
	}
	hv.SetDriftSource(nil)
	act(t, s, ann, "read", `{}`)
	settled(hv)
	if len(o.asked) != 4 {
		t.Errorf("one that is taken away is asked: %v", o.asked)
	}
}
