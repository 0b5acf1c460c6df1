package agent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agenthypervisor/hypervisor/policy"
)

// SPEC §7 "Kill switch": "an agent everywhere". Its record is owed and repeated, and one that was lifted does not come back.
func TestAnAgentIsKilledOnceAndLiftedOnce(t *testing.T) {
	live, folded := &State{DID: ann}, &State{DID: ann}
	kill := func(id string) Kill {
		return Kill{policy.Kill{ID: id, Scope: policy.Scope{Agent: ann}, Reason: policy.ForDrift, Note: "odd", By: "did:mesh:ops", At: time.Unix(1, 0).UTC(), Substitute: "did:mesh:bob"}}
	}
	for i, step := range []struct {
		by     policy.Caller
		c      Command
		code   policy.Code
		events int
		killed string
	}{
		{operator, LiftKill{}, policy.NotFound, 0, ""},
		{policy.Agent(ann), kill("kil-1"), policy.Forbidden, 0, ""},
		{policy.Approver("did:mesh:kim"), kill("kil-1"), policy.Forbidden, 0, ""},
		{operator, kill("kil-1"), policy.OK, 1, "kil-1"},
		{policy.System, kill("kil-1"), policy.OK, 0, "kil-1"},
		{operator, kill("kil-2"), policy.OK, 0, "kil-1"},
		{policy.Agent(ann), LiftKill{}, policy.Forbidden, 0, "kil-1"},
		{operator, LiftKill{}, policy.OK, 1, ""},
		{policy.System, kill("kil-1"), policy.OK, 0, ""},
		{operator, kill("kil-3"), policy.OK, 1, "kil-3"},
	} {
		out := Decide(live, Env{Caller: step.by}, step.c)
		if out.Code != step.code || len(out.Events) != step.events {
			t.Fatalf("%d: %+v", i, out)
		}
		if len(out.Events) > 0 {
			read, err := ParseEvents(AppendEvents(nil, out.Events))
			if err != nil {
				t.Fatal(err)
			}
			Apply(live, out.Seq, time.Unix(int64(i), 0).UTC(), out.Events)
			Apply(folded, out.Seq, time.Unix(int64(i), 0).UTC(), read)
		}
		if diff := cmp.Diff(live, folded); diff != "" {
			t.Fatal(diff)
		}
		if got := live.Killed; (got == nil) != (step.killed == "") || got != nil && got.ID != step.killed {
			t.Errorf("%d: %+v, want %q", i, got, step.killed)
		}
	}
}
