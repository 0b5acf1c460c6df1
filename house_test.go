package hypervisor_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The plan of the house (docs/design.md "Rooms"). A new room is declared here first.

const module = "github.com/agenthypervisor/hypervisor"

// layers holds the rooms on the way of a command, from the door down. A room imports what stands below its line, never what
// stands beside it or above. The root package is ".".
var layers = [][]string{
	{"cmd/hypervisor"},
	{"internal/httpapi", "internal/gateway"},
	{"internal/auth", "internal/config"},
	{"."},
	{"internal/executor", "internal/feed", "internal/killfile", "internal/sealer", "internal/cel"},
	{"session", "system"},
	{"agent"},
	{"saga", "vfs", "liability", "manifest", "drift"},
	{"policy"},
	{"action"},
	{"ring"},
}

// everything stands for all rooms there are.
const everything = "..."

// beside holds what a room imports of ours that its layer does not give it, and the rooms that stand in no layer.
// A name that ends in /... declares all rooms below it.
var beside = map[string][]string{
	"api":          {},
	"packs":        {},
	"audit":        {},
	"eventlog":     {"audit"},
	"memlog":       {"eventlog", "audit"},
	"sqlitelog":    {"eventlog", "audit"},
	"eventlogtest": {"eventlog", "audit"},

	"internal/document": {},
	"internal/scenario": {}, // for tests
	"internal/packtest": {"internal/document", "action", "ring"},
	"saga":              {"internal/document"},
	"manifest":          {"internal/document"},
	"client":            {"api", "session", "system", "agent", "saga", "policy", "action", "ring", "audit"},

	"agent":   {"audit"}, // hashes, and the helpers that append to a record: the envelope is audit's
	"session": {"audit"},
	"system":  {"audit"},

	".":                 {"eventlog", "audit", "memlog", "sqlitelog"}, // Open chooses a store
	"internal/executor": {"eventlog", "audit"},
	"internal/feed":     {"eventlog", "audit"},
	"internal/sealer":   {"eventlog", "audit"},
	"internal/auth":     {"eventlog", "audit"},

	"internal/service":    {},
	"internal/watcher":    {"internal/service", "session", "drift", "policy", "action", "ring", "audit"},
	"internal/reputation": {"internal/service", "agent", "policy", "action", "ring", "audit"},
	"internal/address":    {".", "action"},
	"internal/config":     {"eventlog", "audit", "packs", "internal/address", "internal/document"}, // an allowlist is the book's own
	"internal/httpapi":    {"eventlog", "audit", "api", "internal/document"},
	"internal/gateway":    {"eventlog", "audit", "internal/document"}, // a duration is written alike at every door

	"cmd/hypervisor":       {everything},
	"internal/demo":        {everything},
	"internal/weather":     {}, // tests only, which are not held to the way
	"internal/conformance": {}, // tests only
	"internal/sim":         {}, // tests only
	"hypervisortest":       {everything},
	"bench":                {everything},
	"bench/...":            {everything},
	"examples/...":         {everything},
}

// pure holds the rooms of values in, values out, and the outside libraries that each may import.
var pure = map[string][]string{
	"session":   nil,
	"agent":     nil,
	"system":    nil,
	"ring":      nil,
	"action":    {"github.com/go-json-experiment/json"}, // arguments are decoded strictly: no name twice, valid UTF-8
	"liability": nil,
	"saga":      nil, // what it reads it reads with internal/document
	"vfs":       nil,
	"drift":     nil,
	"manifest":  {"github.com/go-json-experiment/json"}, // decoded strictly
	"policy":    nil,
	"audit":     {"golang.org/x/mod/sumdb/tlog", "golang.org/x/mod/sumdb/note"},

	"internal/document": {"github.com/goccy/go-yaml", "github.com/go-json-experiment/json"},
}

// impure holds the packages that a pure room does not import, nor what stands below them.
var impure = []string{"net", "os", "sync", "math/rand", "crypto/rand", "context", "log"}

// pardoned holds what a room or a file may do all the same, each with the reason.
var pardoned = map[[2]string]string{
	{"action", "context"}:             "for the name of Func, which the outside contract puts there",
	{"action/args.go", "float64"}:     "a number of JSON in a call's arguments is carried as it came, nothing is computed with it",
	{"action/template.go", "float64"}: "the same number, written into a template",
}

// exact holds the rooms in which no float takes part in a decision or an event.
var exact = []string{"session", "agent", "system", "liability", "ring", "action", "saga", "manifest", "drift"}

// rim holds the rooms of the parts that a simulator steps: outside Run they do everything in their caller's goroutine.
var rim = []string{"eventlog", "internal/executor", "internal/feed"}

// clock holds what package time has that does not give the same answer twice.
var clock = []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}

// A source is a Go file of a room that is no test.
type source struct {
	room string
	name string // of the file
	file *ast.File
	at   func(ast.Node) string
}

// rules holds what each file is held to; a rule returns its complaints.
var rules = map[string]func(source) []string{
	"every room is declared":                      undeclared,
	"imports run one way":                         importsAgainstTheWay,
	"a pure room imports nothing of the world":    importsOfTheWorld,
	"a pure room imports listed libraries only":   importsOfStrangers,
	"a pure room reads no clock":                  readsAClock,
	"a pure room starts no goroutine":             startsAGoroutine,
	"a part of the rim starts a goroutine in Run": startsAGoroutineOutsideRun,
	"no float takes part in a decision or event":  usesAFloat,
}

func TestHouse(t *testing.T) {
	sources := parseHouse(t)
	if len(sources) < 10 {
		t.Fatalf("found %d files: this test does not see the house", len(sources))
	}
	for name, rule := range rules {
		t.Run(name, func(t *testing.T) {
			for _, s := range sources {
				for _, complaint := range rule(s) {
					t.Error(complaint)
				}
			}
		})
	}
	t.Run("every room has a doc.go that says what it is", func(t *testing.T) {
		for _, complaint := range undocumented(sources) {
			t.Error(complaint)
		}
	})
}

// parseHouse reads every Go file but tests, in every directory of this module.
func parseHouse(t *testing.T) (sources []source) {
	files := token.NewFileSet()
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && (strings.ContainsAny(entry.Name()[:1], "._") || entry.Name() == "testdata"):
			return fs.SkipDir // the go command does not look there either
		case entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(files, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		sources = append(sources, newSource(files, filepath.ToSlash(name), file))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

func newSource(files *token.FileSet, name string, file *ast.File) source {
	return source{path.Dir(name), path.Base(name), file, func(n ast.Node) string { return files.Position(n.Pos()).String() }}
}

// declared returns the name under which a room is declared, and false if it is not.
func declared(room string) (string, bool) {
	for _, layer := range layers {
		if slices.Contains(layer, room) {
			return room, true
		}
	}
	if _, ok := beside[room]; ok {
		return room, true
	}
	for name := range beside {
		if below, ok := strings.CutSuffix(name, "..."); ok && strings.HasPrefix(room, below) {
			return name, true
		}
	}
	return "", false
}

func undeclared(s source) []string {
	if _, ok := declared(s.room); !ok {
		return []string{fmt.Sprintf("%s: room %q is not declared in house_test.go: say there who it may import, or move the file", s.at(s.file.Name), s.room)}
	}
	return nil
}

// mayImport reports whether a room may import another of ours.
func mayImport(room, other string) bool {
	name, _ := declared(room)
	if slices.Contains(beside[name], other) || slices.Contains(beside[name], everything) {
		return true
	}
	below := false
	for _, layer := range layers {
		if below && slices.Contains(layer, other) {
			return true
		}
		below = below || slices.Contains(layer, room)
	}
	return false
}

func importsAgainstTheWay(s source) (complaints []string) {
	for _, spec := range s.file.Imports {
		imported := importPath(spec)
		other, ours := strings.CutPrefix(imported, module+"/")
		if imported == module {
			other, ours = ".", true
		}
		if ours && !mayImport(s.room, other) {
			complaints = append(complaints, fmt.Sprintf("%s: %s must not import %s", s.at(spec), s.room, other))
		}
	}
	return complaints
}

func importsOfTheWorld(s source) (complaints []string) {
	if _, ok := pure[s.room]; !ok {
		return nil
	}
	for _, spec := range s.file.Imports {
		imported := importPath(spec)
		_, pardon := pardoned[[2]string{s.room, imported}]
		for _, bad := range impure {
			if isBelow(imported, bad) && !pardon {
				complaints = append(complaints, fmt.Sprintf("%s: pure room %s imports %s", s.at(spec), s.room, imported))
			}
		}
	}
	return complaints
}

func importsOfStrangers(s source) (complaints []string) {
	libraries, ok := pure[s.room]
	if !ok {
		return nil
	}
	for _, spec := range s.file.Imports {
		imported := importPath(spec)
		host, _, _ := strings.Cut(imported, "/")
		outside := strings.Contains(host, ".") && !isBelow(imported, module)
		if outside && !slices.ContainsFunc(libraries, func(library string) bool { return isBelow(imported, library) }) {
			complaints = append(complaints, fmt.Sprintf("%s: pure room %s imports %s, which is not listed for it", s.at(spec), s.room, imported))
		}
	}
	return complaints
}

func readsAClock(s source) []string {
	if _, ok := pure[s.room]; !ok {
		return nil
	}
	local := ""
	for _, spec := range s.file.Imports {
		if importPath(spec) != "time" {
			continue
		}
		local = "time"
		if spec.Name != nil {
			local = spec.Name.Name
		}
	}
	return complain(s, func(n ast.Node) string {
		if n, ok := n.(*ast.ImportSpec); ok && importPath(n) == "time" && local == "." {
			return "imports time into its own names, where this test loses sight of it"
		}
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return ""
		}
		if of, ok := selector.X.(*ast.Ident); !ok || of.Name != local || !slices.Contains(clock, selector.Sel.Name) {
			return ""
		}
		return "reads the clock with time." + selector.Sel.Name + "; now comes in Env"
	})
}

func startsAGoroutine(s source) []string {
	if _, ok := pure[s.room]; !ok {
		return nil
	}
	return complain(s, func(n ast.Node) string {
		if _, ok := n.(*ast.GoStmt); ok {
			return "starts a goroutine"
		}
		return ""
	})
}

// startsAGoroutineOutsideRun also complains of a clock's function that starts one when it fires.
func startsAGoroutineOutsideRun(s source) (complaints []string) {
	if !slices.Contains(rim, s.room) {
		return nil
	}
	for _, decl := range s.file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Name.Name == "Run" && f.Recv != nil {
			continue
		}
		part := s
		part.file = &ast.File{Name: s.file.Name, Decls: []ast.Decl{decl}}
		complaints = append(complaints, complain(part, func(n ast.Node) string {
			switch n := n.(type) {
			case *ast.GoStmt:
				return "starts a goroutine outside Run"
			case *ast.SelectorExpr:
				if n.Sel.Name == "Go" || n.Sel.Name == "AfterFunc" {
					return "starts a goroutine outside Run, with " + n.Sel.Name
				}
			}
			return ""
		})...)
	}
	return complaints
}

func usesAFloat(s source) []string {
	if !slices.Contains(exact, s.room) {
		return nil
	}
	return complain(s, func(n ast.Node) string {
		switch n := n.(type) {
		case *ast.Ident:
			_, pardon := pardoned[[2]string{path.Join(s.room, s.name), n.Name}]
			if (n.Name == "float32" || n.Name == "float64") && !pardon {
				return "uses " + n.Name
			}
		case *ast.BasicLit:
			if n.Kind == token.FLOAT || n.Kind == token.IMAG {
				return "uses the float " + n.Value
			}
		}
		return ""
	})
}

// complain collects what is said of the nodes of a file.
func complain(s source, of func(ast.Node) string) (complaints []string) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		if what := of(n); what != "" {
			complaints = append(complaints, fmt.Sprintf("%s: room %s %s", s.at(n), s.room, what))
		}
		return true
	})
	return complaints
}

// undocumented returns the rooms without a package comment in doc.go. Commands and examples may have it in main.go.
func undocumented(sources []source) (complaints []string) {
	said := map[string]bool{}
	for _, s := range sources {
		isMain := s.file.Name.Name == "main"
		opening := "Package " + s.file.Name.Name + " "
		if isMain {
			opening = "" // what godoc asks of a command is only that there is a comment
		}
		ok := (s.name == "doc.go" || isMain && s.name == "main.go") && s.file.Doc != nil && strings.HasPrefix(s.file.Doc.Text(), opening)
		said[s.room] = said[s.room] || ok
	}
	for _, room := range slices.Sorted(maps.Keys(said)) {
		if !said[room] {
			complaints = append(complaints, fmt.Sprintf("room %q has no doc.go whose comment begins with \"Package …\"", room))
		}
	}
	return complaints
}

func importPath(spec *ast.ImportSpec) string {
	name, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		panic(err) // the parser has read it
	}
	return name
}

// isBelow reports whether an import path is parent or stands below it.
func isBelow(imported, parent string) bool {
	return imported == parent || strings.HasPrefix(imported, parent+"/")
}

// A rule that never complains guards nothing: each is shown a file that breaks it, and one that does not.
func TestEveryRuleOfTheHouseBites(t *testing.T) {
	type example struct{ file, code string }
	ours := func(room string) string { return `package x; import "` + module + "/" + room + `"` }
	shown := map[string]struct{ bad, good []example }{
		"every room is declared": {
			bad:  []example{{"util/a.go", "package util"}, {"internal/types/a.go", "package types"}, {"session/helper/a.go", "package helper"}},
			good: []example{{"session/a.go", "package session"}, {"examples/wrap/a.go", "package main"}, {"a.go", "package hypervisor"}},
		},
		"imports run one way": {
			bad: []example{
				{"ring/a.go", ours("action")}, {"session/a.go", ours("system")}, {"saga/a.go", ours("vfs")}, {"agent/a.go", ours("session")},
				{"session/a.go", ours("eventlog")}, {"policy/a.go", ours("audit")}, {"audit/a.go", ours("eventlog")}, {"api/a.go", ours("ring")},
				{"internal/cel/a.go", `package cel; import "` + module + `"`}, {"internal/gateway/a.go", ours("internal/httpapi")},
				{"a.go", ours("internal/config")}, {"memlog/a.go", ours("sqlitelog")}, {"session/a.go", ours("util")},
			},
			good: []example{
				{"action/a.go", ours("ring")}, {"session/a.go", ours("ring")}, {"session/a.go", ours("audit")}, {"eventlog/a.go", ours("audit")},
				{"internal/gateway/a.go", `package gateway; import "` + module + `"`}, {"a.go", ours("sqlitelog")}, {"cmd/hypervisor/a.go", ours("client")},
				{"ring/a.go", `package ring; import "strings"`},
			},
		},
		"a pure room imports nothing of the world": {
			bad: []example{
				{"session/a.go", `package x; import "context"`}, {"session/a.go", `package x; import "sync/atomic"`}, {"vfs/a.go", `package x; import "os"`},
				{"policy/a.go", `package x; import "net/url"`}, {"audit/a.go", `package x; import "log/slog"`}, {"ring/a.go", `package x; import r "math/rand/v2"`},
				{"action/a.go", `package x; import "crypto/rand"`},
			},
			good: []example{
				{"action/a.go", `package x; import "context"`}, {"session/a.go", `package x; import "math/bits"`}, {"eventlog/a.go", `package x; import "sync"`},
			},
		},
		"a pure room imports listed libraries only": {
			bad: []example{
				{"session/a.go", `package x; import "github.com/goccy/go-yaml"`}, {"audit/a.go", `package x; import "golang.org/x/mod/module"`},
				{"ring/a.go", `package x; import "github.com/agenthypervisor/hypervisor2"`},
			},
			good: []example{
				{"audit/a.go", `package x; import "golang.org/x/mod/sumdb/tlog"`}, {"internal/document/a.go", `package x; import "github.com/goccy/go-yaml/ast"`},
				{"internal/cel/a.go", `package x; import "cel.dev/cel-go/cel"`}, {"action/a.go", ours("ring")}, {"ring/a.go", `package x; import "time"`},
			},
		},
		"a pure room reads no clock": {
			bad: []example{
				{"session/a.go", `package x; import "time"; var t = time.Now()`}, {"vfs/a.go", `package x; import "time"; var now = time.Now`},
				{"saga/a.go", `package x; import t "time"; func f() { t.Sleep(1) }`}, {"ring/a.go", `package x; import . "time"; var t = Now()`},
			},
			good: []example{
				{"session/a.go", `package x; import "time"; var t = time.Unix(0, 0).Add(time.Second)`}, {"eventlog/a.go", `package x; import "time"; var t = time.Now()`},
				{"session/a.go", `package x; func f(env struct{ Now int }) int { return env.Now }`},
			},
		},
		"a pure room starts no goroutine": {
			bad:  []example{{"session/a.go", `package x; func f() { go f() }`}},
			good: []example{{"session/a.go", `package x; func f() { defer f() }`}, {"internal/feed/a.go", `package x; func f() { go f() }`}},
		},
		"a part of the rim starts a goroutine in Run": {
			bad: []example{
				{"eventlog/a.go", `package x; func f() { go f() }`}, {"eventlog/a.go", `package x; func Run() { go Run() }`},
				{"internal/feed/a.go", `package x; func (f *F) Step() { f.all.Go(f.pass) }`},
				{"internal/executor/a.go", `package x; import "time"; func (f *F) Set() { time.AfterFunc(1, f.fire) }`},
				{"internal/executor/a.go", `package x; var start = func() { go f() }`},
			},
			good: []example{{"internal/executor/a.go", `package x; func (f *F) Run() { f.all.Go(f.do); go f.do() }`}, {"internal/gateway/a.go", `package x; func f() { go f() }`}},
		},
		"no float takes part in a decision or event": {
			bad:  []example{{"ring/a.go", `package x; type σ float64`}, {"session/a.go", `package x; const half = 0.5`}, {"action/a.go", `package x; func f() float32 { return 1 }`}, {"action/args.go", `package x; const half = 0.5`}},
			good: []example{{"ring/a.go", `package x; const half = 500_000`}, {"vfs/a.go", `package x; type error float64`}},
		},
	}
	for rule := range rules {
		examples := shown[rule]
		if examples.bad == nil || examples.good == nil {
			t.Errorf("rule %q is shown no example", rule)
		}
		t.Run(rule, func(t *testing.T) {
			for _, e := range examples.bad {
				if len(rules[rule](parseExample(t, e.file, e.code))) == 0 {
					t.Errorf("no complaint of %s: %s", e.file, e.code)
				}
			}
			for _, e := range examples.good {
				for _, complaint := range rules[rule](parseExample(t, e.file, e.code)) {
					t.Errorf("complaint of %s: %s: %s", e.file, e.code, complaint)
				}
			}
		})
	}
	bad := []source{parseExample(t, "ring/ring.go", "// Package ring is.\npackage ring"), parseExample(t, "vfs/doc.go", "package vfs"), parseExample(t, "saga/doc.go", "// A saga is.\npackage saga")}
	if got := undocumented(bad); len(got) != len(bad) {
		t.Errorf("of %d rooms without a doc.go, complaints of %d: %v", len(bad), len(got), got)
	}
	good := []source{parseExample(t, "ring/doc.go", "// Package ring is.\npackage ring"), parseExample(t, "ring/ring.go", "package ring"), parseExample(t, "cmd/hypervisor/main.go", "// The command.\npackage main")}
	if got := undocumented(good); len(got) != 0 {
		t.Errorf("complaints of documented rooms: %v", got)
	}
}

func parseExample(t *testing.T, name, code string) source {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, code, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return newSource(files, name, file)
}
