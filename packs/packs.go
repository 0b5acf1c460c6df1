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
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = strings.TrimSuffix(e.Name(), ".yaml")
	}
	return slices.Sorted(slices.Values(names))
}

// Read returns a pack's text; ok is false if there is none of that name.
func Read(name string) (text []byte, ok bool) {
	if !slices.Contains(Names(), name) {
		return nil, false
	}
	text, err := files.ReadFile(name + ".yaml")
	return text, err == nil
}
