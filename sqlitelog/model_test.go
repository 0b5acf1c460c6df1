package sqlitelog

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/eventlogtest"
	"github.com/agenthypervisor/hypervisor/memlog"
)

// Whatever is done to it, closed, opened, crashed, indexed or not, the store must be what a map in memory would be.
func TestStoreIsItsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{t: t, dir: t.TempDir(), model: memlog.New()}
		m.open()
		rt.Repeat(rapid.StateMachineActions(m))
		if err := m.store.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

type machine struct {
	t     *testing.T
	dir   string
	store *Store
	model *memlog.Store
}

func (m *machine) open() { m.store = open(m.t, m.dir).(*Store) }

// Check compares all that can be seen. rapid calls it after every action.
func (m *machine) Check(rt *rapid.T) {
	want, got := seen(m.t, m.model), seen(m.t, m.store)
	if diff := cmp.Diff(want, got); diff != "" {
		rt.Fatalf("store is not its model (-model +store):\n%s", diff)
	}
}

func seen(t testing.TB, s eventlog.Store) map[string]string {
	all := map[string]string{}
	n := 0
	for name, recs := range eventlogtest.Verify(t, s) {
		for _, r := range recs {
			all[fmt.Sprintf("%05d", r.Position)] = fmt.Sprintf("%s %d %s payload=%x", name, r.Seq, r.Body, r.Payload)
			n++
		}
	}
	for h, err := range s.Heads(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all["head of "+h.Stream] = fmt.Sprintf("%d %s %s %t", h.Seq, h.Hash, h.Deadline, h.Owes)
		snap, ok, err := s.Snapshot(t.Context(), h.Stream)
		all["snapshot of "+h.Stream] = fmt.Sprintf("%+v %t %v", snap, ok, err)
	}
	for k := range byte(3) {
		b, err := s.Blob(t.Context(), audit.Hash{k})
		all[fmt.Sprint("blob ", k)] = fmt.Sprintf("%s %t", b, errors.Is(err, eventlog.ErrNoBlob))
	}
	return all
}

// Append hands both a group in which some records fit and some do not.
func (m *machine) Append(rt *rapid.T) {
	streams := map[string]eventlogtest.Stream{}
	for h := range m.model.Heads(m.t.Context()) {
		streams[h.Stream] = eventlogtest.Stream{Name: h.Stream, Seq: h.Seq, Prev: h.Hash}
	}
	var group []eventlog.Append
	for range rapid.IntRange(1, 12).Draw(rt, "records") {
		name := rapid.SampledFrom([]string{"system", "session/a", "session/b", "agent/did:mesh:ann"}).Draw(rt, "stream")
		s := streams[name]
		s.Name = name
		a := s.Next(rapid.StringN(0, 20, 40).Draw(rt, "said"))
		a.Durable, a.Owes = rapid.Bool().Draw(rt, "durable"), rapid.Bool().Draw(rt, "owes")
		if rapid.Bool().Draw(rt, "has payload") {
			a.Payload = bytes.Repeat([]byte{1}, rapid.IntRange(1, 9000).Draw(rt, "payload"))
		}
		if rapid.Bool().Draw(rt, "has deadline") {
			a.Deadline = time.UnixMicro(rapid.Int64Range(-1e9, 4e15).Draw(rt, "deadline"))
		}
		switch rapid.IntRange(0, 9).Draw(rt, "fits") { // mostly
		case 0:
			a.Prev[3] ^= 1
		case 1:
			a.Seq++
		default:
			streams[name] = s
		}
		group = append(group, a)
	}
	want, got := m.model.Append(m.t.Context(), group), m.store.Append(m.t.Context(), group)
	for i := range group {
		if (want == nil || want[i] == nil) != (got == nil || got[i] == nil) {
			rt.Fatalf("record %d: model says %v, store says %v", i, want, got)
		}
	}
}

// ReadFrom compares a read that begins in the middle.
func (m *machine) ReadFrom(rt *rapid.T) {
	stream, from := rapid.SampledFrom([]string{"system", "session/a", "nobody"}).Draw(rt, "stream"), rapid.Uint64Range(0, 40).Draw(rt, "from")
	list := func(s eventlog.Log) (seqs []uint64) {
		for r, err := range s.Read(m.t.Context(), stream, from) {
			if err != nil {
				rt.Fatal(err)
			}
			seqs = append(seqs, r.Seq)
		}
		return seqs
	}
	if want, got := list(m.model), list(m.store); !slices.Equal(want, got) {
		rt.Fatalf("model reads %v, store reads %v", want, got)
	}
}

// Blob puts a blob, perhaps where there is one.
func (m *machine) Blob(rt *rapid.T) {
	key, b := audit.Hash{rapid.ByteRange(0, 2).Draw(rt, "key")}, []byte(rapid.String().Draw(rt, "blob"))
	if err := errors.Join(m.model.PutBlob(m.t.Context(), key, b), m.store.PutBlob(m.t.Context(), key, b)); err != nil {
		rt.Fatal(err)
	}
}

// Snapshot saves one of a stream's state.
func (m *machine) Snapshot(rt *rapid.T) {
	snap := eventlog.Snapshot{Stream: "session/a", Seq: rapid.Uint64Range(1, 9).Draw(rt, "seq"), State: []byte(rapid.String().Draw(rt, "state"))}
	if err := errors.Join(m.model.SaveSnapshot(m.t.Context(), snap), m.store.SaveSnapshot(m.t.Context(), snap)); err != nil {
		rt.Fatal(err)
	}
}

// Index puts a piece, or all, into the index.
func (m *machine) Index(rt *rapid.T) {
	if rapid.Bool().Draw(rt, "all") {
		if err := m.store.finish(m.t.Context()); err != nil {
			rt.Fatal(err)
		}
		return
	}
	if _, err := m.store.step(m.t.Context(), 1); err != nil {
		rt.Fatal(err)
	}
}

// Restart closes the store and opens it again.
func (m *machine) Restart(rt *rapid.T) {
	if err := m.store.Close(); err != nil {
		rt.Fatal(err)
	}
	m.open()
}

// Crash goes on with what stands in the files, as if the process had been killed here.
func (m *machine) Crash(rt *rapid.T) {
	files := []string{"log.db", "log.db-wal"}
	if rapid.Bool().Draw(rt, "with the WAL's index") {
		files = append(files, "log.db-shm")
	}
	dir := copyFiles(m.t, m.dir, files...)
	if err := m.store.Close(); err != nil {
		rt.Fatal(err)
	}
	m.dir = dir
	m.open()
}

// Doubt goes on as after an error that leaves it open what is on the disk.
func (m *machine) Doubt(*rapid.T) { doubt(m.store) }

// The reader must see what the store holds, beside it.
func TestReaderSeesWhatTheStoreHolds(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer closeStore(t, s)
	fill(t, s, 50)
	want := map[uint64]string{}
	for r, err := range s.Tail(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		want[r.Position] = string(r.Body)
	}
	r, err := OpenReader(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := map[uint64]string{}
	for row, err := range r.Tail(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		got[row.Position] = string(row.Body)
	}
	if !maps.Equal(want, got) {
		t.Errorf("reader sees %d rows, store holds %d", len(got), len(want))
	}
}
