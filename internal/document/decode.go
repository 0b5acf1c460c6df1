package document

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// decode.go: what is wrong with a JSON text that was decoded into a Go value, for its sender.

// DecodeFault says why json.Unmarshal did not take a text, in that text's own words: the member as a.b[2], what is wanted there
// and what stands there. It names nothing of Go's.
func DecodeFault(err error) string {
	var grammar *jsontext.SyntacticError
	var meaning *json.SemanticError
	switch {
	case errors.As(err, &grammar):
		return grammarFault(grammar)
	case errors.As(err, &meaning):
		return meaningFault(meaning)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "it is empty"
	}
	return "it is not JSON of the form that is wanted"
}

func grammarFault(e *jsontext.SyntacticError) string {
	switch {
	case errors.Is(e.Err, jsontext.ErrDuplicateName):
		return within(e.JSONPointer.Parent()) + fmt.Sprintf("%q is said twice", Clip(e.JSONPointer.LastToken()))
	case errors.Is(e.Err, io.ErrUnexpectedEOF) && e.ByteOffset == 0:
		return "it is empty"
	case errors.Is(e.Err, io.ErrUnexpectedEOF):
		return fmt.Sprintf("it breaks off after %d bytes", e.ByteOffset)
	}
	return fmt.Sprintf("%sno JSON after %d bytes: %v", within(e.JSONPointer), e.ByteOffset, e.Err)
}

func meaningFault(e *json.SemanticError) string {
	t := e.GoType
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if errors.Is(e.Err, json.ErrUnknownName) {
		known := members(t)
		otherwise := "; there is none here"
		if len(known) > 0 {
			otherwise = "; there are " + List(known)
		}
		name := e.JSONPointer.LastToken()
		return within(e.JSONPointer.Parent()) + fmt.Sprintf("unknown field %q", Clip(name)) + Meant(name, known, otherwise)
	}
	got := kinds[e.JSONKind]
	if len(e.JSONValue) > 0 {
		got = Clip(string(e.JSONValue))
	}
	if got != "" {
		got = ", got " + got
	}
	return within(e.JSONPointer) + "want " + wanted(t) + got
}

var kinds = map[jsontext.Kind]string{'n': "null", 'f': "false", 't': "true", '"': "a text", '0': "a number", '{': "an object", '}': "an object", '[': "a list", ']': "a list"}

// wanted is what a Go type takes, in words of JSON.
func wanted(t reflect.Type) string {
	switch {
	case t == nil:
		return "another value"
	case t.Name() == "Number":
		return "a number"
	case t == reflect.TypeFor[time.Time]():
		return "a time such as 2026-01-02T15:04:05Z"
	}
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	if t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64 {
		return "a whole number"
	}
	return "another value"
}

// members returns the names that an object decoded into t may have.
func members(t reflect.Type) []string {
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// within is a place in a JSON text as its writer would name it, and a colon; nothing for the whole text.
func within(p jsontext.Pointer) string {
	const longest = 100
	var b strings.Builder
	for token := range p.Tokens() {
		switch {
		case strings.Trim(token, "0123456789") == "" && token != "":
			b.WriteString("[" + token + "]")
		case b.Len() > 0:
			b.WriteString("." + token)
		default:
			b.WriteString(token)
		}
	}
	if b.Len() == 0 {
		return ""
	}
	text := b.String()
	if len(text) > longest {
		text = "…" + strings.ToValidUTF8(text[len(text)-longest:], "")
	}
	return text + ": "
}
