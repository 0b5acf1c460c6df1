package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

func TestARegisteredAgentHasALedgerAndRegisteringAgainWritesNothing(t *testing.T) {
	ctx := context.Background()
	hv := hypervisortest.Open(t, nil)
	const cal = policy.DID("did:mesh:cal")
	high := ring.MustSigma("0.90")
	for i, c := range []struct {
		by      policy.Caller
		sigma   *ring.Sigma
		code    policy.Code
		want    string
		records uint64
	}{
		{policy.Agent(cal), &high, policy.Forbidden, "", 0},
		{policy.Auditor("did:mesh:aud"), nil, policy.Forbidden, "", 0},
		{admin, nil, policy.OK, "0.50", 1},
		{admin, nil, policy.OK, "0.50", 1},
		{admin, &high, policy.OK, "0.90", 2},
		{admin, &high, policy.OK, "0.90", 2},
		{admin, nil, policy.OK, "0.90", 2}, // nothing said: as it stands
	} {
		d, err := hv.RegisterAgent(ctx, c.by, cal, c.sigma)
		if err != nil || d.Code != c.code {
			t.Fatalf("%d: %+v, %v", i, d, err)
		}
		v, err := hv.Agent(ctx, cal)
		if c.records == 0 {
			if !errors.Is(err, hypervisor.ErrNotFound) {
				t.Errorf("%d: %+v, %v", i, v, err)
			}
			continue
		}
		if err != nil || v.Sigma.String() != c.want || v.Records != c.records {
			t.Errorf("%d: %+v, %v", i, v, err)
		}
	}
	if _, err := hv.RegisterAgent(ctx, admin, "cal", nil); !errors.Is(err, policy.ErrDID) {
		t.Error(err)
	}
	var all []policy.DID
	for did, err := range hv.Agents(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, did)
	}
	if len(all) != 1 || all[0] != cal {
		t.Errorf("%v", all)
	}
}

func TestACallThatIsBegunIsAnsweredOnceItIsAdmittedAndGoesOn(t *testing.T) {
	ctx := context.Background()
	hv := hypervisortest.Open(t, &hypervisor.Options{})
	s := hypervisortest.Session(t, hv, nil, oneAgent())
	do := func(_ context.Context, args json.RawMessage) (json.RawMessage, error) { return args, nil }
	s.Register(action.Descriptor{ID: "read", ReadOnly: true}, do)
	s.Register(action.Descriptor{ID: "burn"}, do)
	out, err := s.Begin(ctx, policy.Agent(bob), session.Act{Action: "read", Args: json.RawMessage(`{"n":1}`)})
	if err != nil || !out.Allowed || out.State != "running" || out.ID == "" || out.Result != nil {
		t.Fatalf("%+v, %v", out, err)
	}
	for hv.Step(ctx) {
	}
	v, err := s.Action(ctx, out.ID)
	if err != nil || v.Outcome != "done" || string(v.Result) != `{"n":1}` {
		t.Errorf("%+v, %v", v, err)
	}
	if out, err := s.Begin(ctx, policy.Agent(bob), session.Act{Action: "burn"}); err != nil || out.Allowed || out.State != "" || out.Code != policy.ApprovalRequired {
		t.Errorf("a refusal: %+v, %v", out, err)
	}
}
