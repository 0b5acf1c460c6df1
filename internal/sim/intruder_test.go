package sim

import (
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// intrude lets another writer be ahead in a session's stream: with what an agent may always say, that something went wrong.
func (w *world) intrude(stream string) {
	s := w.book.streams(stream)
	if s == nil || len(s.present()) == 0 {
		return
	}
	in := s.present()
	by := in[w.faults.IntN(len(in))]
	now := w.clock.Now().UTC()
	if now.Before(s.state.Time) {
		now = s.state.Time
	}
	standings := map[policy.DID]agent.Standing{}
	for _, did := range in {
		standings[did] = w.book.agent(did).state.Standing()
	}
	env := session.Env{Now: now, Caller: policy.Agent(by), Standings: standings, Random: [32]byte{1}}
	out, err := session.Decide(s.state, &env, session.RaiseIncident{Agent: by, Reason: "by another writer"})
	if err != nil || !out.Allowed || len(out.Events) == 0 {
		return
	}
	rec := audit.Record{Stream: stream, Seq: s.state.Seq + 1, Time: now, Prev: s.head, Events: session.AppendEvents(nil, out.Events),
		Trace: "00-00000000000000000000000000000001-0000000000000001-01", Caller: audit.Caller{DID: string(by), Role: policy.AgentRole.String()}}
	body := rec.Append(nil)
	d := &disk{w.log, w, w.boot}
	errs := d.keep([]eventlog.Append{{Stream: stream, Seq: rec.Seq, Prev: rec.Prev, Body: body, Hash: audit.Leaf(body), Owes: true, Durable: true}})
	w.must(logVerifies, errs == nil || errs[0] == nil, "the other writer is refused: %v", errs)
}
