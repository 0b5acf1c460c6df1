package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// Where a session is meant its name will do: in a path, as ?session=, before an approval's id, and for an agent whose token is for the
// session's id.
func TestASessionsNameStandsForItEverywhere(t *testing.T) {
	h := build(t)
	dev := get[api.Session](t, h.ask("operator", "POST", "/v1/sessions", `{"name":"dev"}`, ""))
	s, err := h.hv.Session(t.Context(), dev.ID)
	if err != nil {
		t.Fatal(err)
	}
	h.tokens["ann"] = get[api.IssuedToken](t, h.ask("operator", "POST", "/v1/agents/"+string(ann.DID)+"/tokens", `{"session":"`+dev.ID+`"}`, "")).Token
	get[api.Joined](t, h.ask("operator", "POST", "/v1/sessions/dev/join", `{"agent":"did:mesh:ann"}`, ""))
	if err := s.Activate(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	s.Register(action.Descriptor{ID: "delete"}, func(_ context.Context, args json.RawMessage) (json.RawMessage, error) { return args, nil })
	for _, target := range []string{"/v1/sessions/dev", "/v1/sessions/dev/actions", "/v1/approvals?session=dev"} {
		if w := h.ask("ann", "GET", target, "", ""); w.Code != http.StatusOK {
			t.Errorf("%s, with a token for the id: %d %s", target, w.Code, w.Body)
		}
		if w := h.ask("agent", "GET", target, "", ""); w.Code != http.StatusForbidden {
			t.Errorf("%s, with a token for another session: %d %s", target, w.Code, w.Body)
		}
	}
	apr := errorOf(t, h.ask("ann", "POST", "/v1/sessions/dev/actions", `{"action":"delete"}`, "")).Details.Decision.Approval
	if apr == nil {
		t.Fatal("no approval was opened")
	}
	if page := get[api.Page[api.Approval]](t, h.ask("approver", "GET", "/v1/approvals?session=dev", "", "")); len(page.Items) != 1 || page.Items[0].Session != dev.ID {
		t.Errorf("%+v", page)
	}
	for _, target := range []string{"/v1/approvals/dev%2F" + apr.ID, "/v1/approvals/" + apr.ID + "?session=dev"} {
		if v := get[api.Approval](t, h.ask("approver", "GET", target, "", "")); v.Digest != apr.Digest {
			t.Errorf("%s: %+v", target, v)
		}
	}
	get[api.Decision](t, h.ask("approver", "POST", "/v1/approvals/dev%2F"+apr.ID+"/grant", `{"digest":"`+apr.Digest+`"}`, ""))
	server := httptest.NewServer(h.api)
	defer server.Close()
	if _, all := h.events(t, server, "?session=dev", "", 1); all[0].Type != "session.created" || all[0].Stream != "session/"+dev.ID {
		t.Errorf("%+v", all)
	}
}

// What an agent did is found by its DID, so nobody is brought under a name that stands for who is no agent.
func TestNobodyIsBroughtUnderAnOperatorsName(t *testing.T) {
	h := build(t)
	join := "/v1/sessions/" + h.one.ID() + "/join"
	for _, did := range []string{"did:mesh:ops", "did:mesh:kim", "did:mesh:hypervisor", string(admin.DID)} {
		if w := h.ask("agent", "POST", join, `{"agent":"`+did+`"}`, ""); w.Code != http.StatusForbidden || errorOf(t, w).Code != "forbidden" {
			t.Errorf("ann brings %s: %d %s", did, w.Code, w.Body)
		}
	}
	if w := h.ask("operator", "POST", join, `{"agent":"did:mesh:hypervisor"}`, ""); w.Code != http.StatusForbidden {
		t.Errorf("the hypervisor itself as an agent: %d %s", w.Code, w.Body)
	}
	if w := h.ask("operator", "POST", "/v1/tokens", `{"did":"did:mesh:hypervisor","role":"operator"}`, ""); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("a token of the hypervisor itself: %d %s", w.Code, w.Body)
	}
}

func TestAChildHasNoMoreTokensThanItNeeds(t *testing.T) {
	h := build(t)
	get[api.Joined](t, h.ask("agent", "POST", "/v1/sessions/"+h.one.ID()+"/join", `{"agent":"did:mesh:kid"}`, ""))
	target, body := "/v1/agents/did:mesh:kid/tokens", `{"session":"`+h.one.ID()+`"}`
	first := get[api.IssuedToken](t, h.ask("agent", "POST", target, body, "k"))
	if w := h.ask("agent", "POST", target, body, "k"); w.Code != http.StatusConflict {
		t.Errorf("the same key: %d %s", w.Code, w.Body)
	}
	for range maxChildTokens - 1 {
		get[api.IssuedToken](t, h.ask("agent", "POST", target, body, ""))
	}
	if w := h.ask("agent", "POST", target, body, ""); errorOf(t, w).Code != "quota_exceeded" {
		t.Errorf("one too many: %d %s", w.Code, w.Body)
	}
	get[api.Decision](t, h.ask("operator", "DELETE", "/v1/tokens/"+first.ID, "", ""))
	get[api.IssuedToken](t, h.ask("agent", "POST", target, body, ""))
}

// An idempotency key is its caller's: two parents who use the same one do not meet.
func TestParentsKeysDoNotMeet(t *testing.T) {
	h := build(t)
	get[api.Joined](t, h.ask("operator", "POST", "/v1/sessions/"+h.one.ID()+"/join", `{"agent":"did:mesh:bob","sigma":0.8}`, ""))
	h.tokens["bob"] = get[api.IssuedToken](t, h.ask("operator", "POST", "/v1/agents/did:mesh:bob/tokens", `{"session":"`+h.one.ID()+`"}`, "")).Token
	for parent, kid := range map[string]string{"agent": "did:mesh:kid", "bob": "did:mesh:boy"} {
		get[api.Joined](t, h.ask(parent, "POST", "/v1/sessions/"+h.one.ID()+"/join", `{"agent":"`+kid+`"}`, ""))
		get[api.IssuedToken](t, h.ask(parent, "POST", "/v1/agents/"+kid+"/tokens", `{"session":"`+h.one.ID()+`"}`, "k"))
	}
}

// "wait: false answers once it is admitted", also for a key that was used: the call it began may still run.
func TestARepeatThatDoesNotWaitIsAnsweredWhileTheCallRuns(t *testing.T) {
	h := build(t)
	goOn := make(chan struct{})
	h.one.Register(action.Descriptor{ID: "slow", ReadOnly: true}, func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		return args, ctx.Err()
	})
	target, body := "/v1/sessions/"+h.one.ID()+"/actions", `{"action":"slow","wait":false}`
	first := get[api.Outcome](t, h.ask("agent", "POST", target, body, "k"))
	again := get[api.Outcome](t, h.ask("agent", "POST", target, body, "k"))
	if again.ID != first.ID || again.Outcome != "running" || !again.Decision.Allowed {
		t.Errorf("%+v, then %+v", first, again)
	}
	close(goOn)
	if done := get[api.Outcome](t, h.ask("agent", "POST", target, `{"action":"slow"}`, "k")); done.ID != first.ID || done.Outcome != "done" {
		t.Errorf("%+v", done)
	}
}

// A name that reads like an id could stand before another session's.
func TestASessionIsNotNamedAsIDsAre(t *testing.T) {
	h := build(t)
	if w := h.ask("operator", "POST", "/v1/sessions", `{"name":"`+h.one.ID()+`"}`, ""); w.Code != http.StatusUnprocessableEntity || errorOf(t, w).Code != "invalid_arguments" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if _, err := h.hv.CreateSession(t.Context(), admin, &session.Config{Name: "sesame"}); err != nil {
		t.Error(err)
	}
}

// Who acts over HTTP is told, as over MCP, that a server does not say what it has.
func TestAnUnknownActionOfAServerThatIsDownSaysSo(t *testing.T) {
	h := build(t)
	h.api.opts.Unlisted = func(s *hypervisor.Session, caller policy.Caller, action string) error {
		if s.ID() != h.one.ID() || caller.DID != ann.DID || action != "bad.tool" {
			t.Errorf("%s %s %s", s.ID(), caller.DID, action)
		}
		return errors.New("the tools of server bad are not known yet")
	}
	target := "/v1/sessions/" + h.one.ID() + "/actions"
	if e := errorOf(t, h.ask("agent", "POST", target, `{"action":"bad.tool"}`, "")); e.Code != "unknown_action" || e.Message != "the tools of server bad are not known yet" {
		t.Errorf("%+v", e)
	}
	if d := get[api.Outcome](t, h.ask("agent", "POST", target+"?dry_run=true", `{"action":"bad.tool"}`, "")).Decision; d.Reason != "the tools of server bad are not known yet" {
		t.Errorf("%+v", d)
	}
	if e := errorOf(t, h.ask("agent", "POST", target, `{"action":"delete"}`, "")); e.Code != "approval_required" {
		t.Errorf("%+v", e)
	}
}

// An agent is shown the sagas that it runs or does a step of, and no other's; the lists of a session come in pages too.
func TestAnAgentSeesItsSagasAndNobodyElses(t *testing.T) {
	h := build(t)
	one := "/v1/sessions/" + h.one.ID()
	get[api.Joined](t, h.ask("operator", "POST", one+"/join", `{"agent":"did:mesh:bob","sigma":0.8}`, ""))
	h.tokens["bob"] = get[api.IssuedToken](t, h.ask("operator", "POST", "/v1/agents/did:mesh:bob/tokens", `{"session":"`+h.one.ID()+`"}`, "")).Token
	var ids []string
	for range 3 {
		ids = append(ids, get[api.Saga](t, h.ask("operator", "POST", one+"/sagas?wait=true", `{"saga":"hers","steps":[{"id":"a","agent":"did:mesh:ann","action":"read"}]}`, "")).ID)
	}
	for who, want := range map[string]int{"agent": 3, "bob": 0, "auditor": 3} {
		if page := get[api.Page[api.Saga]](t, h.ask(who, "GET", one+"/sagas", "", "")); len(page.Items) != want {
			t.Errorf("%s sees %d sagas, want %d", who, len(page.Items), want)
		}
	}
	for _, query := range []string{"", "?wait=true"} {
		if w := h.ask("bob", "GET", one+"/sagas/"+ids[0]+query, "", ""); w.Code != http.StatusNotFound {
			t.Errorf("bob looks at what ann does: %d %s", w.Code, w.Body)
		}
		if v := get[api.Saga](t, h.ask("agent", "GET", one+"/sagas/"+ids[0]+query, "", "")); v.ID != ids[0] {
			t.Errorf("%+v", v)
		}
	}
	first := get[api.Page[api.Saga]](t, h.ask("auditor", "GET", one+"/sagas?limit=2", "", ""))
	rest := get[api.Page[api.Saga]](t, h.ask("auditor", "GET", one+"/sagas?limit=2&cursor="+first.Cursor, "", ""))
	if len(first.Items) != 2 || len(rest.Items) != 1 || rest.Cursor != "" || first.Items[0].ID != ids[0] || first.Items[1].ID != ids[1] || rest.Items[0].ID != ids[2] {
		t.Errorf("%+v, then %+v", first, rest)
	}
	for _, list := range []string{"/sagas", "/elevations", "/vouches"} {
		for _, query := range []string{"?limit=0", "?limit=201", "?cursor=none"} {
			if w := h.ask("auditor", "GET", one+list+query, "", ""); w.Code != http.StatusBadRequest {
				t.Errorf("%s%s: %d %s", list, query, w.Code, w.Body)
			}
		}
	}
}
