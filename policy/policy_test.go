package policy_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// did is the grammar of W3C DID Core §3.1, rule by rule:
//
//	did                = "did:" method-name ":" method-specific-id
//	method-name        = 1*method-char
//	method-char        = %x61-7A / DIGIT
//	method-specific-id = *( *idchar ":" ) 1*idchar
//	idchar             = ALPHA / DIGIT / "." / "-" / "_" / pct-encoded
//	pct-encoded        = "%" HEXDIG HEXDIG
var did = regexp.MustCompile(`^did:[a-z0-9]+:(?:(?:[a-zA-Z0-9._-]|%[0-9A-Fa-f]{2})*:)*(?:[a-zA-Z0-9._-]|%[0-9A-Fa-f]{2})+$`)

var goodDIDs = []string{
	"did:mesh:ann", "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", "did:web:example.com", "did:web:example.com%3A3000:user:alice",
	"did:example:123456789abcdefghi", "did:0:0", "did:a::b", "did:a:::b", "did:a:%2f", "did:a:-._",
}

var badDIDs = []string{
	"", "did", "did:", "did::", "did:a", "did:a:", "did::b", "did:a:b:", "DID:a:b", "Did:a:b", " did:a:b", "did:a:b ", "did:a:b\n", "did:A:b", "did:a_b:c", "did:a-b:c",
	"did:a:b c", "did:a:b/path", "did:a:b?query", "did:a:b#fragment", "did:a:é", "did:é:b", "did:a:b\x00", "did:a:%", "did:a:%2", "did:a:%2g", "did:a:%%20", "did:a:b%",
	"did:a:b\"", "did:a:b\\", "did:a:b@c", "did:a:b+c", "urn:a:b",
}

func TestParseDID(t *testing.T) {
	for _, text := range goodDIDs {
		if got, err := policy.ParseDID(text); err != nil || string(got) != text {
			t.Errorf("ParseDID(%q) = %q, %v", text, got, err)
		}
	}
	for _, text := range badDIDs {
		if got, err := policy.ParseDID(text); !errors.Is(err, policy.ErrDID) || got != "" {
			t.Errorf("ParseDID(%q) = %q, %v; want ErrDID", text, got, err)
		}
	}
}

func TestADIDHasABound(t *testing.T) {
	longest := "did:mesh:" + strings.Repeat("a", policy.MaxDIDBytes-len("did:mesh:"))
	if _, err := policy.ParseDID(longest); err != nil {
		t.Errorf("%d bytes: %v", len(longest), err)
	}
	_, err := policy.ParseDID(longest + "a")
	if !errors.Is(err, policy.ErrDID) {
		t.Errorf("%d bytes gave %v", len(longest)+1, err)
	}
	if err != nil && len(err.Error()) > 200 {
		t.Errorf("the error repeats all of what was given: %v", err)
	}
}

func FuzzParseDID(f *testing.F) {
	for _, text := range append(goodDIDs, badDIDs...) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := policy.ParseDID(text)
		if want := did.MatchString(text) && len(text) <= policy.MaxDIDBytes; want != (err == nil) {
			t.Fatalf("ParseDID(%q) gave %v; by the grammar it is one: %v", text, err, want)
		}
		if err == nil && string(got) != text || err != nil && (got != "" || !errors.Is(err, policy.ErrDID)) {
			t.Fatalf("ParseDID(%q) = %q, %v", text, got, err)
		}
	})
}

func TestADIDInJSON(t *testing.T) {
	for text, want := range map[string]policy.DID{`"did:mesh:ann"`: "did:mesh:ann", `"did:\u006desh:ann"`: "did:mesh:ann", `""`: ""} {
		var got policy.DID
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s was read as %q, %v; want %q", text, got, err, want)
		}
	}
	for _, bad := range []string{`"ann"`, `7`, `{}`, `["did:mesh:ann"]`, `true`, `"did:mesh:"`} {
		var got policy.DID
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s was read as %q", bad, got)
		}
	}
	var keyed map[policy.DID]int // as a key, it goes through the same door
	if err := json.Unmarshal([]byte(`{"ann":1}`), &keyed); !errors.Is(err, policy.ErrDID) {
		t.Errorf("a key that is no DID gave %v", err)
	}
}

// SPEC §7 "Authority" names the roles; the zero Role may do nothing.
func TestRoleText(t *testing.T) {
	words := map[policy.Role]string{
		policy.NoRole: "none", policy.AgentRole: "agent", policy.ApproverRole: "approver", policy.AuditorRole: "auditor",
		policy.ServiceRole: "service", policy.OperatorRole: "operator", policy.SystemRole: "system",
	}
	for r, word := range words {
		b, err := json.Marshal(r)
		var back policy.Role
		if err != nil || string(b) != `"`+word+`"` || r.String() != word || json.Unmarshal(b, &back) != nil || back != r {
			t.Errorf("role %d is JSON %s, %v, read as %s; want %q", r, b, err, back, word)
		}
	}
	for _, bad := range []string{"", "Agent", "root", "admin", "agent ", "5"} {
		r := policy.OperatorRole
		if err := r.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was read as %s", bad, r)
		}
	}
}

// SPEC §7: "Approver: grant, deny, sponsor. Operator: all"; an approval (§2) is for these two, not for an agent's own vote.
func TestWhoMayApproveAndWhoRunsThePlace(t *testing.T) {
	const who = "did:mesh:x"
	for _, c := range []struct {
		caller        policy.Caller
		approve, runs bool
	}{
		{policy.Caller{}, false, false},
		{policy.Agent(who), false, false},
		{policy.Auditor(who), false, false},
		{policy.Caller{DID: who, Role: policy.ServiceRole}, false, false},
		{policy.Approver(who), true, false},
		{policy.Operator(who), true, true},
		{policy.System, false, true},
	} {
		if c.caller.MayApprove() != c.approve || c.caller.Runs() != c.runs {
			t.Errorf("%s: approves %v, runs %v; want %v, %v", c.caller.Role, c.caller.MayApprove(), c.caller.Runs(), c.approve, c.runs)
		}
	}
	if _, err := policy.ParseDID(string(policy.System.DID)); err != nil {
		t.Errorf("the system's own DID: %v", err)
	}
}

func TestThroughChangesTheDoorOnly(t *testing.T) {
	ann := policy.Agent("did:mesh:ann")
	if got, want := ann.Through("stdio"), (policy.Caller{DID: ann.DID, Role: ann.Role, Via: "stdio"}); got != want || ann.Via != "library" {
		t.Errorf("got %+v from %+v, want %+v", got, ann, want)
	}
}

// docs/contract.md "Decision (everywhere the same)", field by field in its order.
func TestDecisionIsTheContractsJSON(t *testing.T) {
	d := policy.Refuse(policy.RingInsufficient, "needs ring %d", 1)
	d.RequiredRing, d.Ring, d.SigmaEff = new(ring.Privileged), new(ring.Sandbox), new(ring.MustSigma("0.41"))
	d.RiskWeight = action.Irreversible.Weight()
	d.Approval = &policy.ApprovalRef{ID: "apr-12", Digest: "ab", By: []string{"consensus", "approver"}}
	d.RetryAfterMS, d.Policy, d.Seq = 250, "no-prod-writes", 41
	for _, c := range []struct {
		d    policy.Decision
		want string
	}{
		{d, `{"allowed":false,"code":"ring_insufficient","reason":"needs ring 1","required_ring":1,"ring":3,"sigma_eff":0.41,"risk_weight":0.95,` +
			`"approval":{"id":"apr-12","digest":"ab","by":["consensus","approver"]},"retry_after_ms":250,"policy":"no-prod-writes","seq":41}`},
		{policy.Allow(), `{"allowed":true,"code":"ok","reason":""}`},
		{policy.Decision{Allowed: true, Code: policy.OK, RequiredRing: new(ring.Root), Ring: new(ring.Root), SigmaEff: new(ring.Sigma)},
			`{"allowed":true,"code":"ok","reason":"","required_ring":0,"ring":0,"sigma_eff":0.00}`},
	} {
		b, err := json.Marshal(c.d)
		if err != nil || string(b) != c.want {
			t.Errorf("got  %s, %v\nwant %s", b, err, c.want)
		}
		var back policy.Decision
		if err := json.Unmarshal(b, &back); err != nil {
			t.Errorf("%s: %v", b, err)
		} else if again, _ := json.Marshal(back); string(again) != string(b) {
			t.Errorf("%s came back as %s", b, again)
		}
	}
}

// The zero Decision must refuse: who forgets to fill one in has not allowed anything.
func TestTheZeroDecisionRefuses(t *testing.T) {
	if (policy.Decision{}).Allowed || policy.Refuse(policy.Forbidden, "no").Allowed || !policy.Allow().Allowed {
		t.Error("a refusal is allowed, or a permission refused")
	}
}

// docs/contract.md "Decision" lists the codes; nothing may answer with another.
func TestEveryCodeIsInTheContract(t *testing.T) {
	page, err := os.ReadFile("../docs/contract.md")
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile("(?m)^Codes: `([^`]*)`").FindSubmatch(page)
	if list == nil {
		t.Fatal("docs/contract.md has no line of codes")
	}
	promised := map[string]bool{}
	for _, code := range strings.Fields(string(list[1])) {
		promised[code] = true
	}
	codes := codes(t)
	if len(codes) < 20 {
		t.Fatalf("found %d codes in decision.go: this test does not see them", len(codes))
	}
	for _, code := range codes {
		if !promised[code] {
			t.Errorf("code %q is not in docs/contract.md", code)
		}
	}
}

// codes returns the values of the constants of type Code.
func codes(t *testing.T) (codes []string) {
	file, err := parser.ParseFile(token.NewFileSet(), "decision.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if of, ok := spec.Type.(*ast.Ident); !ok || of.Name != "Code" {
			return false
		}
		for _, v := range spec.Values {
			code, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, code)
		}
		return false
	})
	return codes
}

func TestNoRulesLetEverythingPass(t *testing.T) {
	if v := (policy.NoRules{}).Evaluate(policy.Request{Agent: "did:mesh:ann"}); v != (policy.Verdict{}) || v.Effect != policy.Pass {
		t.Errorf("got %+v", v)
	}
	if !(policy.Pass < policy.RequireApproval && policy.RequireApproval < policy.Deny) {
		t.Error("the effects are not in the order of their strength")
	}
}

func TestADIDsFaultIsNamedAsItIsWritten(t *testing.T) {
	for text, want := range map[string]string{"did:mesh:änn": `identifier has 'ä'`, "did:mäsh:ann": `method has 'ä'`} {
		if _, err := policy.ParseDID(text); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
