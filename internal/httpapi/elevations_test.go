package httpapi

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/internal/auth"
)

// SPEC §2 "Elevation" and docs/contract.md: the request opens an approval that the sponsor grants, and then takes effect.
func TestAnAgentIsElevatedByAParticipantOverHTTP(t *testing.T) {
	h := build(t)
	one := "/v1/sessions/" + h.one.ID()
	get[api.Joined](t, h.ask("operator", "POST", one+"/join", `{"agent":"did:mesh:cem","sigma":0.55}`, ""))
	h.tokens["cem"] = get[api.IssuedToken](t, h.ask("operator", "POST", "/v1/agents/did:mesh:cem/tokens", `{"session":"`+h.one.ID()+`"}`, "")).Token

	asked := get[api.Elevation](t, h.ask("cem", "POST", one+"/elevations", `{"ring":2,"for":"90s","reason":"to write the report"}`, ""))
	if asked.Status != "asked" || asked.For != "1m30s" || asked.Decision == nil || asked.Decision.Allowed || asked.Decision.Code != "approval_required" ||
		asked.Approval.ID == "" || strings.Join(asked.Approval.By, " ") != "participant approver" || asked.Reason != "to write the report" {
		t.Fatalf("%+v", asked)
	}
	again := get[api.Elevation](t, h.ask("cem", "POST", one+"/elevations", `{"ring":2,"for":"90s","reason":"to write the report"}`, ""))
	if again.ID != asked.ID {
		t.Errorf("asked again it is another: %+v", again)
	}
	if w := h.ask("cem", "POST", "/v1/approvals/"+asked.Approval.ID+"/grant", `{"digest":"`+asked.Approval.Digest+`"}`, ""); w.Code != http.StatusForbidden {
		t.Errorf("cem sponsors itself: %d %s", w.Code, w.Body)
	}
	seen := get[api.Page[api.Approval]](t, h.ask("agent", "GET", "/v1/approvals", "", "")).Items
	if len(seen) != 1 || string(seen[0].Args) != `{"ring":2,"seconds":90,"reason":"to write the report"}` {
		t.Fatalf("ann sees %+v", seen)
	}
	get[api.Decision](t, h.ask("agent", "POST", "/v1/approvals/"+seen[0].ID+"/grant", `{"digest":"`+seen[0].Digest+`"}`, ""))
	active := get[api.Page[api.Elevation]](t, h.ask("auditor", "GET", one+"/elevations", "", "")).Items
	if len(active) != 1 || active[0].Status != "active" || active[0].By != "did:mesh:ann" || active[0].Until.Sub(*active[0].Since) != 90*time.Second {
		t.Fatalf("%+v", active)
	}
	if d := get[api.Outcome](t, h.ask("cem", "POST", one+"/actions?dry_run=true", `{"action":"read"}`, "")).Decision; *d.Ring != 2 {
		t.Errorf("elevated, and decided as of ring %d", *d.Ring)
	}
	if w := h.ask("cem", "POST", one+"/elevations", `{"ring":1,"reason":"more"}`, ""); w.Code != http.StatusForbidden || errorOf(t, w).Code != "elevation_refused" {
		t.Errorf("a second beside the first: %d %s", w.Code, w.Body)
	}
	get[api.Decision](t, h.ask("agent", "DELETE", one+"/elevations/"+asked.ID, "", "")) // its sponsor's to revoke
	if left := get[api.Page[api.Elevation]](t, h.ask("cem", "GET", one+"/elevations", "", "")).Items; len(left) != 0 {
		t.Errorf("revoked, and there is %+v", left)
	}
	for body, status := range map[string]int{`{"ring":0,"reason":""}`: 403, `{"ring":4,"reason":""}`: 422, `{"ring":-1,"reason":""}`: 422, `{"ring":2,"for":"x","reason":""}`: 422, `{"ring":2,"why":""}`: 400} {
		if w := h.ask("cem", "POST", one+"/elevations", body, ""); w.Code != status {
			t.Errorf("%s: %d %s, want %d", body, w.Code, w.Body, status)
		}
	}
}

// SPEC §2 "Inheritance": "the parent is whoever's token the join is made with".
func TestAnAgentBringsAnotherWithItsToken(t *testing.T) {
	h := build(t)
	one := "/v1/sessions/" + h.one.ID()
	kid := get[api.Joined](t, h.ask("agent", "POST", one+"/join", `{"agent":"did:mesh:kid"}`, ""))
	if kid.Ring != 3 {
		t.Errorf("ann is in ring 2 and what she brings in ring %d", kid.Ring)
	}
	for body, why := range map[string]string{`{"agent":"did:mesh:kid2","sigma":0.9}`: "says a σ", `{"agent":"did:mesh:kid2","sigma":0}`: "says a σ of 0", `{"agent":"did:mesh:ann"}`: "brings itself"} {
		if w := h.ask("agent", "POST", one+"/join", body, ""); w.Code != http.StatusForbidden {
			t.Errorf("an agent %s: %d %s", why, w.Code, w.Body)
		}
	}
	get[api.IssuedToken](t, h.ask("operator", "POST", "/v1/agents/did:mesh:own/tokens", `{"session":"`+h.one.ID()+`"}`, ""))
	if w := h.ask("agent", "POST", one+"/join", `{"agent":"did:mesh:own"}`, ""); w.Code != http.StatusForbidden {
		t.Errorf("ann brings one that has a token of its own: %d %s", w.Code, w.Body)
	}
	if w := h.ask("agent", "POST", "/v1/agents/did:mesh:own/tokens", `{"session":"`+h.one.ID()+`"}`, ""); w.Code != http.StatusForbidden {
		t.Errorf("ann makes a token for one that is not hers: %d %s", w.Code, w.Body)
	}
	tok := get[api.IssuedToken](t, h.ask("agent", "POST", "/v1/agents/did:mesh:kid/tokens", `{"session":"`+h.one.ID()+`","for":"365d"}`, ""))
	secret, err := auth.ParseSecret(h.tokens["agent"])
	if err != nil {
		t.Fatal(err)
	}
	if ann, _ := h.hv.Token(secret.Hash()); tok.Expires.After(ann.Expires) {
		t.Errorf("the child's token outlasts its parent's: %s, and %s", tok.Expires, ann.Expires)
	}
	h.tokens["kid"] = tok.Token
	if out := get[api.Outcome](t, h.ask("kid", "POST", one+"/actions", `{"action":"read","args":{}}`, "")); out.Outcome != "done" || *out.Decision.Ring != 3 {
		t.Errorf("%+v", out)
	}
	get[api.Session](t, h.ask("agent", "POST", one+"/leave", `{}`, ""))
	if w := h.ask("kid", "POST", one+"/actions", `{"action":"read","args":{}}`, ""); w.Code != http.StatusForbidden {
		t.Errorf("its parent has left, and the child acts: %d %s", w.Code, w.Body)
	}
}
