package packtest

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/document"
)

// An Undone says what an undo came to.
type Undone string

// What can come of one.
const (
	OK         Undone = "ok"         // everything reads as before, byte for byte
	Partial    Undone = "partial"    // everything but what the case says is left
	Impossible Undone = "impossible" // nothing takes it back, and it is decided so
)

// Cases are what a pack is tried with, by tool.
type Cases struct {
	State State // compared where a case does not say otherwise
	Of    map[string][]Case
}

// A Case is one call, and what must come of it.
type Case struct {
	Name   string
	At     string // FILE:LINE:COL
	Files  []File // made in the case's folder before everything else
	Setup  []action.Call
	Args   map[string]any // of the call
	State  *State         // nil: the one of all cases
	Leaves []string       // patterns of the files that a partial undo may leave otherwise than they were
	Fails  bool           // the tool must refuse the call, and nothing be changed by it

	Image   string // taken, absent, failed or none; empty: whatever it is
	Decided action.Reversibility
	Undone  Undone // empty with Fails
}

// A State says what is compared.
type State struct {
	Files    bool     // the case's folder: names, kinds, permission bits, contents
	Except   []string // but for files that match
	Calls    []action.Call
	AnyOrder bool // lists in what the calls answer are compared without regard to order
}

// A File is one entry of a case's folder.
type File struct {
	Name   string // relative, with slashes; parents are made
	Bytes  []byte
	Mode   fs.FileMode // permission bits; zero: 0644
	Link   string      // it is a symbolic link to there
	Folder bool
}

// dirMark stands in a case for its folder, in every text.
const dirMark = "{{dir}}"

// ParseCases reads a file of cases; name is what its faults call it. What is wrong are document.Faults.
func ParseCases(name string, text []byte) (*Cases, error) {
	var faults document.Faults
	r := &reader{document.NewReader(name, &faults)}
	out := &Cases{Of: map[string][]Case{}}
	if root, ok := r.Parse(text); ok {
		r.Object(root.AtValue(), map[string]document.Field{
			"state": func(it document.Item) { out.State = r.state(it) },
			"cases": func(it document.Item) {
				r.Mapping(it, func(tool string, it document.Item) {
					r.List(it.AtValue(), func(_ int, it document.Item) { out.Of[tool] = append(out.Of[tool], r.testCase(it)) })
				})
			},
		})
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return out, nil
}

type reader struct{ *document.Reader }

func (r *reader) testCase(it document.Item) (c Case) {
	c.At = fmt.Sprintf("%s:%d:%d", r.File, it.At.Line, it.At.Column)
	text := func(to *string) document.Field {
		return func(it document.Item) {
			if s, ok := r.Text(it); ok {
				*to = s
			}
		}
	}
	word := func(to *string, words ...string) document.Field {
		return func(it document.Item) {
			if s, ok := r.Word(it, words...); ok {
				*to = s
			}
		}
	}
	decided := ""
	seen := r.Object(it, map[string]document.Field{
		"name":    text(&c.Name),
		"files":   func(it document.Item) { c.Files = r.files(it) },
		"setup":   func(it document.Item) { c.Setup = r.calls(it) },
		"args":    func(it document.Item) { c.Args = r.args(it) },
		"state":   func(it document.Item) { s := r.state(it); c.State = &s },
		"leaves":  func(it document.Item) { c.Leaves = r.patterns(it) },
		"fails":   func(it document.Item) { c.Fails, _ = r.Boolean(it) },
		"image":   word(&c.Image, "taken", "absent", "failed", "none"),
		"decided": word(&decided, "full", "partial", "none"),
		"undone":  word((*string)(&c.Undone), string(OK), string(Partial), string(Impossible)),
	})
	for _, key := range []string{"name", "decided"} {
		if !seen[key] {
			r.Fault(it, "%s is missing", key)
		}
	}
	if seen["decided"] && c.Decided.UnmarshalText([]byte(decided)) != nil {
		return c // which is a fault already
	}
	switch {
	case seen["undone"] == c.Fails:
		r.Fault(it, "wants either undone, which says what comes of it, or fails: true")
	case c.Decided == action.Irreversible && c.Undone != Impossible && !c.Fails:
		r.Fault(it, "what is decided as none is undone: impossible")
	case c.Decided == action.Full && c.Undone != OK && !c.Fails:
		r.Fault(it, "what is decided as full is undone: ok")
	case (len(c.Leaves) > 0) != (c.Undone == Partial):
		r.Fault(it, "leaves goes with undone: partial, and says what is not as it was")
	}
	return c
}

func (r *reader) state(it document.Item) (s State) {
	r.Object(it, map[string]document.Field{
		"files":     func(it document.Item) { s.Files, _ = r.Boolean(it) },
		"except":    func(it document.Item) { s.Except = r.patterns(it) },
		"calls":     func(it document.Item) { s.Calls = r.calls(it) },
		"any_order": func(it document.Item) { s.AnyOrder, _ = r.Boolean(it) },
	})
	if !s.Files && len(s.Calls) == 0 {
		r.Fault(it, "compares nothing: say files: true, or calls")
	}
	return s
}

func (r *reader) patterns(it document.Item) (patterns []string) {
	return r.Texts(it, func(it document.Item) (string, bool) {
		s, ok := r.Text(it)
		if _, err := path.Match(s, ""); ok && err != nil {
			r.Fault(it, "%q is no pattern", s)
			return "", false
		}
		return s, ok
	})
}

func (r *reader) calls(it document.Item) (calls []action.Call) {
	r.List(it, func(_ int, it document.Item) {
		var c action.Call
		seen := r.Object(it, map[string]document.Field{
			"tool": func(it document.Item) { c.Tool, _ = r.Text(it) },
			"args": func(it document.Item) { c.Args = r.args(it) },
		})
		if !seen["tool"] {
			r.Fault(it, "tool is missing")
		}
		calls = append(calls, c)
	})
	return calls
}

func (r *reader) args(it document.Item) map[string]any {
	value, ok := r.Value(it)
	args, isObject := value.(map[string]any)
	if ok && value != nil && !isObject {
		r.Fault(it, "want keys with values, got %s", document.Describe(it.Node))
	}
	return args
}

// files reads the entries of a folder: a text is a file's contents, anything else says what it is.
func (r *reader) files(it document.Item) (files []File) {
	r.Mapping(it, func(name string, it document.Item) {
		f := File{Name: name}
		if !fs.ValidPath(name) || name == "." {
			r.Fault(it, "want a path inside the case's folder, with slashes")
		}
		if it = it.AtValue(); document.IsMapping(it) {
			r.file(&f, it)
		} else if s, ok := r.AnyText(it); ok {
			f.Bytes = []byte(s)
		}
		files = append(files, f)
	})
	return files
}

func (r *reader) file(f *File, it document.Item) {
	r.Object(it, map[string]document.Field{
		"text": func(it document.Item) {
			if s, ok := r.AnyText(it); ok {
				f.Bytes = []byte(s)
			}
		},
		"base64": func(it document.Item) {
			s, ok := r.AnyText(it)
			b, err := base64.StdEncoding.DecodeString(s)
			if ok && err != nil {
				r.Fault(it, "%v", err)
			}
			f.Bytes = b
		},
		"mode": func(it document.Item) {
			s, ok := r.Text(it)
			mode, err := strconv.ParseUint(strings.TrimPrefix(s, "0"), 8, 9)
			if ok && (err != nil || mode == 0) {
				r.Fault(it, `want permission bits such as "0640"`)
			}
			f.Mode = fs.FileMode(mode)
		},
		"link":   func(it document.Item) { f.Link, _ = r.Text(it) },
		"folder": func(it document.Item) { f.Folder, _ = r.Boolean(it) },
	})
}

// inDir returns a value with the case's folder put in for its mark, in every text.
func inDir(value any, dir string) any {
	switch v := value.(type) {
	case string:
		return strings.ReplaceAll(v, dirMark, dir)
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = inDir(e, dir)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = inDir(e, dir)
		}
		return out
	}
	return value
}
