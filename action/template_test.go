package action

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testArgs() map[string]any {
	return map[string]any{
		"source": "/srv/a", "n": 3.0, "big": json.Number("12345678901234567890"), "yes": true, "none": nil,
		"a": map[string]any{"b": "deep", "0": "zero"}, "list": []any{"first", map[string]any{"x": "y"}}, "inf": math.Inf(1),
	}
}

func TestTemplatePutsArgumentsIntoText(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "",
		"plain }} text":                        "plain }} text",
		"{{args.source}}":                      "/srv/a",
		"<{{args.a.b}}>{{args.a.0}}":           "<deep>zero",
		"{{args.list.0}}-{{args.list.1.x}}":    "first-y",
		"{{args.n}} {{args.big}} {{args.yes}}": "3 12345678901234567890 true",
	} {
		tpl, err := ParseTemplate(text, InResource)
		if err != nil {
			t.Errorf("ParseTemplate(%q): %v", text, err)
			continue
		}
		if got, err := tpl.Render(Scope{Args: testArgs()}); err != nil || got != want {
			t.Errorf("%q rendered %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestWhatIsNoTemplateIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"{{args.a":       "bad template: {{ is not closed",
		"{{ args.a }}":   "bad template: {{ args.a }}: no spaces or braces inside; write {{args.name}}",
		"{{env.HOME}}":   "bad template: {{env.HOME}}: only args can be referred to here; write {{args.name}}",
		"{{args}}":       "bad template: {{args}}: write {{args.name}}",
		"{{}}":           "bad template: {{}}: only args can be referred to here; write {{args.name}}",
		"{{args.}}":      "bad template: {{args.}}: a name is empty",
		"{{args.a..b}}":  "bad template: {{args.a..b}}: a name is empty",
		"{{args.{{a}}}}": "bad template: {{args.{{a}}: no spaces or braces inside; write {{args.name}}",
		"a\xff":          "bad template: invalid UTF-8",
		strings.Repeat("{{args.a}}", maxReferences+1):      "bad template: more than 32 references",
		"{{args" + strings.Repeat(".a", maxSteps+1) + "}}": "bad template: {{args" + strings.Repeat(".a", maxSteps+1) + "}}: more than 16 steps",
		strings.Repeat("a", maxTemplateBytes+1):            "bad template: longer than 4096 bytes",
	} {
		if _, err := ParseTemplate(text, InResource); !errors.Is(err, ErrTemplate) || err.Error() != want {
			t.Errorf("ParseTemplate(%q): %v, want %s", text, err, want)
		}
	}
}

func TestTemplateRefusesArgumentsThatAreMissingOrNoText(t *testing.T) {
	for text, want := range map[string]error{
		"{{args.nope}}": ErrMissingValue, "{{args.source.x}}": ErrMissingValue, "{{args.list.2}}": ErrMissingValue,
		"{{args.list.00}}": ErrMissingValue, "{{args.list.-1}}": ErrMissingValue, "{{args.list.99999999999999999999}}": ErrMissingValue,
		"{{args.none}}": ErrValueType, "{{args.list}}": ErrValueType, "x{{args.a}}": ErrValueType, "{{args.inf}}": ErrValueType,
	} {
		tpl, err := ParseTemplate(text, InResource)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tpl.Render(Scope{Args: testArgs()}); !errors.Is(err, want) {
			t.Errorf("%q rendered %q, %v; want %v", text, got, err, want)
		}
	}
}

func TestUndoArgumentsKeepTheirJSONType(t *testing.T) {
	c := Call{Tool: "put", Args: map[string]any{
		"whole": "{{args.list}}", "n": "{{args.n}}", "text": "n={{args.n}}", "fixed": int64(7), "null": "{{args.none}}",
		"in": map[string]any{"{{args.key}}": []any{"{{args.yes}}", nil}},
	}}
	got, err := c.Resolve(Scope{Args: testArgs()})
	want := `{"fixed":7,"in":{"{{args.key}}":[true,null]},"n":3,"null":null,"text":"n=3","whole":["first",{"x":"y"}]}`
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s", err, cmp.Diff(want, string(got)))
	}
	if got, err := (Call{Tool: "put"}).Resolve(Scope{}); err != nil || string(got) != "{}" {
		t.Errorf("no arguments resolved to %v, %v", got, err)
	}
	if _, err := (Call{Args: map[string]any{"a": []any{"{{args.nope}}"}}}).Resolve(Scope{}); !errors.Is(err, ErrMissingValue) {
		t.Errorf("a missing argument gave %v", err)
	}
	if err := (Call{Args: map[string]any{"a": []any{"{{x}}"}}}).Check(InUndo); !errors.Is(err, ErrTemplate) {
		t.Errorf("Check of a bad template gave %v", err)
	}
	if err := (Call{Args: map[string]any{"a": make([]any, maxCallNodes)}}).Check(InUndo); !errors.Is(err, ErrTemplate) {
		t.Errorf("Check of too many values gave %v", err)
	}
}

func TestResourceIsNormalisedAfterTheArgumentsAreIn(t *testing.T) {
	d := Descriptor{Resource: "/srv/work/{{args.path}}"}
	if got, err := d.ResourceOf(map[string]any{"path": "../../prod//x"}); got != "/prod/x" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := d.ResourceOf(nil); got != "" || !errors.Is(err, ErrMissingValue) {
		t.Errorf("without the argument: %q, %v", got, err)
	}
	if _, err := d.ResourceOf(map[string]any{"path": "a\x00"}); !errors.Is(err, ErrResource) {
		t.Errorf("with NUL: %v", err)
	}
	if got, err := (Descriptor{}).ResourceOf(nil); got != "" || err != nil {
		t.Errorf("no resource: %q, %v", got, err)
	}
}

// An image and a result in the shape of a server's.
func testScope(t interface{ Fatal(...any) }) Scope {
	r, err := DecodeResult(json.RawMessage(`{"content":[{"type":"text","text":"{\"id\":7}"}],"structuredContent":{"n":1.50,
"made":[{"name":"a","tags":["x","y"],"in":[{"id":1},{"id":2}]},{"name":"b","tags":[],"in":[{"id":12345678901234567890}]}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	return Scope{Args: testArgs(), Image: &Image{Bytes: []byte(`{"e":[{"k":"v"}],"n":0.10}`)}, Result: &r, ID: "act-7", Session: "s1"}
}

// What an undo is made of: a list of what was made by *, a list of calls' worth by each, the image as text, JSON or base64.
func TestUndoIsMadeOfImageAndResult(t *testing.T) {
	for template, want := range map[string]string{
		`"{{result.structuredContent.made.*.name}}"`:                      `["a","b"]`,
		`"{{result.structuredContent.made.*.tags}}"`:                      `[["x","y"],[]]`,
		`"{{result.structuredContent.made.*.tags.*}}"`:                    `["x","y"]`,
		`"{{result.structuredContent.made.*.in.*.id}}"`:                   `[1,2,12345678901234567890]`,
		`"{{result.structuredContent.n}}"`:                                `1.5`,
		`"{{result.content.only.type}}/{{action.session}}.{{action.id}}"`: `"text/s1.act-7"`,
		`"{{json.id}}"`: `7`,
		`{"{{each result.structuredContent.made}}": {"who":"{{each.name}}","first":["{{args.source}}","{{each.tags}}"]}}`: `[{"first":["/srv/a",["x","y"]],"who":"a"},{"first":["/srv/a",[]],"who":"b"}]`,
		`{"{{each args.list}}": "{{each}}"}`: `["first",{"x":"y"}]`,
		`"{{image.json.e}}"`:                 `[{"k":"v"}]`,
		`"{{image.json.n}}"`:                 `0.1`,
		`"{{image.text}}"`:                   `"{\"e\":[{\"k\":\"v\"}],\"n\":0.10}"`,
		`"{{image.base64}}"`:                 `"eyJlIjpbeyJrIjoidiJ9XSwibiI6MC4xMH0="`,
	} {
		var value any
		if err := json.Unmarshal([]byte(template), &value); err != nil {
			t.Fatal(err)
		}
		c := Call{Tool: "t", Args: map[string]any{"v": value}}
		if err := c.Check(InUndo); err != nil {
			t.Errorf("%s: %v", template, err)
		}
		if got, err := c.Resolve(testScope(t)); err != nil || string(got) != `{"v":`+want+`}` {
			t.Errorf("%s became %s, %v; want %s", template, got, err, want)
		}
	}
}

func TestUndoThatCannotBeMadeIsAnError(t *testing.T) {
	for template, want := range map[string]error{
		"{{result.structuredContent.made.*.age}}":         ErrMissingValue,
		"{{result.content.*.0}}":                          ErrMissingValue,
		"{{result.structuredContent.n.*}}":                ErrValueType,
		"names: {{result.structuredContent.made.*.name}}": ErrValueType,
		"{{result.structuredContent.made.only}}":          ErrValueType,
		"{{result.structuredContent.made.1.tags.only}}":   ErrValueType,
		"{{json.name}}":      ErrMissingValue,
		"{{image.json.e.1}}": ErrMissingValue,
	} {
		if got, err := (Call{Args: map[string]any{"v": template}}).Resolve(testScope(t)); !errors.Is(err, want) {
			t.Errorf("%s became %s, %v; want %v", template, got, err, want)
		}
	}
	none := testScope(t)
	none.Image = &Image{Absent: true}
	if _, err := (Call{Args: map[string]any{"v": "{{image.text}}"}}).Resolve(none); !errors.Is(err, ErrMissingValue) {
		t.Errorf("an image of nothing: %v", err)
	}
	none.Image = &Image{Bytes: []byte("a\xff")}
	for _, form := range []string{"{{image.text}}", "{{image.json}}"} {
		if _, err := (Call{Args: map[string]any{"v": form}}).Resolve(none); !errors.Is(err, ErrValueType) {
			t.Errorf("%s of bytes: %v", form, err)
		}
	}
	if _, err := (Call{Args: map[string]any{"v": map[string]any{"{{each image.json.n}}": 1}}}).Resolve(testScope(t)); !errors.Is(err, ErrValueType) {
		t.Errorf("each of a number: %v", err)
	}
}

func TestWhereWhatCanBeReferredTo(t *testing.T) {
	for place, allowed := range map[Place]string{
		InLook: "args", InBytes: "args result json", InUndo: "args image result json action", InUndoAbsent: "args result json action", InAfter: "args image result json", InProbe: "args action",
	} {
		for root, text := range map[string]string{"args": "{{args.a}}", "image": "{{image.text}}", "result": "{{result.a}}", "json": "{{json.a}}", "action": "{{action.id}}", "each": "{{each.a}}"} {
			want := strings.Contains(" "+allowed+" ", " "+root+" ")
			if _, err := ParseTemplate(text, place); (err == nil) != want {
				t.Errorf("%s where only %s can be referred to: %v", text, place, err)
			}
		}
	}
	for _, bad := range []string{"{{image}}", "{{image.bytes}}", "{{image.text.x}}", "{{image.base64.0}}", "{{action}}", "{{action.agent}}", "{{action.id.x}}", "{{args}}"} {
		if _, err := ParseTemplate(bad, InUndo); !errors.Is(err, ErrTemplate) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for name, bad := range map[string]any{
		"each in each":         map[string]any{"{{each args.a}}": map[string]any{"{{each args.b}}": 1}},
		"each beside another":  map[string]any{"{{each args.a}}": 1, "b": 2},
		"each that is open":    map[string]any{"{{each args.a": 1},
		"each of nothing":      map[string]any{"{{each }}": 1},
		"each outside of each": "{{each.a}}",
	} {
		if err := (Call{Args: map[string]any{"v": bad}}).Check(InUndo); !errors.Is(err, ErrTemplate) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// However an image is repeated in an undo, what comes of it stays within bounds.
func TestResolvedCallIsBounded(t *testing.T) {
	big := Scope{Image: &Image{Bytes: []byte(strings.Repeat("a", MaxImageBytes))}}
	many := make([]any, 10)
	for i := range many {
		many[i] = "{{image.text}}"
	}
	if _, err := (Call{Args: map[string]any{"v": many}}).Resolve(big); !errors.Is(err, ErrArguments) {
		t.Errorf("ten images: %v", err)
	}
	list := make([]any, maxResolvedNodes)
	each := map[string]any{"{{each args.l}}": []any{1}}
	if _, err := (Call{Args: map[string]any{"v": each}}).Resolve(Scope{Args: map[string]any{"l": list}}); !errors.Is(err, ErrTemplate) {
		t.Errorf("an each over a long list: %v", err)
	}
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"", "{{args.a}}", "x{{args.list.0}}y", "{{", "}}{{args.a.b.c}}", "{{args.\xff}}", "{{result.structuredContent.made.*.in.*.id}}", "{{image.json.e.*.k}}", "{{each args.list}}", "{{*}}", "{{args.*.*.*}}"} {
		f.Add(s)
	}
	scope := testScope(f)
	f.Fuzz(func(t *testing.T, text string) {
		c := Call{Args: map[string]any{"text": text, "each": map[string]any{text: "{{each.name}}"}}}
		if c.Check(InUndo) == nil {
			if got, err := c.Resolve(scope); err == nil {
				if _, err := DecodeArgs(got); err != nil {
					t.Errorf("%q became arguments that are refused: %v", text, err)
				}
			}
		}
		tpl, err := ParseTemplate(text, InUndo)
		if err != nil {
			return
		}
		if got, err := tpl.Render(scope); err == nil && !strings.Contains(text, "{{") && got != text {
			t.Errorf("literal %q became %q", text, got)
		}
	})
}
