package gateway

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/agenthypervisor/hypervisor/action"
)

func nested(n int) string {
	return `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t","arguments":{"a":` +
		strings.Repeat("[", n) + strings.Repeat("]", n) + `}}}`
}

var badLines = []struct {
	name, line string
	code       int64
	id         string
}{
	{"a name twice", `{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}`, jsonrpc.CodeParseError, "1"},
	{"a name twice, one escaped", `{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":1,"\u0078":2}}`, jsonrpc.CodeParseError, "1"},
	{"a name twice deep inside", `{"jsonrpc":"2.0","id":"x","method":"a","params":{"a":[{"b":{"c":1,"c":1}}]}}`, jsonrpc.CodeParseError, `"x"`},
	{"an id twice", `{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}`, jsonrpc.CodeParseError, ""},
	{"invalid UTF-8", "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"a\",\"params\":{\"x\":\"\xff\"}}", jsonrpc.CodeParseError, "2"},
	{"half a surrogate pair", `{"jsonrpc":"2.0","id":2,"method":"a","params":{"x":"\ud800"}}`, jsonrpc.CodeParseError, "2"},
	{"too deep", nested(action.MaxDepth - 2), jsonrpc.CodeParseError, "7"},
	{"far too deep", nested(200_000), jsonrpc.CodeParseError, "7"},
	{"trailing bytes", `{"jsonrpc":"2.0","id":3,"method":"a"} {}`, jsonrpc.CodeParseError, "3"},
	{"not JSON", `hello`, jsonrpc.CodeParseError, ""},
	{"cut off", `{"jsonrpc":"2.0","id":4,"method":"a`, jsonrpc.CodeParseError, "4"},
	{"a batch", `[{"jsonrpc":"2.0","id":1,"method":"a"}]`, jsonrpc.CodeInvalidRequest, ""},
	{"Method", `{"jsonrpc":"2.0","id":5,"Method":"tools/call"}`, jsonrpc.CodeInvalidRequest, "5"},
	{"method and METHOD", `{"jsonrpc":"2.0","id":5,"method":"ping","METHOD":"tools/call"}`, jsonrpc.CodeInvalidRequest, "5"},
	{"Params", `{"jsonrpc":"2.0","id":5,"method":"tools/call","Params":{}}`, jsonrpc.CodeInvalidRequest, "5"},
	{"paramſ, which folds to params", `{"jsonrpc":"2.0","id":5,"method":"tools/call","param` + "\u017f" + `":{}}`, jsonrpc.CodeInvalidRequest, "5"},
	{"an unknown member", `{"jsonrpc":"2.0","id":5,"method":"a","extra":1}`, jsonrpc.CodeInvalidRequest, "5"},
	{"an ID", `{"jsonrpc":"2.0","ID":5,"method":"a"}`, jsonrpc.CodeInvalidRequest, ""},
	{"another version", `{"jsonrpc":"1.0","id":5,"method":"a"}`, jsonrpc.CodeInvalidRequest, "5"},
	{"no version", `{"id":5,"method":"a"}`, jsonrpc.CodeInvalidRequest, "5"},
	{"a null id", `{"jsonrpc":"2.0","id":null,"method":"a"}`, jsonrpc.CodeInvalidRequest, ""},
	{"a fractional id", `{"jsonrpc":"2.0","id":1.5,"method":"a"}`, jsonrpc.CodeInvalidRequest, ""},
	{"an id beyond a float", `{"jsonrpc":"2.0","id":9007199254740993,"method":"a"}`, jsonrpc.CodeInvalidRequest, ""},
	{"an object as id", `{"jsonrpc":"2.0","id":{},"method":"a"}`, jsonrpc.CodeInvalidRequest, ""},
	{"method not a string", `{"jsonrpc":"2.0","id":6,"method":7}`, jsonrpc.CodeInvalidRequest, "6"},
	{"an empty method", `{"jsonrpc":"2.0","id":6,"method":""}`, jsonrpc.CodeInvalidRequest, "6"},
	{"params a string", `{"jsonrpc":"2.0","id":6,"method":"a","params":"x"}`, jsonrpc.CodeInvalidRequest, "6"},
	{"request and response", `{"jsonrpc":"2.0","id":6,"method":"a","result":{}}`, jsonrpc.CodeInvalidRequest, "6"},
	{"result and error", `{"jsonrpc":"2.0","id":6,"result":{},"error":{"code":1,"message":"x"}}`, jsonrpc.CodeInvalidRequest, "6"},
	{"neither", `{"jsonrpc":"2.0","id":6}`, jsonrpc.CodeInvalidRequest, "6"},
	{"Name", `{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"read","Name":"write"}}`, jsonrpc.CodeInvalidParams, "8"},
	{"Arguments", `{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"a","arguments":{},"Arguments":{}}}`, jsonrpc.CodeInvalidParams, "8"},
	{"arguments not an object", `{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"a","arguments":[1]}}`, jsonrpc.CodeInvalidParams, "8"},
	{"call params not an object", `{"jsonrpc":"2.0","id":8,"method":"tools/call","params":[1]}`, jsonrpc.CodeInvalidParams, "8"},
	{"a progress token beyond a float", `{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"a","_meta":{"progressToken":9007199254740993}}}`, jsonrpc.CodeInvalidParams, "8"},
}

func TestABadLineIsRefusedWithItsCodeAndTheIDWhereItCanBeHad(t *testing.T) {
	for _, tt := range badLines {
		t.Run(tt.name, func(t *testing.T) {
			_, f := parse([]byte(tt.line))
			if f == nil {
				t.Fatal("accepted")
			}
			if f.code != tt.code || string(f.id) != tt.id {
				t.Errorf("code %d id %q, want %d %q (%s)", f.code, f.id, tt.code, tt.id, f.text)
			}
			if !json.Valid(f.line()) || len(f.line()) > 2048 {
				t.Errorf("answer is not one small JSON value: %.200s", f.line())
			}
		})
	}
}

var goodLines = []string{
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"Name":1,"name":2}}}`,
	`{"jsonrpc":"2.0","id":"\u0031","method":"ping"}`,
	`{"jsonrpc":"2.0","id":-9007199254740991,"method":"ping","params":null}`,
	`{"jsonrpc":"2.0","method":"notifications/initialized"}`,
	`{"jsonrpc":"2.0","id":1,"result":{"n":1e300}}`,
	`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x","data":[1]}}`,
	`{"\u006asonrpc":"\u0032.0","id":0,"method":"a","params":[]}`,
	"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":{\"\u2028\":\"\U0001F600\"}}\r",
	nested(action.MaxDepth - 3),
}

func TestAGoodLineIsReadAsTheSDKReadsIt(t *testing.T) {
	for _, line := range goodLines {
		if _, f := parse([]byte(line)); f != nil {
			t.Errorf("%.80s refused: %s", line, f.text)
		}
		sameToAll(t, []byte(line))
	}
}

// sameToAll checks that what the strict check lets through is one value to every decoder in the house.
func sameToAll(t *testing.T, line []byte) {
	e, f := parse(line)
	if f != nil {
		return
	}
	var std, v2 any
	stdErr, v2Err := json.Unmarshal(line, &std), jsonv2.Unmarshal(line, &v2)
	if (stdErr == nil) != (v2Err == nil) {
		t.Fatalf("encoding/json: %v, go-json-experiment: %v", stdErr, v2Err)
	}
	if !reflect.DeepEqual(std, v2) {
		t.Fatalf("encoding/json and go-json-experiment differ: %v, %v", std, v2)
	}
	var folding struct {
		Method *string
		Params json.RawMessage
		Result json.RawMessage
	}
	if err := json.Unmarshal(line, &folding); err != nil {
		t.Fatalf("a case-folding decoder fails: %v", err)
	}
	if folding.Method != nil && *folding.Method != e.method {
		t.Fatalf("a case-folding decoder sees method %q, we %q", *folding.Method, e.method)
	}
	if string(folding.Params) != "null" && string(folding.Params) != string(e.params) || string(folding.Result) != string(e.result) {
		t.Fatalf("a case-folding decoder sees other params or another result")
	}
	if !e.id.IsValid() && e.method == "" {
		return // an error that names no request; the SDK's decoder takes none
	}
	m, err := jsonrpc.DecodeMessage(line)
	if err != nil {
		t.Fatalf("the SDK refuses what we let through: %v", err)
	}
	if r, ok := m.(*jsonrpc.Request); ok && (r.ID != e.id || r.Method != e.method) {
		t.Fatalf("the SDK sees %v %q, we %v %q", r.ID, r.Method, e.id, e.method)
	}
}

func FuzzLine(f *testing.F) {
	for _, tt := range badLines {
		f.Add([]byte(tt.line))
	}
	for _, line := range goodLines {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if !strings.Contains(string(line), "\n") {
			sameToAll(t, line)
		}
	})
}

// membersByDecoder is members by a decoder of the library.
func membersByDecoder(t *testing.T, text []byte) []member {
	d := jsontext.NewDecoder(bytes.NewReader(text))
	if _, err := d.ReadToken(); err != nil {
		t.Fatal(err)
	}
	var out []member
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			t.Fatal(err)
		}
		m := member{name: name.String()}
		v, err := d.ReadValue()
		if err != nil {
			t.Fatal(err)
		}
		m.value = json.RawMessage(v.Clone())
		out = append(out, m)
	}
	return out
}

func FuzzMembersAreThoseThatADecoderFinds(f *testing.F) {
	for _, line := range append(goodLines, ` { } `, `{"a":1}`, `{"a" : -1.5e+3 , "b" :true,"":null, "\u00e9\"\\":"\\\"}{" }`,
		`{"a":[],"b":{},"c":[{"x":"]}"},[1,2 ] ] ,"d":{"y":{"z":"\\"}}}`, `[1]`, `1`, `"{"`, ``, `{`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a":1 "b":2}`, `{1:2}`, `{"a":`, `{"a":1`) {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := members(text) // of anything, without a panic
		if action.WellFormed(text) != nil {
			return
		}
		if object := jsontext.Value(text).Kind() == '{'; (err == nil) != object {
			t.Fatalf("%v, and it is an object: %v", err, object)
		}
		if err == nil && !slices.EqualFunc(got, membersByDecoder(t, text), func(a, b member) bool { return a.name == b.name && string(a.value) == string(b.value) }) {
			t.Fatalf("%q, want %q", got, membersByDecoder(t, text))
		}
	})
}
