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
		tpl, err := ParseTemplate(text)
		if err != nil {
			t.Errorf("ParseTemplate(%q): %v", text, err)
			continue
		}
		if got, err := tpl.Render(testArgs()); err != nil || got != want {
			t.Errorf("%q rendered %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestWhatIsNoTemplateIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"{{args.a":       "bad template: {{ is not closed",
		"{{ args.a }}":   "bad template: {{ args.a }}: no spaces or braces inside; write {{args.name}}",
		"{{env.HOME}}":   "bad template: {{env.HOME}}: only arguments can be referred to; write {{args.name}}",
		"{{args}}":       "bad template: {{args}}: only arguments can be referred to; write {{args.name}}",
		"{{}}":           "bad template: {{}}: only arguments can be referred to; write {{args.name}}",
		"{{args.}}":      "bad template: {{args.}}: a name is empty",
		"{{args.a..b}}":  "bad template: {{args.a..b}}: a name is empty",
		"{{args.{{a}}}}": "bad template: {{args.{{a}}: no spaces or braces inside; write {{args.name}}",
		"a\xff":          "bad template: invalid UTF-8",
		strings.Repeat("{{args.a}}", maxReferences+1):      "bad template: more than 32 references",
		"{{args" + strings.Repeat(".a", maxSteps+1) + "}}": "bad template: {{args" + strings.Repeat(".a", maxSteps+1) + "}}: more than 16 steps",
		strings.Repeat("a", maxTemplateBytes+1):            "bad template: longer than 4096 bytes",
	} {
		if _, err := ParseTemplate(text); !errors.Is(err, ErrTemplate) || err.Error() != want {
			t.Errorf("ParseTemplate(%q): %v, want %s", text, err, want)
		}
	}
}

func TestTemplateRefusesArgumentsThatAreMissingOrNoText(t *testing.T) {
	for text, want := range map[string]error{
		"{{args.nope}}": ErrMissingArgument, "{{args.source.x}}": ErrMissingArgument, "{{args.list.2}}": ErrMissingArgument,
		"{{args.list.00}}": ErrMissingArgument, "{{args.list.-1}}": ErrMissingArgument, "{{args.list.99999999999999999999}}": ErrMissingArgument,
		"{{args.none}}": ErrArgumentType, "{{args.list}}": ErrArgumentType, "x{{args.a}}": ErrArgumentType, "{{args.inf}}": ErrArgumentType,
	} {
		tpl, err := ParseTemplate(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tpl.Render(testArgs()); !errors.Is(err, want) {
			t.Errorf("%q rendered %q, %v; want %v", text, got, err, want)
		}
	}
}

func TestUndoArgumentsKeepTheirJSONType(t *testing.T) {
	c := Call{Tool: "put", Args: map[string]any{
		"whole": "{{args.list}}", "n": "{{args.n}}", "text": "n={{args.n}}", "fixed": int64(7), "null": "{{args.none}}",
		"in": map[string]any{"{{args.key}}": []any{"{{args.yes}}", nil}},
	}}
	got, err := c.Resolve(testArgs())
	want := map[string]any{
		"whole": []any{"first", map[string]any{"x": "y"}}, "n": 3.0, "text": "n=3", "fixed": int64(7), "null": nil,
		"in": map[string]any{"{{args.key}}": []any{true, nil}},
	}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	if got, err := (Call{Tool: "put"}).Resolve(nil); err != nil || len(got) != 0 {
		t.Errorf("no arguments resolved to %v, %v", got, err)
	}
	if _, err := (Call{Args: map[string]any{"a": []any{"{{args.nope}}"}}}).Resolve(nil); !errors.Is(err, ErrMissingArgument) {
		t.Errorf("a missing argument gave %v", err)
	}
	if err := (Call{Args: map[string]any{"a": []any{"{{x}}"}}}).Check(); !errors.Is(err, ErrTemplate) {
		t.Errorf("Check of a bad template gave %v", err)
	}
	if err := (Call{Args: map[string]any{"a": make([]any, maxUndoNodes)}}).Check(); !errors.Is(err, ErrTemplate) {
		t.Errorf("Check of too many values gave %v", err)
	}
}

func TestResourceIsNormalisedAfterTheArgumentsAreIn(t *testing.T) {
	d := Descriptor{Resource: "/srv/work/{{args.path}}"}
	if got, err := d.ResourceOf(map[string]any{"path": "../../prod//x"}); got != "/prod/x" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := d.ResourceOf(nil); got != "" || !errors.Is(err, ErrMissingArgument) {
		t.Errorf("without the argument: %q, %v", got, err)
	}
	if _, err := d.ResourceOf(map[string]any{"path": "a\x00"}); !errors.Is(err, ErrResource) {
		t.Errorf("with NUL: %v", err)
	}
	if got, err := (Descriptor{}).ResourceOf(nil); got != "" || err != nil {
		t.Errorf("no resource: %q, %v", got, err)
	}
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"", "{{args.a}}", "x{{args.list.0}}y", "{{", "}}{{args.a.b.c}}", "{{args.\xff}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		tpl, err := ParseTemplate(text)
		if err != nil {
			return
		}
		_, _ = tpl.Value(testArgs())
		if got, err := tpl.Render(testArgs()); err == nil && !strings.Contains(text, "{{") && got != text {
			t.Errorf("literal %q became %q", text, got)
		}
	})
}
