package config

import (
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/document"
)

// maxName bounds what an action or a policy is called.
const maxName = 128

// The undo window's limits: what is undone later is not undone by a tool.
const mostUndoWindow = 3650 * document.Day

func (l *loader) claim(it item) (c action.Claim) {
	fields := map[string]field{
		"name":        func(it item) { setPointer(&c.Name, it, l.name) },
		"image":       func(it item) { c.Image = l.look(it) },
		"undo":        func(it item) { c.Undo = l.calls(it, action.InUndo) },
		"undo_absent": func(it item) { c.UndoAbsent = l.calls(it, action.InUndoAbsent) },
		"undo_only":   func(it item) { c.UndoOnly = l.undoOnly(it) },
		"after":       func(it item) { setPointer(&c.After, it, l.templateIn(action.InAfter)) },
		"probe":       func(it item) { c.Probe = l.probe(it) },
		"reversibility": func(it item) {
			setPointer(&c.Reversibility, it, func(it item) (v action.Reversibility, ok bool) {
				word, ok := l.Word(it, "full", "partial", "none")
				return v, ok && v.UnmarshalText([]byte(word)) == nil
			})
		},
		"undo_window": func(it item) {
			setPointer(&c.UndoWindow, it, func(it item) (time.Duration, bool) { return l.Duration(it, time.Second, mostUndoWindow) })
		},
		"resource": func(it item) { setPointer(&c.Resource, it, l.resource) },
	}
	for name, to := range map[string]**bool{"read_only": &c.ReadOnly, "admin": &c.Admin, "idempotent": &c.Idempotent,
		"network": &c.Network, "files": &c.Files, "subprocess": &c.Subprocess} {
		fields[name] = func(it item) { setPointer(to, it, l.Boolean) }
	}
	l.Object(it, fields)
	readOnly := c.ReadOnly != nil && *c.ReadOnly
	switch {
	case readOnly && (c.Undo != nil || c.UndoAbsent != nil):
		l.Fault(it, "what is read_only has nothing to undo")
	case readOnly && (c.Image != nil || c.After != nil || c.Probe != nil):
		l.Fault(it, "what is read_only needs no image, after or probe")
	case readOnly && c.Reversibility != nil && *c.Reversibility != action.Full:
		l.Fault(it, "what is read_only is not reversibility: %s", *c.Reversibility)
	}
	return c
}

func (l *loader) name(it item) (string, bool) {
	s, ok := l.Text(it)
	if ok && len(s) > maxName {
		l.Fault(it, "longer than %d bytes", maxName)
		return "", false
	}
	return s, ok
}

// resource reads a resource, or a template that makes one.
func (l *loader) resource(it item) (string, bool) {
	s, ok := l.Text(it)
	if !ok {
		return "", false
	}
	_, err := action.ParseTemplate(s, action.InResource)
	if err == nil && !strings.Contains(s, "{{") {
		_, err = action.NormaliseResource(s)
	}
	if err != nil {
		l.Fault(it, "%v", err)
		return "", false
	}
	return s, true
}
