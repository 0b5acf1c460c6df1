package action_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/action"
)

// SPEC §4: "The before-image is verbatim bytes … if it cannot be taken faithfully the action is non-reversible".
func TestLookTakesAnImageVerbatimOrNone(t *testing.T) {
	failed := func(text string) string {
		return `{"isError":true,"content":[{"type":"text","text":` + string(must(json.Marshal(text))) + `}]}`
	}
	value := func(v string) string { return `{"content":[],"structuredContent":{"v":` + v + `}}` }
	const absent = "ENOENT: no such file"
	empty := "[]"
	for name, c := range map[string]struct {
		encoding action.Encoding
		result   string
		want     string // the bytes, or
		absent   bool   // nothing was there; neither: no image
		none     bool
	}{
		"a text":                           {"", value(`"a\r\n\u0000b"`), "a\r\n\x00b", false, false},
		"an empty text":                    {action.Text, value(`""`), "", false, false},
		"a text with a byte-order mark":    {action.Text, value("\"\ufeffx\""), "\ufeffx", false, false},
		"what stands for bytes":            {action.Text, value(`"a\ufffd"`), "", false, true},
		"half a character":                 {"", value(`"\ud800"`), "", false, true},
		"no text":                          {action.Text, value(`1`), "", false, true},
		"base64":                           {action.Base64, value(`"AP8="`), "\x00\xff", false, false},
		"base64 of nothing":                {action.Base64, value(`""`), "", false, false},
		"base64 without padding":           {action.Base64, value(`"AP8"`), "", false, true},
		"base64 with bits to spare":        {action.Base64, value(`"AP9="`), "", false, true},
		"base64 with line ends":            {action.Base64, value(`"AP\n8="`), "\x00\xff", false, false},
		"json":                             {action.JSON, value(`{"b":[1.5, null],"a":"é"}`), `{"a":"é","b":[1.5,null]}`, false, false},
		"json with digits nobody carries":  {action.JSON, value(`[0.1000000000000000055]`), "", false, true},
		"json that is nearly one":          {action.JSON, value(`[1.00000000000000000001]`), "", false, true},
		"json that is nearly nothing":      {action.JSON, value(`1e-5000`), "", false, true},
		"json with a whole number too big": {action.JSON, value(`12345678901234567890123`), "", false, true},
		"json with what stands for bytes":  {action.JSON, value(`{"a":{"\ufffd":1}}`), "", false, true},
		"json with one that floats round":  {action.JSON, value(`[9007199254740992]`), "", false, true},
		"json with the last that none do":  {action.JSON, value(`[-9007199254740991]`), "[-9007199254740991]", false, false},
		"nothing in it":                    {action.JSON, value(`[ ]`), "", true, false},
		"compared only":                    {action.Compare, value(`["\ufffd",0.1000000000000000055]`), "[\"\ufffd\",0.1000000000000000055]", false, false},
		"nothing there":                    {action.Text, failed("ENOENT: no such file or directory, open 'a'"), "", true, false},
		"no right to look":                 {action.Text, failed("EACCES: open '/ENOENT: no such file'"), "", false, true},
		"the value is not in the result":   {action.Text, `{"content":[]}`, "", false, true},
		"larger than can be put back":      {action.Text, value(`"` + strings.Repeat("a", action.MaxImageBytes+1) + `"`), "", false, true},
	} {
		l := action.Look{Call: action.Call{Tool: "read"}, Bytes: "{{result.structuredContent.v}}", Encoding: c.encoding, Absent: absent, Empty: &empty}
		got, err := read(l, c.result)
		want := action.Image{Absent: c.absent}
		if !c.absent && !c.none {
			want.Bytes = []byte(c.want)
		}
		if c.none != errors.Is(err, action.ErrImage) || !got.Equal(want) || !c.none && err != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func read(l action.Look, text string) (action.Image, error) {
	r, err := action.DecodeResult(json.RawMessage(text))
	if err != nil {
		return action.Image{}, err
	}
	return l.Read(nil, r)
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestLookWithoutAWordForAbsenceTakesEveryErrorForOne(t *testing.T) {
	l := action.Look{Call: action.Call{Tool: "read"}, Bytes: "{{result}}"}
	if got, err := read(l, `{"isError":true,"content":[]}`); !errors.Is(err, action.ErrImage) {
		t.Errorf("%+v, %v", got, err)
	}
}

// An image that cannot be put back is found out before the action, not after it.
func TestRehearsalFindsAnImageThatCannotBePutBack(t *testing.T) {
	d := action.Descriptor{ID: "a", Reversibility: action.Full, Image: &action.Look{Call: action.Call{Tool: "r"}, Bytes: "{{result.x}}", Encoding: action.Base64, Absent: "no"},
		Undo:       []action.Call{{Tool: "w", Args: map[string]any{"content": "{{image.text}}", "made": "{{result.ids.*.id}}", "all": map[string]any{"{{each result.ids}}": "{{each.id}}"}}}},
		UndoAbsent: []action.Call{{Tool: "d", Args: map[string]any{"path": "{{args.path}}"}}},
		UndoOnly:   map[string][]any{"mode": {"plain", nil}, "force": {false, nil}}}
	if err := d.Validate(); err != nil {
		t.Fatal(err)
	}
	fits := func(tool string, args map[string]any) error {
		if tool == "d" && args["path"] == "refused" {
			return errors.New("the tool's schema does not have it")
		}
		if tool == "w" {
			t.Errorf("asked for %s of %v, which waits for an answer", tool, args)
		}
		return nil
	}
	for name, c := range map[string]struct {
		s  action.Scope
		ok bool
	}{
		"a text":                   {action.Scope{Image: &action.Image{Bytes: []byte("text")}}, true},
		"bytes":                    {action.Scope{Image: &action.Image{Bytes: []byte{0xff}}}, false},
		"no image":                 {action.Scope{}, false},
		"nothing there":            {action.Scope{Image: &action.Image{Absent: true}, Args: map[string]any{"path": "p"}}, true},
		"a mode it is for":         {action.Scope{Image: &action.Image{Bytes: []byte("text")}, Args: map[string]any{"mode": "plain", "force": false}}, true},
		"a mode it is not for":     {action.Scope{Image: &action.Image{Bytes: []byte("text")}, Args: map[string]any{"mode": "other"}}, false},
		"a force it is not for":    {action.Scope{Image: &action.Image{Bytes: []byte("text")}, Args: map[string]any{"force": true}}, false},
		"what the tool refuses":    {action.Scope{Image: &action.Image{Absent: true}, Args: map[string]any{"path": "refused"}}, false},
		"nothing there, no path":   {action.Scope{Image: &action.Image{Absent: true}}, false},
		"a result of another call": {action.Scope{Image: &action.Image{Bytes: []byte("text")}, Result: &action.Result{}}, true},
	} {
		if err := d.Rehearse(c.s, fits); (err == nil) != c.ok || err != nil && !errors.Is(err, action.ErrImage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatAnActionLeaves(t *testing.T) {
	d := action.Descriptor{After: "{{image.text}}{{args.more}}"}
	was := &action.Image{Bytes: []byte("a")}
	if got, err := d.Left(action.Scope{Image: was, Args: map[string]any{"more": "b"}}); err != nil || string(got.Bytes) != "ab" || got.Absent {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := d.Left(action.Scope{Image: was, Args: map[string]any{"more": "\ufffd"}}); !errors.Is(err, action.ErrImage) {
		t.Errorf("what would not read back: %v", err)
	}
	for name, s := range map[string]action.Scope{"no image": {Args: map[string]any{"more": "b"}}, "no argument": {Image: was}} {
		if _, err := d.Left(s); !errors.Is(err, action.ErrNotSaid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (action.Descriptor{}).Left(action.Scope{}); !errors.Is(err, action.ErrNotSaid) {
		t.Errorf("no after: %v", err)
	}
}

func TestProbeSaysOnlyWhatIsSaid(t *testing.T) {
	p := action.Probe{Call: action.Call{Tool: "status"}, Done: "done {{args.id}}", Undone: "nothing of {{args.id}}"}
	scope := action.Scope{Args: map[string]any{"id": "7"}}
	for text, want := range map[string]action.Verdict{
		"done 7": action.TookPlace, "Error: nothing of 7": action.DidNot, "done 8": action.Unsaid, "": action.Unsaid,
		"nothing of 7, or done 7": action.Unsaid,
	} {
		if got, err := p.Read(scope, action.Result{Text: text}); got != want || err != nil {
			t.Errorf("%q says %d, %v; want %d", text, got, err, want)
		}
	}
	if _, err := p.Read(action.Scope{}, action.Result{Text: "done 7"}); !errors.Is(err, action.ErrMissingValue) {
		t.Errorf("without the argument: %v", err)
	}
}

func FuzzLook(f *testing.F) {
	for _, s := range []string{`{"v":"a"}`, `{"v":"AP8="}`, `{"v":1e9}`, `{"v":{"a":[0.1,null]}}`, `{"isError":true,"content":[{"type":"text","text":"no"}]}`, `{"v":"\ud800"}`, `[`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := action.DecodeResult(json.RawMessage(text))
		if err != nil {
			return
		}
		for _, e := range action.Encodings() {
			image, err := action.Look{Bytes: "{{result.v}}", Encoding: e, Absent: "no"}.Read(nil, r)
			if err != nil || image.Absent {
				continue
			}
			back := string(image.Bytes) // what was read goes back as it was
			switch e {
			case action.Base64:
				back = string(must(json.Marshal(base64.StdEncoding.EncodeToString(image.Bytes))))
			case action.Text:
				back = string(must(json.Marshal(back)))
			}
			again, err := read(action.Look{Bytes: "{{result.v}}", Encoding: e}, `{"v":`+back+`}`)
			if err != nil || !again.Equal(image) {
				t.Errorf("%s of %s: %q, then %q, %v", e, text, image.Bytes, again.Bytes, err)
			}
		}
	})
}
