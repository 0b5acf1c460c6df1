package agent

import (
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/google/go-cmp/cmp"
)

const ann = policy.DID("did:mesh:ann")

var operator = policy.Operator("did:mesh:ops")

// SPEC §3: "New agents start at 0.50"; "set by an operator (config: at first sight or when the figure changed; join …)".
func TestStandingMovesByEntriesOnly(t *testing.T) {
	s := &State{DID: ann}
	if s.Sigma() != ring.MustSigma("0.50") {
		t.Fatalf("a newcomer has σ %s", s.Sigma())
	}
	for i, step := range []struct {
		by      policy.Caller
		sigma   string
		source  Source
		code    policy.Code
		entries int
		want    string
		why     string
	}{
		{policy.Agent(ann), "1", FromJoin, policy.Forbidden, 0, "0.50", "an agent sets no σ, least of all its own"},
		{policy.Approver("did:mesh:kim"), "1", FromJoin, policy.Forbidden, 0, "0.50", "nor does an approver"},
		{operator, "0.80", FromConfig, policy.OK, 1, "0.80", "the file names it for the first time"},
		{operator, "0.80", FromConfig, policy.OK, 0, "0.80", "and again, at the next start"},
		{operator, "0.60", FromJoin, policy.OK, 1, "0.60", "a join says otherwise"},
		{operator, "0.60", FromJoin, policy.OK, 0, "0.60", "a join says what is so"},
		{operator, "0.80", FromConfig, policy.OK, 0, "0.60", "the file says what it said: what has moved since stays moved"},
		{operator, "0.90", FromConfig, policy.OK, 1, "0.90", "the file's figure changed"},
		{operator, "0.80", FromConfig, policy.OK, 1, "0.80", "and back"},
		{operator, "0.80", FromJoin, policy.OK, 0, "0.80", "no entry where nothing moves"},
		{operator, "0", FromConfig, policy.OK, 1, "0.00", "no trust at all is a figure too"},
		{policy.System, "0.70", FromJoin, policy.OK, 1, "0.70", "the hypervisor acts for the operator's configuration"},
	} {
		before := *s
		out := Decide(s, Env{Caller: step.by}, SetSigma{ring.MustSigma(step.sigma), step.source})
		if diff := cmp.Diff(before, *s); diff != "" {
			t.Fatalf("%d: Decide changed the state: %s", i, diff)
		}
		if out.Code != step.code || len(out.Events) != step.entries {
			t.Errorf("%d (%s): %s, %d entries; want %s, %d", i, step.why, out.Code, len(out.Events), step.code, step.entries)
		}
		if len(out.Events) == 0 {
			if out.Seq != 0 {
				t.Errorf("%d (%s): names record %d, and there is none", i, step.why, out.Seq)
			}
		} else {
			Apply(s, out.Seq, time.Unix(int64(i), 0).UTC(), out.Events)
		}
		if s.Sigma().String() != step.want {
			t.Errorf("%d (%s): σ %s, want %s", i, step.why, s.Sigma(), step.want)
		}
	}
}

func TestSigmaAboveOneIsRefused(t *testing.T) {
	s := &State{DID: ann}
	if out := Decide(s, Env{Caller: operator}, SetSigma{ring.One + 1, FromJoin}); out.Code != policy.InvalidArguments || len(out.Events) != 0 {
		t.Errorf("%+v", out)
	}
}

func TestARecordOutOfTurnPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("record 2 was applied to an empty stream")
		}
	}()
	Apply(&State{DID: ann}, 2, time.Time{}, nil)
}

func FuzzParseEvents(f *testing.F) {
	f.Add(AppendEvents(nil, samples()))
	f.Add([]byte(`[{"type":"agent.sigma_set","sigma":"0.5","source":"\u2028"}]`))
	f.Add([]byte(`[{"type":"agent.sigma_set","sigma":2}]`))
	f.Add([]byte(`[{"type":"agent.slashed"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := ParseEvents(b)
		if err != nil {
			return
		}
		again, err := ParseEvents(AppendEvents(nil, events))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(events, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
