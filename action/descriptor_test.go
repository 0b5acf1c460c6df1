package action_test

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/ring"
)

var undo = []action.Call{{Tool: "move_file"}}

// SPEC §4: "`full` needs an undo and an image; without both it is decided as partial at best, without an undo as none"; "if it
// cannot be taken faithfully the action is non-reversible *and is decided as such*". One row a descriptor, one column a state.
func TestAsWhatAnActionIsDecided(t *testing.T) {
	const none, partial, full = action.Irreversible, action.Partial, action.Full
	look, nothing := &action.Look{}, []action.Call{}
	for _, c := range []struct {
		name                           string
		d                              action.Descriptor
		noImage, taken, absent, failed action.Reversibility
	}{
		{"full, undo", action.Descriptor{Reversibility: full, Undo: undo}, partial, full, none, none},
		{"full, undo, and one where nothing was", action.Descriptor{Reversibility: full, Image: look, Undo: undo, UndoAbsent: undo}, partial, full, partial, none},
		{"full, nothing has to be called", action.Descriptor{Reversibility: full, Undo: nothing}, partial, full, none, none},
		{"full, undo only where nothing was", action.Descriptor{Reversibility: full, Image: look, UndoAbsent: undo}, none, none, partial, none},
		{"full, no undo", action.Descriptor{Reversibility: full}, none, none, none, none},
		{"partial, undo", action.Descriptor{Reversibility: partial, Undo: undo}, partial, partial, none, none},
		{"partial, undo, and one where nothing was", action.Descriptor{Reversibility: partial, Image: look, Undo: undo, UndoAbsent: nothing}, partial, partial, partial, none},
		{"partial, undo only where nothing was", action.Descriptor{Reversibility: partial, Image: look, UndoAbsent: undo}, partial, none, partial, none},
		{"partial by its nature", action.Descriptor{Reversibility: partial}, partial, partial, partial, none},
		{"none, undo", action.Descriptor{Undo: undo, UndoAbsent: undo}, none, none, none, none},
		{"described by nobody", action.Descriptor{}, none, none, none, none},
		{"read-only", action.Descriptor{ReadOnly: true}, full, full, full, full},
		{"read-only, and none", action.Descriptor{ReadOnly: true, Reversibility: none}, full, full, full, full},
	} {
		for i, want := range []action.Reversibility{c.noImage, c.taken, c.absent, c.failed} {
			if got := c.d.Effective(imageStates[i]); got != want {
				t.Errorf("%s, state %d: decided as %s, want %s", c.name, i, got, want)
			}
		}
	}
}

var imageStates = []action.ImageState{action.NoImage, action.ImageTaken, action.ImageAbsent, action.ImageFailed}

// SPEC §4: "ω = midpoint of full 0.1–0.3, partial 0.5–0.8, none 0.9–1.0: 0.20, 0.65, 0.95."
func TestWeightIsTheMidpointOfItsBand(t *testing.T) {
	for r, want := range map[action.Reversibility]string{action.Full: "0.20", action.Partial: "0.65", action.Irreversible: "0.95"} {
		if got := r.Weight(); got.String() != want {
			t.Errorf("%s weighs %s, want %s", r, got, want)
		}
		b, err := json.Marshal(r.Weight())
		var back action.Omega
		if err != nil || string(b) != want || json.Unmarshal(b, &back) != nil || back != r.Weight() {
			t.Errorf("ω of %s is JSON %s, read as %s, %v; want %s", r, b, back, err, want)
		}
	}
	if got := action.Reversibility(99).Weight(); got != action.Irreversible.Weight() {
		t.Errorf("an unknown degree weighs %s, want the most", got)
	}
}

// SPEC §2: "admin → 0; not reversible and not read-only → 1; read-only → 3; else → 2. A listed tool nobody describes → not reversible".
func TestRequiredRing(t *testing.T) {
	for _, c := range []struct {
		name  string
		d     action.Descriptor
		image action.ImageState
		want  ring.Ring
	}{
		{"admin", action.Descriptor{Admin: true, Reversibility: action.Full, Undo: undo}, action.ImageTaken, ring.Root},
		{"admin wins over read-only", action.Descriptor{Admin: true, ReadOnly: true}, action.ImageTaken, ring.Root},
		{"not reversible", action.Descriptor{}, action.ImageTaken, ring.Privileged},
		{"full without an undo is not reversible", action.Descriptor{Reversibility: action.Full}, action.ImageTaken, ring.Privileged},
		{"read-only", action.Descriptor{ReadOnly: true}, action.NoImage, ring.Sandbox},
		{"partial", action.Descriptor{Reversibility: action.Partial}, action.NoImage, ring.Standard},
		{"full", action.Descriptor{Reversibility: action.Full, Undo: undo}, action.ImageTaken, ring.Standard},
		{"full without an image", action.Descriptor{Reversibility: action.Full, Undo: undo}, action.NoImage, ring.Standard},
	} {
		if got := c.d.RequiredRing(c.d.Effective(c.image)); got != c.want {
			t.Errorf("%s needs ring %d, want %d", c.name, got, c.want)
		}
	}
}

func TestValidate(t *testing.T) {
	look := func() *action.Look { return &action.Look{Call: action.Call{Tool: "r"}, Bytes: "{{result.x}}"} }
	putBack := []action.Call{{Tool: "w", Args: map[string]any{"x": map[string]any{"{{each image.json}}": "{{each}}"}}}}
	for _, id := range []string{"a", "files.write_file", "A:b/c-d", "x_", "draft_email", "0", strings.Repeat("a", action.MaxIDBytes)} {
		if err := (action.Descriptor{ID: id}).Validate(); err != nil {
			t.Errorf("id %q: %v", id, err)
		}
	}
	for name, bad := range map[string]action.Descriptor{
		"no id":                             {},
		"a blank":                           {ID: "a b"},
		"a line end":                        {ID: "a\n"},
		"a control character":               {ID: "a\x00b"},
		"a letter beyond ASCII":             {ID: "é"},
		"begins with a dot":                 {ID: ".a"},
		"begins with a slash":               {ID: "/a"},
		"ends with a dot":                   {ID: "a."},
		"too long":                          {ID: strings.Repeat("a", action.MaxIDBytes+1)},
		"read-only and admin":               {ID: "a", ReadOnly: true, Admin: true},
		"read-only and undo":                {ID: "a", ReadOnly: true, Undo: undo},
		"a negative window":                 {ID: "a", UndoWindow: -1},
		"an undo without a tool":            {ID: "a", Undo: []action.Call{{}}},
		"an image without a tool":           {ID: "a", Undo: undo, Image: &action.Look{Bytes: "{{result}}"}},
		"an image without bytes":            {ID: "a", Undo: undo, Image: &action.Look{Call: action.Call{Tool: "r"}}},
		"an image of another encoding":      {ID: "a", Undo: undo, Image: &action.Look{Call: action.Call{Tool: "r"}, Bytes: "x", Encoding: "hex"}},
		"an image that nothing is for":      {ID: "a", Image: look()},
		"an image of what the tool answers": {ID: "a", Undo: undo, Image: &action.Look{Call: action.Call{Tool: "r", Args: map[string]any{"id": "{{result.id}}"}}, Bytes: "x"}},
		"read-only and an image":            {ID: "a", ReadOnly: true, Image: look()},
		"read-only and a probe":             {ID: "a", ReadOnly: true, Probe: &action.Probe{}},
		"an undo of an image there is not":  {ID: "a", Undo: putBack},
		"an undo of what is only compared":  {ID: "a", Undo: putBack, Image: &action.Look{Call: action.Call{Tool: "r"}, Bytes: "x", Encoding: action.Compare}},
		"absent, with no way to say so":     {ID: "a", UndoAbsent: undo, Image: look()},
		"absent, and an image all the same": {ID: "a", UndoAbsent: putBack, Image: &action.Look{Call: action.Call{Tool: "r"}, Bytes: "x", Absent: "no"}},
		"undo_only without an image":        {ID: "a", Undo: undo, UndoOnly: map[string][]any{"mode": {"x"}}},
		"an after without an image":         {ID: "a", Undo: undo, After: "{{args.x}}"},
		"an after of no text":               {ID: "a", Undo: undo, After: "{{args.x}}", Image: &action.Look{Call: action.Call{Tool: "r"}, Bytes: "x", Encoding: action.JSON}},
		"a probe that always says the same": {ID: "a", Probe: &action.Probe{Call: action.Call{Tool: "r"}, Done: "x", Undone: "x"}},
		"a probe of the answer":             {ID: "a", Probe: &action.Probe{Call: action.Call{Tool: "r"}, Done: "{{result.x}}", Undone: "y"}},
		"too many calls":                    {ID: "a", Undo: make([]action.Call, action.MaxUndoCalls+1)},
		"an undo that JSON cannot express":  {ID: "a", Undo: []action.Call{{Tool: "t", Args: map[string]any{"x": math.NaN()}}}},
	} {
		if err := bad.Validate(); !errors.Is(err, action.ErrDescriptor) {
			t.Errorf("%s: got %v, want ErrDescriptor", name, err)
		}
	}
}

// "Every field takes part, so a changed descriptor is another one", and a grant for the one is none for the other.
func TestDigestChangesWithEveryField(t *testing.T) {
	zero := action.Descriptor{}
	seen := map[[32]byte]string{zero.Digest(): "nothing"}
	for i := range reflect.TypeFor[action.Descriptor]().NumField() {
		name := reflect.TypeFor[action.Descriptor]().Field(i).Name
		var d action.Descriptor
		switch f := reflect.ValueOf(&d).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Uint8:
			f.SetUint(1)
		case reflect.Int64:
			f.SetInt(1)
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		case reflect.Map:
			f.Set(reflect.ValueOf(map[string][]any{"x": {1}}))
		case reflect.Slice: // empty is not nil
			f.Set(reflect.MakeSlice(f.Type(), 0, 0))
		default:
			t.Fatalf("field %s: this test cannot change a %s", name, f.Kind())
		}
		if other, ok := seen[d.Digest()]; ok {
			t.Errorf("changing %s gives the digest of changing %s", name, other)
		}
		seen[d.Digest()] = name
	}
	for _, call := range []action.Call{{Tool: "x"}, {Tool: "y"}, {Tool: "x", Args: map[string]any{"a": 1}}, {Tool: "x", Args: map[string]any{"a": 2}}} {
		d := action.Descriptor{Undo: []action.Call{call}}
		if other, ok := seen[d.Digest()]; ok {
			t.Errorf("undo %+v gives the digest of %s", call, other)
		}
		seen[d.Digest()] = "another undo"
	}
}

func TestDigestIsTheSameForTheSameDescriptor(t *testing.T) {
	make := func() action.Descriptor {
		return action.Descriptor{ID: "a", Undo: []action.Call{{Tool: "t", Args: map[string]any{"a": 1, "b": 2, "c": 3, "d": 4}}}, UndoWindow: time.Hour}
	}
	want := make().Digest()
	for range 50 { // map order
		if make().Digest() != want {
			t.Fatal("two equal descriptors have two digests")
		}
	}
}

// SPEC §4: "reversibility full|partial|none".
func TestReversibilityText(t *testing.T) {
	for r, word := range map[action.Reversibility]string{action.Full: "full", action.Partial: "partial", action.Irreversible: "none"} {
		var back action.Reversibility
		if err := back.UnmarshalText([]byte(word)); err != nil || back != r || r.String() != word {
			t.Errorf("%q was read as %s, %v; want %s", word, back, err, r)
		}
		if b, err := json.Marshal(r); err != nil || string(b) != `"`+word+`"` {
			t.Errorf("%s is JSON %s, %v", word, b, err)
		}
	}
	for _, bad := range []string{"", "Full", "full ", "reversible", "0"} {
		var r action.Reversibility
		if err := r.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was read as %s", bad, r)
		}
	}
}
