package httpapi

import (
	"encoding/json"
	"net/http"
	"os"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/agenthypervisor/hypervisor/api"
)

// SPEC §9 "Drift", §7 "Service: its score or drift report": over the API with the service role, and strictly read.
func TestAServiceReportsDrift(t *testing.T) {
	h := build(t)
	target := "/v1/sessions/" + h.one.ID() + "/drifts"
	for _, role := range []string{"agent", "other", "approver", "auditor"} {
		if w := h.ask(role, "POST", target, `{"agent":"did:mesh:ann","distance":0.9}`, ""); w.Code != http.StatusForbidden {
			t.Errorf("%s: %d %s", role, w.Code, w.Body)
		}
	}
	for _, bad := range []string{`{}`, `{"agent":"did:mesh:ann"}`, `{"agent":"did:mesh:ann","distance":1.1}`, `{"agent":"did:mesh:ann","distance":0.2,"claimed":[1]}`,
		`{"agent":"did:mesh:ann","distance":0.2,"metric":"cosine"}`, `{"agent":"did:mesh:ann","claimed":[1],"observed":[1,2]}`, `{"agent":"did:mesh:ann","claimed":[],"observed":[]}`,
		`{"agent":"did:mesh:ann","claimed":[0],"observed":[1]}`, `{"agent":"did:mesh:ann","claimed":[1],"observed":[1],"metric":"manhattan"}`, `{"agent":"ann","distance":0.2}`} {
		if w := h.ask("service", "POST", target, bad, ""); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d %s", bad, w.Code, w.Body)
		}
	}
	if w := h.ask("service", "POST", target, `{"agent":"did:mesh:nobody","distance":0.9}`, ""); w.Code != http.StatusForbidden {
		t.Errorf("who takes no part: %d %s", w.Code, w.Body)
	}
	for body, want := range map[string]api.Drift{
		`{"agent":"did:mesh:ann","claimed":[1,0],"observed":[2e0,0]}`:                      {Level: "none", Distance: "0.00", Metric: "cosine"},
		`{"agent":"did:mesh:ann","claimed":[0,0],"observed":[0,0.1],"metric":"euclidean"}`: {Level: "none", Distance: "0.10", Metric: "euclidean"},
		`{"agent":"did:mesh:ann","distance":0.149999}`:                                     {Level: "none", Distance: "0.149999"},
	} {
		if d := get[api.Drift](t, h.ask("service", "POST", target, body, "")); d != want {
			t.Errorf("%s: %+v, want %+v", body, d, want)
		}
	}
	d := get[api.Drift](t, h.ask("service", "POST", target, `{"agent":"did:mesh:ann","claimed":[0.1,0],"observed":[0.1,0.35],"metric":"euclidean"}`, ""))
	if d.ID == "" || d.Level != "medium" || d.Distance != "0.35" || d.Metric != "euclidean" {
		t.Errorf("%+v", d)
	}
	if p, err := h.one.Participant(t.Context(), ann.DID); err != nil || p.Ring != 3 {
		t.Errorf("ann is in ring %d: %v", p.Ring, err)
	}
}

// The schema in docs/ takes what the route takes.
func TestTheSchemaOfADriftReport(t *testing.T) {
	b, err := os.ReadFile("../../docs/drift.schema.json")
	var schema jsonschema.Schema
	if err == nil {
		err = json.Unmarshal(b, &schema)
	}
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	for text, good := range map[string]bool{
		`{"agent":"did:mesh:ann","distance":0.35}`: true, `{"agent":"did:mesh:ann","claimed":[1,0],"observed":[2e0,0],"metric":"euclidean","reason":"x"}`: true,
		`{"agent":"did:mesh:ann"}`: false, `{"agent":"did:mesh:ann","distance":0.2,"claimed":[1],"observed":[1]}`: false, `{"agent":"did:mesh:ann","claimed":[1]}`: false,
		`{"agent":"did:mesh:ann","distance":1.1}`: false, `{"agent":"did:mesh:ann","distance":0.2,"metric":"cosine"}`: false, `{"agent":"did:mesh:ann","claimed":[],"observed":[]}`: false,
	} {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if err := resolved.Validate(v); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}
