package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
)

// Bounds of a tool's input schema. It comes from the upstream, and the validator recurses where the schema tells it to.
const (
	maxSchemaBytes = 256 << 10
	maxSchemaWork  = 10_000 // subschemas applied to one value, references followed
)

// resolveSchema makes a schema ready to check arguments. A schema that is not understood whole is an error: a check that
// skips what it does not know would let through what the server means to refuse.
func resolveSchema(text json.RawMessage) (resolved *jsonschema.Resolved, err error) {
	// The validator is a library that asserts what it believes of a schema, and the schema is a stranger's.
	defer func() {
		if r := recover(); r != nil {
			resolved, err = nil, fmt.Errorf("resolving schema: %v", r)
		}
	}()
	if len(text) > maxSchemaBytes {
		return nil, fmt.Errorf("the schema has %d bytes; at most %d are read", len(text), maxSchemaBytes)
	}
	var raw any
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("decoding schema: %w", err)
	}
	if _, ok := raw.(map[string]any); !ok {
		return nil, errors.New("the schema is not an object")
	}
	if err := (&schemaWalk{root: raw, cost: map[string]int{}}).check(); err != nil {
		return nil, err
	}
	s := &jsonschema.Schema{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("decoding schema: %w", err)
	}
	if resolved, err = s.Resolve(nil); err != nil {
		return nil, fmt.Errorf("resolving schema: %w", err)
	}
	// The dialect is looked at only when something is validated; anything will do.
	if err := resolved.Validate(map[string]any{}); err != nil && strings.Contains(err.Error(), "cannot validate version") {
		return nil, err
	}
	return resolved, nil
}

// validate returns what of the arguments breaks the schema, or nil.
func validate(s *jsonschema.Resolved, value map[string]any) (err error) {
	defer func() { // see resolveSchema
		if r := recover(); r != nil {
			err = fmt.Errorf("checking arguments: %v", r)
		}
	}()
	return s.Validate(value)
}

// A schemaWalk finds the schemas that would make the validator run without end or without measure: those that apply
// themselves to the value they are checking, at once or by way of others.
type schemaWalk struct {
	root any
	cost map[string]int // by JSON pointer; -1: under way
	ids  bool           // a subschema has an $id of its own, so references mean something else below it
	refs bool
}

func (w *schemaWalk) check() error {
	if err := w.visit("", w.root); err != nil {
		return err
	}
	if w.ids && w.refs {
		return errors.New("the schema has both a nested $id and a $ref")
	}
	return nil
}

// visit weighs every subschema, wherever it stands. What is no schema (an enum, a default) is weighed too and does no harm.
func (w *schemaWalk) visit(at string, node any) error {
	switch n := node.(type) {
	case map[string]any:
		if _, err := w.weigh(at, n); err != nil {
			return err
		}
		for _, k := range slices.Sorted(maps.Keys(n)) {
			if err := w.visit(at+"/"+escapePointer(k), n[k]); err != nil {
				return err
			}
		}
	case []any:
		for i, e := range n {
			if err := w.visit(fmt.Sprintf("%s/%d", at, i), e); err != nil {
				return err
			}
		}
	}
	return nil
}

// weigh returns how many subschemas one value meets when it is checked against the node.
func (w *schemaWalk) weigh(at string, node any) (int, error) {
	n, ok := node.(map[string]any)
	if !ok {
		return 1, nil
	}
	switch c := w.cost[at]; {
	case c < 0:
		return 0, fmt.Errorf("the schema at %q refers to itself", "#"+clip(at))
	case c > 0:
		return c, nil
	}
	w.cost[at] = -1
	total := 1
	for _, next := range w.inPlace(at, n) {
		target, err := w.follow(next)
		if err != nil {
			return 0, err
		}
		c, err := w.weigh(next, target)
		if err != nil {
			return 0, err
		}
		if total += c; total > maxSchemaWork {
			return 0, fmt.Errorf("the schema at %q means more than %d checks of one value", "#"+clip(at), maxSchemaWork)
		}
	}
	w.cost[at] = total
	return total, nil
}

// inPlace returns the pointers of the subschemas that are applied to the same value as n (JSON Schema 2020-12 §10.2, §8.2.3).
func (w *schemaWalk) inPlace(at string, n map[string]any) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(n)) {
		here := at + "/" + k
		switch k {
		case "not", "if", "then", "else":
			out = append(out, here)
		case "allOf", "anyOf", "oneOf":
			list, _ := n[k].([]any)
			for i := range list {
				out = append(out, fmt.Sprintf("%s/%d", here, i))
			}
		case "dependentSchemas", "dependencies":
			named, _ := n[k].(map[string]any)
			for name := range named {
				out = append(out, here+"/"+escapePointer(name))
			}
		case "$ref", "$dynamicRef", "$recursiveRef":
			if ref, ok := n[k].(string); ok {
				w.refs = true
				out = append(out, refTarget(k, ref))
			}
		case "$id", "id":
			_, text := n[k].(string)
			w.ids = w.ids || text && at != ""
		}
	}
	return out
}

// refTarget returns a reference as a pointer into the same schema, or a text that follow refuses.
func refTarget(keyword, ref string) string {
	if pointer, ok := strings.CutPrefix(ref, "#"); ok && keyword == "$ref" && (pointer == "" || pointer[0] == '/') {
		return pointer
	}
	return keyword + " " + ref
}

func (w *schemaWalk) follow(pointer string) (any, error) {
	node := w.root
	if pointer == "" {
		return node, nil
	}
	if pointer[0] != '/' {
		return nil, fmt.Errorf("%s: only references of the form #/… within the schema are followed", clip(pointer))
	}
	for _, part := range strings.Split(pointer[1:], "/") {
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		switch n := node.(type) {
		case map[string]any:
			node = n[part]
		case []any:
			var i int
			if _, err := fmt.Sscanf(part, "%d", &i); err != nil || i < 0 || i >= len(n) {
				return nil, fmt.Errorf("the reference #%s leads nowhere", clip(pointer))
			}
			node = n[i]
		default:
			return nil, fmt.Errorf("the reference #%s leads nowhere", clip(pointer))
		}
	}
	return node, nil
}

func escapePointer(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}
