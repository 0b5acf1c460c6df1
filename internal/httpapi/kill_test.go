package httpapi

import (
	"net/http"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// docs/contract.md: `{all:true}` or `{session}` or `{agent}` and `reason`.
func TestTheKillSwitchOverHTTP(t *testing.T) {
	h := build(t)
	one := h.one.ID()
	refused := func(status int, code policy.Code, method, target, body string) {
		t.Helper()
		w := h.ask("operator", method, target, body, "")
		if e := errorOf(t, w); w.Code != status || e.Code != string(code) {
			t.Errorf("%s %s %s: %d %s", method, target, body, w.Code, w.Body)
		}
	}
	refused(422, policy.InvalidArguments, "POST", "/v1/kill", `{}`) // nothing said is not everything
	refused(422, policy.InvalidArguments, "POST", "/v1/kill", `{"all":true,"agent":"did:mesh:ann"}`)
	refused(422, policy.InvalidArguments, "POST", "/v1/kill", `{"agent":"ann"}`)
	refused(404, policy.NotFound, "POST", "/v1/kill", `{"session":"nowhere"}`)
	refused(422, policy.InvalidArguments, "POST", "/v1/agents/did:mesh:ann/kill", `{"all":true}`)
	refused(404, policy.NotFound, "DELETE", "/v1/kill", `{"agent":"did:mesh:ann"}`)
	refused(422, policy.InvalidArguments, "DELETE", "/v1/kill", `{"all":true,"reason":"x"}`)

	r := get[api.KillReport](t, h.ask("operator", "POST", "/v1/agents/did:mesh:ann/kill", `{"session":"`+one+`","reason":"it asked for the moon"}`, ""))
	if k := r.Kill; k.Agent != "did:mesh:ann" || k.Session != one || k.Reason != "manual" || k.Note != "it asked for the moon" || k.By != "did:mesh:ops" || r.TokensRevoked != 1 || !r.Recorded {
		t.Errorf("%+v", r)
	}
	if w := h.ask("agent", "GET", "/v1/sessions/"+one, "", ""); w.Code != http.StatusUnauthorized {
		t.Errorf("the killed agent's token: %d %s", w.Code, w.Body)
	}
	if out, err := h.one.Act(t.Context(), ann, session.Act{Action: "read"}); err != nil || out.Code != policy.AgentKilled {
		t.Errorf("%+v, %v", out, err)
	}
	refused(403, policy.AgentKilled, "POST", "/v1/agents/did:mesh:ann/tokens", `{"session":"`+one+`"}`)
	if list := get[api.Page[api.Kill]](t, h.ask("auditor", "GET", "/v1/kill", "", "")); len(list.Items) != 1 || list.Items[0] != r.Kill {
		t.Errorf("%+v", list)
	}
	if d := get[api.Decision](t, h.ask("operator", "DELETE", "/v1/kill", `{"agent":"did:mesh:ann","session":"`+one+`"}`, "")); !d.Allowed {
		t.Errorf("%+v", d)
	}
	if r := get[api.KillReport](t, h.ask("operator", "POST", "/v1/kill", `{"agent":"did:mesh:ann","reason":"drift"}`, "")); r.Kill.Reason != "drift" || r.Kill.Note != "" || r.Kill.Session != "" {
		t.Errorf("%+v", r)
	}
	if v := get[api.Agent](t, h.ask("auditor", "GET", "/v1/agents/did:mesh:ann", "", "")); v.Killed == nil || v.Killed.Reason != "drift" {
		t.Errorf("%+v", v)
	}
	if r := get[api.KillReport](t, h.ask("operator", "POST", "/v1/kill", `{"all":true}`, "")); !r.Kill.All {
		t.Errorf("%+v", r)
	}
	get[api.Decision](t, h.ask("operator", "DELETE", "/v1/kill", `{"all":true}`, ""))
	if r := get[api.KillReport](t, h.ask("operator", "POST", "/v1/kill", `{"session":"`+one+`"}`, "")); r.Kill.Session != one {
		t.Errorf("%+v", r)
	}
	refused(409, policy.SessionNotActive, "DELETE", "/v1/kill", `{"session":"`+one+`"}`)
}

func TestQuarantineOverHTTP(t *testing.T) {
	h := build(t)
	const path = "/v1/agents/did:mesh:ann"
	for _, body := range []string{`{"severity":2}`, `{"for":"8d"}`, `{"for":"soon"}`} {
		if w := h.ask("operator", "POST", path+"/quarantine", body, ""); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	if w := h.ask("operator", "POST", path+"/release", `{}`, ""); w.Code != http.StatusNotFound {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	get[api.Decision](t, h.ask("operator", "POST", path+"/quarantine", `{"reason":"odd calls","severity":0.25,"for":"15m"}`, ""))
	get[api.Decision](t, h.ask("operator", "POST", path+"/quarantine", `{"reason":"drift","severity":1}`, ""))
	v := get[api.Agent](t, h.ask("agent", "GET", path, "", ""))
	if q := v.Quarantine; q == nil || !q.Kills || q.Severity != "1.00" || len(q.Reasons) != 2 || q.Reasons[0] != "manual, odd calls" || q.Until.Sub(q.Since).Round(time.Minute) != 20*time.Minute {
		t.Errorf("%+v", q)
	}
	if out, err := h.one.Act(t.Context(), ann, session.Act{Action: "delete"}); err != nil || out.Code != policy.AgentQuarantined {
		t.Errorf("%+v, %v", out, err)
	}
	get[api.Decision](t, h.ask("operator", "POST", path+"/release", `{"reason":"harmless"}`, ""))
	if v := get[api.Agent](t, h.ask("agent", "GET", path, "", "")); v.Quarantine != nil {
		t.Errorf("%+v", v)
	}
}
