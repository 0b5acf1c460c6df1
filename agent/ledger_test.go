package agent

import (
	"encoding/json"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// samples has every event, with every member set and with none.
func samples() []Event {
	h, at := audit.Leaf([]byte("x")), time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	said := ring.Sigma(7)
	return []Event{
		SigmaSet{Sigma: ring.One, Source: FromConfig}, SigmaSet{Sigma: 0, Source: FromConfig, Said: &said},
		Moved{Entry: Entry{Session: "s", Number: 3, Kind: Fault, Share: 1, Severity: 2, Cause: "\"\u2028"}, Sigma: 3, Risk: ring.One, Witness: ann, Unwitnessed: true},
		Moved{Entry: Entry{Kind: Clean}},
		WitnessAsked{Act: h, What: "slash", By: ann, Expires: at},
		Killed{ID: "kil-1", Agent: ann, Scope: "agent", Reason: policy.Manual, Note: "\"\u2028", By: ann, At: at},
		KillLifted{ID: "kil-1", Agent: ann},
		QuarantineEntered{Agent: ann, Reason: policy.ForDrift, Note: "\"\u2028", Severity: 7, Session: "s", Until: at},
		QuarantineEntered{Agent: ann, Until: at},
		QuarantineReleased{Agent: ann, Why: "operator", Note: "\"\u2028"},
		SessionsOver{Sessions: []string{"a", "b"}},
		Reported{Through: 3, Refused: true}, Reported{},
		Moved{Entry: Entry{Session: "s", Number: 3, Kind: Clip, Bond: "vch-1", Severity: 2}, Lost: 4, Sigma: 3},
		BondReserved{Session: "s", Number: 1, Bond: "vch-1", Vouchee: ann, Amount: 5},
		BondReleased{Session: "s", Number: 1, Bond: "vch-1"},
		BondsCut{Bonds: []CutBond{{Session: "s", Bond: "\"", Amount: 5}, {Session: "t", Bond: "vch-2"}}},
	}
}

func TestEveryEventIsReadAsItWasWritten(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range samples() {
		back, err := ParseEvents(AppendEvents(nil, []Event{e, e}))
		if err != nil {
			t.Errorf("%T: %v", e, err)
		} else if diff := cmp.Diff([]Event{e, e}, back); diff != "" {
			t.Errorf("%T (-written +read):\n%s", e, diff)
		}
		var typed struct{ Type string }
		if err := json.Unmarshal(e.Append(nil), &typed); err != nil {
			t.Error(err)
		}
		seen[typed.Type] = true
	}
	for kind := range readers {
		if !seen[kind] {
			t.Errorf("no sample of %s", kind)
		}
	}
}

// do decides and applies, at a time.
func do(t interface{ Fatalf(string, ...any) }, s *State, env Env, c Command) Outcome {
	if env.Caller.DID == "" {
		env.Caller = policy.System
	}
	before := asJSON(s)
	out := Decide(s, env, c)
	if after := asJSON(s); after != before {
		t.Fatalf("Decide changed the state:\n%s\n%s", before, after)
	}
	if len(out.Events) > 0 {
		events, err := ParseEvents(AppendEvents(nil, out.Events))
		if err != nil {
			t.Fatalf("reading back: %v", err)
		}
		Apply(s, out.Seq, env.Now, events)
	}
	return out
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// SPEC §3 "Standing" and "Risk", line by line. The figures were worked out by hand.
func TestEachEntryMovesStandingAsThePageSays(t *testing.T) {
	for _, c := range []struct {
		sigma, risk string
		entry       Entry
		wantSigma   string
		wantRisk    string
		why         string
	}{
		{"0.50", "0.20", Entry{Kind: Clean}, "0.51", "0.15", "σ+0.02(1−σ); −0.05"},
		{"0.50", "0.02", Entry{Kind: Clean}, "0.51", "0.00", "clamped after every entry"},
		{"0.899", "0", Entry{Kind: Clean}, "0.90", "0.00", "never above 0.90 by this alone"},
		{"0.95", "0.50", Entry{Kind: Clean}, "0.95", "0.45", "nor below what it has"},
		{"0.333333", "0", Entry{Kind: Clean}, "0.346666", "0.00", "rounded down"},
		{"0.80", "0", Entry{Kind: Fault, Share: ring.One, Severity: ring.One}, "0.60", "0.05", "σ(1−0.25f); +0.05·sev"},
		{"0.80", "0", Entry{Kind: Fault, Share: 500_000, Severity: 400_000}, "0.70", "0.02", "by the share and by the severity"},
		{"0.80", "0", Entry{Kind: Fault, Share: 333_333, Severity: 1}, "0.733333", "0.00", "rounded down once"},
		{"0.80", "0.10", Entry{Kind: Quarantine, Severity: ring.One}, "0.72", "0.20", "σ(1−0.10s); +0.10·max(sev,0.3)"},
		{"0.80", "0.10", Entry{Kind: Quarantine, Severity: 100_000}, "0.792", "0.13", "at least 0.3"},
		{"0.80", "0.10", Entry{Kind: Slashing, Severity: ring.One}, "0.00", "0.25", "0; +0.15·max(sev,0.5)"},
		{"0.80", "0.95", Entry{Kind: Slashing, Severity: ring.One}, "0.00", "1.00", "clamped"},
		{"0.80", "0.10", Entry{Kind: Slashing, Severity: 100_000}, "0.00", "0.175", "at least 0.5"},
	} {
		set, s := ring.MustSigma(c.sigma), &State{DID: ann, Risk: ring.MustSigma(c.risk)}
		s.Set = &set
		c.entry.Session, c.entry.Number = "s1", 1
		do(t, s, Env{Now: time.Unix(1, 0)}, Enter{c.entry})
		if s.Sigma().String() != c.wantSigma || s.Risk.String() != c.wantRisk || s.Blacklisted != (c.entry.Kind == Slashing) {
			t.Errorf("%s of %s, %s: σ %s, risk %s, blacklisted %t; want %s, %s", c.entry.Kind, c.sigma, c.why, s.Sigma(), s.Risk, s.Blacklisted, c.wantSigma, c.wantRisk)
		}
	}
}

// SPEC §3: "once a day".
func TestCleanSessionsCountOnceADay(t *testing.T) {
	s := &State{DID: ann}
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	for i, c := range []struct {
		at   time.Time
		want string
	}{
		{noon, "0.51"}, {noon.Add(time.Hour), "0.51"}, {noon.Add(12*time.Hour - 1), "0.51"}, {noon.Add(12 * time.Hour), "0.5198"},
	} {
		do(t, s, Env{Now: c.at}, Enter{Entry{Session: fmt.Sprint("s", i), Number: 1, Kind: Clean}})
		if s.Sigma().String() != c.want {
			t.Errorf("%s: σ %s, want %s", c.at, s.Sigma(), c.want)
		}
	}
}

// What a session tells twice, because a crash took the record that it was told, moves nothing twice.
func TestWhatIsToldTwiceCountsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		once, twice := &State{DID: ann}, &State{DID: ann}
		kinds := []Kind{Clean, Fault, Quarantine, Slashing}
		var sent []Entry
		for i := range rapid.IntRange(1, 12).Draw(t, "entries") {
			e := Entry{Session: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "session"), Number: uint64(i + 1), Kind: rapid.SampledFrom(kinds).Draw(t, "kind"),
				Share: 300_000, Severity: 400_000}
			env := Env{Now: time.Unix(int64(i), 0).UTC()}
			do(t, once, env, Enter{e})
			do(t, twice, env, Enter{e})
			sent = append(sent, e)
			from := rapid.IntRange(0, i).Draw(t, "from")
			for _, again := range sent[from:] {
				do(t, twice, env, Enter{again})
			}
		}
		if diff := cmp.Diff(once, twice); diff != "" {
			t.Fatalf("(-once +twice):\n%s", diff)
		}
	})
}

// A clip that is told again answers what it took the first time, since the cascade goes on from that; and the least that a clipped
// voucher keeps raises nobody who had less (SPEC §3 "clipped as a voucher: max(σ − its bond, 0.05)").
func TestAClipToldAgainAnswersTheSame(t *testing.T) {
	s, env := &State{DID: ann}, Env{Now: time.Unix(1, 0)}
	do(t, s, env, SetSigma{ring.MustSigma("0.70"), FromConfig})
	do(t, s, env, Enter{Entry{Session: "s", Number: 1, Kind: Reserve, Bond: "vch-1", Vouchee: "did:mesh:bob", Amount: 300_000, Above: 500_000}})
	clip := Enter{Entry{Session: "s", Number: 2, Kind: Clip, Bond: "vch-1", Severity: ring.One}}
	for range 2 {
		if out := do(t, s, env, clip); out.Sigma != 400_000 || out.Lost != 300_000 || s.Sigma() != 400_000 {
			t.Errorf("%+v, and σ is %s", out, s.Sigma())
		}
	}
	least := &State{DID: ann}
	do(t, least, env, SetSigma{ring.MustSigma("0.61"), FromConfig})
	do(t, least, env, Enter{Entry{Session: "s", Number: 1, Kind: Reserve, Bond: "vch-1", Vouchee: "did:mesh:bob", Amount: 488_000, Above: 500_000}})
	do(t, least, env, SetSigma{ring.MustSigma("0.08"), FromConfig}) // its bond is cut to 0.064
	if out := do(t, least, env, clip); out.Sigma != ring.MustSigma("0.05") || out.Lost != ring.MustSigma("0.064") {
		t.Errorf("%+v: it keeps 0.05 of 0.08", out)
	}
	low := &State{DID: ann}
	do(t, low, env, SetSigma{ring.MustSigma("0.70"), FromConfig})
	do(t, low, env, Enter{Entry{Session: "s", Number: 1, Kind: Reserve, Bond: "vch-1", Vouchee: "did:mesh:bob", Amount: 300_000, Above: 500_000}})
	do(t, low, env, SetSigma{ring.MustSigma("0.03"), FromConfig})
	if out := do(t, low, env, clip); out.Sigma > 30_000 {
		t.Errorf("a clip has raised it to %s", out.Sigma)
	}
}

// Who was slashed has nothing left to take: a second slash is done already, and adds nothing to the risk.
func TestASlashOfTheSlashedIsDoneAlready(t *testing.T) {
	s, env := &State{DID: ann}, Env{Now: time.Unix(1, 0), Caller: operator, Operators: 1}
	do(t, s, env, Slash{Cause: "once"})
	before := *s
	if out := do(t, s, env, Slash{Cause: "twice"}); !out.Allowed || len(out.Events) > 0 || s.Risk != before.Risk || s.Seq != before.Seq {
		t.Errorf("%+v, and the risk is %s", out, s.Risk)
	}
}

// The numbers are remembered only of sessions that can tell something yet.
func TestSessionsThatAreOverAreForgotten(t *testing.T) {
	s := &State{DID: ann}
	for i := range 5 {
		do(t, s, Env{Now: time.Unix(1, 0)}, Enter{Entry{Session: fmt.Sprint("s", i), Number: 9, Kind: Fault}})
	}
	do(t, s, Env{Now: time.Unix(1, 0), Over: []string{"s0", "s1", "s2", "s3"}}, Enter{Entry{Session: "s4", Number: 10, Kind: Fault}})
	if diff := cmp.Diff([]string{"s4"}, s.HeardOf()); diff != "" {
		t.Error(diff)
	}
}

func TestOnlyTheHypervisorTellsWhatASessionOwes(t *testing.T) {
	for _, by := range []policy.Caller{policy.Agent(ann), operator, policy.Auditor("did:mesh:aud"), {DID: "did:mesh:nexus", Role: policy.ServiceRole}} {
		if out := do(t, &State{DID: ann}, Env{Caller: by}, Enter{Entry{Session: "s", Number: 1, Kind: Clean}}); out.Code != policy.Forbidden || len(out.Events) > 0 {
			t.Errorf("%s: %+v", by.Role, out)
		}
	}
}

// SPEC §3: "slashed: 0, blacklisted until reinstated"; "reinstate: 0.30 unless said, and only it lifts a blacklist".
func TestOnlyAReinstatementBringsTheSlashedBack(t *testing.T) {
	s, now := &State{DID: ann}, time.Unix(100, 0).UTC()
	one := Env{Now: now, Caller: operator, Operators: 1}
	do(t, s, one, SetSigma{ring.MustSigma("0.80"), FromConfig})
	if out := do(t, s, one, Slash{Cause: "leak"}); !out.Allowed || !s.Blacklisted || s.Sigma() != 0 || !out.Events[0].(Moved).Unwitnessed {
		t.Fatalf("%+v, %+v", out, s)
	}
	for _, c := range []Command{
		SetSigma{ring.MustSigma("0.80"), FromConfig}, SetSigma{ring.MustSigma("0.90"), FromConfig}, // the configuration again, and another figure in it
		Enter{Entry{Session: "s", Number: 1, Kind: Clean}}, Report{Sigma: ring.One}, Slash{},
	} {
		out := do(t, s, Env{Now: now, Caller: policy.System}, c)
		if !out.Allowed || !s.Blacklisted || s.Sigma() != 0 {
			t.Errorf("%T: %+v, σ %s", c, out.Decision, s.Sigma())
		}
	}
	for name, c := range map[string]Command{"a join": SetSigma{ring.One, FromJoin}, "an operator": SetSigma{ring.One, FromOperator}} {
		if out := do(t, s, one, c); out.Code != policy.Blacklisted {
			t.Errorf("%s: %+v", name, out.Decision)
		}
	}
	do(t, s, one, SetSigma{ring.MustSigma("0.90"), FromConfig}) // the newest, whichever came last above
	if out := do(t, s, one, Reinstate{}); !out.Allowed || s.Blacklisted || s.Sigma() != ring.MustSigma("0.30") || s.Risk != 0 {
		t.Errorf("%+v, %+v", out, s)
	}
	do(t, s, one, SetSigma{ring.MustSigma("0.90"), FromConfig})
	if s.Sigma() != ring.MustSigma("0.30") {
		t.Errorf("the figure that the file said meanwhile counts at the next start: σ %s", s.Sigma())
	}
}

// SPEC §2 "Ring 0": "An operator does it and a second operator witnesses; with one operator configured it is recorded unwitnessed."
func TestWithTwoOperatorsTheSecondCompletesTheAct(t *testing.T) {
	s, now := &State{DID: ann}, time.Unix(100, 0).UTC()
	by := func(name policy.DID, later time.Duration) Env {
		return Env{Now: now.Add(later), Caller: policy.Operator(name), Operators: 2}
	}
	for i, step := range []struct {
		env  Env
		c    Command
		code policy.Code
		why  string
	}{
		{by("did:mesh:olga", 0), Slash{Cause: "leak"}, policy.WitnessRequired, "one asks"},
		{by("did:mesh:olga", 0), Slash{Cause: "leak"}, policy.WitnessRequired, "twice is no witness"},
		{by("did:mesh:omar", 0), Slash{Cause: "leak", Severity: 1}, policy.WitnessRequired, "another act is another question"},
		{by("did:mesh:olga", 0), Slash{Cause: "leak"}, policy.WitnessRequired, "which replaced the first"},
		{by("did:mesh:omar", 15*time.Minute), Slash{Cause: "leak"}, policy.WitnessRequired, "too late, by a quarter of an hour to the nanosecond"},
		{by("did:mesh:olga", 15*time.Minute+1), Slash{Cause: "leak"}, policy.OK, "the very same, by the second"},
		{by("did:mesh:olga", 15*time.Minute+2), Reinstate{}, policy.WitnessRequired, "what completed one act completes no other"},
		{by("did:mesh:omar", 15*time.Minute+3), Reinstate{}, policy.OK, "the second"},
	} {
		out := do(t, s, step.env, step.c)
		if out.Code != step.code {
			t.Fatalf("%d (%s): %+v", i, step.why, out.Decision)
		}
		if out.Allowed && out.Events[0].(Moved).Witness == step.env.Caller.DID {
			t.Errorf("%d: an operator witnesses itself", i)
		}
	}
	if out := do(t, s, Env{Caller: policy.Approver("did:mesh:kim")}, Slash{}); out.Code != policy.Forbidden {
		t.Errorf("an approver slashes: %+v", out)
	}
}

// SPEC §3: "score of a configured service: the first, for an agent without entries, is the start (≤ 0.90), later the lower of ours
// and theirs".
func TestAServiceStartsOrLowers(t *testing.T) {
	service := Env{Caller: policy.Caller{DID: "did:mesh:nexus", Role: policy.ServiceRole}}
	s := &State{DID: ann}
	for _, c := range []struct{ says, want string }{{"0.99", "0.90"}, {"0.95", "0.90"}, {"0.70", "0.70"}, {"0.80", "0.70"}, {"0", "0.00"}} {
		do(t, s, service, Report{Sigma: ring.MustSigma(c.says)})
		if s.Sigma().String() != c.want {
			t.Errorf("after %s: σ %s, want %s", c.says, s.Sigma(), c.want)
		}
	}
	if out := do(t, s, Env{Caller: policy.Agent(ann)}, Report{Sigma: ring.One}); out.Code != policy.Forbidden {
		t.Errorf("%+v", out)
	}
}

// The abuse of SPEC §3: farming buys no ring 1 and no free violation, whatever the order. The oracle counts in exact fractions.
func TestFarmingCleanSessionsBuysNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, exact, risk := &State{DID: ann}, big.NewRat(1, 2), new(big.Rat)
		clamp := func(r *big.Rat) *big.Rat {
			if r.Sign() < 0 {
				return new(big.Rat)
			}
			if r.Cmp(big.NewRat(1, 1)) > 0 {
				return big.NewRat(1, 1)
			}
			return r
		}
		days := rapid.IntRange(1, 120).Draw(t, "days")
		for day := range days {
			kind := Clean
			if rapid.IntRange(0, 40).Draw(t, "bad") == 0 {
				kind = Fault
			}
			before := s.Risk
			do(t, s, Env{Now: time.Unix(int64(day)*86_400, 0)}, Enter{Entry{Session: "s", Number: uint64(day + 1), Kind: kind, Share: ring.One, Severity: ring.One}})
			if kind == Clean {
				grown := new(big.Rat).Add(exact, new(big.Rat).Mul(big.NewRat(2, 100), new(big.Rat).Sub(big.NewRat(1, 1), exact)))
				if grown.Cmp(big.NewRat(9, 10)) > 0 {
					grown = big.NewRat(9, 10)
				}
				exact, risk = grown, clamp(risk.Sub(risk, big.NewRat(5, 100)))
			} else {
				exact, risk = exact.Mul(exact, big.NewRat(3, 4)), clamp(risk.Add(risk, big.NewRat(5, 100)))
				if s.Risk != before+50_000 {
					t.Fatalf("day %d: a violation cost %s of risk", day, s.Risk-before)
				}
			}
			if ring.ByScore(s.Sigma()) < ring.Standard || s.Sigma() > 900_000 {
				t.Fatalf("day %d: σ %s by farming", day, s.Sigma())
			}
		}
		got := big.NewRat(int64(s.Sigma()), 1_000_000)
		if off := new(big.Rat).Sub(exact, got); off.Sign() < 0 || off.Cmp(big.NewRat(60, 1_000_000)) > 0 {
			t.Fatalf("σ %s, exactly %s", s.Sigma(), exact.FloatString(9))
		}
		if got := big.NewRat(int64(s.Risk), 1_000_000); got.Cmp(risk) != 0 {
			t.Fatalf("risk %s, exactly %s", s.Risk, risk.FloatString(9))
		}
	})
}

// The fold of the stored bytes is the live state, and so is the snapshot.
func TestFoldIsLive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		live, folded := &State{DID: ann}, &State{DID: ann}
		for i := range rapid.IntRange(0, 20).Draw(t, "commands") {
			figure := ring.Sigma(rapid.Uint32Range(0, uint32(ring.One)).Draw(t, "figure"))
			c := rapid.SampledFrom([]Command{
				SetSigma{figure, FromConfig}, SetSigma{figure, FromJoin}, Slash{Severity: figure}, Reinstate{}, Report{Sigma: figure},
				Enter{Entry{Session: "s", Number: uint64(i + 1), Kind: Fault, Share: figure, Severity: figure}},
				Enter{Entry{Session: "s", Number: uint64(i + 1), Kind: Clean}},
			}).Draw(t, "command")
			env := Env{Now: time.Unix(int64(i)*50_000, 0).UTC(), Caller: operator, Operators: rapid.IntRange(1, 2).Draw(t, "operators")}
			if _, owed := c.(Enter); owed {
				env.Caller = policy.System
			}
			out := Decide(live, env, c)
			if len(out.Events) == 0 {
				continue
			}
			events, err := ParseEvents(AppendEvents(nil, out.Events))
			if err != nil {
				t.Fatal(err)
			}
			Apply(live, out.Seq, env.Now, out.Events)
			Apply(folded, out.Seq, env.Now, events)
		}
		var snapshot State
		if err := json.Unmarshal([]byte(asJSON(live)), &snapshot); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(live, folded) + cmp.Diff(live, &snapshot); diff != "" {
			t.Fatal(diff)
		}
	})
}

// A reservation that comes again late, once its bond is free, locks nothing.
func TestReservationThatComesLateLocksNothing(t *testing.T) {
	s := &State{DID: ann}
	env := Env{Now: time.Unix(1, 0)}
	do(t, s, env, SetSigma{ring.MustSigma("0.90"), FromConfig})
	reserve := Enter{Entry{Session: "s", Number: 1, Kind: Reserve, Bond: "vch-1", Vouchee: "did:mesh:bob", Amount: 100_000, Above: 500_000}}
	for range 2 {
		if out := do(t, s, env, reserve); !out.Allowed || len(s.Bonds) != 1 {
			t.Fatalf("%+v, %+v", out, s.Bonds)
		}
	}
	do(t, s, env, Enter{Entry{Session: "s", Number: 2, Kind: Release, Bond: "vch-1"}})
	if out := do(t, s, env, reserve); out.Code != policy.VouchRefused || len(s.Bonds) != 0 {
		t.Errorf("%+v, %+v", out, s.Bonds)
	}
}

// SPEC §3: "Voucher's σ_raw > 0.60 and above the vouchee's; … total bonded ≤ 80 % of σ", as the voucher's own stream checks it.
func TestReservationIsCheckedByTheStreamThatHasTheCollateral(t *testing.T) {
	for _, c := range []struct {
		sigma  string
		above  string
		amount string
		code   policy.Code
	}{
		{"0.60", "0.50", "0.10", policy.VouchRefused}, {"0.600001", "0.50", "0.10", policy.OK}, {"0.70", "0.70", "0.10", policy.VouchRefused},
		{"0.70", "0.699999", "0.10", policy.OK}, {"0.70", "0.50", "0.56", policy.OK}, {"0.70", "0.50", "0.560001", policy.ExposureExceeded},
		{"1", "0.50", "0.80", policy.OK}, {"1", "0.50", "0.800001", policy.ExposureExceeded},
	} {
		s, env := &State{DID: ann}, Env{Now: time.Unix(1, 0)}
		do(t, s, env, SetSigma{ring.MustSigma(c.sigma), FromConfig})
		e := Entry{Session: "s", Number: 1, Kind: Reserve, Bond: "vch-1", Vouchee: "did:mesh:bob", Amount: ring.MustSigma(c.amount), Above: ring.MustSigma(c.above)}
		if out := do(t, s, env, Enter{e}); out.Code != c.code {
			t.Errorf("%+v: %+v", c, out.Decision)
		}
	}
	s, env := &State{DID: ann}, Env{Now: time.Unix(1, 0)}
	do(t, s, env, SetSigma{ring.MustSigma("0.90"), FromConfig})
	do(t, s, env, Kill{policy.Kill{ID: "kil-1", Scope: policy.Scope{Agent: ann}, Reason: policy.Manual, By: "did:mesh:ops"}})
	if out := do(t, s, env, Enter{Entry{Session: "s", Number: 1, Kind: Reserve, Bond: "vch-1", Vouchee: "did:mesh:bob", Amount: 1}}); out.Code != policy.VouchRefused {
		t.Errorf("one that is killed: %+v", out.Decision)
	}
	s = &State{DID: ann}
	do(t, s, env, SetSigma{ring.MustSigma("0.90"), FromConfig})
	for i := range maxBonds + 1 {
		e := Entry{Session: "s", Number: uint64(i + 1), Kind: Reserve, Bond: fmt.Sprint("vch-", i), Vouchee: "did:mesh:bob", Amount: 1}
		out := Decide(s, Env{Now: env.Now, Caller: policy.System}, Enter{e})
		if out.Allowed != (i < maxBonds) {
			t.Fatalf("bond %d: %+v", i, out.Decision)
		}
		if out.Allowed {
			Apply(s, out.Seq, env.Now, out.Events)
		}
	}
}
