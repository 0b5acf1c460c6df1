package packtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/internal/config"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/internal/packtest"
)

// shelf is a server of notes by name.
type shelf struct {
	notes map[string]string
	tools map[string]func(*shelf, map[string]string) (string, error)
}

func newShelf() *shelf {
	return &shelf{notes: map[string]string{}, tools: map[string]func(*shelf, map[string]string) (string, error){
		"get": func(s *shelf, a map[string]string) (string, error) {
			if text, ok := s.notes[a["name"]]; ok {
				return text, nil
			}
			return "", errors.New("no such note: " + a["name"])
		},
		"all": func(s *shelf, _ map[string]string) (string, error) {
			b, err := json.Marshal(s.notes)
			return string(b), err
		},
		"put":    func(s *shelf, a map[string]string) (string, error) { s.notes[a["name"]] = a["text"]; return "put", nil },
		"remove": func(s *shelf, a map[string]string) (string, error) { delete(s.notes, a["name"]); return "removed", nil },
		"refuse": func(*shelf, map[string]string) (string, error) { return "", errors.New("refused") },
	}}
}

func (s *shelf) Tools() []string { return slices.Sorted(maps.Keys(s.tools)) }

func (s *shelf) Fits(tool string, args map[string]any) error {
	if s.tools[tool] == nil {
		return errors.New("no tool " + tool)
	}
	for name, v := range args {
		if _, ok := v.(string); !ok {
			return errors.New(name + " is no text")
		}
	}
	return nil
}

func (s *shelf) Call(_ context.Context, tool string, args json.RawMessage) (json.RawMessage, error) {
	var a map[string]string
	if err := json.Unmarshal(args, &a); err != nil {
		return nil, err
	}
	text, err := s.tools[tool](s, a)
	if err != nil {
		return json.Marshal(map[string]any{"isError": true, "content": []any{map[string]any{"type": "text", "text": err.Error()}}})
	}
	return json.Marshal(map[string]any{"content": []any{map[string]any{"type": "text", "text": text}}})
}

// goodPack and goodCase hold; each test spoils one line.
const (
	goodPack = `
get: {read_only: true}
all: {read_only: true}
remove: {reversibility: none}
refuse: {reversibility: none}
put:
  read_only: false
  reversibility: full
  idempotent: true
  image: {tool: get, args: {name: "{{args.name}}"}, bytes: "{{result.content.0.text}}", absent: "no such note"}
  after: "{{args.text}}"
  undo: {tool: put, args: {name: "{{args.name}}", text: "{{image.text}}"}}
  undo_absent: {tool: remove, args: {name: "{{args.name}}"}}
  probe: {tool: get, args: {name: "{{args.name}}"}, done: "{{args.text}}", undone: "old"}
`
	goodCase = `
state: {calls: [{tool: all}]}
cases:
  put:
    - name: over another
      setup: [{tool: put, args: {name: a, text: old}}, {tool: put, args: {name: b, text: other}}]
      args: {name: a, text: new}
      image: taken
      decided: full
      undone: ok
`
)

func run(t *testing.T, s *shelf, pack, cases string) packtest.Report {
	t.Helper()
	claims, err := config.ParsePack("pack.yaml", []byte(pack))
	if err != nil {
		t.Fatal(err)
	}
	c, err := packtest.ParseCases("cases.yaml", []byte(cases))
	if err != nil {
		t.Fatal(err)
	}
	r, err := packtest.Run(t.Context(), claims, c, s, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAClaimThatHoldsHolds(t *testing.T) {
	if r := run(t, newShelf(), goodPack, goodCase); !r.OK || len(r.Rows) != 1 || r.Rows[0].Undone != packtest.OK {
		t.Errorf("%+v", r)
	}
}

func TestWhatAPackOverstatesIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		old, new string // in the pack or the case
		spoil    func(*shelf)
		want     string
	}{
		"an undo that does something else": {old: `text: "{{image.text}}"}}`, new: `text: "{{image.text}}!"}}`, want: `reads "{\"a\":\"old!\"`},
		"an undo that does nothing":        {old: `undo: {tool: put, args: {name: "{{args.name}}", text: "{{image.text}}"}}`, new: `undo: []`, want: "what all answers"},
		"an undo that the tool refuses":    {old: `undo: {tool: put, args: {name: "{{args.name}}", text: "{{image.text}}"}}`, new: `undo: {tool: refuse}`, want: "undone: impossible, and the case says ok"},
		"an after that is not so":          {old: `after: "{{args.text}}"`, new: `after: "{{args.text}}?"`, want: `after says that the call leaves "new?"`},
		"a probe that is not so":           {old: `undone: "old"`, new: `undone: "older"`, want: "the probe says nothing of a call that did not take place"},
		"an image of another note":         {old: `image: {tool: get, args: {name: "{{args.name}}"}`, new: `image: {tool: get, args: {name: b}`, want: "what all answers"},
		"an image that shows nothing":      {old: "  idempotent: true\n  image: {tool: get, args: {name: \"{{args.name}}\"}", new: "  image: {tool: get, args: {name: b}", want: "undone: impossible"},
		"an image that cannot be taken":    {old: "{{result.content.0.text}}", new: "{{result.structuredContent}}", want: "decided as none, and the case says full"},
		"less than full":                   {old: "  reversibility: full", new: "  reversibility: partial", want: "decided as partial, and the case says full"},
		"a server that keeps something": {spoil: func(s *shelf) {
			put := s.tools["put"]
			s.tools["put"] = func(s *shelf, a map[string]string) (string, error) { s.notes["log"] += "."; return put(s, a) }
		}, want: "what all answers"},
		"a call that fails": {spoil: func(s *shelf) { s.tools["put"] = s.tools["refuse"] }, want: "put failed: refused"},
	} {
		s := newShelf()
		if c.spoil != nil {
			c.spoil(s)
		}
		pack := goodPack
		if c.old != "" {
			if pack = strings.Replace(goodPack, c.old, c.new, 1); pack == goodPack {
				t.Fatalf("%s: nothing was replaced", name)
			}
		}
		r := run(t, s, pack, goodCase)
		if r.OK || r.Rows[0].Holds || !strings.Contains(strings.Join(r.Rows[0].What, "\n"), c.want) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestPartialUndoLeavesOnlyWhatItSays(t *testing.T) {
	const cases = `
state: {files: true}
cases:
  put:
    - {name: n, args: {name: a, text: new}, decided: partial, undone: partial, leaves: [trash, "*.log"]}
`
	pack := strings.Replace(goodPack, "reversibility: full", "reversibility: partial", 1)
	if r := run(t, newShelf(), pack, cases); r.OK || !strings.Contains(strings.Join(r.Rows[0].What, "\n"), "undone: ok, and the case says partial") {
		t.Errorf("nothing is left, and the case says that something is: %+v", r)
	}
}

func TestAnUndoThatNobodyTriedIsNoClaimThatHolds(t *testing.T) {
	r := run(t, newShelf(), goodPack, "cases: {}")
	if r.OK || !slices.Equal(r.Untested, []string{"put"}) {
		t.Errorf("%+v", r)
	}
	r = run(t, newShelf(), "get: {read_only: true}\ngone: {reversibility: partial}\n", "")
	if !r.OK || !slices.Equal(r.Unlisted, []string{"gone"}) || !slices.Equal(r.Undescribed, []string{"all", "put", "refuse", "remove"}) {
		t.Errorf("%+v", r)
	}
}

func TestCasesAreReadStrictly(t *testing.T) {
	one := func(c string) string { return "cases:\n  t:\n    - {" + c + "}\n" }
	for _, c := range []struct{ text, want string }{
		{one("decided: full, undone: ok"), "f:3:7: cases.t[0]: name is missing"},
		{one("name: n, decided: full"), "f:3:7: cases.t[0]: wants either undone, which says what comes of it, or fails: true"},
		{one("name: n, decided: full, undone: partial, leaves: [a]"), "f:3:7: cases.t[0]: what is decided as full is undone: ok"},
		{one("name: n, decided: none, undone: ok"), "f:3:7: cases.t[0]: what is decided as none is undone: impossible"},
		{one("name: n, decided: partial, undone: partial"), "f:3:7: cases.t[0]: leaves goes with undone: partial, and says what is not as it was"},
		{one("name: n, decided: partial, undone: ok, files: {../a: x}"), "f:3:55: cases.t[0].files.../a: want a path inside the case's folder, with slashes"},
		{one("name: n, decided: partial, undone: ok, files: {a: {mode: '9'}}"), `f:3:65: cases.t[0].files.a.mode: want permission bits such as "0640"`},
		{one("name: n, decided: partial, undone: ok, state: {except: [a]}"), "f:3:54: cases.t[0].state: compares nothing: say files: true, or calls"},
		{one("name: n, decided: partial, undone: ok, args: [1]"), "f:3:53: cases.t[0].args: want keys with values, got a list"},
		{"tests: {}", `f:1:1: unknown key "tests" (there are cases, state)`},
	} {
		_, err := packtest.ParseCases("f", []byte(c.text))
		var faults document.Faults
		if !errors.As(err, &faults) || err.Error() != c.want {
			t.Errorf("%s\ngot  %v\nwant %s", c.text, err, c.want)
		}
	}
}

func FuzzParseCases(f *testing.F) {
	f.Add(goodCase)
	f.Add("state: {files: true, except: ['[']}\ncases: {t: [{name: n, files: {a: {base64: '!', mode: '0', link: x}}}]}")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := packtest.ParseCases("f", []byte(text))
		if err == nil && c == nil {
			t.Error("neither cases nor faults")
		}
		if err != nil {
			return
		}
		for tool, cases := range c.Of {
			for _, one := range cases {
				if one.Fails == (one.Undone != "") {
					t.Errorf("%s: a case that says neither or both: %+v", tool, one)
				}
			}
		}
	})
}
