package config

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a file. The YAML parser takes time by the square of a mapping's keys, and memory by the square of the depth.
const (
	maxBytes  = 1 << 20
	maxDepth  = 32 // of brackets, and of dashes on one line
	maxTokens = 50_000
	maxFaults = 1_000 // nobody reads on
)

// A reader turns the nodes of one file into values and gathers what is wrong.
type reader struct {
	file   string
	lines  []string // of the source, without line ends
	faults *Faults
}

// An item is a value in the file: the node, what to call it, and where to point.
type item struct {
	path string   // such as session.max_participants
	node ast.Node // nil: nothing was written
	at   *token.Position
}

func newReader(file string, faults *Faults) *reader { return &reader{file: file, faults: faults} }

// fault notes that something is wrong with the item.
func (r *reader) fault(it item, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if it.path != "" {
		what = it.path + ": " + what
	}
	r.faultAt(it.at.Line, it.at.Column, "%s", what)
}

func (r *reader) faultAt(line, col int, format string, args ...any) {
	if len(*r.faults) >= maxFaults {
		return
	}
	*r.faults = append(*r.faults, Fault{r.file, max(line, 1), max(col, 1), fmt.Sprintf(format, args...)})
}

// parse returns the one document of the file. A file that is no YAML, or more of it than is safe to parse, is a fault, and
// then there is nothing to read: ok is false.
func (r *reader) parse(b []byte) (root item, ok bool) {
	root.at = &token.Position{Line: 1, Column: 1}
	if len(b) > maxBytes {
		r.faultAt(1, 1, "larger than %d bytes", maxBytes)
		return root, false
	}
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSuffix(line, "\r")
		r.lines = append(r.lines, line)
		if col := strings.IndexFunc(line, forbidden); col >= 0 {
			r.faultAt(i+1, utf8.RuneCountInString(line[:col])+1, "invalid UTF-8 or a control character")
			return root, false
		}
	}
	tokens := lexer.Tokenize(strings.Join(r.lines, "\n"))
	if !r.safe(tokens) {
		return root, false
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // duplicates are found here, all at once and not by the square
	if err != nil {
		r.syntax(err)
		return root, false
	}
	if len(file.Docs) > 0 {
		root.node = file.Docs[0].Body
	}
	return root, true
}

// forbidden are the characters YAML does not allow either (YAML 1.2 §5.1). Invalid UTF-8 decodes as U+FFFD.
func forbidden(c rune) bool {
	return c == utf8.RuneError || c < ' ' && c != '\t' || c >= 0x7f && c <= 0x9f && c != 0x85 || c == 0xfeff
}

// safe reports, by its tokens alone, whether a file may be parsed at all, and notes why not.
func (r *reader) safe(tokens token.Tokens) bool {
	if len(tokens) > maxTokens {
		at := tokens[maxTokens].Position
		r.faultAt(at.Line, at.Column, "more than %d words and signs", maxTokens)
		return false
	}
	depth, line, dashes, documents := 0, 0, 0, 0
	for _, tk := range tokens {
		what := ""
		if tk.Position.Line != line {
			line, dashes = tk.Position.Line, 0
		}
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType:
			dashes++
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			what = "anchors, aliases and merge keys are not read here: write the value where it is used"
		case token.TagType:
			what = "tags are not read here: quote a text that starts with an exclamation mark"
		case token.DirectiveType:
			what = "directives are not read here"
		case token.DocumentHeaderType:
			if documents++; documents > 1 || depth > 0 {
				what = "a second document begins here: there is only one"
			}
		}
		if tk.Type == token.MappingKeyType {
			what = `keys are written "name: value", without a question mark`
		}
		if depth > maxDepth || dashes > maxDepth {
			what = fmt.Sprintf("nested deeper than %d", maxDepth)
		}
		if what != "" {
			r.faultAt(tk.Position.Line, tk.Position.Column, "%s", what)
			return false
		}
	}
	return true
}

// syntax notes the parser's complaint, without the excerpt it draws.
func (r *reader) syntax(err error) {
	placed, ok := err.(interface {
		GetMessage() string
		GetToken() *token.Token
	})
	if !ok || placed.GetToken() == nil || placed.GetToken().Position == nil {
		what, _, _ := strings.Cut(err.Error(), "\n")
		r.faultAt(1, 1, "not YAML: %s", what)
		return
	}
	at := placed.GetToken().Position
	what, _, _ := strings.Cut(placed.GetMessage(), "\n")
	r.faultAt(at.Line, at.Column, "not YAML: %s", what)
}

// A field reads the value of one key.
type field = func(item)

// object reads a mapping whose keys are all known; nothing written is an empty one. It returns the keys that were there.
func (r *reader) object(it item, fields map[string]field) map[string]bool {
	return r.mapping(it, func(key string, value item) {
		read, ok := fields[key]
		if !ok {
			known := make([]string, 0, len(fields))
			for k := range fields {
				known = append(known, k)
			}
			r.faultAt(value.at.Line, value.at.Column, "unknown key %q%s", key, meant(key, known, " (there are "+list(known)+")"))
			return
		}
		read(value.atValue())
	})
}

// mapping reads a mapping whose keys are names of the operator's choice. Each value still points at its key. It returns the
// keys that were there. A key said twice is a fault and its second value is not read.
func (r *reader) mapping(it item, each func(key string, value item)) map[string]bool {
	seen := map[string]bool{}
	var values []*ast.MappingValueNode
	switch n := it.node.(type) {
	case nil, *ast.NullNode:
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		r.fault(it, "want keys with values, got %s", describe(it.node))
		return seen
	}
	for _, v := range values {
		tk := v.Key.GetToken()
		key := item{path: it.path, node: v.Value, at: tk.Position}
		name := tk.Value
		if !isScalar(v.Key) {
			r.fault(key, "a key is a word, not %s", describe(v.Key))
			continue
		}
		if it.path != "" {
			key.path += "."
		}
		key.path += name
		if seen[name] {
			r.faultAt(tk.Position.Line, tk.Position.Column, "key %q is said twice", name)
			continue
		}
		seen[name] = true
		each(name, key)
	}
	return seen
}

// list reads a sequence; nothing written is an empty one.
func (r *reader) list(it item, each func(i int, element item)) {
	switch n := it.node.(type) {
	case nil, *ast.NullNode:
	case *ast.SequenceNode:
		for i, e := range n.Values {
			each(i, item{fmt.Sprintf("%s[%d]", it.path, i), e, it.at}.atValue())
		}
	default:
		r.fault(it, "want a list, got %s", describe(it.node))
	}
}

// atValue returns the item pointing at its value; one without a value points where it did, at its key.
func (it item) atValue() item {
	switch n := it.node.(type) {
	case nil, *ast.NullNode:
	case *ast.MappingNode:
		if at := n.Start; n.IsFlowStyle && at != nil {
			it.at = at.Position
		} else if len(n.Values) > 0 {
			it.at = n.Values[0].Key.GetToken().Position
		}
	case *ast.MappingValueNode:
		it.at = n.Key.GetToken().Position
	case *ast.LiteralNode:
		it.at = n.Start.Position
	default:
		if tk := n.GetToken(); tk != nil && tk.Position != nil {
			it.at = tk.Position
		}
	}
	return it
}

func isScalar(n ast.Node) bool {
	switch n.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return true
	}
	return false
}

// describe says what was written instead of what was wanted.
func describe(n ast.Node) string {
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys with values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode:
		return fmt.Sprintf("%q", clip(n.Value))
	case *ast.LiteralNode:
		return fmt.Sprintf("%q", clip(n.Value.Value))
	}
	return clip(n.GetToken().Value)
}

func clip(text string) string {
	const most = 60
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

func isMapping(it item) bool {
	switch it.node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return true
	}
	return false
}
