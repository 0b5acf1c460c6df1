package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/action"
)

func tool(t *testing.T, schema string) Tool {
	t.Helper()
	d, err := ParseTool(json.RawMessage(`{"name":"t","inputSchema":` + schema + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestAPinIsOfWhatIsSaidNotOfHow(t *testing.T) {
	a, _ := ParseTool(json.RawMessage(`{"name":"t","description":"x","inputSchema":{"type":"object","maximum":9007199254740993}}`))
	b, _ := ParseTool(json.RawMessage(` {"inputSchema": {"maximum":9007199254740993,"type":"object"}, "name":"\u0074", "description":"x"}`))
	if a.Digest != b.Digest {
		t.Error("order and whitespace change the pin")
	}
	for _, other := range []string{
		`{"name":"t","description":"y","inputSchema":{"type":"object","maximum":9007199254740993}}`,
		`{"name":"t","description":"x","inputSchema":{"type":"object","maximum":9007199254740992}}`,
		`{"name":"t","description":"x","title":"x","inputSchema":{"type":"object","maximum":9007199254740993}}`,
	} {
		if c, err := ParseTool(json.RawMessage(other)); err != nil || c.Digest == a.Digest {
			t.Errorf("%s has the same pin (%v)", other, err)
		}
	}
}

func TestAnnotationsAreReadExactly(t *testing.T) {
	got, err := ParseTool(json.RawMessage(`{"name":"t","inputSchema":{},"annotations":{"readOnlyHint":true,"ReadOnlyHint":false,"destructiveHint":false,"title":"x"}}`))
	if err != nil || !got.Annotations.ReadOnly || got.Annotations.Destructive == nil || *got.Annotations.Destructive || got.Annotations.OpenWorld != nil {
		t.Errorf("%+v, %v", got.Annotations, err)
	}
	if c := got.Annotations.Claim(); c.ReadOnly == nil || !*c.ReadOnly {
		t.Errorf("claim %+v", c)
	}
	if d := action.Resolve("s.t", tool(t, `{}`).Annotations.Claim()); d.ReadOnly || d.Reversibility != action.Irreversible {
		t.Errorf("a tool that says nothing is decided as %+v", d)
	}
}

func TestADefinitionThatIsNoneIsRefused(t *testing.T) {
	for _, d := range []string{
		`{}`, `[]`, `{"name":""}`, `{"name":"a b"}`, `{"name":"a","name":"b"}`, `{"name":"hypervisor__status"}`, `{"name":7}`,
		`{"name":"a","annotations":{"readOnlyHint":"true"}}`, `{"name":"` + strings.Repeat("a", 129) + `"}`,
	} {
		if _, err := ParseTool(json.RawMessage(d)); !errors.Is(err, ErrTool) {
			t.Errorf("%.60s: %v, want ErrTool", d, err)
		}
	}
}

func TestArgumentsAreCheckedAgainstTheSchema(t *testing.T) {
	list := tool(t, `{"type":"object","properties":{"n":{"type":"integer","maximum":9007199254740992},"l":{"$ref":"#/$defs/l"}},
		"required":["n"],"additionalProperties":false,"$defs":{"l":{"type":["object","null"],"properties":{"next":{"$ref":"#/$defs/l"}}}}}`)
	for _, tt := range []struct{ args, says string }{
		{`{"n":1}`, ""},
		{`{"n":1.0,"l":{"next":{"next":null}}}`, ""},
		{`{"n":9007199254740993}`, "maximum"},
		{`{"n":1.5}`, "integer"},
		{`{}`, "required"},
		{`{"n":1,"x":1}`, "additional"},
		{`{"n":1,"l":{"next":7}}`, "type"},
	} {
		a, err := action.DecodeArgs(json.RawMessage(tt.args))
		if err != nil {
			t.Fatal(err)
		}
		if says := text(list.Check(a.Values)); (says == "") != (tt.says == "") || !strings.Contains(says, tt.says) {
			t.Errorf("%s: %q, want something of %q", tt.args, says, tt.says)
		}
	}
}

func TestAToolWhoseSchemaIsNotUnderstoodCannotBeCalledAndSaysWhy(t *testing.T) {
	bomb := `"a0":{}`
	for i := range 40 {
		bomb += fmt.Sprintf(`,"a%d":{"allOf":[{"$ref":"#/$defs/a%d"},{"$ref":"#/$defs/a%d"}]}`, i+1, i, i)
	}
	for _, tt := range []struct{ schema, says string }{
		{`true`, "not an object"},
		{`{"type":7}`, "decoding schema"},
		{`{"$ref":"#"}`, "refers to itself"},
		{`{"properties":{"a":{"anyOf":[{"$ref":"#/$defs/x"}]}},"$defs":{"x":{"not":{"$ref":"#/$defs/y"}},"y":{"if":{"$ref":"#/$defs/x"}}}}`, "refers to itself"},
		{`{"allOf":[{"$ref":"#/$defs/a40"}],"$defs":{` + bomb + `}}`, "checks of one value"},
		{`{"$ref":"#/$defs/none"}`, "schema"},
		{`{"$ref":"https://example.com/s.json"}`, "only references"},
		{`{"$ref":"#anchor"}`, "only references"},
		{`{"$dynamicRef":"#/$defs/a","$defs":{"a":{}}}`, "only references"},
		{`{"$defs":{"a":{"$id":"http://x/","$ref":"#/$defs/b"},"b":{}}}`, "$id"},
		{`{"properties":{"a":{"pattern":"(?=x)"}}}`, "resolving schema"},
		{`{"$schema":"http://json-schema.org/draft-04/schema#"}`, "version"},
		{`{"description":"` + strings.Repeat("x", maxSchemaBytes) + `"}`, "bytes"},
	} {
		if says := text(tool(t, tt.schema).Check(nil)); !strings.Contains(says, "cannot be called") || !strings.Contains(says, tt.says) {
			t.Errorf("%.80s: %q, want %q", tt.schema, says, tt.says)
		}
	}
	if err := tool(t, `{"$schema":"http://json-schema.org/draft-07/schema#","type":"object"}`).Check(map[string]any{}); err != nil {
		t.Error(err)
	}
}
