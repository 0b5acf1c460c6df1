//go:build unix

package gateway

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

var wrongTypes = []struct{ method, params, says string }{
	{"tools/call", `{"name":5}`, `"name" is a number; tools/call takes a string there`},
	{"tools/call", `{"name":"a","requestState":{}}`, `"requestState" is an object; tools/call takes a string there`},
	{"tools/list", `{"cursor":[1]}`, `"cursor" is an array; tools/list takes a string there`},
	{"tools/list", `[1]`, `"params" is an array; tools/list takes an object there`},
	{"ping", `{"_meta":true}`, `"_meta" is a boolean; ping takes an object there`},
	{"prompts/get", `{"name":"a","arguments":{"x":"1","y":2}}`, `"arguments.y" is a number; prompts/get takes a string there`},
	{"completion/complete", `{"ref":{"type":7},"argument":{"name":"a","value":"b"}}`, `"ref.type" is a number; completion/complete takes a string there`},
	{"subscriptions/listen", `{"notifications":{"resourceSubscriptions":["a", "b" , false]}}`, `"notifications.resourceSubscriptions[2]" is a boolean; subscriptions/listen takes a string there`},
	{"initialize", `{"clientInfo":{"icons":[{"src":"x","sizes":["1",1]}]}}`, `"clientInfo.icons[0].sizes[1]" is a number; initialize takes a string there`},
	{"initialize", `{"capabilities":{"roots":{"listChanged":"yes"}}}`, `"capabilities.roots.listChanged" is a string; initialize takes a boolean there`},
}

func TestParamsOfAnotherTypeAreRefusedInTheProtocolsWords(t *testing.T) {
	a, _ := byHand(t, NewServer(&plainSession{}, nil))
	p := postman{t: t, h: newHall(t)}
	p.token = p.h.token(agentDID)
	for i, tt := range wrongTypes {
		line := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`, 100+i, tt.method, tt.params)
		a.say(line)
		overHTTP, _ := p.say(line)
		for door, m := range map[string]answer{"stdio": a.hear(), "http": overHTTP} {
			if m.Error == nil || m.Error.Code != jsonrpc.CodeInvalidParams || m.Error.Message != "invalid params: "+tt.says || string(m.ID) != fmt.Sprint(100+i) {
				t.Errorf("%s: %s is answered %s %+v", door, line, m.ID, m.Error)
			}
		}
	}
}

// What is refused is what the SDK cannot decode, and nothing else: each place of each method's params is given each type.
func TestTheTypesAreThoseOfTheSDK(t *testing.T) {
	for method, params := range map[string]any{"initialize": &mcp.InitializeParams{}, "tools/list": &mcp.ListToolsParams{}, "tools/call": &mcp.CallToolParamsRaw{},
		"prompts/get": &mcp.GetPromptParams{}, "completion/complete": &mcp.CompleteParams{}, "logging/setLevel": &mcp.SetLoggingLevelParams{},
		"subscriptions/listen": &mcp.SubscriptionsListenParams{}, "resources/read": &mcp.ReadResourceParams{}} {
		places := placesOf(paramShapes[method], "%s")
		for _, place := range places {
			for _, value := range []string{`"x"`, `1`, `1.5`, `true`, `null`, `{}`, `[]`, `{"a":1}`, `[1]`} {
				text := json.RawMessage(fmt.Sprintf(place, value))
				_, _, want := paramShapes[method].misfit(text)
				err := jsonv2.Unmarshal(text, reflect.New(reflect.TypeOf(params).Elem()).Interface())
				if want == "" && (strings.Contains(place, `"ref"`) || strings.Contains(place, `"inputResponses"`)) {
					continue // what else the SDK finds fault with there is no matter of types
				}
				if (want != "") != (err != nil) {
					t.Errorf("%s %s: wants %q, the decoder says %v", method, text, want, err)
				}
			}
		}
		if len(places) < 3 {
			t.Errorf("%s: %q", method, places)
		}
	}
}

// placesOf returns texts with a %s for each value that the shape speaks of.
func placesOf(s *shape, in string) []string {
	out := []string{in}
	put := func(text string) string { return strings.Replace(in, "%s", text, 1) }
	for _, name := range slices.Sorted(maps.Keys(s.fields)) {
		out = append(out, placesOf(s.fields[name], put(fmt.Sprintf(`{%q:%%s}`, name)))...)
	}
	switch {
	case s.each != nil && s.want == "an array":
		out = append(out, placesOf(s.each, put(`[%s]`))...)
	case s.each != nil:
		out = append(out, placesOf(s.each, put(`{"k":%s}`))...)
	}
	return out
}

// What every line of a client costs more.
func BenchmarkCheckTypes(b *testing.B) {
	e, f := parse([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"files__write","arguments":{"path":"/srv/a.txt","text":"hello"},"_meta":{"progressToken":1}}}`))
	if f != nil {
		b.Fatal(f)
	}
	b.ReportAllocs()
	for b.Loop() {
		if checkTypes(e) != nil {
			b.Fatal("refused")
		}
	}
}
