package audit_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/agenthypervisor/hypervisor/audit"
)

// BenchmarkVerifier verifies records of 600 bytes with payloads of 300 beside every other one, of 256 sessions that end after
// 100 records each. SPEC's budget of 5 s for a million records leaves 3.5 µs a record beside reading it.
func BenchmarkVerifier(b *testing.B) {
	log := bigBook(256, 100).log
	var size int64
	for _, r := range log {
		size += int64(len(r.Body) + len(r.Payload))
	}
	b.SetBytes(size / int64(len(log)))
	b.ReportAllocs()
	var v *audit.Verifier
	n := 0
	for b.Loop() {
		if n%len(log) == 0 {
			v, n = &audit.Verifier{}, 0
		}
		if err := v.Add(log[n]); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

func bigBook(sessions, records int) *book {
	b := newBook()
	id := func(s int) string { return fmt.Sprintf("s-%08d", s) }
	for s := range sessions {
		b.create(id(s))
		b.opened(id(s))
	}
	filler := bytes.Repeat([]byte("x"), 600)
	for n := range records {
		for s := range sessions {
			p := audit.Part{Name: "args", Salt: audit.Leaf(fmt.Append(nil, n, s)), Bytes: filler[:220]}
			events := fmt.Appendf(nil, `[{"type":"action.admitted","id":"act-%d","action":"files.write_file","args":"%s","pad":"`, n, p.Commitment())
			events = append(events, filler[:max(0, 600-len(events)-308)]...)
			events = append(events, `"}]`...)
			if n%2 == 0 {
				b.add("session/"+id(s), string(events), p)
			} else {
				b.add("session/"+id(s), string(events))
			}
		}
	}
	for s := range sessions {
		b.archive(id(s))
		b.commit(id(s))
	}
	return b
}
