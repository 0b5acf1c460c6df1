package action

import (
	"encoding/base64"
	"fmt"
	"unicode/utf8"
)

// A Scope is what the templates of one action's descriptor refer to. The zero Scope has nothing in it.
type Scope struct {
	Args    map[string]any // {{args.name}}: the action's arguments, as DecodeArgs gives them
	Image   *Image         // {{image.text}}, {{image.json.name}}, {{image.base64}}: what was there before; nil: not known
	Result  *Result        // {{result.name}}: what the tool answered; {{json.name}}: its text, read as JSON; nil: it has not
	ID      string         // {{action.id}}
	Session string         // {{action.session}}

	each   any  // {{each.name}}: an element
	inEach bool // there is one
	ahead  bool // the result is yet to come: see Descriptor.Rehearse
}

// unknown stands for a value that is not there yet.
type unknown struct{}

// lookUp returns what a reference refers to. It returns ErrMissingValue or ErrValueType.
func (s Scope) lookUp(p part) (any, error) {
	steps := p.path[1:]
	var value any
	found := true
	switch p.path[0] {
	case "args":
		value = s.Args
	case "image":
		return s.imageAs(p)
	case "result":
		if s.ahead {
			return unknown{}, nil
		}
		if found = s.Result != nil; found {
			value = s.Result.Value
		}
	case "json":
		return s.answerAsJSON(p, steps)
	case "action":
		return map[string]any{"id": s.ID, "session": s.Session}[steps[0]], nil
	case "each":
		value, found = s.each, s.inEach
	}
	if !found {
		return nil, fmt.Errorf("%w: %s", ErrMissingValue, p.text)
	}
	return step(value, p, steps)
}

// answerAsJSON returns what a reference refers to in the text of what the tool answered.
func (s Scope) answerAsJSON(p part, steps []string) (any, error) {
	switch {
	case s.ahead:
		return unknown{}, nil
	case s.Result == nil:
		return nil, fmt.Errorf("%w: %s", ErrMissingValue, p.text)
	}
	value, err := decodeJSON([]byte(s.Result.Text))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: the answer's text is not JSON: %w", ErrValueType, p.text, err)
	}
	return step(value, p, steps)
}

// imageAs returns the before-image in the form that a reference asks for.
func (s Scope) imageAs(p part) (any, error) {
	if s.Image == nil || s.Image.Absent {
		return nil, fmt.Errorf("%w: %s: there is no image", ErrMissingValue, p.text)
	}
	switch p.path[1] {
	case "text":
		if !utf8.Valid(s.Image.Bytes) {
			return nil, fmt.Errorf("%w: %s: the image is not UTF-8", ErrValueType, p.text)
		}
		return string(s.Image.Bytes), nil
	case "base64":
		return base64.StdEncoding.EncodeToString(s.Image.Bytes), nil
	}
	value, err := decodeJSON(s.Image.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: the image is not JSON: %w", ErrValueType, p.text, err)
	}
	return step(value, p, p.path[2:])
}

// step follows the steps of a reference into a value.
func step(value any, p part, steps []string) (any, error) {
	for i, name := range steps {
		if _, ok := value.(unknown); ok {
			return value, nil
		}
		if name == wildcard {
			return every(value, p, steps[i+1:])
		}
		var next any
		ok := false
		switch v := value.(type) {
		case map[string]any:
			next, ok = v[name]
		case []any:
			if at, isIndex := index(name); isIndex && at < len(v) {
				next, ok = v[at], true
			} else if name == single {
				if len(v) != 1 {
					return nil, fmt.Errorf("%w: %s: there are %d, not one", ErrValueType, p.text, len(v))
				}
				next, ok = v[0], true
			}
		}
		if !ok {
			return nil, fmt.Errorf("%w: %s", ErrMissingValue, p.text)
		}
		value = next
	}
	return value, nil
}

// every follows the steps into each element of a list and returns the list of what it finds; a further wildcard adds to the
// same list.
func every(value any, p part, steps []string) (any, error) {
	list, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("%w: %s: what * stands for is no list", ErrValueType, p.text)
	}
	flat := false
	for _, name := range steps {
		flat = flat || name == wildcard
	}
	out := make([]any, 0, len(list))
	for _, element := range list {
		found, err := step(element, p, steps)
		if err != nil {
			return nil, err
		}
		if inner, ok := found.([]any); flat && ok {
			out = append(out, inner...)
		} else {
			out = append(out, found)
		}
	}
	return out, nil
}
