package gateway

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/agenthypervisor/hypervisor/action"
)

// params.go: arguments that a tool's schema wants repeated in headers (2026-07-28, x-mcp-header), for whoever routes requests.

const (
	paramPrefix   = "Mcp-Param-"
	encodedPrefix = "=?base64?"
	encodedSuffix = "?="

	codeHeaderMismatch = -32020
)

// A paramHeader is an argument, by the path of names to it, that goes into the header paramPrefix+name.
type paramHeader struct {
	path []string
	name string
}

var headerToken = regexp.MustCompile("^[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,128}$") // RFC 9110 §5.6.2

// paramHeaders returns what a schema wants in headers.
func paramHeaders(schema json.RawMessage) []paramHeader {
	if !strings.Contains(string(schema), "x-mcp-header") || len(schema) > maxSchemaBytes {
		return nil
	}
	type node struct {
		Header     any                        `json:"x-mcp-header"`
		Properties map[string]json.RawMessage `json:"properties"`
	}
	var out []paramHeader
	var walk func(schema json.RawMessage, path []string)
	walk = func(schema json.RawMessage, path []string) { // as deep as action.WellFormed lets JSON be
		var n node
		if jsonv2.Unmarshal(schema, &n) != nil {
			return
		}
		if name, ok := n.Header.(string); ok && len(path) > 0 && headerToken.MatchString(name) {
			out = append(out, paramHeader{path, name})
		}
		for _, name := range slices.Sorted(maps.Keys(n.Properties)) {
			walk(n.Properties[name], append(slices.Clone(path), name))
		}
	}
	walk(schema, nil)
	return out
}

// wantedHeaders returns the headers of a call, as the protocol writes them.
func (t Tool) wantedHeaders(args json.RawMessage) map[string]string {
	if len(t.headers) == 0 {
		return nil
	}
	a, err := action.DecodeArgs(args)
	if err != nil {
		return nil
	}
	out := map[string]string{}
	for _, h := range t.headers {
		if text, ok := headerText(lookUp(a.Values, h.path)); ok {
			out[paramPrefix+h.name] = encodeHeader(text)
		}
	}
	return out
}

func lookUp(values map[string]any, path []string) any {
	var at any = values
	for _, name := range path {
		object, _ := at.(map[string]any)
		at = object[name]
	}
	return at
}

// headerText returns a text, truth value or safe integer as a header says it.
func headerText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case int64:
		return strconv.FormatInt(v, 10), v >= -maxExactInt && v <= maxExactInt
	}
	return "", false
}

// encodeHeader writes a text so that it survives a header.
func encodeHeader(text string) string {
	odd := strings.TrimSpace(text) != text || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) ||
		strings.HasPrefix(text, encodedPrefix) && strings.HasSuffix(text, encodedSuffix)
	if !odd {
		return text
	}
	return encodedPrefix + base64.StdEncoding.EncodeToString([]byte(text)) + encodedSuffix
}

func decodeHeader(text string) (string, bool) {
	inner, ok := strings.CutPrefix(text, encodedPrefix)
	if !ok || !strings.HasSuffix(inner, encodedSuffix) {
		return text, true
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(inner, encodedSuffix))
	return string(b), err == nil
}

// checkHeaders returns what of a call's headers says otherwise than its arguments.
func (t Tool) checkHeaders(h http.Header, args json.RawMessage) error {
	if len(t.headers) == 0 {
		return nil
	}
	a, err := action.DecodeArgs(args)
	if err != nil {
		return nil // which the session refuses, with the reason
	}
	for _, p := range t.headers {
		name := paramPrefix + p.name
		want, there := headerText(lookUp(a.Values, p.path))
		got, sound := decodeHeader(h.Get(name))
		switch {
		case !there && h.Get(name) == "", there && sound && (want == got || sameInteger(want, got)):
		case !there:
			return fmt.Errorf("header mismatch: %s is sent and %s is not an argument", name, strings.Join(p.path, "."))
		default:
			return fmt.Errorf("header mismatch: %s does not say what the argument %s says", name, strings.Join(p.path, "."))
		}
	}
	return nil
}

func sameInteger(want, got string) bool {
	n, err := strconv.ParseInt(want, 10, 64)
	f, err2 := strconv.ParseFloat(got, 64)
	return err == nil && err2 == nil && f == math.Trunc(f) && f == float64(n)
}
