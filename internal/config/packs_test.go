package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/packs"
)

func TestPacksAreSound(t *testing.T) {
	for _, name := range packs.Names() {
		text, ok := packs.Read(name)
		claims, faults := parsePack(packSource(name), text)
		if !ok || len(faults) > 0 || len(claims) == 0 {
			t.Errorf("%s: %v", name, faults)
		}
		for tool, claim := range claims {
			if claim.ReadOnly == nil && claim.Reversibility == nil {
				t.Errorf("%s.%s: says neither read_only nor reversibility", name, tool)
			}
			if claim.Reversibility != nil && *claim.Reversibility == action.Full && claim.ReadOnly == nil {
				t.Errorf("%s.%s: full leaves a wildcard's read_only standing: say read_only: false", name, tool)
			}
			for _, c := range slices.Concat(claim.Undo, claim.UndoAbsent) {
				if claims[c.Tool].Reversibility == nil {
					t.Errorf("%s.%s: is undone by %s, which the pack does not say to change anything", name, tool, c.Tool)
				}
			}
		}
		if _, ok := claims[AnyTool]; ok {
			t.Errorf("%s: speaks of every tool: a tool that a later version of the server brings is nobody's to describe", name)
		}
	}
	if _, ok := packs.Read("../doc.go"); ok {
		t.Error("a pack is read by another name than its own")
	}
}

// SPEC §4: operator's config → adapter pack → annotations of a server marked trusted; a weaker source can only tighten.
func TestPackStandsBetweenConfigurationAndAnnotations(t *testing.T) {
	c, err := Parse("f", []byte(`
mcpServers: {a: {command: x}, b: {command: x}, c: {command: x}}
servers:
  a: {pack: filesystem}
  b: {actions: {write_file: {reversibility: none}, move_file: {name: Move}, "*": {read_only: true}}, pack: filesystem}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	loose := action.Annotations{ReadOnly: true}.Claim()
	for _, tc := range []struct {
		id       string
		effect   action.Reversibility
		readOnly bool
		resource string
	}{
		{"a.write_file", action.Full, false, "{{args.path}}"}, // the annotation loosens nothing
		{"a.move_file", action.Partial, false, "{{args.source}}"},
		{"a.unheard_of", action.Full, true, ""}, // only the annotation speaks
		{"b.write_file", action.Irreversible, false, "{{args.path}}"},
		{"b.edit_file", action.Full, false, "{{args.path}}"}, // the pack tightens "*"
		{"b.move_file", action.Partial, false, "{{args.source}}"},
		{"b.read_file", action.Full, true, "{{args.path}}"},
		{"c.write_file", action.Full, true, ""},
	} {
		server, tool, _ := strings.Cut(tc.id, ".")
		d := action.Resolve(tc.id, append(c.Claims(server, tool), loose)...)
		if d.ReadOnly {
			d.Reversibility = action.Full
		}
		if d.Reversibility != tc.effect || d.ReadOnly != tc.readOnly || d.Resource != tc.resource {
			t.Errorf("%s: %+v", tc.id, d)
		}
	}
	if d := action.Resolve("b.move_file", c.Claims("b", "move_file")...); d.Name != "Move" || len(d.Undo) != 1 || d.Undo[0].Tool != "move_file" {
		t.Errorf("what the configuration leaves open the pack says: %+v", d)
	}
}

func TestReportNamesThePackAsASource(t *testing.T) {
	c, err := Parse("f", []byte("mcpServers: {a: {command: x}}\nservers: {a: {pack: sequential-thinking, actions: {other: {read_only: true}}}}"), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, row := range c.Report().Actions {
		got[row.Action] = row.Source
	}
	if diff := cmp.Diff(map[string]string{"a.other": "f:2:52", "a.sequentialthinking": "pack sequential-thinking"}, got); diff != "" {
		t.Error(diff)
	}
}

// undoRow is a row of a table in docs/undo.md: `tool`, what it is decided as, by which calls.
var undoRow = regexp.MustCompile("^\\| `([^`]+)`(, [^|]*)? \\| (full|partial|none) \\| ([^|]*) \\| [^|]*\\|$")

// The page that says what can be taken back says of each tool of each pack what the pack says, and names the calls.
func TestUndoPageSaysWhatThePacksSay(t *testing.T) {
	page, err := os.ReadFile("../../docs/undo.md")
	if err != nil {
		t.Fatal(err)
	}
	said, pack := map[string]bool{}, ""
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "## "); ok {
			pack = name
		}
		m := undoRow.FindStringSubmatch(line)
		if m == nil {
			if strings.HasPrefix(line, "| `") {
				t.Errorf("this test does not see the row %s", line)
			}
			continue
		}
		id, variant, word, how := pack+"."+m[1], m[2], m[3], m[4]
		claim, ok := bundled()[pack][m[1]]
		if !ok {
			t.Errorf("%s is in no pack", id)
			continue
		}
		said[id] = true
		checkUndoRow(t, id, action.Resolve(id, claim), variant != "", word, how)
	}
	for pack, claims := range bundled() {
		for tool, claim := range claims {
			if reads := action.Resolve(tool, claim).ReadOnly; reads == said[pack+"."+tool] {
				t.Errorf("%s.%s: only reads: %v, stands in the page: %v", pack, tool, reads, said[pack+"."+tool])
			}
		}
	}
}

// checkUndoRow checks a row against what the pack says; a variant is the row of where nothing was there before.
func checkUndoRow(t *testing.T, id string, d action.Descriptor, variant bool, word, how string) {
	t.Helper()
	state, calls := action.NoImage, d.Undo
	switch {
	case d.Image != nil && !variant && len(d.Undo) > 0:
		state = action.ImageTaken
	case d.Image != nil:
		state, calls = action.ImageAbsent, d.UndoAbsent
	}
	if got := d.Effective(state).String(); got != word {
		t.Errorf("%s is decided as %s, and the page says %s", id, got, word)
	}
	if len(calls) == 0 && word != "none" && how != "no call" {
		t.Errorf("%s: nothing is called, and the page says %q", id, how)
	}
	for _, c := range calls {
		if !strings.Contains(how, "`"+c.Tool+"`") {
			t.Errorf("%s is undone by %s, and the page says %q", id, c.Tool, how)
		}
	}
}

func TestReportSaysWhichCallsAnUndoIsOf(t *testing.T) {
	c, err := Parse("f", []byte("mcpServers: {a: {command: x}}\nservers: {a: {pack: git}}"), nil)
	if err != nil {
		t.Fatal(err)
	}
	notes := map[string]string{}
	for _, row := range c.Report().Actions {
		notes[row.Action] = row.Note
	}
	for id, want := range map[string]string{
		"a.git_reset":  "where no faithful image can be taken decided as none; so is every call but those with mode soft, paths not given",
		"a.git_commit": "where no faithful image can be taken decided as none",
		"a.git_tag":    "where something was there before, or no faithful image can be taken, decided as none; so is every call but those with mode create",
	} {
		if notes[id] != want {
			t.Errorf("%s: %s", id, notes[id])
		}
	}
}
