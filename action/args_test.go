package action

import (
	"encoding/json"
	"errors"
	"math/big"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestArgumentsForwardedAreTheValueDecidedOn(t *testing.T) {
	tests := []struct{ in, out string }{
		{``, `{}`},
		{` { } `, `{}`},
		{`{"b":1,"a":[true,null,"x"]}`, `{"a":[true,null,"x"],"b":1}`},
		{`{"n":1.0}`, `{"n":1}`},
		{`{"n":-0}`, `{"n":0}`},
		{`{"n":-0.0}`, `{"n":0}`},
		{`{"n":0.1}`, `{"n":0.1}`},
		{`{"n":1e3}`, `{"n":1000}`},
		{`{"n":9007199254740993}`, `{"n":9007199254740993}`},
		{`{"n":-9223372036854775808}`, `{"n":-9223372036854775808}`},
		{`{"n":18446744073709551615}`, `{"n":18446744073709551615}`},
		{`{"n":1e20}`, `{"n":100000000000000000000}`},
		{`{"n":100000000000000000000}`, `{"n":100000000000000000000}`},
		{`{"n":1e300}`, `{"n":1e+300}`},
		{`{"n":3.14159265358979323846}`, `{"n":3.141592653589793}`},
		{`{"n":0.99999999999999999999}`, `{"n":1}`},
		{`{"n":1e-500}`, `{"n":0}`},
		{`{"n":1e-999999999999999999999}`, `{"n":0}`},
		{`{"n":0e999999999}`, `{"n":0}`},
		{`{"\u0061":"\u003c\u2028"}`, "{\"a\":\"<\u2028\"}"},
	}
	for _, tt := range tests {
		a, err := DecodeArgs(json.RawMessage(tt.in))
		if err != nil || string(a.Canonical) != tt.out {
			t.Errorf("%s: %s, %v; want %s", tt.in, a.Canonical, err, tt.out)
		}
		checkFixedPoint(t, a)
	}
}

func TestArgumentsThatCannotBeCarriedExactlyAreRefused(t *testing.T) {
	for _, in := range []string{
		`{"n":18446744073709551616123}`, `{"n":9223372036854775809.0e1}`, `{"n":92233720368547758091e1}`, `{"n":1e400}`, `{"n":-1e999999999999999999999}`,
		`{"a":1,"a":2}`, `{"a":{"b":1,"\u0062":2}}`, "{\"a\":\"\xff\"}", `[]`, `"x"`, `null`, `{"a":1}x`, `{"a":01}`,
		`{"a":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `}`,
		`{"n":1` + strings.Repeat("0", maxNumberBytes) + `}`,
	} {
		if a, err := DecodeArgs(json.RawMessage(in)); !errors.Is(err, ErrArguments) {
			t.Errorf("%.60s: %s, %v; want ErrArguments", in, a.Canonical, err)
		}
	}
}

// checkFixedPoint checks that whoever decodes what is forwarded sees what was decided on.
func checkFixedPoint(t interface{ Fatalf(string, ...any) }, a Args) {
	again, err := DecodeArgs(a.Canonical)
	if err != nil {
		t.Fatalf("what is forwarded does not decode: %s: %v", a.Canonical, err)
	}
	if !reflect.DeepEqual(a.Values, again.Values) || string(a.Canonical) != string(again.Canonical) {
		t.Fatalf("what is forwarded decodes to something else:\n%#v\n%#v", a, again)
	}
}

// The oracle is encoding/json with numbers kept as text, compared as exact fractions: a whole number keeps its value.
func checkAgainstOracle(t interface{ Fatalf(string, ...any) }, in json.RawMessage, a Args) {
	decode := func(text json.RawMessage) (v any) {
		d := json.NewDecoder(strings.NewReader(string(text)))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("the oracle cannot read %s: %v", text, err)
		}
		return v
	}
	if len(strings.TrimSpace(string(in))) == 0 {
		in = json.RawMessage(`{}`)
	}
	if before, after := decode(in), decode(a.Canonical); !equalButRounding(before, after) {
		t.Fatalf("forwarded is not what came: %s, %s", in, a.Canonical)
	}
}

func equalButRounding(a, b any) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k := range x {
			if _, ok := y[k]; !ok || !equalButRounding(x[k], y[k]) {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !equalButRounding(x[i], y[i]) {
				return false
			}
		}
		return true
	case json.Number:
		y, ok := b.(json.Number)
		return ok && sameNumber(x.String(), y.String())
	}
	return a == b
}

func sameNumber(x, y string) bool {
	if e := exponent(x); e > maxExponent || e < -maxExponent {
		return y == "0"
	}
	rx, _ := new(big.Rat).SetString(x)
	ry, _ := new(big.Rat).SetString(y)
	if rx.IsInt() {
		return rx.Cmp(ry) == 0
	}
	fx, _ := rx.Float64()
	fy, _ := ry.Float64()
	return fx == fy
}

func FuzzArguments(f *testing.F) {
	for _, in := range []string{``, `{}`, `{"n":9007199254740993}`, `{"n":1e20,"m":[0.1,-0.0,1E400]}`, `{"a":{"a":{"a":[[[]]]}}}`, `{"\ud83d\ude00":"\u0000"}`} {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := DecodeArgs(in)
		if err != nil {
			return
		}
		checkFixedPoint(t, a)
		checkAgainstOracle(t, in, a)
	})
}

func TestAnyNumberIsCarriedExactlyOrRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := json.RawMessage(`{"n":` + rapid.StringMatching(`-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?`).Draw(t, "n") + `}`)
		a, err := DecodeArgs(in)
		if err != nil {
			return
		}
		checkFixedPoint(t, a)
		checkAgainstOracle(t, in, a)
	})
}
