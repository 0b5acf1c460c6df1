package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestFaultsOfJSONSayWhereAndWhat(t *testing.T) {
	for _, c := range []struct{ name, json, want string }{
		{"nothing", "", `1:1: not JSON: the text ends within a value`},
		{"cut off", "{\"a\":\n [1,", `2:5: not JSON: the text ends within a value`},
		{"trailing comma", `{"a": 1,}`, `1:8: not JSON: invalid character ',' at start of value`},
		{"comment", "{} # no", `1:4: not JSON: something follows the value`},
		{"second value", "{}\n\n{}", `3:1: not JSON: something follows the value`},
		{"single quotes", `{'a': 1}`, `1:2: not JSON: invalid character '\'' at start of value`},
		{"plain word", `{"ä": yes}`, `1:7: not JSON: invalid character 'y' at start of value`},
		{"name twice", "{\"a\": 1,\n\t\"b\": 2, \"a\": 3}", `2:10: key "a" is said twice`},
		{"unknown name", "{\"a\": 1,\n\t\"é\\\"\": 2}", `2:2: unknown key "é\"" (there are a, b)`},
		{"wrong type", `{"a": "one", "b": [ tru ]}`, `1:24: not JSON: invalid character ' ' in literal true (expecting 'e')`},
		{"value of a wrong type", `{"b": "x\\\"", "a" :  "one"}`, `1:23: a: want a whole number from 0 to 9, got "one"`},
		{"too deep", strings.Repeat("[", 100), `1:34: nested deeper than 32`},
		{"too much", "[" + strings.Repeat("1,", 60_000) + "1]", `1:100000: more than 50000 values, names and brackets`},
		{"too large", strings.Repeat(" ", MaxBytes+1), `1:1: larger than 1048576 bytes`},
		{"invalid UTF-8", "{\"a\": \"\xff\"}", `1:8: not JSON: invalid UTF-8`},
	} {
		var faults Faults
		r := NewReader("f", &faults)
		if root, ok := r.ParseJSON([]byte(c.json)); ok {
			r.Object(root.AtValue(), map[string]Field{"a": func(it Item) { r.Number(it, 0, 9) }, "b": func(Item) {}})
		}
		if got := faults.Error(); got != "f:"+c.want {
			t.Errorf("%s: got %s\nwant f:%s", c.name, got, c.want)
		}
	}
}

func TestValueOfYAMLIsTheJSONOneWouldExpect(t *testing.T) {
	for yaml, want := range map[string]string{
		"1e5": "1e5", "0x1F": "31", "12345678901234567890123": "12345678901234567890123", "-0": "-0", ".5": "0.5", "0.10": "0.10", "'1e5'": `"1e5"`,
		"true": "true", "~": "null", "yes": `"yes"`, "[a, {b: [1, ~]}]": `["a",{"b":[1,null]}]`, "|\n  a\n  b\n": `"a\nb\n"`, "{}": "{}", "\"\\u00e9\\n\"": `"é\n"`,
	} {
		var faults Faults
		r := NewReader("f", &faults)
		root, _ := r.Parse([]byte("a: " + yaml))
		r.Mapping(root.AtValue(), func(_ string, it Item) {
			if got, ok := r.JSON(it.AtValue()); !ok || string(got) != want {
				t.Errorf("%s: %s, want %s", yaml, got, want)
			}
		})
		if len(faults) > 0 {
			t.Errorf("%s: %v", yaml, faults)
		}
	}
	var faults Faults
	r := NewReader("f", &faults)
	root, _ := r.Parse([]byte("a: .nan"))
	r.JSON(root)
	if faults.Error() != "f:1:4: a: .nan is nothing that JSON can say" {
		t.Error(faults)
	}
}

// What is read as JSON is what encoding/json, of which nothing is used here, reads.
func FuzzJSONIsReadAsItIs(f *testing.F) {
	for _, s := range []string{`{"a":"\ud83d\ude00\\\"","b":[1e5,-0,0.5E-3,12345678901234567890123,null,true,false,""],"":{}}`, "\t[ ]\r\n", `"\\"`, `[[],[{}],"a\"b"]`, "{\"a\"\n:\r1}", "1", `["\u0000", "\t"]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var faults Faults
		r := NewReader("f", &faults)
		root, ok := r.ParseJSON(b)
		if !ok {
			if len(faults) != 1 || faults[0].Line < 1 || faults[0].Col < 1 {
				t.Fatalf("%q: %v", b, faults)
			}
			return
		}
		text, ok := r.JSON(root)
		if !ok {
			if !strings.Contains(faults.Error(), "said twice") {
				t.Fatalf("%q: %v", b, faults)
			}
			return
		}
		if got, want := decoded(t, text), decoded(t, b); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %s", b, text)
		}
	})
}

func decoded(t *testing.T, b []byte) (v any) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := errors.Join(d.Decode(&v)); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	return v
}
