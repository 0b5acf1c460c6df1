package packs

import (
	"embed"
	"slices"
	"strings"
)

//go:embed *.yaml
var files embed.FS

// Names returns the packs there are, sorted.
func Names() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic("packs: " + err.Error()) // it is in the program
	}
	var names []string
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".yaml"); !strings.HasSuffix(name, casesSuffix) {
			names = append(names, name)
		}
	}
	return slices.Sorted(slices.Values(names))
}

const casesSuffix = ".test"

// Read returns a pack's text; ok is false if there is none of that name.
func Read(name string) (text []byte, ok bool) {
	if !slices.Contains(Names(), name) {
		return nil, false
	}
	text, err := files.ReadFile(name + ".yaml")
	return text, err == nil
}

// Cases returns the cases that show what a pack claims; ok is false if it has none.
func Cases(name string) (text []byte, ok bool) {
	if !slices.Contains(Names(), name) {
		return nil, false
	}
	text, err := files.ReadFile(name + casesSuffix + ".yaml")
	return text, err == nil
}
