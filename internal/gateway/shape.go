package gateway

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// shape.go: whether what a client asks for has the JSON types that MCP wants. Which those are is read off the types that the SDK
// decodes it into afterwards; the SDK's own error would name types of Go.

// A shape is what a value is to be.
type shape struct {
	want   string            // such as "a string"; empty: anything fits
	fields map[string]*shape // of an object; a name that is not there may hold anything. nil: all have the shape of each
	each   *shape            // of an array's elements, or of an object's values; nil: they may be anything
}

// paramShapes are of the params of what a client asks for.
var paramShapes = map[string]*shape{
	"initialize": shapeOf[mcp.InitializeParams](), "server/discover": shapeOf[mcp.DiscoverParams](), "ping": shapeOf[mcp.PingParams](),
	"tools/list": shapeOf[mcp.ListToolsParams](), "tools/call": shapeOf[mcp.CallToolParamsRaw](),
	"resources/list": shapeOf[mcp.ListResourcesParams](), "resources/templates/list": shapeOf[mcp.ListResourceTemplatesParams](),
	"resources/read": shapeOf[mcp.ReadResourceParams](), subscribeMethod: shapeOf[mcp.SubscribeParams](), unsubscribeMethod: shapeOf[mcp.UnsubscribeParams](),
	"prompts/list": shapeOf[mcp.ListPromptsParams](), "prompts/get": shapeOf[mcp.GetPromptParams](),
	"completion/complete": shapeOf[mcp.CompleteParams](), "logging/setLevel": shapeOf[mcp.SetLoggingLevelParams](),
	"subscriptions/listen": shapeOf[mcp.SubscriptionsListenParams](),
}

func shapeOf[T any]() *shape { return shapeOfType(reflect.TypeFor[T]()) }

func shapeOfType(t reflect.Type) *shape {
	switch t.Kind() {
	case reflect.Pointer:
		return shapeOfType(t.Elem())
	case reflect.String:
		return &shape{want: "a string"}
	case reflect.Bool:
		return &shape{want: "a boolean"}
	case reflect.Slice:
		if t.Elem().Kind() != reflect.Uint8 { // what is kept as it came
			return &shape{want: "an array", each: shapeOfType(t.Elem())}
		}
	case reflect.Map:
		return &shape{want: "an object", each: shapeOfType(t.Elem())}
	case reflect.Interface:
		if t.NumMethod() > 0 { // one of several objects; which, the SDK finds out
			return &shape{want: "an object"}
		}
	case reflect.Struct:
		s := &shape{want: "an object", fields: map[string]*shape{}}
		for i := range t.NumField() {
			f := t.Field(i)
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" {
				s.fields[name] = shapeOfType(f.Type)
			}
		}
		return s
	}
	return &shape{}
}

// checkTypes refuses the params of a request that the SDK could not decode.
func checkTypes(e envelope) *fault {
	s := paramShapes[e.method]
	if s == nil || !e.call || e.params == nil {
		return nil
	}
	where, is, want := s.misfit(e.params)
	switch {
	case want == "":
		return nil
	case where == "":
		where = "params"
	}
	return &fault{code: jsonrpc.CodeInvalidParams, text: fmt.Sprintf("invalid params: %q is %s; %s takes %s there", clip(where), is, e.method, want)}
}

// misfit returns what within a value is of another type than is wanted, and which; want is empty where all fits. The value has passed
// action.WellFormed; null fits everywhere, as if nothing stood there.
func (s *shape) misfit(value json.RawMessage) (where, is, want string) {
	is = kindOf(value)
	switch {
	case s == nil || s.want == "" || is == "null":
		return "", "", ""
	case is != s.want:
		return "", is, s.want
	case is == "an array":
		for i, v := range elements(value) {
			if where, is, want = s.each.misfit(v); want != "" {
				return inside(fmt.Sprintf("[%d]", i), where), is, want
			}
		}
	case is == "an object" && (s.fields != nil || s.each != nil && s.each.want != ""):
		parts, err := members(value)
		if err != nil {
			panic("gateway: a well-formed object: " + err.Error())
		}
		for _, m := range parts {
			of := s.each
			if s.fields != nil {
				of = s.fields[m.name]
			}
			if where, is, want = of.misfit(m.value); want != "" {
				return inside(m.name, where), is, want
			}
		}
	}
	return "", "", ""
}

// inside joins a name and where in it something is.
func inside(name, where string) string {
	if where == "" || where[0] == '[' {
		return name + where
	}
	return name + "." + where
}

// kindOf says what type of JSON a value has.
func kindOf(value json.RawMessage) string {
	switch value[0] {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// elements takes an array apart that has passed action.WellFormed; the values share memory with it.
func elements(array json.RawMessage) (out []json.RawMessage) {
	for at := skipSpace(array, 1); !isAt(array, at, ']'); {
		end := valueEnd(array, at)
		out = append(out, array[at:end:end])
		if at = skipSpace(array, end); isAt(array, at, ',') {
			at = skipSpace(array, at+1)
		}
	}
	return out
}
