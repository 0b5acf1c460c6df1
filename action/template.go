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
	maxReferences    = 32 // in one template
	maxSteps         = 16 // of one reference: args.a.b.c has three
)

var (
	// ErrTemplate is returned, wrapped with what is wrong, for a text that is no template.
	ErrTemplate = errors.New("bad template")
	// ErrMissingValue is returned, wrapped with its name, when there is not what a template refers to.
	ErrMissingValue = errors.New("missing value")
	// ErrValueType is returned, wrapped with its name, when what a template refers to cannot stand inside a text, or is no list
	// where one is wanted.
	ErrValueType = errors.New("value does not fit")
)

// A Place is where a template stands, and so what it may refer to.
type Place uint8

// The places.
const (
	InResource   = argsRoot
	InLook       = argsRoot                                      // the arguments of an image's call
	InBytes      = argsRoot | answerRoots                        // result: what the look answered
	InUndo       = argsRoot | imageRoot | answerRoots | callRoot // result: what the action answered
	InUndoAbsent = argsRoot | answerRoots | callRoot
	InAfter      = argsRoot | imageRoot | answerRoots
	InProbe      = argsRoot | callRoot
)

// What a reference can begin with.
const (
	argsRoot Place = 1 << iota
	imageRoot
	resultRoot
	jsonRoot
	callRoot
	eachRoot // the element of an each

	answerRoots = resultRoot | jsonRoot
)

var roots = []struct {
	name string
	root Place
}{{"args", argsRoot}, {"image", imageRoot}, {"result", resultRoot}, {"json", jsonRoot}, {"action", callRoot}, {"each", eachRoot}}

// A Template is literal text with references in it: "/srv/{{args.name}}", "{{args.list.0}}", "{{result.items.*.id}}", where * stands
// for every element of a list and makes a list, and only for the one element of a list that has no more. There is nothing else
// to it: no functions, conditions or escapes, and "{{" always opens a reference. The zero Template is the empty text.
type Template struct {
	parts []part
}

// A part is literal text or, if path is not nil, a reference.
type part struct {
	text string // of a reference: as written, without braces
	path []string
}

// The steps that are no names, where a list stands.
const (
	wildcard = "*"    // every element
	single   = "only" // the one element: an error if there are none or several
)

// ParseTemplate reads a template that stands in a place. It returns ErrTemplate for a reference that is not closed, that the
// place does not allow, or that is not ROOT.NAME[.NAME|.INDEX|.*]….
func ParseTemplate(text string, in Place) (Template, error) {
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
		path, err := parseReference(reference, in)
		if err != nil {
			return Template{}, err
		}
		if references == maxReferences {
			return Template{}, fmt.Errorf("%w: more than %d references", ErrTemplate, maxReferences)
		}
		t.parts, text = append(t.parts, part{reference, path}), rest
	}
	return t, nil
}

// parseReference returns the root and the steps of a reference.
func parseReference(text string, in Place) ([]string, error) {
	bad := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '{' || r == '}' }
	path := strings.Split(text, ".")
	switch {
	case strings.ContainsFunc(text, bad):
		return nil, fmt.Errorf("%w: {{%s}}: no spaces or braces inside; write {{args.name}}", ErrTemplate, text)
	case !in.allows(path[0]):
		return nil, fmt.Errorf("%w: {{%s}}: only %s can be referred to here; write {{args.name}}", ErrTemplate, text, in)
	case len(path)-1 > maxSteps:
		return nil, fmt.Errorf("%w: {{%s}}: more than %d steps", ErrTemplate, text, maxSteps)
	}
	for _, step := range path {
		if step == "" {
			return nil, fmt.Errorf("%w: {{%s}}: a name is empty", ErrTemplate, text)
		}
	}
	if want := malformed(path); want != "" {
		return nil, fmt.Errorf("%w: {{%s}}: write %s", ErrTemplate, text, want)
	}
	return path, nil
}

// malformed returns how a reference is to be written whose root has no such steps; empty: it is well.
func malformed(path []string) string {
	second := ""
	if len(path) > 1 {
		second = path[1]
	}
	switch path[0] {
	case "args":
		if second == "" {
			return "{{args.name}}"
		}
	case "image":
		if whole := second == "text" || second == "base64"; !(whole && len(path) == 2 || second == "json") {
			return "{{image.text}}, {{image.base64}}, {{image.json}} or {{image.json.name}}"
		}
	case "action":
		if len(path) != 2 || second != "id" && second != "session" {
			return "{{action.id}} or {{action.session}}"
		}
	}
	return ""
}

// allows reports whether a reference in the place can begin with a root.
func (p Place) allows(root string) bool {
	for _, r := range roots {
		if r.name == root {
			return p&r.root != 0
		}
	}
	return false
}

// String lists what can be referred to in the place.
func (p Place) String() string {
	var names []string
	for _, r := range roots {
		if p&r.root != 0 {
			names = append(names, r.name)
		}
	}
	return strings.Join(names, ", ")
}

// eachOpens begins the key of an each.
const eachOpens = "{{each "

// Within returns the place of what stands under a key of a mapping in the place. It is the same place, but for a key
// "{{each PATH}}": such a mapping of one key stands for a list, with the key's value once for every element of the list at
// PATH, where {{each.name}} refers to the element. It returns ErrTemplate for an each that is none.
func (p Place) Within(key string) (Place, error) {
	if !strings.HasPrefix(key, eachOpens) {
		return p, nil
	}
	_, err := parseEach(key, p)
	return p | eachRoot, err
}

func parseEach(key string, in Place) (part, error) {
	reference, ok := strings.CutSuffix(strings.TrimPrefix(key, eachOpens), "}}")
	switch {
	case !ok:
		return part{}, fmt.Errorf("%w: %s is not closed", ErrTemplate, key)
	case in&eachRoot != 0:
		return part{}, fmt.Errorf("%w: %s: no each inside another", ErrTemplate, key)
	}
	path, err := parseReference(reference, in)
	return part{reference, path}, err
}

// refersTo reports whether a reference of the template begins with a root.
func (t Template) refersTo(root string) bool {
	for _, p := range t.parts {
		if p.path != nil && p.path[0] == root {
			return true
		}
	}
	return false
}

// Render returns the text in a scope. It returns ErrMissingValue, or ErrValueType for a value that is an object, a list or
// null. Numbers are written as JSON writes them.
func (t Template) Render(s Scope) (string, error) {
	if len(t.parts) == 1 && t.parts[0].path == nil {
		return t.parts[0].text, nil
	}
	var b strings.Builder
	for _, p := range t.parts {
		if p.path == nil {
			b.WriteString(p.text)
			continue
		}
		value, err := s.lookUp(p)
		if err != nil {
			return "", err
		}
		if err := writeScalar(&b, value); err != nil {
			return "", fmt.Errorf("%s: %w", p.text, err)
		}
	}
	return b.String(), nil
}

// Value is Render, but that a template which is one reference and nothing else gives the value itself, with its JSON type.
func (t Template) Value(s Scope) (any, error) {
	if len(t.parts) == 1 && t.parts[0].path != nil {
		return s.lookUp(t.parts[0])
	}
	return t.Render(s)
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
	case unknown:
		return nil
	case bool, float64, json.Number, int, int64, uint64:
		text, err := json.Marshal(v) // an infinity, or a json.Number that is none
		if err != nil {
			return fmt.Errorf("%w: it is no number that JSON knows", ErrValueType)
		}
		b.Write(text)
		return nil
	}
	return fmt.Errorf("%w: it is not a string, number or boolean", ErrValueType)
}

// ResourceOf returns what a call with these arguments touches: d.Resource with the arguments put in, normalised. Empty: it is
// not said. It returns ErrTemplate, ErrMissingValue, ErrValueType or ErrResource, and then the call MUST NOT be decided as
// one that touches nothing.
func (d Descriptor) ResourceOf(args map[string]any) (string, error) {
	text := d.Resource
	if strings.Contains(text, "{{") {
		t, err := ParseTemplate(text, InResource)
		if err != nil {
			return "", err
		}
		if text, err = t.Render(Scope{Args: args}); err != nil {
			return "", err
		}
	}
	return NormaliseResource(text)
}
