package eventlogtest

import (
	"fmt"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
)

// A Stream makes records that follow each other, as a session does. Set Name; the other fields are its head.
type Stream struct {
	Name string
	Seq  uint64
	Prev audit.Hash
}

var epoch = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// Next returns a record that follows the last one, durable, and moves on to it. What is said goes into its body.
func (s *Stream) Next(said string) eventlog.Append {
	events := audit.AppendString([]byte(`[{"type":"test.said","said":`), said)
	r := audit.Record{
		Stream: s.Name, Seq: s.Seq + 1, Prev: s.Prev, Time: epoch.Add(time.Duration(s.Seq) * time.Second),
		Caller: audit.Caller{DID: "did:mesh:ann", Role: "agent", Via: "test"}, Trace: "00-0-0-01", Events: append(events, `}]`...),
	}
	body := r.Append(nil)
	a := eventlog.Append{Stream: s.Name, Seq: r.Seq, Prev: s.Prev, Body: body, Hash: audit.Leaf(body), Durable: true}
	s.Seq, s.Prev = a.Seq, a.Hash
	return a
}

// Upto returns n records that follow each other.
func (s *Stream) Upto(n int) []eventlog.Append {
	recs := make([]eventlog.Append, n)
	for i := range recs {
		recs[i] = s.Next(fmt.Sprint("word ", i))
	}
	return recs
}
