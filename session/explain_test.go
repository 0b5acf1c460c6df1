package session_test

import (
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/policy"
)

// The issue: "why: … ring required, the rule that refused, and what would have to be true for it to pass".
func TestARefusalSaysWhatWouldHaveToBeTrue(t *testing.T) {
	for name, c := range map[string]struct {
		setup     []string
		act       string
		refusedBy string
		requires  string
		byScore   int
		ceilings  int
		toPass    string
	}{
		"a newcomer writes": {[]string{"active ann=0.50"}, "t.write", "ring", "it changes something and can be taken back", 3, 0,
			"a σ_eff above 0.60, and it has 0.50"},
		"an elevation would do": {[]string{"active ann=0.55"}, "t.write", "ring", "it changes something and can be taken back", 3, 0,
			"a σ_eff above 0.60, and it has 0.55 | an elevation to ring 2, sponsored by a participant of ring 2 by its own score or by an approver"},
		"what cannot be taken back": {[]string{"active ann=0.55"}, "t.move", "ring", "it cannot be taken back", 3, 0,
			"a σ_eff above 0.60, and it has 0.55; and then an approver's grant for this call | " +
				"an elevation to ring 2, sponsored by a participant of ring 2 by its own score or by an approver; and then an approver's grant for this call"},
		"administrative": {[]string{"active ann=0.97"}, "t.wipe", "ring", "it is administrative", 1, 0, "an operator does it"},
		"under the session's least": {[]string{"active ann=0.70 min_sigma_eff=0.80"}, "t.write", "ring", "it changes something and can be taken back", 2, 1,
			"first what holds it: this session holds everyone under 0.80 in ring 3"},
		"a child of ring 2": {[]string{"active bob=0.80", "sigma ann 0.90", "spawn bob ann"}, "t.write", "ring", "it changes something and can be taken back", 2, 1,
			"first what holds it: did:mesh:bob, which spawned it, is in ring 2"},
		"the network": {[]string{"active ann=0.70"}, "t.net", "capability", "it changes something and can be taken back", 2, 0,
			"ring 1, or ring 2 and https://a.example/x in the session's network_allow"},
		"a policy":    {[]string{"active ann=0.97"}, "t.denied", "policy", "it cannot be taken back", 1, 0, `policy "no" would have to say otherwise`},
		"an approval": {[]string{"active ann=0.70"}, "t.move", "approval", "it cannot be taken back", 2, 0, "apr-4 granted by approver, and the same call again"},
		"nobody's":    {[]string{"active bob=0.70"}, "t.read", "participant", "it is read-only", 0, 0, "an operator joins it to the session"},
	} {
		w := city()
		for _, line := range c.setup {
			if _, err := (&player{world: w.world}).perform(line); err != nil {
				t.Fatalf("%s: %s: %v", name, line, err)
			}
		}
		out := play(t, w.world, "act ann "+c.act)
		e := out.Explanation
		if e == nil || out.Allowed {
			t.Errorf("%s: %+v", name, out.Decision)
			continue
		}
		by := 0
		if e.ByScore != nil {
			by = int(*e.ByScore)
		}
		if e.RefusedBy != c.refusedBy || e.Requires != c.requires || by != c.byScore || len(e.Ceilings) != c.ceilings || strings.Join(e.ToPass, " | ") != c.toPass {
			t.Errorf("%s: %+v by score %d", name, *e, by)
		}
	}
}

// What would have to be true is true: once it is, the call passes.
func TestWhatIsSaidToPassPasses(t *testing.T) {
	w := city()
	for _, line := range []string{"active ann=0.55 bob=0.80", "elevate ann 2", "grant apr-5 by=bob"} {
		if _, err := (&player{world: w.world}).perform(line); err != nil {
			t.Fatal(err)
		}
	}
	if out := play(t, w.world, "act ann t.write"); out.Code != policy.OK || out.Explanation != nil {
		t.Errorf("%+v", out.Decision)
	}
}
