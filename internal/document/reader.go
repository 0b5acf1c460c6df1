package document

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
	MaxBytes  = 1 << 20
	maxDepth  = 32 // of brackets, and of dashes on one line
	maxTokens = 50_000
	MaxFaults = 1_000 // nobody reads on
)

// A Reader turns the nodes of one file into values and gathers what is wrong.
type Reader struct {
	File   string  // as faults name it
	Faults *Faults // what was found so far; readers of several files may share one

	TooMuch string // is added to the fault of a file with too many words; empty: nothing

	lines []string // of the source, without line ends
}

// An Item is a value in the file: the node, what to call it, and where to point.
type Item struct {
	Path string   // such as session.max_participants
	Node ast.Node // nil: nothing was written
	At   *token.Position
}

// NewReader returns a reader that calls the file by that name and adds to faults.
func NewReader(file string, faults *Faults) *Reader { return &Reader{File: file, Faults: faults} }

// Fault notes that something is wrong with the item.
func (r *Reader) Fault(it Item, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if it.Path != "" {
		what = it.Path + ": " + what
	}
	r.FaultAt(it.At.Line, it.At.Column, "%s", what)
}

// FaultAt notes that something is wrong at a place, from 1 and in code points.
func (r *Reader) FaultAt(line, col int, format string, args ...any) {
	if len(*r.Faults) >= MaxFaults {
		return
	}
	*r.Faults = append(*r.Faults, Fault{r.File, max(line, 1), max(col, 1), fmt.Sprintf(format, args...)})
}

// Parse returns the one document of the file. A file that is no YAML, or more of it than is safe to parse, is a fault, and
// then there is nothing to read: ok is false.
func (r *Reader) Parse(b []byte) (root Item, ok bool) {
	root.At = &token.Position{Line: 1, Column: 1}
	if len(b) > MaxBytes {
		r.FaultAt(1, 1, "larger than %d bytes", MaxBytes)
		return root, false
	}
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSuffix(line, "\r")
		r.lines = append(r.lines, line)
		if col := strings.IndexFunc(line, forbidden); col >= 0 {
			r.FaultAt(i+1, utf8.RuneCountInString(line[:col])+1, "invalid UTF-8 or a control character")
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
		root.Node = file.Docs[0].Body
	}
	return root, true
}

// forbidden are the characters YAML does not allow either (YAML 1.2 §5.1). Invalid UTF-8 decodes as U+FFFD.
func forbidden(c rune) bool {
	return c == utf8.RuneError || c < ' ' && c != '\t' || c >= 0x7f && c <= 0x9f && c != 0x85 || c == 0xfeff
}

// safe reports, by its tokens alone, whether a file may be parsed at all, and notes why not.
func (r *Reader) safe(tokens token.Tokens) bool {
	if len(tokens) > maxTokens {
		at := tokens[maxTokens].Position
		r.FaultAt(at.Line, at.Column, "more than %d words and signs%s", maxTokens, r.TooMuch)
		return false
	}
	depth, line, dashes := 0, 0, 0
	var one document
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
		}
		if what == "" && one.over(tk.Type) {
			what = "a second document begins here: there is only one"
		}
		if tk.Type == token.MappingKeyType {
			what = `keys are written "name: value", without a question mark`
		}
		if depth > maxDepth || dashes > maxDepth {
			what = fmt.Sprintf("nested deeper than %d", maxDepth)
		}
		if what != "" {
			r.FaultAt(tk.Position.Line, tk.Position.Column, "%s", what)
			return false
		}
	}
	return true
}

// A document is how far into its first document a file has been read. The zero document has not begun.
type document struct{ headed, begun, ended bool }

// over reports whether a token stands behind the first document: what nobody would read.
func (d *document) over(t token.Type) bool {
	switch t {
	case token.CommentType:
		return false
	case token.DocumentEndType:
		d.ended = true
		return false
	case token.DocumentHeaderType:
		second := d.headed || d.begun || d.ended
		d.headed = true
		return second
	}
	d.begun = true
	return d.ended
}

// syntax notes the parser's complaint, without the excerpt it draws.
func (r *Reader) syntax(err error) {
	placed, ok := err.(interface {
		GetMessage() string
		GetToken() *token.Token
	})
	if !ok || placed.GetToken() == nil || placed.GetToken().Position == nil {
		what, _, _ := strings.Cut(err.Error(), "\n")
		r.FaultAt(1, 1, "not YAML: %s", what)
		return
	}
	at := placed.GetToken().Position
	what, _, _ := strings.Cut(placed.GetMessage(), "\n")
	r.FaultAt(at.Line, at.Column, "not YAML: %s", what)
}

// A Field reads the value of one key.
type Field = func(Item)

// Object reads a mapping whose keys are all known; nothing written is an empty one. It returns the keys that were there.
func (r *Reader) Object(it Item, fields map[string]Field) map[string]bool {
	return r.Mapping(it, func(key string, value Item) {
		read, ok := fields[key]
		if !ok {
			known := make([]string, 0, len(fields))
			for k := range fields {
				known = append(known, k)
			}
			r.FaultAt(value.At.Line, value.At.Column, "unknown key %q%s", key, Meant(key, known, " (there are "+List(known)+")"))
			return
		}
		read(value.AtValue())
	})
}

// Mapping reads a mapping whose keys are names of the operator's choice. Each value still points at its key. It returns the
// keys that were there. A key said twice is a fault and its second value is not read.
func (r *Reader) Mapping(it Item, each func(key string, value Item)) map[string]bool {
	seen := map[string]bool{}
	var values []*ast.MappingValueNode
	switch n := it.Node.(type) {
	case nil, *ast.NullNode:
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		r.Fault(it, "want keys with values, got %s", Describe(it.Node))
		return seen
	}
	for _, v := range values {
		tk := v.Key.GetToken()
		key := Item{Path: it.Path, Node: v.Value, At: tk.Position}
		name := tk.Value
		if !isScalar(v.Key) {
			r.Fault(key, "a key is a word, not %s", Describe(v.Key))
			continue
		}
		if it.Path != "" {
			key.Path += "."
		}
		key.Path += name
		if seen[name] {
			r.FaultAt(tk.Position.Line, tk.Position.Column, "key %q is said twice", name)
			continue
		}
		seen[name] = true
		each(name, key)
	}
	return seen
}

// List reads a sequence; nothing written is an empty one.
func (r *Reader) List(it Item, each func(i int, element Item)) {
	switch n := it.Node.(type) {
	case nil, *ast.NullNode:
	case *ast.SequenceNode:
		for i, e := range n.Values {
			each(i, Item{fmt.Sprintf("%s[%d]", it.Path, i), e, it.At}.AtValue())
		}
	default:
		r.Fault(it, "want a list, got %s", Describe(it.Node))
	}
}

// AtValue returns the item pointing at its value; one without a value points where it did, at its key.
func (it Item) AtValue() Item {
	switch n := it.Node.(type) {
	case nil, *ast.NullNode:
	case *ast.MappingNode:
		if at := n.Start; n.IsFlowStyle && at != nil {
			it.At = at.Position
		} else if len(n.Values) > 0 {
			it.At = n.Values[0].Key.GetToken().Position
		}
	case *ast.MappingValueNode:
		it.At = n.Key.GetToken().Position
	case *ast.LiteralNode:
		it.At = n.Start.Position
	default:
		if tk := n.GetToken(); tk != nil && tk.Position != nil {
			it.At = tk.Position
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

// Describe says what was written instead of what was wanted.
func Describe(n ast.Node) string {
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys with values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode:
		return fmt.Sprintf("%q", Clip(n.Value))
	case *ast.LiteralNode:
		return fmt.Sprintf("%q", Clip(n.Value.Value))
	}
	return Clip(n.GetToken().Value)
}

// Clip shortens a text for a message.
func Clip(text string) string {
	const most = 60
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

// IsMapping reports whether keys with values were written.
func IsMapping(it Item) bool {
	switch it.Node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return true
	}
	return false
}
