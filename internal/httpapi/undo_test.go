package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/session"
)

// slate puts a slate into a session, which is read, written and wiped.
func slate(t *testing.T, s *hypervisor.Session) *string {
	t.Helper()
	text := new(string)
	tools := []hypervisor.Tool{
		{Descriptor: action.Descriptor{ID: "slate.read", ReadOnly: true}, Server: "slate", Do: func(context.Context, json.RawMessage) (json.RawMessage, error) {
			if *text == "" {
				return nil, errors.New("blank")
			}
			return json.Marshal(map[string]string{"text": *text})
		}},
		{Descriptor: action.Descriptor{ID: "slate.wipe"}, Server: "slate", Do: func(context.Context, json.RawMessage) (json.RawMessage, error) {
			*text = ""
			return json.RawMessage(`{}`), nil
		}},
		{Server: "slate", Descriptor: action.Descriptor{ID: "slate.write", Reversibility: action.Full, Resource: "slate",
			Image:      &action.Look{Call: action.Call{Tool: "read"}, Bytes: "{{result.text}}", Absent: "blank"},
			After:      "{{args.text}}",
			Undo:       []action.Call{{Tool: "write", Args: map[string]any{"text": "{{image.text}}"}}},
			UndoAbsent: []action.Call{{Tool: "wipe"}}}, Do: func(_ context.Context, args json.RawMessage) (json.RawMessage, error) {
			var in struct{ Text string }
			err := json.Unmarshal(args, &in)
			*text = in.Text
			return json.RawMessage(`{}`), err
		}},
	}
	if err := s.SetTools("", "slate.", tools); err != nil {
		t.Fatal(err)
	}
	return text
}

// What a saga's steps did is taken back by its name, and nothing else is.
func TestASagaIsUndoneOverHTTP(t *testing.T) {
	h := build(t)
	text := slate(t, h.one)
	one := "/v1/sessions/" + h.one.ID()
	if out, err := h.one.Act(t.Context(), ann, session.Act{Action: "slate.write", Args: json.RawMessage(`{"text":"before"}`)}); err != nil || !out.Allowed {
		t.Fatal(out, err)
	}
	ran := get[api.Saga](t, h.ask("operator", "POST", one+"/sagas?wait=true", `{"saga":"s","steps":[{"id":"a","agent":"did:mesh:ann","action":"slate.write","args":{"text":"after"}}]}`, ""))
	if ran.State != "completed" || *text != "after" {
		t.Fatalf("%+v, %q", ran, *text)
	}
	if plan := get[api.Undo](t, h.ask("operator", "POST", one+"/undo", `{"saga":"`+ran.ID+`","plan":true}`, "")); len(plan.Steps) != 1 || plan.Steps[0].ID != ran.Steps[0].ActionID {
		t.Errorf("%+v", plan)
	}
	if u := get[api.Undo](t, h.ask("agent", "POST", one+"/undo", `{"saga":"`+ran.ID+`"}`, "")); u.Undone != 1 || u.Left != 0 || *text != "before" {
		t.Errorf("%+v, %q", u, *text)
	}
	if w := h.ask("operator", "POST", one+"/undo", `{"saga":"sag-999"}`, ""); w.Code != http.StatusNotFound {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := h.ask("operator", "POST", one+"/actions/"+ran.Steps[0].ActionID+"/undo", `{"saga":"`+ran.ID+`"}`, ""); w.Code != http.StatusUnprocessableEntity && w.Code != http.StatusBadRequest {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAnUndoIsAnsweredWholeOrAsItGoes(t *testing.T) {
	h := build(t)
	text := slate(t, h.one)
	var ids []string
	for _, word := range []string{"one", "two", "three"} {
		out, err := h.one.Act(t.Context(), ann, session.Act{Action: "slate.write", Args: json.RawMessage(`{"text":"` + word + `"}`)})
		if err != nil || !out.Allowed {
			t.Fatal(out, err)
		}
		ids = append(ids, out.ID)
	}
	one := "/v1/sessions/" + h.one.ID()
	plan := get[api.Undo](t, h.ask("operator", "POST", one+"/undo", `{"plan":true}`, ""))
	if len(plan.Steps) != 3 || plan.Steps[0].ID != ids[2] || plan.Steps[0].Kind != "reversible" || plan.Steps[2].Kind != "compensable" || *text != "three" {
		t.Errorf("%+v", plan)
	}
	refused := h.ask("agent", "POST", one+"/actions/"+ids[0]+"/undo", `{}`, "")
	var body api.ErrorBody
	if err := json.Unmarshal(refused.Body.Bytes(), &body); err != nil || refused.Code != http.StatusConflict || body.Error.Code != "undo_conflict" || body.Error.Details.Decision == nil {
		t.Errorf("an older one alone: %d %s", refused.Code, refused.Body)
	}
	if u := get[api.Undo](t, h.ask("agent", "POST", one+"/actions/"+ids[2]+"/undo", `{}`, "")); u.Undone != 1 || *text != "two" {
		t.Errorf("%+v, %q", u, *text)
	}
	*text = "of a human\nand more"
	var told api.ErrorBody
	if w := h.ask("agent", "POST", one+"/actions/"+ids[1]+"/undo", `{}`, ""); json.Unmarshal(w.Body.Bytes(), &told) != nil || told.Error.Code != "undo_conflict" || told.Error.Details.Diff != "" {
		t.Errorf("an agent reads what a human wrote: %d %s", w.Code, w.Body)
	}
	w := h.ask("operator", "POST", one+"/actions/"+ids[1]+"/undo", `{}`, "")
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != http.StatusConflict || body.Error.Details.Diff != "-two\n+of a human\n+and more\n" {
		t.Errorf("changed by a human: %d %s", w.Code, w.Body)
	}
	*text = "two"
	w = h.ask("operator", "POST", "/v1/undo?progress=true", `{"agent":"did:mesh:ann","since":"1h"}`, "")
	lines := strings.Split(strings.TrimSpace(w.Body.String()), "\n")
	var last api.UndoLine
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || w.Code != http.StatusOK || len(lines) != 3 || last.Undo == nil || last.Undo.Undone != 2 || *text != "" {
		t.Errorf("%d %s, %q", w.Code, w.Body, *text)
	}
	for _, c := range []struct {
		target, body string
		status       int
	}{
		{"/v1/undo", `{}`, http.StatusUnprocessableEntity},
		{"/v1/undo", `{"agent":"ann","since":"1h"}`, http.StatusUnprocessableEntity},
		{one + "/undo", `{"since":"-1h"}`, http.StatusUnprocessableEntity},
		{one + "/undo", `{"sinse":"1h"}`, http.StatusBadRequest},
		{one + "/undo?progres=true", `{}`, http.StatusBadRequest},
		{one + "/undo?progress=maybe", `{}`, http.StatusBadRequest},
		{one + "/actions/act-999/undo", `{}`, http.StatusNotFound},
		{one + "/actions/" + ids[0] + "/undo", `{"since":"1h"}`, http.StatusUnprocessableEntity},
		{"/v1/sessions/none/undo", `{}`, http.StatusNotFound},
	} {
		if w := h.ask("operator", "POST", c.target, c.body, ""); w.Code != c.status {
			t.Errorf("%s %s: %d %s", c.target, c.body, w.Code, w.Body)
		}
	}
}
