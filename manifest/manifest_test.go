package manifest

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/ring"
)

const whole = `{"agent_id": "did:mesh:ann", "trust_level": "trusted", "trust_score": 7.25, "scopes": ["notes"], "version": "1",
 "description": "keeps notes", "privacy_contract": {"retention": "ephemeral"}, "public_key": "k", "signature": "s",
 "capabilities": {"reversibility": "partial", "idempotency": false, "undo_window": "24h", "concurrency_limit": 3, "rate_limit": 9, "sla_latency": "1s"},
 "actions": [{"action_id": "notes.add", "name": "Add", "execute_api": "/add", "undo_api": "/drop", "reversibility": "none", "is_read_only": false,
   "is_admin": true, "idempotent": false, "undo_window": "1h", "network": true, "files": true, "subprocess": true}, {"action_id": "notes.list", "is_read_only": true}]}`

// SPEC §9: "verified_partner→1, trusted/standard→2, unknown/untrusted→3; trust score 0–10 → σ hint".
func TestLevelsAndScores(t *testing.T) {
	for level, want := range map[string]ring.Ring{"verified_partner": 1, "trusted": 2, "standard": 2, "unknown": 3, "untrusted": 3} {
		m, err := Parse([]byte(`{"agent_id":"did:mesh:ann","trust_level":"` + level + `"}`))
		if err != nil || m.Ring != want || m.Sigma != nil {
			t.Errorf("%s: %+v, %v", level, m, err)
		}
	}
	for score, want := range map[string]string{"0": "0.00", "7": "0.70", "7.25": "0.725", "9.99999": "0.999999", "10": "1.00", "10.0": "1.00",
		"10.1": "", "11": "", "-1": "", "7.123456": "", "1e1": "", `"7"`: "", "true": "", "100": "", "null": ""} {
		m, err := Parse([]byte(`{"agent_id":"did:mesh:ann","trust_level":"trusted","trust_score":` + score + `}`))
		switch {
		case want == "" && !errors.Is(err, ErrManifest):
			t.Errorf("%s: %+v, %v", score, m, err)
		case want != "" && (err != nil || m.Sigma.String() != want):
			t.Errorf("%s: %+v, %v", score, m, err)
		}
	}
}

func TestOnlyWhatMakesStricterIsKept(t *testing.T) {
	m, err := Parse([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(m.Claims)
	want := `{"*":{"undo_window":86400000000000,"reversibility":"partial","idempotent":false},` +
		`"notes.add":{"undo_window":3600000000000,"reversibility":"none","read_only":false,"admin":true,"idempotent":false,"network":true,"files":true,"subprocess":true},"notes.list":{}}`
	var a, b map[string]map[string]any
	if err != nil || json.Unmarshal(got, &a) != nil || json.Unmarshal([]byte(want), &b) != nil {
		t.Fatal(err)
	}
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	if string(x) != string(y) {
		t.Errorf("claims %s\nwant   %s", x, y)
	}
}

// SPEC §4: "A weaker source can only make an action stricter".
func TestNoClaimLoosensAnAction(t *testing.T) {
	m, err := Parse([]byte(`{"agent_id":"did:mesh:ann","trust_level":"verified_partner","capabilities":{"reversibility":"full","idempotency":true,"undo_window":"87600h"},
		"actions":[{"action_id":"t.x","reversibility":"full","is_read_only":true,"is_admin":false,"idempotent":true,"network":false,"undo_window":"87600h"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []action.Descriptor{
		{ID: "t.x", UndoWindow: time.Hour}, {ID: "t.x", Reversibility: action.Partial, Admin: true, Network: true, UndoWindow: time.Hour}, {ID: "t.y", Reversibility: action.Partial, UndoWindow: time.Hour},
	} {
		c, said := Of(m.Claims, &d)
		if got := d.Tightened(c); !said || got.Digest() != d.Digest() {
			t.Errorf("%+v became %+v", d, got)
		}
	}
	if _, said := Of(m.Claims, &action.Descriptor{ID: "t.z", ReadOnly: true}); said {
		t.Error("what is said of capabilities speaks of an action that only reads")
	}
}

func TestManifestsAreReadStrictly(t *testing.T) {
	for _, bad := range []string{``, `null`, `[]`, `{}`, `{"agent_id":"did:mesh:ann"}`, `{"trust_level":"trusted"}`, `{"agent_id":"ann","trust_level":"trusted"}`,
		`{"agent_id":"did:mesh:ann","trust_level":"root"}`, `{"agent_id":"did:mesh:ann","trust_level":"Trusted"}`,
		`{"agent_id":"did:mesh:ann","trust_level":"trusted","trust_level":"trusted"}`, `{"agent_id":"did:mesh:ann","trust_level":"trusted"} {}`,
		`{"agent_id":"did:mesh:ann","Trust_Level":"trusted"}`, `{"agent_id":"did:mesh:ann","trust_level":"trusted","tust_score":1}`,
		`{"agent_id":"did:mesh:ann","trust_level":"trusted","actions":[{"action_id":"a","is_adm":true}]}`,
		`{"agent_id":"did:mesh:ann","trust_level":"trusted","actions":[{"action_id":"a"},{"action_id":"a"}]}`,
		`{"agent_id":"did:mesh:ann","trust_level":"trusted","actions":[{"action_id":"*"}]}`, `{"agent_id":"did:mesh:ann","trust_level":"trusted","actions":[{}]}`,
		`{"agent_id":"did:mesh:ann","trust_level":"trusted","actions":[{"action_id":"a","reversibility":"maybe"}]}`,
		`{"agent_id":"did:mesh:ann","trust_level":"trusted","capabilities":{"undo_window":"-1h"}}`,
		`{"agent_id":"did:mesh:ann","trust_level":"trusted","actions":[` + strings.Repeat(`{"action_id":"a"},`, maxActions) + `{"action_id":"a"}]}`,
		`{"agent_id":"did:mesh:ann","trust_level":"trusted","description":"` + strings.Repeat("x", MaxBytes) + `"}`,
		"{\"agent_id\":\"did:mesh:ann\",\"trust_level\":\"trusted\",\"description\":\"\xff\"}",
	} {
		if m, err := Parse([]byte(bad)); !errors.Is(err, ErrManifest) {
			t.Errorf("%.100s: %+v, %v", bad, m, err)
		}
	}
}

// White space and the order of names do not make another manifest; a claim does.
func TestDigestIsOfTheCanonicalForm(t *testing.T) {
	digest := func(text string) [32]byte {
		m, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return m.Digest
	}
	one := digest(`{"agent_id":"did:mesh:ann","trust_level":"trusted"}`)
	if digest("{ \"trust_level\":\"trusted\",\n\"agent_id\":\"did:mesh:ann\"}") != one || digest(`{"agent_id":"did:mesh:ann","trust_level":"standard"}`) == one {
		t.Error("the digest is of something else")
	}
}

// The schema in docs/ takes what Parse takes, as far as a schema can say it.
func TestTheSchemaSaysTheSame(t *testing.T) {
	b, err := os.ReadFile("../docs/manifest.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema jsonschema.Schema
	if err := json.Unmarshal(b, &schema); err != nil {
		t.Fatal(err)
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	for text, good := range map[string]bool{
		whole: true, `{"agent_id":"did:mesh:ann","trust_level":"unknown"}`: true, `{"agent_id":"did:mesh:ann","trust_level":"unknown","trust_score":10}`: true,
		`{"agent_id":"did:mesh:ann"}`: false, `{"agent_id":"did:mesh:ann","trust_level":"root"}`: false, `{"agent_id":"did:mesh:ann","trust_level":"trusted","trust_score":11}`: false,
		`{"agent_id":"did:mesh:ann","trust_level":"trusted","tust_score":1}`: false, `{"agent_id":"did:mesh:ann","trust_level":"trusted","actions":[{"is_admin":true}]}`: false,
		`{"agent_id":"did:mesh:ann","trust_level":"trusted","actions":[{"action_id":"a","reversibility":"maybe"}]}`: false,
	} {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		_, parsed := Parse([]byte(text))
		if err := resolved.Validate(v); (err == nil) != good || (parsed == nil) != good {
			t.Errorf("%.80s: the schema says %v, Parse says %v", text, err, parsed)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`{"agent_id":"did:mesh:ann","trust_level":"trusted","trust_score":10.0}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		if m.Ring == ring.Root || m.Ring > ring.Sandbox || m.Sigma != nil && *m.Sigma > ring.One || len(m.Claims) > maxActions+1 {
			t.Fatalf("%+v", m)
		}
	})
}
