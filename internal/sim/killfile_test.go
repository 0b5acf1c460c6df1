package sim

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/agenthypervisor/hypervisor/internal/killfile"
	"github.com/agenthypervisor/hypervisor/policy"
)

// killfile_test.go: the file that makes a kill outlast its process while the log takes nothing. One seed in four has it: a real file, in a
// folder of its own. The others' kills are in force in their process alone until they are recorded.

// keepsKills gives the seed its folder, and returns what removes it.
func (w *world) keepsKills() func() {
	if w.plan.seed%4 != 0 {
		return func() {}
	}
	dir, err := os.MkdirTemp("", "sim")
	if err != nil {
		panic(err)
	}
	w.dir = dir
	return func() {
		if err := os.RemoveAll(dir); err != nil {
			panic(err)
		}
	}
}

// tearKillFile leaves the file as a process does that dies while it overwrites the older of the two lists.
func (w *world) tearKillFile() {
	if w.dir == "" || !w.hits(tornFile) {
		return
	}
	f, err := os.OpenFile(filepath.Join(w.dir, killfile.Name), os.O_RDWR, 0)
	if err != nil {
		return // the first process died before it was made
	}
	var generation [2]uint64
	for i := range generation {
		var head [16]byte // magic, and the list's number
		if _, err := f.ReadAt(head[:], int64(i)*killfile.SlotBytes); err != nil {
			panic(err)
		}
		generation[i] = binary.BigEndian.Uint64(head[8:])
	}
	older := 0
	if generation[1] < generation[0] {
		older = 1
	}
	torn := binary.BigEndian.AppendUint64([]byte("hvkills1"), generation[1-older]+1)
	if _, err := f.WriteAt(torn[:8+w.faults.IntN(9)], int64(older)*killfile.SlotBytes); err != nil {
		panic(err)
	}
	if err := f.Close(); err != nil {
		panic(err)
	}
}

// judgeKills checks, when a process has begun, that the kills that were acknowledged before are in force, or in the log.
func (w *world) judgeKills() {
	if w.dir == "" {
		return
	}
	var scopes []policy.Scope
	for scope := range w.stops {
		scopes = append(scopes, scope)
	}
	slices.SortFunc(scopes, func(a, b policy.Scope) int { return strings.Compare(a.String(), b.String()) })
	for _, scope := range scopes {
		inForce := slices.ContainsFunc(w.hv.Kills(), func(k policy.Kill) bool { return k.Scope == scope })
		w.must(killKept, inForce || w.book.killed(scope, w.stops[scope].id), "the kill of %s was acknowledged, and the next process knows nothing of it", scope)
	}
}
