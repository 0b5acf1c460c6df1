package cel

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

func request() policy.Request {
	return policy.Request{
		Agent:    "did:mesh:ann",
		Action:   action.Descriptor{ID: "files.write_file", Name: "write", Reversibility: action.Partial, Files: true, Resource: "{{args.path}}"},
		Args:     map[string]any{"path": "/prod/a.txt", "n": 3.0, "big": json.Number("9007199254740993"), "force": true, "tags": []any{"a", "b"}, "meta": map[string]any{"z": 1.0, "a": 2.0, "m": json.Number("1.5")}},
		Resource: "/prod/a.txt",
		Session:  "ses-1",
		Name:     "dev",
		Ring:     ring.Standard,
		Sigma:    ring.MustSigma("0.60"),
		Now:      time.Date(2026, 10, 1, 22, 30, 0, 0, time.FixedZone("", 2*3600)),
	}
}

func mustCompile(t testing.TB, rules ...Rule) *Rules {
	t.Helper()
	r, err := Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRulesSeeTheCall(t *testing.T) {
	for when, want := range map[string]bool{
		`action.id == "files.write_file" && resource.under("/prod")`:      true,
		`resource.under("/production")`:                                   false,
		`resource.under("/prod/../prod/")`:                                true,
		`args.path.under("/prod")`:                                        true,
		`"/prod/../etc".under("/prod")`:                                   false,
		`"".under("/")`:                                                   false,
		`agent == "did:mesh:ann" && session == "ses-1"`:                   true,
		`session.name == "dev" && session == "ses-1"`:                     true,
		`session.name.startsWith("prod")`:                                 false,
		`action.name == "write"`:                                          true,
		`action.read_only || action.admin || action.idempotent`:           false,
		`action.network || action.subprocess`:                             false,
		`action.files`:                                                    true,
		`action.reversibility == "partial"`:                               true,
		`action.resource == "{{args.path}}"`:                              true,
		`ring == 2 && ring > 1`:                                           true,
		`args.n == 3 && args.n > 2.5 && args.n < 4`:                       true,
		`args.big == 9007199254740993`:                                    true,
		`args.meta.m == 1.5`:                                              true,
		`args.force == true`:                                              true,
		`"a" in args.tags && args.tags.exists(t, t == "b")`:               true,
		`has(args.nope)`:                                                  false,
		`has(args.meta.a)`:                                                true,
		`args.path.matches("^/prod/[a-z]+\\.txt$")`:                       true,
		`now.getHours() == 20 && now < timestamp("2026-10-01T21:00:00Z")`: true,
		`args.map(k, k) == ["big", "force", "meta", "n", "path", "tags"]`: true,
		`args.meta.map(k, k) == ["a", "m", "z"]`:                          true,
		`args.meta == {"z": 1, "a": 2, "m": 1.5}`:                         true,
		`action.id == "other.tool" && args.nope == 1`:                     false, // the guard is false, so the error is none
	} {
		want := map[bool]policy.Effect{true: policy.Deny}[want]
		if got := mustCompile(t, Rule{"r", when, policy.Deny}).Evaluate(request()); got.Effect != want || got.Reason != "" {
			t.Errorf("%s: %+v, want effect %d", when, got, want)
		}
	}
}

// SPEC §0: whole millionths; all thresholds are strict where written >.
func TestSigmaIsExactInMillionths(t *testing.T) {
	for m := uint32(0); m <= 1_000_000; m += 997 {
		for _, d := range []int{-1, 0, 1} {
			s := int(m) + d
			if s < 0 || s > 1_000_000 {
				continue
			}
			when := fmt.Sprintf("sigma > %d.%06d", m/1_000_000, m%1_000_000)
			if m%49_850 != 0 {
				continue // compiling is slow; twenty thresholds tell
			}
			req := request()
			req.Sigma = ring.Sigma(s)
			if got := mustCompile(t, Rule{"r", when, policy.Deny}).Evaluate(req).Effect == policy.Deny; got != (d > 0) {
				t.Errorf("σ %s: %s is %v", req.Sigma, when, got)
			}
		}
	}
	for when, sigma := range map[string]string{"sigma == 0.6": "0.6", "sigma >= 1": "1", "sigma == 0.123457": "0.123457", "sigma < 0.000002": "0.000001"} {
		req := request()
		req.Sigma = ring.MustSigma(sigma)
		if got := mustCompile(t, Rule{"r", when, policy.Deny}).Evaluate(req); got.Effect != policy.Deny {
			t.Errorf("σ %s: %s does not hold", sigma, when)
		}
	}
}

func TestStrongestEffectWinsAndTheFirstRuleThatHasItIsNamed(t *testing.T) {
	yes, no := "true", "false"
	ask, deny := policy.RequireApproval, policy.Deny
	for _, c := range []struct {
		rules []Rule
		want  policy.Verdict
	}{
		{nil, policy.Verdict{}},
		{[]Rule{{"a", no, deny}, {"b", no, ask}}, policy.Verdict{}},
		{[]Rule{{"a", yes, ask}, {"b", yes, ask}}, policy.Verdict{Effect: ask, Rule: "a"}},
		{[]Rule{{"a", yes, ask}, {"b", yes, deny}, {"c", yes, deny}}, policy.Verdict{Effect: deny, Rule: "b"}},
		{[]Rule{{"a", no, deny}, {"b", yes, ask}, {"c", no, deny}}, policy.Verdict{Effect: ask, Rule: "b"}},
		{[]Rule{{"a", yes, ask}, {"b", `args.nope == 1`, ask}}, policy.Verdict{Effect: deny, Rule: "b", Reason: `rule "b" could not be evaluated, so it denies: no such key: nope`}},
	} {
		if got := mustCompile(t, c.rules...).Evaluate(request()); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.rules, got, c.want)
		}
	}
}

func TestRuleThatErrsDeniesAndSaysWhy(t *testing.T) {
	for when, want := range map[string]string{
		`args.nope == "x"`:                   "no such key: nope",
		`args.path > 3`:                      "no such overload",
		`args.n / 0 == 1`:                    "no such overload", // a JSON number is a double
		`int(args.n) / 0 == 1`:               "division by zero",
		`args.tags[7] == "x"`:                "index out of bounds: 7",
		`args.path.under("https:/x")`:        `not a resource: "https:/x" is read as a URL by some programs and as a path by others`,
		`args.path.matches(args.path + "(")`: "error parsing regexp: missing closing ): `/prod/a.txt(`",
		`timestamp(args.path) < now`:         "invalid RFC 3339",
	} {
		got := mustCompile(t, Rule{"r", when, policy.RequireApproval}).Evaluate(request())
		if got.Effect != policy.Deny || got.Rule != "r" || !strings.Contains(got.Reason, want) || !strings.HasPrefix(got.Reason, `rule "r" could not be evaluated, so it denies: `) {
			t.Errorf("%s: %+v, want reason %q", when, got, want)
		}
	}
}

func TestCallWithoutAnythingIsEvaluatedToo(t *testing.T) {
	r := mustCompile(t, Rule{"r", `!has(args.x) && size(args) == 0 && agent == "" && action.id == "" && resource == "" && ring == 0 && sigma == 0.0`, policy.Deny})
	if got := r.Evaluate(policy.Request{}); got.Effect != policy.Deny || got.Reason != "" {
		t.Errorf("%+v", got)
	}
}

// Each of these goes on for seconds or hours if it is let.
func TestRuleThatCostsTooMuchDenies(t *testing.T) {
	req := request()
	many := make([]any, 10_000)
	for i := range many {
		many[i] = strings.Repeat("a", 30)
	}
	req.Args["many"], req.Args["deep"], req.Args["big"] = many, []any{many}, strings.Repeat("a", 1<<20)
	for _, when := range []string{
		`args.many.all(a, args.many.all(b, args.many.all(c, a + b != c)))`,
		`args.many.map(a, args.many + args.many).map(b, b + b + b + b + b + b)[0].all(x, x != "b")`,
		`args.many.all(a, !args.big.matches("` + strings.Repeat("b", 20) + `"))`,
		`args.many.all(a, args.many == args.many)`,
		`args.many.all(a, args.deep == args.deep)`,
		`args.many.all(a, args.deep in [args.deep])`,
		`args.many.all(a, !args.big.contains("aaaaaaaaaaab"))`,
		`args.many.all(a, (args.big + args.big).size() > 0)`,
		`args.many.all(a, !(args.big in args.many))`,
		strings.Repeat(`args.big.matches("`+strings.Repeat("b", 20)+`") || `, 150) + "false",
	} {
		r := mustCompile(t, Rule{"r", when, policy.RequireApproval})
		if got := r.Evaluate(req); got.Effect != policy.Deny || !strings.Contains(got.Reason, "cost limit exceeded") {
			t.Errorf("%.80s: %+v", when, got)
		}
	}
}

func TestBadRulesAreFoundWithTheirPlace(t *testing.T) {
	for when, want := range map[string]string{
		"":                          `rule "r": 1:1: the expression is empty`,
		`ring == 2 &&`:              `rule "r": 1:13: mismatched input '<EOF>'`,
		"ring == 2\n  && nope == 1": `rule "r": 2:6: unknown name "nope" (there are agent, action, args, resource, session, ring, sigma, now)`,
		`true && action.reed_only`:  `rule "r": 1:16: action has no "reed_only" (it has id, name, read_only, admin, reversibility, idempotent, network, files, subprocess, resource)`,
		`action == 1`:               `rule "r": 1:1: action is used by its fields only (id, name, read_only, admin, reversibility, idempotent, network, files, subprocess, resource)`,
		`resource.beneath("/x")`:    `rule "r": 1:17: unknown name "beneath"`,
		`ring`:                      `rule "r": 1:1: the result is int, not bool`,
		`args.force`:                `rule "r": 1:1: whether the result is true or false is not known beforehand; compare it, as in args.force == true`,
		`ring == "2"`:               `rule "r": 1:6: found no matching overload for '_==_' applied to '(int, string)'`,
		`resource.under(3)`:         `rule "r": 1:15: found no matching overload for 'under' applied to 'string.(int)'`,
		`resource.matches("(")`:     `rule "r": 1:18: invalid matches argument`,
		"true\xff":                  `rule "r": 1:1: the expression is not valid UTF-8`,
		strings.Repeat("(", 70) + "true" + strings.Repeat(")", 70): `rule "r": 1:1: expression recursion limit exceeded: 64`,
		`"` + strings.Repeat("a", maxExpression) + `" == agent`:    `rule "r": 1:1: expression code point size exceeds limit: size: 8203, limit 8192`,
		`"é" == nope`: `rule "r": 1:8: unknown name "nope"`,
	} {
		_, err := Compile([]Rule{{"r", when, policy.Deny}})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.60q: %v, want %s", when, err, want)
		}
		var e *Error
		if !errors.As(err, &e) || e.Line < 1 || e.Col < 1 {
			t.Errorf("%.60q: no place in %#v", when, err)
		}
	}
}

func TestAllFaultsOfAllRulesAreReported(t *testing.T) {
	_, err := Compile([]Rule{{"", "true", policy.Deny}, {"a", "x || y", policy.Pass}, {"a", "true", policy.Deny}})
	want := `rule "": a rule needs a name
rule "a": the effect is neither deny nor require_approval
rule "a": 1:1: unknown name "x" (there are agent, action, args, resource, session, ring, sigma, now)
rule "a": 1:6: unknown name "y" (there are agent, action, args, resource, session, ring, sigma, now)
rule "a": the name is used twice`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if _, err := Compile(make([]Rule, MaxRules+1)); err == nil {
		t.Error("too many rules compiled")
	}
}

func TestVersionChangesWithEveryRule(t *testing.T) {
	base := []Rule{{"a", "true", policy.Deny}, {"b", "false", policy.Deny}}
	seen := map[string]string{}
	for name, rules := range map[string][]Rule{
		"none": nil, "base": base, "order": {base[1], base[0]}, "fewer": base[:1], "name": {{"A", "true", policy.Deny}, base[1]},
		"effect": {{"a", "true", policy.RequireApproval}, base[1]}, "expression": {{"a", "ring == 1", policy.Deny}, base[1]},
	} {
		v := mustCompile(t, rules...).Version()
		if len(v) != 64 || seen[v] != "" {
			t.Errorf("%s has version %q, as has %q", name, v, seen[v])
		}
		seen[v] = name
	}
	if a, b := mustCompile(t, base...).Version(), mustCompile(t, Rule{"a", " true\n", policy.Deny}, base[1]).Version(); a != b {
		t.Errorf("white space around an expression changes the version")
	}
	if got := mustCompile(t).Version(); got != new(Rules).Version() {
		t.Errorf("no rules: %s, the zero Rules: %s", got, new(Rules).Version())
	}
	// Approvals in old logs are bound to this; if it changes, the meaning of the language has to have changed.
	if got, want := mustCompile(t, base...).Version(), "06a972df2413ecb66afef668a52206c03125092aae9ab5e90c2272a5993ca351"; got != want {
		t.Errorf("version %s, was %s", got, want)
	}
}

func TestSameVerdictEveryTimeFromManyGoroutines(t *testing.T) {
	r := mustCompile(t, Rule{"a", `args.meta.map(k, args.meta[k])[0] == 1`, policy.Deny}, Rule{"b", `args.tags.exists(x, x == "b")`, policy.RequireApproval})
	want := policy.Verdict{Effect: policy.RequireApproval, Rule: "b"}
	req := request()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if got := r.Evaluate(req); got != want {
					t.Errorf("%+v", got)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{"true", `action.id == "x"`, `args.a[0].b == 1`, `args.all(k, args[k] != null)`, `[1,2].map(x, x+x) == []`, `resource.under(agent)`,
		`{1: 2}`, `"\xff"`, `b'a' == b"\377"`, `now - duration("1h") < now`, `type(args) == map`, `args.a.matches(agent)`, `action.?id`, `a.b.c{d: 1}`, `-9223372036854775808 == ring`} {
		f.Add(s)
	}
	req := request()
	f.Fuzz(func(t *testing.T, when string) {
		r, err := Compile([]Rule{{"r", when, policy.Deny}})
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.What == "" || e.Line < 1 || e.Col < 1 {
				t.Errorf("%q: %#v", when, err)
			}
			return
		}
		if a, b := r.Evaluate(req), r.Evaluate(req); a != b {
			t.Errorf("%q: %+v, then %+v", when, a, b)
		}
	})
}

func BenchmarkEvaluate(b *testing.B) {
	rule := `action.id == "files.delete" && resource.under("/prod")`
	sets := map[string][]Rule{
		"1 guard":  {{"r", rule, policy.Deny}},
		"1 args":   {{"r", `args.path.startsWith("/prod") && ring > 2`, policy.Deny}},
		"1 under":  {{"r", `resource.under("/production") && sigma < 0.7`, policy.Deny}},
		"1 loop":   {{"r", `args.tags.exists(t, t == "x")`, policy.Deny}},
		"1 regexp": {{"r", `args.path.matches("^/production/")`, policy.Deny}},
	}
	for i := range 20 {
		sets["20 mixed"] = append(sets["20 mixed"], Rule{fmt.Sprint(i), []string{rule, `args.path.startsWith("/etc")`, `sigma < 0.3 && action.network`}[i%3], policy.Deny})
	}
	for _, name := range []string{"1 guard", "1 args", "1 under", "1 loop", "1 regexp", "20 mixed"} {
		b.Run(name, func(b *testing.B) {
			r, req := mustCompile(b, sets[name]...), request()
			b.ReportAllocs()
			for b.Loop() {
				r.Evaluate(req)
			}
		})
	}
}
