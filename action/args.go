package action

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Args are a call's arguments, decoded once.
type Args struct {
	Values    map[string]any  // nil, bool, string, int64, uint64 (above int64 only), float64 (what is neither), []any, map[string]any
	Canonical json.RawMessage // Values again, names sorted, numbers in their shortest form: what is decided on and what is forwarded
}

// ErrArguments is returned, wrapped with the place and the way out, for arguments that cannot be carried exactly.
var ErrArguments = errors.New("arguments cannot be taken")

// DecodeArgs decodes a JSON object strictly: valid UTF-8, no name twice, at most 64 deep. Empty text is an empty object.
//
// A whole number that neither a 64-bit integer nor a float holds exactly is refused, so that rules and server never see two
// values; a fraction is rounded to the nearest float, in Values and in Canonical alike. Decoding Canonical again gives Values.
func DecodeArgs(text json.RawMessage) (Args, error) {
	if bare := bytes.TrimSpace(text); len(bare) == 0 || string(bare) == "{}" {
		return Args{Values: map[string]any{}, Canonical: json.RawMessage("{}")}, nil
	}
	if nesting(text) > MaxDepth {
		return Args{}, fmt.Errorf("%w: %w", ErrArguments, errDepth)
	}
	d := jsontext.NewDecoder(bytes.NewReader(text)) // by itself it refuses invalid UTF-8 and names given twice
	v, err := decodeValue(d, decodeNumber)
	if err == nil {
		err = nothingMore(d)
	}
	if err != nil {
		return Args{}, fmt.Errorf("%w: %w", ErrArguments, err)
	}
	object, ok := v.(map[string]any)
	if !ok {
		return Args{}, fmt.Errorf("%w: they are not an object", ErrArguments)
	}
	canonical, err := appendCanonical(make([]byte, 0, len(text)), object)
	if err != nil {
		return Args{}, fmt.Errorf("%w: encoding arguments: %w", ErrArguments, err)
	}
	return Args{Values: object, Canonical: canonical}, nil
}

// appendCanonical appends a decoded value as Args.Canonical has it.
func appendCanonical(dst []byte, v any) (_ []byte, err error) {
	switch v := v.(type) {
	case string:
		return jsontext.AppendQuote(dst, v)
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case json.Number:
		return append(dst, v...), nil
	case map[string]any:
		dst = append(dst, '{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = jsontext.AppendQuote(dst, name); err != nil {
				return nil, err
			}
			if dst, err = appendCanonical(append(dst, ':'), v[name]); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	case []any:
		dst = append(dst, '[')
		for i, element := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendCanonical(dst, element); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	}
	text, err := jsonv2.Marshal(v) // what is rare: a fraction has rules of its own
	return append(dst, text...), err
}

// decodeValue decodes the next value, its numbers by number; the depth of the text was bounded before.
func decodeValue(d *jsontext.Decoder, number func(literal string) (any, error)) (any, error) {
	switch d.PeekKind() {
	case '{':
		return decodeObject(d, number)
	case '[':
		return decodeArray(d, number)
	}
	t, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch t.Kind() {
	case '"':
		return t.String(), nil
	case '0':
		at := d.StackPointer()
		n, err := number(t.String())
		if err != nil {
			return nil, fmt.Errorf("at %q: %w", clipText(string(at)), err)
		}
		return n, nil
	case 't', 'f':
		return t.Bool(), nil
	}
	return nil, nil
}

func decodeObject(d *jsontext.Decoder, number func(string) (any, error)) (any, error) {
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	out := map[string]any{}
	for d.PeekKind() != '}' {
		t, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		name := t.String()
		if out[name], err = decodeValue(d, number); err != nil {
			return nil, err
		}
	}
	_, err := d.ReadToken()
	return out, err
}

func decodeArray(d *jsontext.Decoder, number func(string) (any, error)) (any, error) {
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	out := []any{}
	for d.PeekKind() != ']' {
		v, err := decodeValue(d, number)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	_, err := d.ReadToken()
	return out, err
}

// Longest literal and greatest exponent read exactly; beyond them big.Rat would be made to compute a number of megabytes.
const (
	maxNumberBytes = 800 // a float64 in full has at most 767 significant digits
	maxExponent    = 1200
)

// decodeNumber returns a literal as int64, uint64 or float64: the first that holds it exactly, or the nearest float of a fraction.
func decodeNumber(literal string) (any, error) {
	if n, err := strconv.ParseInt(literal, 10, 64); err == nil {
		return n, nil
	}
	f, err := strconv.ParseFloat(literal, 64)
	if err != nil || len(literal) > maxNumberBytes {
		return nil, fmt.Errorf("the number %s is out of range; send it as a string", clipText(literal))
	}
	if e := exponent(literal); e > maxExponent || e < -maxExponent {
		return shrink(f), nil // with so short a mantissa it is zero, or ParseFloat had called it out of range
	}
	r, ok := new(big.Rat).SetString(literal)
	if !ok {
		return nil, fmt.Errorf("the number %s cannot be read", clipText(literal))
	}
	if !r.IsInt() {
		return shrink(f), nil
	}
	switch n := r.Num(); {
	case n.IsInt64():
		return n.Int64(), nil
	case n.IsUint64():
		return n.Uint64(), nil
	}
	// Its shortest form is what will be forwarded: it must be the same number (1e300 is no float exactly, yet goes and comes as 1e300).
	if short, ok := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64)); ok && short.Cmp(r) == 0 {
		return f, nil
	}
	return nil, fmt.Errorf("the whole number %s has more digits than can be carried exactly; send it as a string", clipText(literal))
}

// shrink returns a float as the 64-bit integer it is, if it is one.
func shrink(f float64) any {
	switch {
	case f != math.Trunc(f):
		return f
	case math.Abs(f) < 1<<63:
		return int64(f)
	case f >= 1<<63 && f < 1<<64:
		return uint64(f)
	}
	return f
}

func exponent(literal string) int {
	_, text, ok := strings.Cut(strings.ToLower(literal), "e")
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil { // beyond int; the sign says which way
		n = math.MaxInt
		if strings.HasPrefix(text, "-") {
			n = math.MinInt
		}
	}
	return n
}

// MaxDepth bounds how deep the objects and arrays of untrusted JSON may stand in each other.
const MaxDepth = 64

// WellFormed returns what is wrong with a text that is to be one JSON value: it must be valid UTF-8, name nothing twice in
// an object at any depth, be at most MaxDepth deep, and be followed by nothing.
func WellFormed(text []byte) error {
	if nesting(text) > MaxDepth {
		return errDepth
	}
	if jsontext.Value(text).IsValid() { // by a decoder of the library's own stock; what is wrong is found out below
		return nil
	}
	d := jsontext.NewDecoder(bytes.NewReader(text))
	if err := d.SkipValue(); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nothingMore(d)
}

var errDepth = fmt.Errorf("nested more than %d deep", MaxDepth)

func nothingMore(d *jsontext.Decoder) error {
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the value")
	}
	return nil
}

// nesting returns how deep objects and arrays of the text stand in each other, or would if it were JSON.
func nesting(text []byte) int {
	deepest, depth, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// clipText bounds what of a peer's text goes into our own.
func clipText(text string) string {
	const most = 120
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
