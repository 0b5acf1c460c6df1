package config

import (
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/document"
)

// calls.go: the calls that an action's description names, and the templates in them.

// look reads how the resource of an action is read; nil: it is at fault.
func (l *loader) look(it item) *action.Look {
	var look action.Look
	before := len(*l.Faults)
	seen := l.Object(it, map[string]field{
		"tool":  func(it item) { set(&look.Tool, it, l.Text) },
		"args":  func(it item) { l.callArgs(&look.Call, it, action.InLook) },
		"bytes": func(it item) { set(&look.Bytes, it, l.templateIn(action.InBytes)) },
		"encoding": func(it item) {
			words := make([]string, 0, len(action.Encodings()))
			for _, e := range action.Encodings() {
				words = append(words, string(e))
			}
			set((*string)(&look.Encoding), it, func(it item) (string, bool) { return l.Word(it, words...) })
		},
		"absent": func(it item) { set(&look.Absent, it, l.AnyText) },
		"empty":  func(it item) { setPointer(&look.Empty, it, l.AnyText) },
	})
	if len(*l.Faults) > before || l.missing(it, seen, "tool", "bytes") {
		return nil
	}
	return &look
}

// probe reads how an unknown outcome is made out; nil: it is at fault.
func (l *loader) probe(it item) *action.Probe {
	var p action.Probe
	before := len(*l.Faults)
	seen := l.Object(it, map[string]field{
		"tool":   func(it item) { set(&p.Tool, it, l.Text) },
		"args":   func(it item) { l.callArgs(&p.Call, it, action.InProbe) },
		"done":   func(it item) { set(&p.Done, it, l.templateIn(action.InProbe)) },
		"undone": func(it item) { set(&p.Undone, it, l.templateIn(action.InProbe)) },
	})
	if len(*l.Faults) > before || l.missing(it, seen, "tool", "done", "undone") {
		return nil
	}
	return &p
}

// calls reads one call or a list of them. An empty list is not nil: nothing has to be called.
func (l *loader) calls(it item, in action.Place) []action.Call {
	if _, ok := it.Node.(*ast.SequenceNode); !ok {
		return l.appendCall(nil, it, in)
	}
	calls := []action.Call{}
	l.List(it, func(i int, e item) {
		if i == action.MaxUndoCalls {
			l.Fault(e, "more than %d calls", action.MaxUndoCalls)
		}
		if i < action.MaxUndoCalls {
			calls = l.appendCall(calls, e, in)
		}
	})
	return calls
}

func (l *loader) appendCall(calls []action.Call, it item, in action.Place) []action.Call {
	var call action.Call
	before := len(*l.Faults)
	seen := l.Object(it, map[string]field{
		"tool": func(it item) { set(&call.Tool, it, l.Text) },
		"args": func(it item) { l.callArgs(&call, it, in) },
	})
	if len(*l.Faults) > before || l.missing(it, seen, "tool") {
		return calls
	}
	return append(calls, call)
}

// undoOnly reads the arguments' values that an undo is for.
func (l *loader) undoOnly(it item) map[string][]any {
	out := map[string][]any{}
	l.Mapping(it, func(name string, it item) {
		l.List(it.AtValue(), func(_ int, e item) {
			value, ok := l.Value(e)
			switch value.(type) {
			case map[string]any, []any:
				l.Fault(e, "want a text, a number, true, false or null, got %s", document.Describe(e.Node))
				ok = false
			}
			if ok {
				out[name] = append(out[name], value)
			}
		})
		if len(out[name]) == 0 {
			l.Fault(it, "lists no value")
		}
	})
	return out
}

// missing notes the keys that are not there.
func (l *loader) missing(it item, seen map[string]bool, keys ...string) (any bool) {
	for _, key := range keys {
		if !seen[key] {
			l.Fault(it, "%s is missing", key)
			any = true
		}
	}
	return any
}

func (l *loader) callArgs(call *action.Call, it item, in action.Place) {
	value, ok := l.Value(it)
	if !ok || value == nil {
		return
	}
	if call.Args, ok = value.(map[string]any); !ok {
		l.Fault(it, "want keys with values, got %s", document.Describe(it.Node))
		return
	}
	before := len(*l.Faults)
	l.templates(it, in)
	if err := call.Check(in); err != nil && len(*l.Faults) == before {
		l.Fault(it, "%v", err)
	}
}

// templates notes every text in a value that is no template of the place, each where it stands.
func (l *loader) templates(it item, in action.Place) {
	switch n := it.Node.(type) {
	case *ast.StringNode:
		l.template(it, n.Value, in)
	case *ast.LiteralNode:
		l.template(it, n.Value.Value, in)
	case *ast.SequenceNode:
		l.List(it, func(_ int, e item) { l.templates(e, in) })
	case *ast.MappingNode:
		for _, v := range n.Values {
			l.templatesUnder(it, v, in)
		}
	case *ast.MappingValueNode:
		l.templatesUnder(it, n, in)
	}
}

func (l *loader) templatesUnder(it item, v *ast.MappingValueNode, in action.Place) {
	key := v.Key.GetToken()
	value := item{Path: it.Path + "." + key.Value, Node: v.Value, At: key.Position}
	within, err := in.Within(key.Value)
	if err != nil {
		l.Fault(value, "%v", err)
		return
	}
	l.templates(value.AtValue(), within)
}

func (l *loader) template(it item, text string, in action.Place) {
	if _, err := action.ParseTemplate(text, in); err != nil {
		l.Fault(it, "%v", err)
	}
}

// templateIn reads a text that is a template of the place, and not empty.
func (l *loader) templateIn(in action.Place) func(item) (string, bool) {
	return func(it item) (string, bool) {
		s, ok := l.AnyText(it)
		if !ok {
			return "", false
		}
		if strings.TrimSpace(s) == "" {
			l.Fault(it, "is empty")
			return "", false
		}
		before := len(*l.Faults)
		l.template(it, s, in)
		return s, len(*l.Faults) == before
	}
}
