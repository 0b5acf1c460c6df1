package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// ParseJSON is Parse for a JSON text (RFC 8259): nothing of what YAML would forgive is forgiven.
func (r *Reader) ParseJSON(b []byte) (root Item, ok bool) {
	root.At = &token.Position{Line: 1, Column: 1}
	if len(b) > MaxBytes {
		r.FaultAt(1, 1, "larger than %d bytes", MaxBytes)
		return root, false
	}
	r.lines = strings.Split(string(b), "\n")
	d := jsontext.NewDecoder(bytes.NewReader(b), jsontext.AllowDuplicateNames(true)) // Mapping finds those, all of them
	j := &jsonReader{text: b, decoder: d, tooMuch: r.TooMuch, line: 1, col: 1}
	node, err := j.value(0)
	if err == nil {
		err = j.nothingMore()
	}
	if err != nil {
		var at badJSON
		if !errors.As(err, &at) {
			at = j.place(err)
		}
		r.FaultAt(at.line, at.col, "%s", at.what)
		return root, false
	}
	root.Node = node
	return root, true
}

// A badJSON is why a text cannot be read as JSON, and where.
type badJSON struct {
	line, col int
	what      string
}

func (e badJSON) Error() string { return e.what }

// A jsonReader makes nodes of a JSON text, as the YAML parser makes them of YAML.
type jsonReader struct {
	text      []byte
	decoder   *jsontext.Decoder
	tooMuch   string // Reader.TooMuch
	tokens    int
	offset    int // of line and col, in bytes
	line, col int
}

// at moves line and col on to a byte of the text.
func (j *jsonReader) at(offset int) *token.Position {
	for j.offset < min(offset, len(j.text)) {
		if j.text[j.offset] == '\n' {
			j.line, j.col = j.line+1, 0
		}
		_, size := utf8.DecodeRune(j.text[j.offset:])
		j.offset, j.col = j.offset+size, j.col+1
	}
	return &token.Position{Line: j.line, Column: j.col}
}

// place says where the decoder stopped and why.
func (j *jsonReader) place(err error) badJSON {
	var syntax *jsontext.SyntacticError
	what, offset := "the text ends within a value", len(j.text)
	if errors.As(err, &syntax) && !errors.Is(err, io.ErrUnexpectedEOF) {
		what, offset = syntax.Err.Error(), int(syntax.ByteOffset)
	}
	at := j.at(offset)
	return badJSON{at.Line, at.Column, "not JSON: " + what}
}

// next returns the next token and where it begins.
func (j *jsonReader) next() (jsontext.Token, *token.Position, error) {
	tk, err := j.decoder.ReadToken()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return tk, nil, err
	}
	length := 1 // a bracket
	switch tk.Kind() {
	case '"', '0', 't', 'f', 'n':
		length = len(j.last(tk))
	}
	at := j.at(int(j.decoder.InputOffset()) - length)
	if j.tokens++; j.tokens > maxTokens {
		return tk, at, badJSON{at.Line, at.Column, fmt.Sprintf("more than %d values, names and brackets%s", maxTokens, j.tooMuch)}
	}
	return tk, at, nil
}

// last returns the text of the token that was just read, which for a string is longer than what it says.
func (j *jsonReader) last(tk jsontext.Token) []byte {
	end := int(j.decoder.InputOffset())
	begin := max(end-1, 0)
	if tk.Kind() != '"' {
		for begin > 0 && strings.IndexByte(" \t\r\n,:[{", j.text[begin-1]) < 0 {
			begin--
		}
		return j.text[begin:end]
	}
	for begin--; begin > 0 && !(j.text[begin] == '"' && backslashes(j.text[:begin])%2 == 0); begin-- {
	}
	return j.text[begin:end]
}

// backslashes counts those at the end of a text.
func backslashes(text []byte) (n int) {
	for n < len(text) && text[len(text)-1-n] == '\\' {
		n++
	}
	return n
}

func (j *jsonReader) value(depth int) (ast.Node, error) {
	tk, at, err := j.next()
	switch {
	case err != nil:
		return nil, err
	case depth > maxDepth:
		return nil, badJSON{at.Line, at.Column, fmt.Sprintf("nested deeper than %d", maxDepth)}
	}
	said := token.New(tk.String(), tk.String(), at)
	switch tk.Kind() {
	case 'n':
		return ast.Null(said), nil
	case 't', 'f':
		return ast.Bool(said), nil
	case '0':
		if strings.ContainsAny(said.Value, ".eE") {
			return ast.Float(said), nil
		}
		return ast.Integer(said), nil
	case '"':
		said.Type = token.DoubleQuoteType
		return ast.String(said), nil
	case '[':
		return j.array(ast.Sequence(said, true), depth)
	}
	return j.object(ast.Mapping(said, true), depth)
}

func (j *jsonReader) array(n *ast.SequenceNode, depth int) (ast.Node, error) {
	for j.decoder.PeekKind() != ']' {
		e, err := j.value(depth + 1)
		if err != nil {
			return nil, err
		}
		n.Values = append(n.Values, e)
	}
	_, _, err := j.next()
	return n, err
}

func (j *jsonReader) object(n *ast.MappingNode, depth int) (ast.Node, error) {
	for j.decoder.PeekKind() != '}' {
		tk, at, err := j.next()
		if err != nil {
			return nil, err
		}
		name := token.New(tk.String(), tk.String(), at)
		name.Type = token.DoubleQuoteType
		v, err := j.value(depth + 1)
		if err != nil {
			return nil, err
		}
		n.Values = append(n.Values, ast.MappingValue(name, ast.String(name), v))
	}
	_, _, err := j.next()
	return n, err
}

func (j *jsonReader) nothingMore() error {
	rest := bytes.TrimLeft(j.text[j.decoder.InputOffset():], " \t\r\n")
	if len(rest) > 0 {
		at := j.at(len(j.text) - len(rest))
		return badJSON{at.Line, at.Column, "not JSON: something follows the value"}
	}
	return nil
}

// JSON returns a value as JSON text. Numbers are as they were written; those that only YAML has are written as JSON has them.
func (r *Reader) JSON(it Item) (json.RawMessage, bool) {
	before := len(*r.Faults)
	out := r.appendJSON(nil, it)
	return out, len(*r.Faults) == before
}

func (r *Reader) appendJSON(dst []byte, it Item) []byte {
	switch n := it.Node.(type) {
	case nil, *ast.NullNode:
		return append(dst, "null"...)
	case *ast.BoolNode:
		return strconv.AppendBool(dst, n.Value)
	case *ast.StringNode:
		if tk := n.GetToken(); tk.Type == token.StringType && isNumber(tk.Value) { // the parser takes 1e5 for a text
			return append(dst, tk.Value...)
		}
		return appendText(dst, n.Value)
	case *ast.LiteralNode:
		return appendText(dst, n.Value.Value)
	case *ast.IntegerNode:
		return appendNumber(dst, n.GetToken().Value, n.Value)
	case *ast.FloatNode:
		return appendNumber(dst, n.GetToken().Value, n.Value)
	case *ast.SequenceNode:
		dst = append(dst, '[')
		r.List(it, func(i int, e Item) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = r.appendJSON(dst, e)
		})
		return append(dst, ']')
	case *ast.MappingNode, *ast.MappingValueNode:
		dst = append(dst, '{')
		first := len(dst)
		r.Mapping(it, func(key string, v Item) {
			if len(dst) > first {
				dst = append(dst, ',')
			}
			dst = r.appendJSON(append(appendText(dst, key), ':'), v.AtValue())
		})
		return append(dst, '}')
	}
	r.Fault(it, "%s is nothing that JSON can say", Describe(it.Node))
	return dst
}

func appendText(dst []byte, text string) []byte {
	out, err := jsontext.AppendQuote(dst, text)
	if err != nil { // what is not UTF-8 was refused before
		panic("document: " + err.Error())
	}
	return out
}

func isNumber(text string) bool {
	return strings.Trim(text, "+-.0123456789eE") == "" && json.Valid([]byte(text))
}

func appendNumber(dst []byte, written string, value any) []byte {
	if isNumber(written) {
		return append(dst, written...)
	}
	out, err := json.Marshal(value)
	if err != nil {
		panic("document: " + err.Error()) // infinities and NaN are nodes of their own
	}
	return append(dst, out...)
}
