package action

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Bounds of a call's arguments.
const (
	maxCallNodes     = 1000    // values in a call as configured
	maxResolvedNodes = 100_000 // and once every each is spelled out
	maxCallDepth     = 32
	maxResolvedBytes = 16 << 20 // an image of MaxImageBytes in base64, and as much beside it
)

// A Call names a tool of the same server and its arguments, in which every text is a template: a call that takes an action
// back, or reads what it touches.
type Call struct {
	Tool string         `json:"tool"`
	Args map[string]any `json:"args,omitempty"`
}

// Check returns ErrTemplate if a text in the call's arguments is no template of the place, or the arguments are too many or
// too deep.
func (c Call) Check(in Place) error {
	w := walk{limit: maxCallNodes, text: func(Template, Scope) (any, error) { return nil, nil }}
	_, err := w.value(c.Args, in, Scope{})
	return err
}

// Resolve returns the call's arguments with what the templates refer to put in, as canonical JSON that DecodeArgs takes and
// that holds every value exactly. It returns ErrTemplate, ErrMissingValue, ErrValueType or ErrArguments.
func (c Call) Resolve(s Scope) (json.RawMessage, error) {
	w := walk{limit: maxResolvedNodes, resolve: true, text: Template.Value}
	value, err := w.value(c.Args, anywhere, s)
	if err != nil {
		return nil, err
	}
	text, err := appendCanonical(nil, value)
	if err != nil {
		return nil, fmt.Errorf("%w: encoding arguments: %w", ErrArguments, err)
	}
	args, err := DecodeArgs(text)
	if err != nil {
		return nil, err
	}
	return args.Canonical, nil
}

// anywhere allows what every place does: a call was checked for its own place before.
const anywhere = argsRoot | imageRoot | answerRoots | callRoot

// refersTo reports whether a template in the call's arguments refers to a root. The call has passed Check.
func (c Call) refersTo(root string) bool {
	found := false
	w := walk{limit: maxCallNodes, text: func(t Template, _ Scope) (any, error) {
		found = found || t.refersTo(root)
		return nil, nil
	}, each: func(list part) { found = found || list.path[0] == root }}
	_, err := w.value(c.Args, anywhere, Scope{})
	return found && err == nil
}

// A walk copies a call's arguments with every text in them replaced by what text makes of it.
type walk struct {
	text         func(Template, Scope) (any, error)
	each         func(list part) // sees the list of every each; may be nil
	resolve      bool            // spell out every each; otherwise its value is walked once
	limit        int             // of nodes
	nodes, bytes int
	depth        int
}

func (w *walk) value(value any, in Place, s Scope) (any, error) {
	if w.nodes++; w.nodes > w.limit || w.depth > maxCallDepth {
		return nil, fmt.Errorf("%w: more than %d values, or deeper than %d", ErrTemplate, w.limit, maxCallDepth)
	}
	w.depth++
	defer func() { w.depth-- }()
	switch v := value.(type) {
	case string:
		return w.template(v, in, s)
	case map[string]any:
		return w.mapping(v, in, s)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			var err error
			if out[i], err = w.value(e, in, s); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return value, nil
}

func (w *walk) template(text string, in Place, s Scope) (any, error) {
	t, err := ParseTemplate(text, in)
	if err != nil {
		return nil, err
	}
	value, err := w.text(t, s)
	if err != nil {
		return nil, err
	}
	if w.bytes += weigh(value); w.bytes > maxResolvedBytes {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrArguments, maxResolvedBytes)
	}
	return value, nil
}

func (w *walk) mapping(m map[string]any, in Place, s Scope) (any, error) {
	out := make(map[string]any, len(m))
	for key, e := range m {
		if strings.HasPrefix(key, eachOpens) {
			if len(m) > 1 {
				return nil, fmt.Errorf("%w: %s does not stand alone in its mapping", ErrTemplate, key)
			}
			return w.eachOf(key, e, in, s)
		}
		var err error
		if out[key], err = w.value(e, in, s); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// eachOf returns the list that an each stands for.
func (w *walk) eachOf(key string, value any, in Place, s Scope) (any, error) {
	list, err := parseEach(key, in)
	if err != nil {
		return nil, err
	}
	if w.each != nil {
		w.each(list)
	}
	if !w.resolve {
		return w.value(value, in|eachRoot, s)
	}
	found, err := s.lookUp(list)
	if err != nil {
		return nil, err
	}
	elements, ok := found.([]any)
	if _, ahead := found.(unknown); !ok && !ahead {
		return nil, fmt.Errorf("%w: %s: it is no list", ErrValueType, key)
	}
	out := make([]any, len(elements))
	s.inEach = true
	for i, e := range elements {
		s.each = e
		if out[i], err = w.value(value, in|eachRoot, s); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// weigh returns about how many bytes a value takes as JSON.
func weigh(value any) int {
	n := 1
	switch v := value.(type) {
	case string:
		n += len(v)
	case json.Number:
		n += len(v)
	case []any:
		for _, e := range v {
			n += weigh(e)
		}
	case map[string]any:
		for k, e := range v {
			n += len(k) + weigh(e)
		}
	}
	return n
}
