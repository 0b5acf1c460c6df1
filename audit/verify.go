package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
)

// A Stored is a record as a log keeps it.
type Stored struct {
	Position uint64 // in commit order over all streams: 1, 2, 3, …
	Stream   string
	Seq      uint64
	Hash     Hash // as stored beside the body
	Body     []byte
	Payload  []byte // nil: none, or redacted
}

// A Fault is where a log is not what was recorded, and why. It is an error.
type Fault struct {
	Stream string `json:"stream"` // empty: the log as a whole
	Seq    uint64 `json:"seq"`    // zero: the stream as a whole
	What   string `json:"what"`
}

// Error returns the place and what is wrong there.
func (f *Fault) Error() string {
	switch {
	case f.Stream == "":
		return "log: " + f.What
	case f.Seq == 0:
		return f.Stream + ": " + f.What
	}
	return fmt.Sprintf("%s record %d: %s", f.Stream, f.Seq, f.What)
}

// A Summary is what a verified log holds.
type Summary struct {
	Sessions int    `json:"sessions"`
	Open     int    `json:"open"` // of them without a summary in the system stream: still running, or ended just before a crash
	Records  uint64 `json:"records"`
	Root     Hash   `json:"root"` // with Records, the Head to write down
}

// Blobs hold the parts of payloads that stand outside their row (Part.External).
type Blobs interface {
	// Blob returns the bytes stored under a commitment, false if there are none: redacted, which is no fault.
	// Its error ends the verification and says nothing of the log.
	Blob(commitment Hash) (b []byte, found bool, err error)
}

// A Verifier reads a whole log once, in commit order, and finds what was changed, lost, put in, put twice or put elsewhere
// (SPEC §8). It believes no stored hash. The zero Verifier is ready; it is not safe for concurrent use.
//
// What it finds, and against what:
//   - a changed byte: against the hash stored beside the record, the next record's prev, and a payload's commitments;
//   - a record lost, put in, put twice or swapped: against the sequence and prev of its stream;
//   - a session cut short or gone: against its opening and its summary in the system stream;
//   - the newest records cut off from the log: against a Head alone. Without one, who can write the log can shorten what has
//     not ended, and rewrite everything at once.
//
// It holds one hash a stream, and O(log n) of them for a session that has no summary yet.
type Verifier struct {
	Head  *Head // nil: none known. Set before the first Add
	Blobs Blobs // nil: what stands outside the rows is not looked at. Set before the first Add

	chains map[string]*chain
	whole  Tree
	moved  *Fault // the first position out of place: told if nothing names the place better
	err    error  // the first fault or failure; it stays
}

// A chain is what is known of one stream.
type chain struct {
	born     int // how many streams were known before it: the order in which faults are told
	seq      uint64
	last     Hash // leaf hash of record seq
	tree     Tree // a session's, until its summary
	archived bool

	opened, committed bool // as the system stream says
}

// Add takes the log's next record. It returns the first *Fault found so far, or the failure of Blobs; after either every
// further Add and Close return the same. Nothing of r is kept but its stream's name.
func (v *Verifier) Add(r Stored) error {
	if v.err == nil {
		v.err = v.add(r)
	}
	return v.err
}

// Close says that there are no more records, and returns what the log holds or the first *Fault.
func (v *Verifier) Close() (Summary, error) {
	if v.err == nil {
		v.err = v.end()
	}
	if v.err != nil {
		return Summary{}, v.err
	}
	s := Summary{Records: v.whole.Size, Root: v.whole.Root()}
	for stream, c := range v.chains {
		if !strings.HasPrefix(stream, SessionPrefix) {
			continue
		}
		s.Sessions++
		if !c.committed {
			s.Open++
		}
	}
	v.err = errors.New("audit: Verifier used after Close")
	return s, nil
}

func (v *Verifier) add(r Stored) error {
	leaf := Leaf(r.Body)
	if leaf != r.Hash {
		return &Fault{r.Stream, r.Seq, "its bytes are not those of the hash stored beside it"}
	}
	e, err := skim(r.Body)
	if err != nil {
		return &Fault{r.Stream, r.Seq, err.Error()}
	}
	if fault := checkColumns(&r, &e); fault != nil {
		return fault
	}
	c := v.chain(r.Stream)
	if fault := c.link(&r, &e, leaf); fault != nil {
		return fault
	}
	if err := v.checkPayload(&r, &e); err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(r.Stream, SessionPrefix):
		if fault := c.follow(&r, &e, leaf); fault != nil {
			return fault
		}
	case r.Stream == SystemStream:
		if fault := v.followSystem(&r, &e); fault != nil {
			return fault
		}
	}
	v.whole.Add(leaf)
	v.checkPosition(&r)
	return v.checkHead()
}

// checkColumns compares what stands beside the record with what stands in it. The record's own hash held, so it is believed.
func checkColumns(r *Stored, e *envelope) *Fault {
	if e.seq == r.Seq && isQuoted(e.stream, r.Stream) {
		return nil
	}
	stream, ok := unquote(e.stream)
	if !ok {
		return &Fault{r.Stream, r.Seq, "its stream's name is not as this program writes it"}
	}
	return &Fault{stream, e.seq, fmt.Sprintf("is stored as record %d of %s", r.Seq, r.Stream)}
}

// isQuoted reports whether quoted is the JSON text of s.
func isQuoted(quoted []byte, s string) bool {
	if len(quoted) == len(s)+2 && string(quoted[1:len(quoted)-1]) == s && isPlain(s) {
		return true
	}
	return string(quoted) == string(AppendString(nil, s))
}

func (v *Verifier) chain(stream string) *chain {
	c := v.chains[stream]
	if c == nil {
		if v.chains == nil {
			v.chains = make(map[string]*chain)
		}
		c = &chain{born: len(v.chains)}
		v.chains[strings.Clone(stream)] = c
	}
	return c
}

// link appends the record to its chain.
func (c *chain) link(r *Stored, e *envelope, leaf Hash) *Fault {
	next := c.seq + 1
	switch {
	case c.archived:
		return &Fault{r.Stream, r.Seq, "stands behind the session's end"}
	case r.Seq > next:
		return &Fault{r.Stream, next, fmt.Sprintf("is missing: record %d stands in its place", r.Seq)}
	case r.Seq < next:
		return &Fault{r.Stream, r.Seq, fmt.Sprintf("stands again behind record %d", c.seq)}
	case e.prev != c.last && c.seq == 0:
		return &Fault{r.Stream, r.Seq, "is the first and names a record before it"}
	case e.prev != c.last:
		return &Fault{r.Stream, c.seq, fmt.Sprintf("is not the one that record %d was appended to", r.Seq)}
	}
	c.seq, c.last = r.Seq, leaf
	return nil
}

// checkPayload checks that each part is what the record commits to.
func (v *Verifier) checkPayload(r *Stored, e *envelope) error {
	if r.Payload == nil {
		return nil
	}
	parts := partReader{rest: r.Payload}
	var p Part
	for parts.next(&p) {
		commitment := p.Commitment()
		if !commits(e.events, parts.name, commitment) {
			return &Fault{r.Stream, r.Seq, fmt.Sprintf("payload %q is not what the record commits to", parts.name)}
		}
		if !p.External || v.Blobs == nil {
			continue
		}
		b, found, err := v.Blobs.Blob(commitment)
		if err != nil {
			return fmt.Errorf("reading payload %q of %s record %d: %w", parts.name, r.Stream, r.Seq, err)
		}
		if found && Commit(p.Salt, b) != commitment {
			return &Fault{r.Stream, r.Seq, fmt.Sprintf("the blob of payload %q is not what the record commits to", parts.name)}
		}
	}
	if parts.err != nil {
		return &Fault{r.Stream, r.Seq, parts.err.Error()}
	}
	return nil
}

// commits reports whether "name":"<commitment>" stands in events. No string inside them can hold it: its quotes would be escaped.
func commits(events, name []byte, commitment Hash) bool {
	var onStack [2 * math.MaxUint8]byte
	key := append(AppendString(onStack[:0], string(name)), ':')
	var text [2 + 2*len(commitment)]byte
	AppendHash(text[:0], commitment)
	for {
		i := bytes.Index(events, key)
		if i < 0 {
			return false
		}
		events = events[i+len(key):]
		if bytes.HasPrefix(events, text[:]) {
			return true
		}
	}
}

// The tags of the events a verifier knows, as they stand at the front of an event.
var (
	tagCreated   = []byte(`"type":"session.created"`)
	tagArchived  = []byte(`"type":"session.archived"`)
	tagOpened    = []byte(`"type":"audit.opened"`)
	tagCommitted = []byte(`"type":"audit.committed"`)
	tagAudit     = []byte(`"type":"audit.`)
)

// follow applies what a session's own record says of its beginning and end.
func (c *chain) follow(r *Stored, e *envelope, leaf Hash) *Fault {
	if r.Seq == 1 && !hasEvent(e.events, tagCreated) {
		return &Fault{r.Stream, r.Seq, "is the first and does not create the session"}
	}
	c.tree.Add(leaf)
	c.archived = hasEvent(e.events, tagArchived)
	return nil
}

// hasEvent reports whether one of the events carries the tag.
func hasEvent(events, tag []byte) bool {
	if !bytes.Contains(events, tag) {
		return false
	}
	for event := range eachEvent(events) {
		if isTagged(event, tag) {
			return true
		}
	}
	return false
}

func isTagged(event, tag []byte) bool { return event[0] == '{' && bytes.HasPrefix(event[1:], tag) }

// eachEvent yields the objects of an array of events, each at least "{}". It stops where the array is not one of objects.
func eachEvent(events []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		depth, begin, inString := 0, 0, false
		for i := 1; i < len(events)-1; i++ { // inside the brackets
			switch c := events[i]; {
			case inString && c == '\\':
				i++
			case c == '"':
				inString = !inString
			case inString:
			case c == '{' || c == '[':
				if depth == 0 {
					begin = i
				}
				depth++
			case c == '}' || c == ']':
				depth--
				if depth < 0 || depth == 0 && !yield(events[begin:i+1]) {
					return
				}
			}
		}
	}
}

// followSystem applies what the system stream says of sessions.
func (v *Verifier) followSystem(r *Stored, e *envelope) *Fault {
	if !bytes.Contains(e.events, tagAudit) {
		return nil
	}
	for event := range eachEvent(e.events) {
		var err error
		var fault *Fault
		switch {
		case isTagged(event, tagOpened):
			var opened struct{ Session string }
			if err = json.Unmarshal(event, &opened); err == nil {
				fault = v.opened(r, SessionPrefix+opened.Session)
			}
		case isTagged(event, tagCommitted):
			var committed summaryEvent
			if err = json.Unmarshal(event, &committed); err == nil {
				fault = v.committed(r, SessionPrefix+committed.Session, committed)
			}
		}
		if err != nil {
			return &Fault{r.Stream, r.Seq, "an event cannot be read: " + err.Error()}
		}
		if fault != nil {
			return fault
		}
	}
	return nil
}

type summaryEvent struct {
	Session string
	Records uint64
	Summary Hash
}

func (v *Verifier) opened(r *Stored, stream string) *Fault {
	c := v.chain(stream)
	if c.opened {
		return &Fault{r.Stream, r.Seq, "opens " + stream + " a second time"}
	}
	c.opened = true
	return nil
}

// committed compares a session with its summary. The session's records stand before it: it was computed from them.
func (v *Verifier) committed(r *Stored, stream string, said summaryEvent) *Fault {
	c := v.chain(stream)
	switch {
	case c.committed:
		return &Fault{r.Stream, r.Seq, "sums up " + stream + " a second time"}
	case !c.opened:
		return &Fault{r.Stream, r.Seq, "sums up " + stream + ", whose opening is not recorded"}
	case c.seq == 0:
		return &Fault{stream, 1, "session is missing"}
	case c.seq < said.Records:
		return &Fault{stream, c.seq + 1, fmt.Sprintf("is missing: the session's summary covers %d records", said.Records)}
	case c.seq > said.Records:
		return &Fault{stream, said.Records + 1, fmt.Sprintf("was put in: the session's summary covers %d records", said.Records)}
	case c.tree.Root() != said.Summary:
		return &Fault{stream, 0, "its records are not those its summary covers"}
	case !c.archived:
		return &Fault{stream, c.seq, "is the last by the session's summary and does not end the session"}
	}
	c.committed, c.tree = true, Tree{}
	return nil
}

// checkPosition remembers the first record that does not stand where it is numbered. Its chain tells the place better where
// it tells one at all, so the fault waits.
func (v *Verifier) checkPosition(r *Stored) {
	if want := v.whole.Size; r.Position != want && v.moved == nil {
		v.moved = &Fault{r.Stream, r.Seq, fmt.Sprintf("stands at position %d where %d is due: something before it is lost or moved", r.Position, want)}
	}
}

func (v *Verifier) checkHead() error {
	if v.Head == nil || v.whole.Size != v.Head.Records || v.whole.Root() == v.Head.Root {
		return nil
	}
	if v.moved != nil {
		return v.moved
	}
	return &Fault{What: fmt.Sprintf("its first %d records are not those of the known head", v.Head.Records)}
}

// end finds what only the end of the log shows.
func (v *Verifier) end() error {
	var first *Fault
	born := len(v.chains)
	for stream, c := range v.chains {
		if fault := c.end(stream); fault != nil && c.born < born {
			first, born = fault, c.born
		}
	}
	switch {
	case first != nil:
		return first
	case v.moved != nil:
		return v.moved
	case v.Head != nil && v.whole.Size < v.Head.Records:
		return &Fault{What: fmt.Sprintf("it has %d records and the known head has %d: the rest is cut off", v.whole.Size, v.Head.Records)}
	}
	return nil
}

// end finds what is missing of a stream at the end of the log. A session's first record may be there before its opening is.
func (c *chain) end(stream string) *Fault {
	switch {
	case !strings.HasPrefix(stream, SessionPrefix):
	case c.opened && c.seq == 0:
		return &Fault{stream, 1, "session is missing"}
	case c.seq > 1 && !c.opened:
		return &Fault{stream, 0, "the session's opening is not in the system stream"}
	}
	return nil
}
