package saga

import (
	"fmt"
	"time"

	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
)

// parse.go: a definition from a file, and where in it each fault is.

// ParseYAML reads a definition; name stands for the file in what is wrong. The error is document.Faults, all there are in the order
// of the file, and no other.
func ParseYAML(name string, b []byte, known Known) (*Definition, error) {
	return parse(name, known, func(r *document.Reader) (document.Item, bool) { return r.Parse(b) })
}

// ParseJSON is ParseYAML for JSON text, which is read strictly.
func ParseJSON(name string, b []byte, known Known) (*Definition, error) {
	return parse(name, known, func(r *document.Reader) (document.Item, bool) { return r.ParseJSON(b) })
}

// A loader fills a Definition and notes where everything was said.
type loader struct {
	*document.Reader
	def    Definition
	places map[string]document.Item // by path
	broken map[string]bool          // paths whose value could not be read: that was said, and is enough
}

func parse(name string, known Known, read func(*document.Reader) (document.Item, bool)) (*Definition, error) {
	var faults document.Faults
	l := &loader{Reader: document.NewReader(name, &faults), places: map[string]document.Item{}, broken: map[string]bool{}}
	l.TooMuch = fmt.Sprintf(": a saga has at most %d steps", MaxSteps)
	root, ok := read(l.Reader)
	if !ok {
		return nil, faults
	}
	root = root.AtValue()
	l.top(root)
	check(&l.def, known, func(path, what string) {
		it, ok := l.places[path]
		if !ok {
			it = root // what is missing at the top
			it.Path = path
		}
		if !l.broken[path] {
			l.Fault(it, "%s", what)
		}
	})
	if len(faults) > 0 {
		faults.Sort(name)
		return nil, faults
	}
	return &l.def, nil
}

// read reads a value into *to and notes its place.
func read[T any](l *loader, to *T, value func(document.Item) (T, bool)) document.Field {
	return func(it document.Item) {
		v, ok := value(it)
		*to = v
		l.note(it, ok)
	}
}

func (l *loader) note(it document.Item, ok bool) {
	l.places[it.Path] = it
	l.broken[it.Path] = !ok
}

func (l *loader) top(it document.Item) {
	l.Object(it, map[string]document.Field{
		"saga":      read(l, &l.def.Name, l.Text),
		"isolation": read(l, &l.def.Isolation, word[Isolation](l)),
		"fault":     read(l, &l.def.Fault, l.Boolean),
		"steps": func(it document.Item) {
			before := len(*l.Faults)
			l.List(it, func(_ int, e document.Item) { l.def.Steps = append(l.def.Steps, l.step(e)) })
			l.note(it, len(l.def.Steps) > 0 || len(*l.Faults) == before)
		},
		"fan_out": func(it document.Item) {
			l.List(it, func(_ int, e document.Item) { l.def.FanOut = append(l.def.FanOut, l.group(e)) })
		},
	})
}

func (l *loader) step(it document.Item) (s Step) {
	before := len(*l.Faults)
	l.Object(it, map[string]document.Field{
		"id":      read(l, &s.ID, l.Text),
		"agent":   read(l, &s.Agent, word[policy.DID](l)),
		"action":  read(l, &s.Action, l.Text),
		"execute": read(l, &s.Execute, l.Text),
		"undo":    read(l, &s.Undo, l.Text),
		"args":    read(l, &s.Args, l.JSON),
		"needs":   func(it document.Item) { s.Needs = l.ids(it) },
		"timeout": read(l, &s.Timeout, func(it document.Item) (time.Duration, bool) { return l.Duration(it, leastTimeout, MaxTimeout) }),
		"retries": read(l, &s.Retries, func(it document.Item) (int, bool) { return l.Number(it, 0, MaxRetries) }),

		"checkpoint": read(l, &s.Checkpoint, l.Text),
		"substitutes": func(it document.Item) {
			s.Substitutes = l.agents(it)
			l.note(it, true)
		},
	})
	l.note(it, len(*l.Faults) == before) // a step with a misspelt key is not said to miss it too
	return s
}

func (l *loader) group(it document.Item) (g Group) {
	before := len(*l.Faults)
	l.Object(it, map[string]document.Field{
		"policy":   read(l, &g.Policy, word[Policy](l)),
		"branches": func(it document.Item) { g.Branches = l.ids(it) },
	})
	l.note(it, len(*l.Faults) == before)
	return g
}

// ids reads a list of steps' names. One that is no text stays in its place, where nothing more is said of it.
func (l *loader) ids(it document.Item) (ids []string) {
	l.List(it, func(_ int, e document.Item) {
		id, ok := l.Text(e)
		ids = append(ids, id)
		l.note(e, ok)
	})
	return ids
}

// agents reads a list of agents, like ids.
func (l *loader) agents(it document.Item) (dids []policy.DID) {
	for _, id := range l.ids(it) {
		dids = append(dids, policy.DID(id))
	}
	return dids
}

func word[T ~string](l *loader) func(document.Item) (T, bool) {
	return func(it document.Item) (T, bool) {
		s, ok := l.Text(it)
		return T(s), ok
	}
}
