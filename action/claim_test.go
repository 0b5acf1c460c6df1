package action_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/action"
)

// SPEC §4: "annotations of a server marked trusted (`readOnlyHint` → read-only; `destructiveHint: false` → partial; else none)",
// where none is the zero of a descriptor nobody speaks of; §2: "a trusted `openWorldHint: true` counts as network, no claim as none".
func TestWhatAnnotationsClaim(t *testing.T) {
	for _, c := range []struct {
		name string
		a    action.Annotations
		want action.Descriptor
	}{
		{"nothing", action.Annotations{}, action.Descriptor{}},
		{"read-only", action.Annotations{ReadOnly: true}, action.Descriptor{ReadOnly: true}},
		{"not destructive", action.Annotations{Destructive: new(false)}, action.Descriptor{Reversibility: action.Partial}},
		{"destructive", action.Annotations{Destructive: new(true)}, action.Descriptor{}},
		{"read-only: the other hint means nothing", action.Annotations{ReadOnly: true, Destructive: new(true)}, action.Descriptor{ReadOnly: true}},
		{"read-only and not destructive", action.Annotations{ReadOnly: true, Destructive: new(false)}, action.Descriptor{ReadOnly: true}},
		{"idempotent", action.Annotations{Idempotent: true}, action.Descriptor{Idempotent: true}},
		{"open world", action.Annotations{OpenWorld: new(true)}, action.Descriptor{Network: true}},
		{"closed world", action.Annotations{OpenWorld: new(false)}, action.Descriptor{}},
	} {
		if diff := cmp.Diff(c.want, action.Resolve("", c.a.Claim())); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// SPEC §4: "Sources, strongest first: … A weaker source can only make an action *stricter*."
func TestResolve(t *testing.T) {
	readOnly, notReadOnly := action.Claim{ReadOnly: new(true)}, action.Claim{ReadOnly: new(false)}
	none, partial, full := degree(action.Irreversible), degree(action.Partial), degree(action.Full)
	harmless := action.Annotations{ReadOnly: true}.Claim()
	mild := action.Annotations{Destructive: new(false)}.Claim()
	destructive := action.Annotations{Destructive: new(true)}.Claim()
	silent := action.Annotations{}.Claim()
	window := func(d time.Duration) action.Claim { return action.Claim{UndoWindow: &d} }
	undoBy := func(tool string) action.Claim { return action.Claim{Undo: []action.Call{{Tool: tool}}} }

	pack := action.Claim{Image: &action.Look{Bytes: "b"}, Undo: []action.Call{{Tool: "theirs"}}, UndoAbsent: []action.Call{{Tool: "trash"}}, After: new("a")}

	type descriptor = action.Descriptor
	for _, c := range []struct {
		name   string
		claims []action.Claim // strongest first
		want   descriptor
	}{
		{"nobody speaks", nil, descriptor{}},
		{"only one speaks", []action.Claim{partial}, descriptor{Reversibility: action.Partial}},
		{"a silent one leaves it to the next", []action.Claim{{}, partial}, descriptor{Reversibility: action.Partial}},

		{"config partial, server destructive", []action.Claim{partial, destructive}, descriptor{Reversibility: action.Partial}},
		{"config partial, server silent", []action.Claim{partial, silent}, descriptor{Reversibility: action.Partial}},
		{"config full, server not destructive", []action.Claim{full, mild}, descriptor{Reversibility: action.Partial}},
		{"config none, server not destructive", []action.Claim{none, mild}, descriptor{}},
		{"config none, server read-only", []action.Claim{none, harmless}, descriptor{}},
		{"config partial, server read-only", []action.Claim{partial, harmless}, descriptor{Reversibility: action.Partial}},
		{"config not read-only, server read-only", []action.Claim{notReadOnly, harmless}, descriptor{}},
		{"config not read-only, server not destructive", []action.Claim{notReadOnly, mild}, descriptor{}},
		{"config read-only, server silent", []action.Claim{readOnly, silent}, descriptor{ReadOnly: true}},
		{"config read-only, server destructive", []action.Claim{readOnly, destructive}, descriptor{ReadOnly: true}},
		{"config read-only, server not destructive", []action.Claim{readOnly, mild}, descriptor{Reversibility: action.Partial}},
		{"config read-only, manifest none", []action.Claim{readOnly, none}, descriptor{}},
		{"config read-only, manifest not read-only", []action.Claim{readOnly, notReadOnly}, descriptor{}},
		{"server read-only, manifest full", []action.Claim{harmless, full}, descriptor{ReadOnly: true, Reversibility: action.Full}},
		{"server not destructive, manifest full", []action.Claim{mild, full}, descriptor{Reversibility: action.Partial}},
		{"server not destructive, manifest none", []action.Claim{mild, none}, descriptor{}},
		{"the third may tighten too", []action.Claim{full, partial, none}, descriptor{}},
		{"what the second tightened the third does not loosen", []action.Claim{full, none, full}, descriptor{}},

		{"one tool partial, all others read-only", []action.Claim{partial, readOnly}, descriptor{Reversibility: action.Partial}},
		{"all tools read-only, and a pack has an undo", []action.Claim{readOnly, undoBy("u")}, descriptor{ReadOnly: true}},

		{"an undo of one's own", []action.Claim{undoBy("mine"), undoBy("theirs")}, descriptor{Undo: []action.Call{{Tool: "mine"}}}},
		{"an undo of the pack's", []action.Claim{full, undoBy("theirs")}, descriptor{Reversibility: action.Full, Undo: []action.Call{{Tool: "theirs"}}}},

		{"an undo of one's own, beside an image of the pack's", []action.Claim{undoBy("mine"), pack}, descriptor{Undo: []action.Call{{Tool: "mine"}}}},
		{"nothing to call, beside an undo of the pack's", []action.Claim{{Undo: []action.Call{}}, pack}, descriptor{Undo: []action.Call{}}},
		{"full, and all that the pack says of it", []action.Claim{full, pack, {After: new("other"), Probe: &action.Probe{Done: "x"}}},
			descriptor{Reversibility: action.Full, Image: pack.Image, Undo: pack.Undo, UndoAbsent: pack.UndoAbsent, After: "a", Probe: &action.Probe{Done: "x"}}},
		{"a probe of one's own, and the pack's undo", []action.Claim{{Probe: &action.Probe{Done: "mine"}}, pack},
			descriptor{Image: pack.Image, Undo: pack.Undo, UndoAbsent: pack.UndoAbsent, After: "a", Probe: &action.Probe{Done: "mine"}}},
		{"all tools read-only, and the pack has it all", []action.Claim{readOnly, pack}, descriptor{ReadOnly: true}},

		{"a window", []action.Claim{window(time.Hour)}, descriptor{UndoWindow: time.Hour}},
		{"a shorter window", []action.Claim{window(time.Hour), window(time.Minute)}, descriptor{UndoWindow: time.Minute}},
		{"a longer window", []action.Claim{window(time.Minute), window(time.Hour)}, descriptor{UndoWindow: time.Minute}},
		{"zero is no limit: it does not lift one", []action.Claim{window(time.Minute), window(0)}, descriptor{UndoWindow: time.Minute}},
		{"zero is no limit: one tightens it", []action.Claim{window(0), window(time.Minute)}, descriptor{UndoWindow: time.Minute}},
		{"no limit, twice", []action.Claim{window(0), window(0)}, descriptor{}},

		{"names are the strongest's", []action.Claim{{Name: new("a"), Resource: new("r")}, {Name: new("b"), Resource: new("s")}}, descriptor{Name: "a", Resource: "r"}},
	} {
		if diff := cmp.Diff(c.want, action.Resolve("", c.claims...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func degree(r action.Reversibility) action.Claim { return action.Claim{Reversibility: &r} }

// For each yes-or-no field: the stronger decides, and the weaker moves it to the strict side only.
func TestFlagsMoveToTheStrictSideOnly(t *testing.T) {
	for _, f := range []struct {
		name   string
		strict bool
		claim  func(*bool) action.Claim
		field  func(action.Descriptor) bool
	}{
		{"admin", true, func(b *bool) action.Claim { return action.Claim{Admin: b} }, func(d action.Descriptor) bool { return d.Admin }},
		{"network", true, func(b *bool) action.Claim { return action.Claim{Network: b} }, func(d action.Descriptor) bool { return d.Network }},
		{"files", true, func(b *bool) action.Claim { return action.Claim{Files: b} }, func(d action.Descriptor) bool { return d.Files }},
		{"subprocess", true, func(b *bool) action.Claim { return action.Claim{Subprocess: b} }, func(d action.Descriptor) bool { return d.Subprocess }},
		{"idempotent", false, func(b *bool) action.Claim { return action.Claim{Idempotent: b} }, func(d action.Descriptor) bool { return d.Idempotent }},
	} {
		for _, c := range []struct {
			stronger, weaker *bool
			want             bool
		}{
			{nil, nil, false},
			{new(true), nil, true}, {new(false), nil, false},
			{nil, new(true), true}, {nil, new(false), false},
			{new(true), new(true), true}, {new(false), new(false), false},
			{new(true), new(false), f.strict}, {new(false), new(true), f.strict},
		} {
			got := f.field(action.Resolve("", f.claim(c.stronger), f.claim(c.weaker)))
			if got != c.want {
				t.Errorf("%s: stronger says %s, weaker says %s: got %v, want %v", f.name, says(c.stronger), says(c.weaker), got, c.want)
			}
		}
	}
}

func says(b *bool) string {
	switch {
	case b == nil:
		return "nothing"
	case *b:
		return "yes"
	}
	return "no"
}

var effects = rapid.Custom(func(t *rapid.T) action.Claim {
	var c action.Claim
	if rapid.Bool().Draw(t, "speaks of reading") {
		c.ReadOnly = new(rapid.Bool().Draw(t, "read-only"))
	}
	if rapid.Bool().Draw(t, "speaks of reversibility") {
		c.Reversibility = new(rapid.SampledFrom([]action.Reversibility{action.Irreversible, action.Partial, action.Full}).Draw(t, "reversibility"))
	}
	if rapid.Bool().Draw(t, "speaks of the window") {
		c.UndoWindow = new(time.Duration(rapid.IntRange(0, 3).Draw(t, "hours")) * time.Hour)
	}
	return c
})

// SPEC §4: "A weaker source can only make an action *stricter*": once somebody has spoken of an effect, whoever comes after
// lowers the reversibility it is decided with, or leaves it; and never lets it into a less privileged ring.
func TestAWeakerSourceNeverLoosens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stronger := rapid.SliceOfN(effects, 1, 3).Draw(t, "stronger")
		spoken, limited := false, false
		for _, c := range stronger {
			spoken = spoken || c.ReadOnly != nil || c.Reversibility != nil
			limited = limited || c.UndoWindow != nil
		}
		image := rapid.SampledFrom(imageStates).Draw(t, "image")
		named := action.Claim{Undo: undo} // so that full can be decided as full
		before := action.Resolve("a", append([]action.Claim{named}, stronger...)...)
		weaker := effects.Draw(t, "weaker")
		after := action.Resolve("a", append(append([]action.Claim{named}, stronger...), weaker)...)
		was, is := before.Effective(image), after.Effective(image)
		if spoken && (is > was || after.ReadOnly && !before.ReadOnly || after.RequiredRing(is) > before.RequiredRing(was)) {
			t.Fatalf("%+v, then %+v: %+v", before, weaker, after)
		}
		if limited && before.UndoWindow != 0 && (after.UndoWindow == 0 || after.UndoWindow > before.UndoWindow) {
			t.Fatalf("the undo window went from %v to %v", before.UndoWindow, after.UndoWindow)
		}
	})
}
