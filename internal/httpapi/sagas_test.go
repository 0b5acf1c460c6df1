package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/api"
)

// docs/contract.md: a saga file as JSON starts a saga; it is shown, listed, resolved and cancelled.
func TestASagaIsRunOverHTTP(t *testing.T) {
	h := build(t)
	one := "/v1/sessions/" + h.one.ID() + "/sagas"
	step := func(id, agent, action string) string {
		return `{"id":"` + id + `","agent":"did:mesh:` + agent + `","action":"` + action + `"}`
	}
	ran := get[api.Saga](t, h.ask("operator", "POST", one+"?wait=true", `{"saga":"two","steps":[`+step("a", "ann", "read")+`,`+step("b", "ann", "read")+`]}`, ""))
	if ran.State != "completed" || ran.Ended == nil || len(ran.Steps) != 2 || ran.Steps[0].State != "committed" || ran.Steps[0].ActionID == "" || ran.Saga != "two" {
		t.Fatalf("%+v", ran)
	}
	if seen := get[api.Saga](t, h.ask("auditor", "GET", one+"/"+ran.ID, "", "")); seen.State != "completed" || seen.By != ran.By {
		t.Errorf("%+v", seen)
	}
	if all := get[api.Page[api.Saga]](t, h.ask("auditor", "GET", one, "", "")).Items; len(all) != 1 || all[0].ID != ran.ID {
		t.Errorf("%+v", all)
	}
	own := get[api.Saga](t, h.ask("agent", "POST", one+"?wait=true", `{"saga":"own","steps":[`+step("a", "ann", "read")+`]}`, ""))
	if own.State != "completed" || own.By != "did:mesh:ann" {
		t.Errorf("%+v", own)
	}
	for _, c := range []struct {
		who, method, path, body string
		status                  int
		code                    string
	}{
		{"operator", "POST", "", `{"saga":"x","steps":[` + step("a", "ann", "read") + `,` + step("a", "zoe", "read") + `]}`, 422, "saga_invalid"},
		{"operator", "POST", "", `{"saga":"x","steps":[` + step("a", "zoe", "read") + `]}`, 422, "saga_invalid"},
		{"operator", "POST", "", `{"saga":"x","steps":[` + step("a", "ann", "nothing") + `]}`, 403, "unknown_action"},
		{"operator", "POST", "", `{"saga":"x","steps":[{"id":"a","agent":"did:mesh:ann","execute":"https://a.example/b"}]}`, 403, "unknown_action"},
		{"agent", "POST", "", `{"saga":"x","steps":[` + step("a", "bob", "read") + `]}`, 403, "forbidden"},
		{"auditor", "POST", "", `{"saga":"x","steps":[` + step("a", "ann", "read") + `]}`, 403, "forbidden"},
		{"operator", "GET", "/sag-1", ``, 404, "not_found"},
		{"operator", "POST", "/" + ran.ID + "/resolve", `{"step":"a","how":"happened"}`, 422, "saga_invalid"},
		{"operator", "POST", "/" + ran.ID + "/resolve", `{"step":"z","how":"happened"}`, 404, "not_found"},
		{"agent", "POST", "/" + ran.ID + "/resolve", `{"step":"a","how":"happened"}`, 403, "forbidden"},
		{"agent", "DELETE", "/" + ran.ID, ``, 403, "forbidden"},
	} {
		if w := h.ask(c.who, c.method, one+c.path, c.body, ""); w.Code != c.status || errorOf(t, w).Code != c.code {
			t.Errorf("%s %s %s: %d %s, want %d %s", c.who, c.method, c.body, w.Code, w.Body, c.status, c.code)
		}
	}
	h.one.Register(action.Descriptor{ID: "fail", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		return nil, errors.New("no")
	})
	turned := get[api.Saga](t, h.ask("operator", "POST", one+"?wait=true", `{"saga":"fails","steps":[`+step("a", "ann", "read")+`,{"id":"b","agent":"did:mesh:ann","action":"fail","needs":["a"]}]}`, ""))
	if turned.State != "compensated" || turned.On != "b" {
		t.Errorf("%+v", turned)
	}
	// What is sent again with its key, since an answer was lost, is one saga; another with the same key is none.
	body := `{"saga":"once","steps":[` + step("a", "ann", "read") + `]}`
	once := get[api.Saga](t, h.ask("operator", "POST", one+"?wait=true", body, "k1"))
	if again := get[api.Saga](t, h.ask("operator", "POST", one+"?wait=true", body, "k1")); again.ID != once.ID {
		t.Errorf("sent again: %s, and it was %s", again.ID, once.ID)
	}
	replay := get[api.Saga](t, h.ask("operator", "POST", one+"/"+once.ID+"/replay?wait=true", "", "k2"))
	if again := get[api.Saga](t, h.ask("operator", "POST", one+"/"+once.ID+"/replay?wait=true", "", "k2")); again.ID != replay.ID || replay.Replays != once.ID {
		t.Errorf("replayed again: %+v, and it was %+v", again, replay)
	}
	for _, other := range []string{strings.Replace(body, "once", "twice", 1), strings.Replace(body, `"read"`, `"read","args":{"n":1}`, 1)} {
		if w := h.ask("operator", "POST", one, other, "k1"); w.Code != 409 || errorOf(t, w).Code != "idempotency_conflict" {
			t.Errorf("%s: %d %s", other, w.Code, w.Body)
		}
	}
	w := h.ask("operator", "POST", one, "{\n \"saga\":\"x\", \"steps\":[{\"id\":\"a\"}]}", "")
	faults := errorOf(t, w).Details.Faults
	if w.Code != http.StatusUnprocessableEntity || len(faults) != 2 || faults[0].Line != 2 || faults[0].Col != 23 || !strings.Contains(faults[0].What, "agent is missing") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
