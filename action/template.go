package action

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a template.
const (
	maxTemplateBytes = 4096
	maxReferences    = 32   // in one template
	maxSteps         = 16   // of one reference: args.a.b.c has three
	maxUndoNodes     = 1000 // values in the arguments of one undo
	maxUndoDepth     = 32
)

var (
	// ErrTemplate is returned, wrapped with what is wrong, for a text that is no template.
	ErrTemplate = errors.New("bad template")
	// ErrMissingArgument is returned, wrapped with its name, when a call lacks an argument that a template refers to.
	ErrMissingArgument = errors.New("missing argument")
	// ErrArgumentType is returned, wrapped with its name, when an argument cannot stand inside a text.
	ErrArgumentType = errors.New("argument is not a string, number or boolean")
)

// A Template is literal text with references to a call's arguments in it: "/srv/{{args.name}}", "{{args.list.0}}". There is
// nothing else to it: no functions, conditions or escapes, and "{{" always opens a reference. The zero Template is the
// empty text.
type Template struct {
	parts []part
}

// A part is literal text or, if path is not nil, a reference.
type part struct {
	text string // of a reference: as written, without braces
	path []string
}

// ParseTemplate reads a template. It returns ErrTemplate for a reference that is not closed or not args.NAME[.NAME|.INDEX]….
func ParseTemplate(text string) (Template, error) {
	var t Template
	switch {
	case len(text) > maxTemplateBytes:
		return t, fmt.Errorf("%w: longer than %d bytes", ErrTemplate, maxTemplateBytes)
	case !utf8.ValidString(text):
		return t, fmt.Errorf("%w: invalid UTF-8", ErrTemplate)
	}
	for references := 0; text != ""; references++ {
		literal, rest, ok := strings.Cut(text, "{{")
		if literal != "" {
			t.parts = append(t.parts, part{text: literal})
		}
		if !ok {
			break
		}
		reference, rest, ok := strings.Cut(rest, "}}")
		if !ok {
			return Template{}, fmt.Errorf("%w: {{ is not closed", ErrTemplate)
		}
		steps, err := parseReference(reference)
		if err != nil {
			return Template{}, err
		}
		if references == maxReferences {
			return Template{}, fmt.Errorf("%w: more than %d references", ErrTemplate, maxReferences)
		}
		t.parts, text = append(t.parts, part{reference, steps}), rest
	}
	return t, nil
}

func parseReference(text string) ([]string, error) {
	bad := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '{' || r == '}' }
	root, rest, ok := strings.Cut(text, ".")
	steps := strings.Split(rest, ".")
	switch {
	case strings.ContainsFunc(text, bad):
		return nil, fmt.Errorf("%w: {{%s}}: no spaces or braces inside; write {{args.name}}", ErrTemplate, text)
	case root != "args" || !ok:
		return nil, fmt.Errorf("%w: {{%s}}: only arguments can be referred to; write {{args.name}}", ErrTemplate, text)
	case len(steps) > maxSteps:
		return nil, fmt.Errorf("%w: {{%s}}: more than %d steps", ErrTemplate, text, maxSteps)
	}
	for _, step := range steps {
		if step == "" {
			return nil, fmt.Errorf("%w: {{%s}}: a name is empty", ErrTemplate, text)
		}
	}
	return steps, nil
}

// Render returns the text for a call's arguments. It returns ErrMissingArgument, or ErrArgumentType for one that is an
// object, a list or null. Numbers are written as JSON writes them.
func (t Template) Render(args map[string]any) (string, error) {
	if len(t.parts) == 1 && t.parts[0].path == nil {
		return t.parts[0].text, nil
	}
	var b strings.Builder
	for _, p := range t.parts {
		if p.path == nil {
			b.WriteString(p.text)
			continue
		}
		value, err := p.lookUp(args)
		if err != nil {
			return "", err
		}
		if err := writeScalar(&b, value); err != nil {
			return "", fmt.Errorf("%s: %w", p.text, err)
		}
	}
	return b.String(), nil
}

// Value is Render, but that a template which is one reference and nothing else gives the argument itself, with its JSON type.
func (t Template) Value(args map[string]any) (any, error) {
	if len(t.parts) == 1 && t.parts[0].path != nil {
		return t.parts[0].lookUp(args)
	}
	return t.Render(args)
}

func (p part) lookUp(args map[string]any) (any, error) {
	var value any = args
	for _, step := range p.path {
		var next any
		ok := false
		switch v := value.(type) {
		case map[string]any:
			next, ok = v[step]
		case []any:
			if i, isIndex := index(step); isIndex && i < len(v) {
				next, ok = v[i], true
			}
		}
		if !ok {
			return nil, fmt.Errorf("%w: %s", ErrMissingArgument, p.text)
		}
		value = next
	}
	return value, nil
}

// index reads a list index: digits, no sign, no leading zero.
func index(step string) (int, bool) {
	i, err := strconv.ParseUint(step, 10, 31)
	return int(i), err == nil && strconv.FormatUint(i, 10) == step
}

func writeScalar(b *strings.Builder, value any) error {
	switch v := value.(type) {
	case string:
		b.WriteString(v)
		return nil
	case bool, float64, json.Number, int, int64, uint64:
		text, err := json.Marshal(v) // an infinity, or a json.Number that is none
		if err != nil {
			return ErrArgumentType
		}
		b.Write(text)
		return nil
	}
	return ErrArgumentType
}

// ResourceOf returns what a call with these arguments touches: d.Resource with the arguments put in, normalised. Empty: it is
// not said. It returns ErrTemplate, ErrMissingArgument, ErrArgumentType or ErrResource, and then the call MUST NOT be
// decided as one that touches nothing.
func (d Descriptor) ResourceOf(args map[string]any) (string, error) {
	text := d.Resource
	if strings.Contains(text, "{{") {
		t, err := ParseTemplate(text)
		if err != nil {
			return "", err
		}
		if text, err = t.Render(args); err != nil {
			return "", err
		}
	}
	return NormaliseResource(text)
}

// Check returns ErrTemplate if a text in the call's arguments is no template, or the arguments are too many or too deep.
func (c Call) Check() error {
	_, err := c.walk(func(t Template) (any, error) { return nil, nil })
	return err
}

// Resolve returns the call's arguments with those of the action that it undoes put in: a new map, sharing nothing that
// Resolve's caller did not pass in args. Keys are literal. It returns ErrTemplate, ErrMissingArgument or ErrArgumentType.
func (c Call) Resolve(args map[string]any) (map[string]any, error) {
	return c.walk(func(t Template) (any, error) { return t.Value(args) })
}

func (c Call) walk(text func(Template) (any, error)) (map[string]any, error) {
	nodes := 0
	out, err := walkValue(c.Args, text, &nodes, 0)
	if err != nil {
		return nil, err
	}
	return out.(map[string]any), nil
}

// walkValue copies a JSON value with every string in it replaced by what text makes of it.
func walkValue(value any, text func(Template) (any, error), nodes *int, depth int) (any, error) {
	if *nodes++; *nodes > maxUndoNodes || depth > maxUndoDepth {
		return nil, fmt.Errorf("%w: more than %d values, or deeper than %d", ErrTemplate, maxUndoNodes, maxUndoDepth)
	}
	var err error
	switch v := value.(type) {
	case string:
		t, err := ParseTemplate(v)
		if err != nil {
			return nil, err
		}
		return text(t)
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			if out[k], err = walkValue(e, text, nodes, depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			if out[i], err = walkValue(e, text, nodes, depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return value, nil
}
