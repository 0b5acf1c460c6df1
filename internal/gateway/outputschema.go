package gateway

import (
	"bytes"
	"encoding/json"
	"strings"
)

// refusalSchema is the JSON Schema of a refusal's structured content: a Decision that does not allow.
const refusalSchema = `{"title":"refused by the hypervisor","type":"object","properties":{"allowed":{"const":false},"code":{"type":"string"},` +
	`"reason":{"type":"string"}},"required":["allowed","code","reason"]}`

// withRefusal returns a tool's definition whose output schema also takes a refusal. Clients hold every structured content
// against the output schema, that of an error too, and drop the whole result if it does not fit: the model would never read why.
// A schema that cannot be put beside another, since it points into itself from its root, is left out: then nothing is held
// against it. The pin is over the definition as the server gave it (docs/decisions/022-an-output-schema-that-takes-a-refusal.md).
func withRefusal(definition json.RawMessage) json.RawMessage {
	names, err := members(definition)
	if err != nil {
		return definition
	}
	var out bytes.Buffer
	for _, m := range names {
		if m.name == "outputSchema" {
			if m.value = eitherOutput(m.value); m.value == nil {
				continue
			}
		}
		sep := byte(',')
		if out.Len() == 0 {
			sep = '{'
		}
		out.WriteByte(sep)
		name, err := json.Marshal(m.name)
		if err != nil {
			return definition
		}
		out.Write(name)
		out.WriteByte(':')
		out.Write(m.value)
	}
	if out.Len() == 0 {
		return definition
	}
	out.WriteByte('}')
	return out.Bytes()
}

// eitherOutput returns a schema of what a tool answers or a refusal is; nil if the tool's own cannot stand inside another.
// Definitions that its references point to are moved to the new root, where the pointers still find them.
func eitherOutput(schema json.RawMessage) json.RawMessage {
	names, err := members(schema)
	if err != nil || !pointsOnlyToDefinitions(schema) {
		return nil
	}
	root, inner := map[string]json.RawMessage{"type": json.RawMessage(`"object"`)}, map[string]json.RawMessage{}
	for _, m := range names {
		switch m.name {
		case "$schema", "$defs", "definitions":
			root[m.name] = m.value
		case "$id", "$anchor", "$dynamicAnchor":
			return nil
		default:
			inner[m.name] = m.value
		}
	}
	own, err := json.Marshal(inner)
	if err != nil {
		return nil
	}
	root["anyOf"] = json.RawMessage("[" + string(own) + "," + refusalSchema + "]")
	b, err := json.Marshal(root)
	if err != nil {
		return nil
	}
	return b
}

// pointsOnlyToDefinitions reports whether every reference in a schema is to its definitions or leads out of it.
func pointsOnlyToDefinitions(schema json.RawMessage) bool {
	var v any
	if err := json.Unmarshal(schema, &v); err != nil {
		return false
	}
	return refsMayMove(v)
}

func refsMayMove(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			ref, ok := value.(string)
			if ok && (name == "$ref" || name == "$dynamicRef") &&
				!strings.HasPrefix(ref, "#/$defs/") && !strings.HasPrefix(ref, "#/definitions/") {
				return false
			}
			if !refsMayMove(value) {
				return false
			}
		}
	case []any:
		for _, value := range v {
			if !refsMayMove(value) {
				return false
			}
		}
	}
	return true
}
