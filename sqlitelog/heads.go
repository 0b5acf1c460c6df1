package sqlitelog

import (
	"math"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
)

// A head is a stream's newest record, small: an evicted session costs this, its name, and a slot of the map (≤ 200 B).
type head struct {
	stream string
	hash   audit.Hash
	seq    uint64
	first  int64 // id of the stream's first record: the stream's name in by_stream
	id     int64
	wants  int64 // deadline in Unix milliseconds, times two, plus one if the stream owes; see wants
}

const neverWants = math.MinInt64 / 2 // as milliseconds: no deadline

func wants(deadline time.Time, owes bool) int64 {
	ms := int64(neverWants)
	if !deadline.IsZero() {
		ms = max(deadline.UnixMilli(), neverWants+1)
	}
	w := ms << 1
	if owes {
		w |= 1
	}
	return w
}

// deadline returns the deadline as its column has it.
func (h *head) deadline() any {
	if ms := h.wants >> 1; ms != neverWants {
		return ms
	}
	return nil
}

func (h *head) owes() int64 { return h.wants & 1 }

func (h *head) event() eventlog.Head {
	e := eventlog.Head{Stream: h.stream, Seq: h.seq, Hash: h.hash, Owes: h.owes() == 1}
	if ms := h.wants >> 1; ms != neverWants {
		e.Deadline = time.UnixMilli(ms).UTC()
	}
	return e
}

// A table holds all heads. They stand in chunks, so that growing moves none and a walk can stop and go on; the map holds
// places only, so that its empty slots cost little.
type table struct {
	place  map[string]uint32
	chunks []*[chunkSize]head
}

const chunkSize = 256

func newTable(n int) *table { return &table{place: make(map[string]uint32, n)} }

func (t *table) len() int { return len(t.place) }

func (t *table) at(i uint32) *head { return &t.chunks[i/chunkSize][i%chunkSize] }

// find returns the stream's head, nil if it has none. It is the table's own: it changes with the next put.
func (t *table) find(stream string) *head {
	i, ok := t.place[stream]
	if !ok {
		return nil
	}
	return t.at(i)
}

// look returns the stream's head and its place; a zero head, before the first record, if it has none.
func (t *table) look(stream string) (place uint32, h head) {
	i, ok := t.place[stream]
	if !ok {
		return 0, head{}
	}
	return i, *t.at(i)
}

// put sets the head of its stream and returns its place.
func (t *table) put(h head) uint32 {
	if i, ok := t.place[h.stream]; ok {
		old := t.at(i)
		h.stream = old.stream // the name is kept once
		*old = h
		return i
	}
	i := uint32(len(t.place))
	if i%chunkSize == 0 {
		t.chunks = append(t.chunks, new([chunkSize]head))
	}
	*t.at(i) = h
	t.place[h.stream] = i
	return i
}
