package config

import (
	"slices"
	"sync"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/packs"
)

// bundled returns what each pack says, by its name and by tool. It is nobody's to change.
var bundled = sync.OnceValue(func() map[string]map[string]action.Claim {
	all := map[string]map[string]action.Claim{}
	for _, name := range packs.Names() {
		text, _ := packs.Read(name)
		claims, faults := parsePack(packSource(name), text)
		if len(faults) > 0 {
			panic("config: a bundled pack is at fault: " + faults.Error())
		}
		all[name] = claims
	}
	return all
})

// packSource is what a pack is called where a file would be.
func packSource(name string) string { return "pack " + name }

// ParsePack reads an adapter pack: what it claims of each tool. name is what its faults call it; what is wrong are Faults.
func ParsePack(name string, text []byte) (map[string]action.Claim, error) {
	claims, faults := parsePack(name, text)
	if len(faults) > 0 {
		return nil, faults
	}
	return claims, nil
}

// parsePack reads a pack as strictly as what an operator says of a server's actions.
func parsePack(source string, text []byte) (map[string]action.Claim, document.Faults) {
	var faults document.Faults
	l := &loader{reader: newReader(source, &faults), Config: &Config{said: said{file: source, actions: map[string]string{}}}}
	root, ok := l.Parse(text)
	if !ok {
		return nil, faults
	}
	places := map[string]item{}
	claims := l.actions("pack", root.AtValue(), places)
	l.consistent("pack", func(tool string) []action.Claim { return []action.Claim{claims[tool]} }, places)
	return claims, faults
}

// pack reads the name of a pack.
func (l *loader) pack(it item) (string, bool) {
	name, ok := l.Text(it)
	if ok && !slices.Contains(packs.Names(), name) {
		l.Fault(it, "there is no pack %q%s", document.Clip(name), document.Meant(name, packs.Names(), " (there are "+document.List(packs.Names())+")"))
		return "", false
	}
	return name, ok
}
