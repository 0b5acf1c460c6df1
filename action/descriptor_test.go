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

var undo = &action.Call{Tool: "move_file"}

// SPEC §4: "`full` needs an undo and an image; without both it is decided as partial at best, without an undo as none."
func TestAsWhatAnActionIsDecided(t *testing.T) {
	for _, c := range []struct {
		name  string
		d     action.Descriptor
		image bool
		want  action.Reversibility
	}{
		{"full, undo and image", action.Descriptor{Reversibility: action.Full, Undo: undo}, true, action.Full},
		{"full, undo, no image", action.Descriptor{Reversibility: action.Full, Undo: undo}, false, action.Partial},
		{"full, no undo", action.Descriptor{Reversibility: action.Full}, true, action.Irreversible},
		{"full, neither", action.Descriptor{Reversibility: action.Full}, false, action.Irreversible},
		{"partial, undo and image", action.Descriptor{Reversibility: action.Partial, Undo: undo}, true, action.Partial},
		{"partial, neither", action.Descriptor{Reversibility: action.Partial}, false, action.Partial},
		{"none, undo and image", action.Descriptor{Undo: undo}, true, action.Irreversible},
		{"described by nobody", action.Descriptor{}, true, action.Irreversible},
		{"read-only", action.Descriptor{ReadOnly: true}, false, action.Full},
		{"read-only, and none", action.Descriptor{ReadOnly: true, Reversibility: action.Irreversible}, true, action.Full},
	} {
		if got := c.d.Effective(c.image); got != c.want {
			t.Errorf("%s: decided as %s, want %s", c.name, got, c.want)
		}
	}
}

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
		image bool
		want  ring.Ring
	}{
		{"admin", action.Descriptor{Admin: true, Reversibility: action.Full, Undo: undo}, true, ring.Root},
		{"admin wins over read-only", action.Descriptor{Admin: true, ReadOnly: true}, true, ring.Root},
		{"not reversible", action.Descriptor{}, true, ring.Privileged},
		{"full without an undo is not reversible", action.Descriptor{Reversibility: action.Full}, true, ring.Privileged},
		{"read-only", action.Descriptor{ReadOnly: true}, false, ring.Sandbox},
		{"partial", action.Descriptor{Reversibility: action.Partial}, false, ring.Standard},
		{"full", action.Descriptor{Reversibility: action.Full, Undo: undo}, true, ring.Standard},
		{"full without an image", action.Descriptor{Reversibility: action.Full, Undo: undo}, false, ring.Standard},
	} {
		if got := c.d.RequiredRing(c.d.Effective(c.image)); got != c.want {
			t.Errorf("%s needs ring %d, want %d", c.name, got, c.want)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, id := range []string{"a", "files.write_file", "A:b/c-d", "x_", "draft_email", "0", strings.Repeat("a", action.MaxIDBytes)} {
		if err := (action.Descriptor{ID: id}).Validate(); err != nil {
			t.Errorf("id %q: %v", id, err)
		}
	}
	for name, bad := range map[string]action.Descriptor{
		"no id":                            {},
		"a blank":                          {ID: "a b"},
		"a line end":                       {ID: "a\n"},
		"a control character":              {ID: "a\x00b"},
		"a letter beyond ASCII":            {ID: "é"},
		"begins with a dot":                {ID: ".a"},
		"begins with a slash":              {ID: "/a"},
		"ends with a dot":                  {ID: "a."},
		"too long":                         {ID: strings.Repeat("a", action.MaxIDBytes+1)},
		"read-only and admin":              {ID: "a", ReadOnly: true, Admin: true},
		"read-only and undo":               {ID: "a", ReadOnly: true, Undo: undo},
		"a negative window":                {ID: "a", UndoWindow: -1},
		"an undo without a tool":           {ID: "a", Undo: &action.Call{}},
		"an undo that JSON cannot express": {ID: "a", Undo: &action.Call{Tool: "t", Args: map[string]any{"x": math.NaN()}}},
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
		default:
			t.Fatalf("field %s: this test cannot change a %s", name, f.Kind())
		}
		if other, ok := seen[d.Digest()]; ok {
			t.Errorf("changing %s gives the digest of changing %s", name, other)
		}
		seen[d.Digest()] = name
	}
	for _, call := range []action.Call{{Tool: "x"}, {Tool: "y"}, {Tool: "x", Args: map[string]any{"a": 1}}, {Tool: "x", Args: map[string]any{"a": 2}}} {
		d := action.Descriptor{Undo: &call}
		if other, ok := seen[d.Digest()]; ok {
			t.Errorf("undo %+v gives the digest of %s", call, other)
		}
		seen[d.Digest()] = "another undo"
	}
}

func TestDigestIsTheSameForTheSameDescriptor(t *testing.T) {
	make := func() action.Descriptor {
		return action.Descriptor{ID: "a", Undo: &action.Call{Tool: "t", Args: map[string]any{"a": 1, "b": 2, "c": 3, "d": 4}}, UndoWindow: time.Hour}
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
