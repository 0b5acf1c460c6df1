package audit_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
)

// A book writes a log as the hypervisor does: records in commit order, each chained to the one before it in its stream.
type book struct {
	log   []audit.Stored
	heads map[string]audit.Stored
	trees map[string]*audit.Tree // of sessions
	blobs blobs
}

type blobs map[audit.Hash][]byte

func (b blobs) Blob(h audit.Hash) ([]byte, bool, error) {
	bytes, ok := b[h]
	return bytes, ok, nil
}

func newBook() *book {
	return &book{heads: map[string]audit.Stored{}, trees: map[string]*audit.Tree{}, blobs: blobs{}}
}

var bookBegins = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// add appends a record with the events, and with the parts as its payload.
func (b *book) add(stream, events string, parts ...audit.Part) audit.Stored {
	head := b.heads[stream]
	r := audit.Record{
		Stream: stream, Seq: head.Seq + 1, Prev: head.Hash, Events: []byte(events),
		Time:   bookBegins.Add(time.Duration(len(b.log)) * 1_234_567 * time.Microsecond),
		Caller: audit.Caller{DID: "did:mesh:ann", Role: "agent", Via: "stdio"},
		Trace:  "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	}
	body := r.Append(nil)
	s := audit.Stored{Position: uint64(len(b.log) + 1), Stream: stream, Seq: r.Seq, Body: body, Hash: audit.Leaf(body)}
	if parts != nil {
		s.Payload = audit.AppendPayload(nil, parts)
	}
	b.log = append(b.log, s)
	b.heads[stream] = s
	if b.trees[stream] == nil {
		b.trees[stream] = &audit.Tree{}
	}
	b.trees[stream].Add(s.Hash)
	return s
}

func (b *book) create(session string) {
	b.add("session/"+session, `[{"type":"session.created","id":"`+session+`"}]`)
}

func (b *book) opened(session string) {
	b.add("system", `[{"type":"audit.opened","session":"`+session+`"}]`)
}

// act records a call with its arguments beside it.
func (b *book) act(session string, n int) {
	p := audit.Part{Name: "args", Salt: audit.Leaf(fmt.Append(nil, "salt", n)), Bytes: fmt.Appendf(nil, `{"path":"notes/%d.txt","text":"lorem ipsum dolor"}`, n)}
	b.add("session/"+session, fmt.Sprintf(`[{"type":"action.admitted","id":"act-%d","action":"files.write_file","args":"%s"},{"type":"action.started","id":"act-%d"}]`, n, p.Commitment(), n), p)
}

// complete records a call's result in a blob of its own, and a small part beside it.
func (b *book) complete(session string, n int) {
	bytes := fmt.Appendf(nil, "a large result, number %d", n)
	salt := audit.Leaf(fmt.Append(nil, "more salt", n))
	result := audit.Part{Name: "result", Salt: salt, External: true, Outside: audit.Commit(salt, bytes)}
	b.blobs[result.Outside] = bytes
	note := audit.Part{Name: "note", Salt: salt, Bytes: []byte("ok")}
	b.add("session/"+session, fmt.Sprintf(`[{"type":"action.completed","id":"act-%d","result":"%s","note":"%s","said":"\"type\":\"session.archived\""}]`, n, result.Commitment(), note.Commitment()), result, note)
}

func (b *book) archive(session string) {
	b.add("session/"+session, `[{"type":"session.terminated"},{"type":"session.archived","nested":{"type":"session.created"}}]`)
}

func (b *book) commit(session string) {
	tree := b.trees["session/"+session]
	b.add("system", fmt.Sprintf(`[{"type":"audit.committed","session":"%s","records":%d,"summary":"%s"}]`, session, tree.Size, tree.Root()))
}

// head is what somebody wrote down when the book had n records.
func (b *book) head(n int) *audit.Head {
	var t audit.Tree
	for _, r := range b.log[:n] {
		t.Add(r.Hash)
	}
	return &audit.Head{Records: t.Size, Root: t.Root()}
}

// smallBook has two ended sessions, one that ended and was not summed up, one running, one just begun, and an agent.
func smallBook() *book {
	b := newBook()
	b.add("system", `[{"type":"system.started","epoch":1}]`)
	b.create("s1")
	b.opened("s1")
	b.create("s2")
	b.opened("s2")
	b.act("s1", 1)
	b.act("s2", 1)
	b.complete("s1", 1)
	b.add("agent/did:mesh:ann", `[{"type":"agent.seen"}]`)
	b.create("s3")
	b.add("session/s1", `[{"type":"session.left","agent":"did:mesh:ann","nested":{"type":"session.archived"}}]`)
	b.archive("s1")
	b.opened("s3")
	b.commit("s1")
	b.complete("s2", 1)
	b.create("s4")
	b.opened("s4")
	b.act("s4", 1)
	b.archive("s2")
	b.commit("s2")
	b.act("s3", 1)
	b.archive("s3")
	b.create("s5")
	b.add("agent/did:mesh:ann", `[{"type":"agent.seen"}]`)
	b.act("s4", 2)
	return b
}

// rechain makes the log consistent again after the body of a record was changed: what a forger does who can write all of it
// but for the summaries and the heads that others hold.
func rechain(log []audit.Stored) []audit.Stored {
	heads := map[string]audit.Stored{}
	for i := range log {
		r, err := audit.ParseRecord(log[i].Body)
		if err != nil {
			panic(err)
		}
		r.Seq, r.Prev = heads[r.Stream].Seq+1, heads[r.Stream].Hash
		log[i].Seq, log[i].Body = r.Seq, r.Append(nil)
		log[i].Hash = audit.Leaf(log[i].Body)
		heads[r.Stream] = log[i]
	}
	return renumber(log)
}

// verify runs the whole of records through a verifier.
func verify(records []audit.Stored, v *audit.Verifier) (audit.Summary, error) {
	for _, r := range records {
		if err := v.Add(r); err != nil {
			return audit.Summary{}, err
		}
	}
	return v.Close()
}

// copyLog returns a log whose fields can be changed at will.
func copyLog(log []audit.Stored) []audit.Stored {
	log = slices.Clone(log)
	for i := range log {
		log[i].Body, log[i].Payload = slices.Clone(log[i].Body), slices.Clone(log[i].Payload)
	}
	return log
}

// renumber gives the records the positions a forger would give them.
func renumber(log []audit.Stored) []audit.Stored {
	for i := range log {
		log[i].Position = uint64(i + 1)
	}
	return log
}
