package session_test

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// A bench is a session in memory with its chain and tree, as a handle holds it, and nothing of what the tests check.
type bench struct {
	state  *session.State
	env    session.Env
	tree   audit.Tree
	prev   audit.Hash
	events []byte
	body   []byte
}

var (
	benchOps = policy.Operator("did:mesh:ops")
	benchAnn = policy.Agent("did:mesh:ann")
)

func newBench(agents int) *bench {
	d := action.Descriptor{ID: "files.write_file", Reversibility: action.Partial}
	b := &bench{env: session.Env{Now: start, Rules: policy.NoRules{}, RulesID: "rules-1", Incarnation: "process-1", NodeEpoch: 1,
		Random: sha256.Sum256(nil), Secret: sha256.Sum256([]byte("secret")), Operators: 1, Standings: map[policy.DID]agent.Standing{},
		Tallies: map[policy.DID]session.Tally{},
		Call:    &session.Call{Descriptor: d, Digest: d.Digest(), Args: []byte(`{"path":"/srv/work/a.txt","content":"hello"}`)}}}
	b.open(agents)
	return b
}

func (b *bench) open(agents int) {
	b.state, b.tree, b.prev = session.NewState("s1"), audit.Tree{}, audit.Hash{}
	b.do(benchOps, session.Create{Config: session.Config{MaxParticipants: max(agents, 1)}})
	for i := range agents {
		did := benchAnn.DID
		if i > 0 {
			did = policy.DID(fmt.Sprint("did:mesh:other-", i))
		}
		b.env.Standings[did] = agent.Standing{Sigma: 970_000}
		b.do(benchOps, session.Join{Agent: did})
	}
	b.do(benchOps, session.Activate{})
}

// end terminates the session; a clean one's last record says that its agents were told.
func (b *bench) end() {
	b.do(benchOps, session.Terminate{})
	if len(b.state.Owed) > 0 {
		b.do(policy.System, tellAll(b.state))
	} else {
		b.do(policy.System, session.Tick{})
	}
	b.tree.Root()
}

// do is one decision: decide, encode, chain, tree, apply.
func (b *bench) do(by policy.Caller, c session.Command) session.Outcome {
	b.env.Caller = by
	out, err := session.Decide(b.state, &b.env, c)
	if err != nil || !out.Allowed {
		panic(fmt.Sprintf("%T: %s %v", c, out.Reason, err))
	}
	for _, t := range out.Tallies {
		b.env.Tallies[t.Agent] = t.Tally
	}
	b.events = session.AppendEvents(b.events[:0], out.Events)
	r := audit.Record{Stream: "session/s1", Seq: out.Seq, Time: b.env.Now, Trace: "00-00000000000000000000000000000001-0000000000000001-01", Prev: b.prev, Events: b.events,
		Caller: audit.Caller{DID: string(by.DID), Role: by.Role.String(), Via: by.Via}}
	b.body = r.Append(b.body[:0])
	b.prev = audit.Leaf(b.body)
	b.tree.Add(b.prev)
	session.Apply(b.state, session.Stamp{Seq: out.Seq, Time: b.env.Now, Caller: by.DID}, out.Events)
	return out
}

// One decision with encode, chain and tree, in memory: reach 3 µs. Of each call and its outcome one is timed.
func BenchmarkDecideAct(bm *testing.B)    { benchmarkDecide(bm, true) }
func BenchmarkDecideSettle(bm *testing.B) { benchmarkDecide(bm, false) }

func benchmarkDecide(bm *testing.B, act bool) {
	b := newBench(10)
	bm.ReportAllocs()
	const group = 8 // of calls, then of their outcomes: the clock of the benchmark is slow to stop
	var ids [group]string
	timed := func(on bool) {
		if on {
			bm.StartTimer()
		} else {
			bm.StopTimer()
		}
	}
	for n := 0; n < bm.N; n += group {
		timed(act)
		for i := range ids {
			b.env.Now = b.env.Now.Add(20 * time.Millisecond)
			ids[i] = b.do(benchAnn, session.Act{Action: "files.write_file"}).ID
		}
		timed(!act)
		for _, id := range ids {
			b.do(policy.System, session.Settle{ID: id, Result: session.Done, Output: []byte(`{}`)})
		}
		timed(false)
		if b.env.Now.Sub(b.state.Opened) > 50*time.Minute {
			b.open(10)
		}
	}
}

func BenchmarkDecideActAndSettle(bm *testing.B) {
	b := newBench(10)
	bm.ReportAllocs()
	for bm.Loop() {
		b.env.Now = b.env.Now.Add(20 * time.Millisecond)
		id := b.do(benchAnn, session.Act{Action: "files.write_file"}).ID
		b.do(policy.System, session.Settle{ID: id, Result: session.Done, Output: []byte(`{}`)})
		if b.env.Now.Sub(b.state.Opened) > 50*time.Minute {
			bm.StopTimer()
			b.open(10)
			bm.StartTimer()
		}
	}
}

// Create, join, activate, terminate, archive: reach 10 µs.
func BenchmarkLifecycle(bm *testing.B) {
	b := newBench(1)
	bm.ReportAllocs()
	for bm.Loop() {
		b.open(1)
		b.end()
	}
}

// Create, join, activate, three calls that change something with their outcomes, terminate with the root: reach 20 µs.
func BenchmarkPipeline(bm *testing.B) {
	b := newBench(1)
	bm.ReportAllocs()
	for bm.Loop() {
		clear(b.env.Tallies)
		b.open(1)
		for range 3 {
			id := b.do(benchAnn, session.Act{Action: "files.write_file"}).ID
			b.do(policy.System, session.Settle{ID: id, Result: session.Done, Output: []byte(`{}`)})
		}
		b.end()
	}
}
