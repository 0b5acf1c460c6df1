package agent

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// SPEC §3 "Quarantine": "300 s default; … a second reason extends and adds. Ends by an operator, or by time: released, or, if
// drift or a critical breach began it, killed".
func TestAQuarantineBeginsIsExtendedAndEnds(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0).UTC() }
	enter := func(reason policy.Reason, d time.Duration) Command { return EnterQuarantine{Reason: reason, For: d} }
	kill := Kill{policy.Kill{ID: "kil-1", Scope: policy.Scope{Agent: ann}, Reason: policy.ForQuarantineTimeout, By: "did:mesh:ops"}}
	for name, steps := range map[string][]struct {
		at    int
		by    policy.Caller
		c     Command
		code  policy.Code
		last  string // event
		until int    // 0: in no quarantine
		why   string
	}{
		"by time": {
			{0, policy.Agent(ann), enter(policy.Manual, 0), policy.Forbidden, "", 0, ""},
			{0, policy.Approver("did:mesh:kim"), enter(policy.Manual, 0), policy.Forbidden, "", 0, ""},
			{0, operator, EndQuarantine{}, policy.NotFound, "", 0, ""},
			{0, operator, enter("boredom", 0), policy.InvalidArguments, "", 0, ""},
			{0, operator, enter(policy.Manual, MaxQuarantine+1), policy.InvalidArguments, "", 0, ""},
			{0, operator, enter(policy.Manual, -1), policy.InvalidArguments, "", 0, ""},
			{10, operator, enter(policy.Manual, 0), policy.OK, "liability.quarantine_entered", 310, "300 s"},
			{309, policy.System, Tick{}, policy.OK, "", 310, "not yet"},
			{310, policy.System, Tick{}, policy.OK, "liability.quarantine_released", 0, ""},
			{311, policy.System, Tick{}, policy.OK, "", 0, "it is over"},
		},
		"extended": {
			{0, operator, enter(policy.Manual, 0), policy.OK, "liability.quarantine_entered", 300, ""},
			{100, operator, enter(policy.ForRate, time.Minute), policy.OK, "liability.quarantine_entered", 360, "extends"},
			{300, policy.System, Tick{}, policy.OK, "", 360, ""},
			{300, operator, enter(policy.Manual, MaxQuarantine), policy.OK, "liability.quarantine_entered", 300 + 7*24*3600, "what is left is bounded"},
			{301, policy.Agent(ann), EndQuarantine{}, policy.Forbidden, "", 300 + 7*24*3600, ""},
			{301, operator, EndQuarantine{}, policy.OK, "liability.quarantine_released", 0, ""},
		},
		"kills": {
			{0, operator, enter(policy.ForDrift, 0), policy.OK, "liability.quarantine_entered", 300, ""},
			{300, policy.System, Tick{}, policy.OK, "", 300, "not before it is killed: there is no moment in which it may act"},
			{300, policy.System, kill, policy.OK, "security.agent_killed", 300, ""},
			{300, policy.System, Tick{}, policy.OK, "liability.quarantine_released", 0, ""},
		},
		"drift is added": {
			{0, operator, enter(policy.Manual, 0), policy.OK, "liability.quarantine_entered", 300, ""},
			{1, operator, enter(policy.ForBreach, 0), policy.OK, "liability.quarantine_entered", 600, ""},
			{600, policy.System, Tick{}, policy.OK, "", 600, "a lesser reason that came first is no shield"},
			{601, operator, EndQuarantine{}, policy.OK, "liability.quarantine_released", 0, "an operator may always"},
		},
		"drift came first": {
			{0, operator, enter(policy.ForDrift, 0), policy.OK, "liability.quarantine_entered", 300, ""},
			{1, operator, enter(policy.Manual, 0), policy.OK, "liability.quarantine_entered", 600, ""},
			{600, policy.System, Tick{}, policy.OK, "", 600, "nor is one that came later"},
		},
		"owed by a session": {
			{0, policy.System, Enter{Entry{Session: "s", Number: 1, Kind: Quarantine, Severity: ring.One, Cause: "breach"}}, policy.OK, "liability.quarantine_entered", 300, ""},
			{1, policy.System, Enter{Entry{Session: "s", Number: 1, Kind: Quarantine, Severity: ring.One, Cause: "breach"}}, policy.OK, "", 300, "told again"},
			{300, policy.System, Tick{}, policy.OK, "", 300, ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			live, folded := &State{DID: ann}, &State{DID: ann}
			for i, step := range steps {
				before := live.Quarantine
				held := Quarantined{}
				if before != nil {
					held = *before
				}
				out := Decide(live, Env{Now: at(step.at), Caller: step.by}, step.c)
				last := ""
				if n := len(out.Events); n > 0 {
					read, err := ParseEvents(AppendEvents(nil, out.Events))
					if err != nil {
						t.Fatal(err)
					}
					Apply(live, out.Seq, at(step.at), out.Events)
					Apply(folded, out.Seq, at(step.at), read)
					last = typeOf(t, out.Events[n-1])
				}
				if out.Code != step.code || last != step.last {
					t.Errorf("%d: %+v, %q (%s)", i, out.Decision, last, step.why)
				}
				if diff := cmp.Diff(live, folded); diff != "" {
					t.Fatal(diff)
				}
				q := live.Standing().Quarantine
				if (q == nil) != (step.until == 0) || q != nil && !q.Until.Equal(at(step.until)) || !Due(live).Equal(dueOf(q)) {
					t.Errorf("%d: %+v, want until %d (%s)", i, q, step.until, step.why)
				}
				if before != nil && cmp.Diff(held, *before) != "" {
					t.Errorf("%d: what sessions hold was changed", i)
				}
			}
		})
	}
}

func dueOf(q *Quarantined) time.Time {
	if q == nil {
		return time.Time{}
	}
	return q.Until
}

// SPEC §3: "quarantine with severity s: σ(1−0.10s)"; "+0.10·max(sev,0.3) per quarantine".
func TestAQuarantineIsAnEntryInTheLedger(t *testing.T) {
	sigma := ring.MustSigma("0.80")
	s := &State{DID: ann, Set: &sigma}
	out := Decide(s, Env{Caller: operator}, EnterQuarantine{Reason: policy.Manual, Note: "odd", Severity: ring.One})
	Apply(s, 1, time.Unix(1, 0).UTC(), out.Events)
	if s.Sigma() != ring.MustSigma("0.72") || s.Risk != ring.MustSigma("0.10") {
		t.Errorf("σ %s, risk %s", s.Sigma(), s.Risk)
	}
	if m, ok := out.Events[0].(Moved); !ok || m.Cause != "manual odd" {
		t.Errorf("%+v", out.Events)
	}
}

// What a session owes for drift is said to be for drift, and else for a breach: the record is what people look up.
func TestAQuarantineThatIsOwedSaysForWhat(t *testing.T) {
	for cause, want := range map[string]policy.Reason{"drift drf-4": policy.ForDrift, "breach": policy.ForBreach} {
		s := &State{DID: ann}
		do(t, s, Env{Now: time.Unix(1, 0)}, Enter{Entry{Session: "s", Number: 1, Kind: Quarantine, Severity: ring.One, Cause: cause}})
		if q := s.Quarantine; q == nil || !q.Kills || len(q.Reasons) != 1 || !strings.HasPrefix(q.Reasons[0], string(want)) {
			t.Errorf("%s: %+v", cause, q)
		}
	}
}

func typeOf(t *testing.T, e Event) string {
	t.Helper()
	var typed struct{ Type string }
	if err := json.Unmarshal(e.Append(nil), &typed); err != nil {
		t.Fatal(err)
	}
	return typed.Type
}
