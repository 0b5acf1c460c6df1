package gateway

import (
	"encoding/json"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/agenthypervisor/hypervisor/policy"
)

func TestOutputSchemaTakesTheToolsOwnResultsAndARefusal(t *testing.T) {
	refusal, err := json.Marshal(policy.Refuse(policy.RingInsufficient, "needs ring 2"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ schema, fits string }{
		{`{"type":"object","properties":{"content":{"type":"string"}},"required":["content"],"additionalProperties":false}`, `{"content":"x"}`},
		{`{"$defs":{"n":{"type":"integer"}},"type":"object","properties":{"a":{"$ref":"#/$defs/n"}},"required":["a"],"additionalProperties":false}`, `{"a":1}`},
	} {
		tool := withRefusal(json.RawMessage(`{"name":"t","outputSchema":` + c.schema + `,"inputSchema":{"type":"object"}}`))
		var listed struct {
			Name         string
			OutputSchema *jsonschema.Schema
			InputSchema  json.RawMessage
		}
		if err := json.Unmarshal(tool, &listed); err != nil || listed.Name != "t" || string(listed.InputSchema) != `{"type":"object"}` {
			t.Fatalf("%s: %v", tool, err)
		}
		if listed.OutputSchema.Type != "object" {
			t.Errorf("MCP wants an object at the root: %s", tool)
		}
		resolved, err := listed.OutputSchema.Resolve(nil)
		if err != nil {
			t.Fatal(err)
		}
		for text, want := range map[string]bool{c.fits: true, string(refusal): true, `{"other":true}`: false, `{"allowed":true,"code":"ok","reason":""}`: false} {
			var v any
			if err := json.Unmarshal([]byte(text), &v); err != nil {
				t.Fatal(err)
			}
			if got := resolved.Validate(v) == nil; got != want {
				t.Errorf("%s takes %s: %v, want %v", c.schema, text, got, want)
			}
		}
	}
}

func TestOutputSchemaThatCannotMoveIsLeftOut(t *testing.T) {
	for _, schema := range []string{`{"type":"object","properties":{"next":{"$ref":"#"}}}`, `{"$id":"https://example.com/s","type":"object"}`, `7`} {
		tool := withRefusal(json.RawMessage(`{"name":"t","outputSchema":` + schema + `}`))
		if string(tool) != `{"name":"t"}` {
			t.Errorf("%s: %s", schema, tool)
		}
	}
}
