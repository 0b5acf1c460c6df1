package agent

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/policy"
)

// SPEC §9: services "receive scores". What conduct brings is owed until a record says that it was told, and nothing else ever is.
func TestWhatConductBringsIsOwedUntilItIsTold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &State{DID: ann}
		var owed []uint64 // the oracle: the numbers of the records that are to be told
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			env := Env{Now: time.Unix(int64(i), 0).UTC().Add(time.Duration(i) * 24 * time.Hour), Caller: policy.System}
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				kind := rapid.SampledFrom([]Kind{Clean, Fault, Quarantine, Slashing, Reserve}).Draw(t, "kind")
				out := do(t, s, env, Enter{Entry{Session: "s", Number: uint64(i + 1), Kind: kind, Severity: 1, Share: 1, Bond: "b", Vouchee: "did:mesh:b"}})
				if kind != Reserve && len(out.Events) > 0 {
					owed = append(owed, s.Seq)
				}
			case 2: // said, not earned
				do(t, s, env, SetSigma{700_000, FromJoin})
				do(t, s, env, Report{Sigma: 600_000})
			case 3:
				through := rapid.Uint64Range(0, s.Seq+1).Draw(t, "through")
				out := do(t, s, env, Noticed{Through: through})
				if len(out.Events) > 0 {
					for len(owed) > 0 && owed[0] <= through {
						owed = owed[1:]
					}
				}
			}
			if Owes(s) != (len(owed) > 0) {
				t.Fatalf("owed are %v, and the state says %+v", owed, s.Untold)
			}
			if len(owed) > 0 && (s.Untold.First > owed[0] || s.Untold.Last != owed[len(owed)-1]) {
				t.Fatalf("owed are %v, and the state says %+v", owed, s.Untold)
			}
		}
	})
}

func TestOnlyTheHypervisorSaysThatAServiceWasTold(t *testing.T) {
	s := &State{DID: ann}
	do(t, s, Env{Caller: operator}, Slash{})
	for _, by := range []policy.Caller{policy.Agent(ann), operator, {DID: "did:mesh:nexus", Role: policy.ServiceRole}} {
		if out := do(t, s, Env{Caller: by}, Noticed{Through: s.Seq}); out.Code != policy.Forbidden || !Owes(s) {
			t.Errorf("%s: %+v", by.Role, out)
		}
	}
	if out := do(t, s, Env{}, Noticed{Through: s.Seq + 1}); out.Allowed {
		t.Error("told of what has not happened")
	}
}
