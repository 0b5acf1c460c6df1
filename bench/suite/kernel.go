package suite

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// kernel.go: what needs no disk.

var (
	admin = policy.Operator("did:mesh:admin")
	ann   = policy.Agent("did:mesh:ann")
	// high is a σ of ring 1.
	high = ring.MustSigma("0.97")
	// trace is what the hypervisor draws anew for each command.
	trace = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
)

// A kernel is one session's pure machine with its chain and tree: what a live session does, without lock, clock and log.
type kernel struct {
	state *session.State
	name  string // of its stream
	head  audit.Hash
	tree  audit.Tree
	env   session.Env
	*scratch
	keep func(eventlog.Append) // nil: the record's bytes are overwritten by the next
}

// scratch is where records are encoded. The hypervisor's sessions share theirs too.
type scratch struct{ events, body []byte }

var standings = map[policy.DID]agent.Standing{ann.DID: {Sigma: high}}

func newKernel(id string, room *scratch) *kernel {
	return &kernel{scratch: room, name: audit.SessionPrefix + id, state: session.NewState(id), env: session.Env{
		Now: lately(), Standings: standings,
		Incarnation: "0123456789abcdef", NodeEpoch: 1, Tallies: map[policy.DID]session.Tally{},
	}}
}

// lately is when what is recorded beforehand was done: long enough ago to be past, and a session of then runs on.
func lately() time.Time { return time.Now().UTC().Truncate(time.Microsecond).Add(-time.Hour) }

// do takes a command from decision to leaf. What it does not allow panics: the benchmark would measure refusals.
func (k *kernel) do(caller policy.Caller, c session.Command, call *session.Call) session.Outcome {
	k.env.Caller, k.env.Call = caller, call
	k.env.Now = k.env.Now.Add(20 * time.Millisecond) // a token of ring 1
	out, err := session.Decide(k.state, &k.env, c)
	if err != nil || !out.Allowed {
		panic(fmt.Sprintf("suite: %T: %+v, %v", c, out.Decision, err))
	}
	for _, t := range out.Tallies {
		k.env.Tallies[t.Agent] = t.Tally
	}
	var payload []byte
	if len(out.Parts) > 0 {
		payload = audit.AppendPayload(make([]byte, 0, 128+len(out.Parts[0].Bytes)), out.Parts)
	}
	k.events = session.AppendEvents(k.events[:0], out.Events)
	session.Apply(k.state, session.Stamp{Seq: k.state.Seq + 1, Time: k.env.Now, Caller: caller.DID}, out.Events)
	rec := audit.Record{Stream: k.name, Seq: k.state.Seq, Time: k.env.Now, Trace: trace, Prev: k.head,
		Events: k.events, Caller: audit.Caller{DID: string(caller.DID), Role: caller.Role.String(), Via: caller.Via}}
	k.body = rec.Append(k.body[:0])
	leaf := audit.Leaf(k.body)
	k.tree.Add(leaf)
	if k.keep != nil {
		k.keep(eventlog.Append{Stream: rec.Stream, Seq: rec.Seq, Prev: k.head, Body: bytes.Clone(k.body), Hash: leaf, Payload: payload,
			Deadline: session.Due(k.state), Owes: session.Owes(k.state), Durable: true})
	}
	k.head = leaf
	return out
}

func (k *kernel) open() {
	k.do(admin, session.Create{Config: session.Config{MaxDuration: session.MaxDuration}}, nil)
	k.do(admin, session.Join{Agent: ann.DID}, nil)
	k.do(admin, session.Activate{}, nil)
}

func (k *kernel) act(call *session.Call) (id string) {
	return k.do(ann, session.Act{Action: call.Descriptor.ID, Args: call.Args}, call).ID
}

func (k *kernel) settle(id string) {
	k.do(policy.System, session.Settle{ID: id, Result: session.Done, Output: []byte(`{"ok":true}`)}, nil)
}

// end terminates the session, and returns what its summary holds.
func (k *kernel) end() (root audit.Hash) {
	k.do(admin, session.Terminate{}, nil)
	if owed := k.state.Owed; len(owed) > 0 { // the agent's stream is told that the session was clean, and its last record is of that
		k.do(policy.System, session.Told{Answers: []session.Answer{{Number: owed[0].Entry.Number, Sigma: high}}}, nil)
	} else {
		k.do(policy.System, session.Tick{}, nil)
	}
	return k.tree.Root()
}

// writeCall is a call as the rim hands it in: its arguments decoded.
func writeCall() *session.Call {
	args, err := action.DecodeArgs([]byte(writeArgs))
	if err != nil {
		panic(err)
	}
	d := action.Descriptor{ID: "write", Reversibility: action.Partial}
	return &session.Call{Descriptor: d, Digest: d.Digest(), Args: args.Canonical, Values: args.Values}
}

const writeArgs = `{"path":"/srv/work/a.txt","text":"hello"}`

func ringCheck(_ context.Context, r *run) ([]Row, error) {
	standings := maps.Clone(standings)
	for i := range 9 {
		standings[policy.DID(fmt.Sprintf("did:mesh:agent-%d", i))] = agent.Newcomer
	}
	d, least, admitted := writeCall().Descriptor, session.DefaultMinSigmaEff, 0
	took := inTurns(r.Sample, func(n int) {
		for range n {
			score, ceiling := standings[ann.DID].Sigma, ring.Root
			if score < least {
				ceiling = ring.Sandbox
			}
			in := ring.Of(score, ring.Sandbox, ceiling)
			if l := in.Limits(); in <= d.RequiredRing(d.Effective(action.NoImage)) && (!d.Network || l.Network == ring.Full) {
				admitted++
			}
		}
	})
	if admitted == 0 {
		panic("suite: nothing was admitted")
	}
	return []Row{Row{Work: "ring check: one of ten participants' σ, ceiling, descriptor, capability", Value: float64(took[0]), Unit: "ns",
		Reach: "≤ 50 ns"}.atMost(50)}, nil
}

// hashes returns a function that only hashes what the work does: the commitments, leaves and nodes nobody can do without.
func hashes(records int) func(n int) {
	body := make([]byte, 600)
	return func(n int) {
		var tree audit.Tree
		for i := range n * records {
			body[0] = byte(i)
			tree.Add(audit.Leaf(body))
		}
	}
}

func decision(_ context.Context, r *run) ([]Row, error) {
	k, call := newKernel("ses-bench", &scratch{}), writeCall()
	k.open()
	const most = 8 // calls at once; ring 1 allows 16
	var inActs, beside []time.Duration
	ids, hash := make([]string, 0, most), hashes(1)
	for began := time.Now(); time.Since(began) < r.Sample; ids = ids[:0] {
		inActs = append(inActs, took(func() {
			for range most {
				ids = append(ids, k.act(call))
			}
		})/most)
		for _, id := range ids {
			k.settle(id)
		}
		beside = append(beside, took(func() { hash(most) })/most)
	}
	return []Row{Row{Work: "decision: decide, apply, encode, chain, tree", Value: micros(percentile(inActs, 50)), Unit: "µs", Reach: "≤ 3 µs",
		Beside: "its leaf and node hashes alone", Baseline: micros(percentile(beside, 50))}.atMost(3)}, nil
}

func lifecycle(_ context.Context, r *run) ([]Row, error) {
	const records = 5
	var room scratch
	took := inTurns(r.Sample, func(n int) {
		for range n {
			k := newKernel("ses-bench", &room)
			k.open()
			k.end()
		}
	}, hashes(records))
	return []Row{Row{Work: "session lifecycle: create, join, activate, terminate, root", Value: micros(took[0]), Unit: "µs", Reach: "≤ 10 µs",
		Beside: "its leaf and node hashes alone", Baseline: micros(took[1])}.atMost(10)}, nil
}

func pipeline(_ context.Context, r *run) ([]Row, error) {
	const actions, records = 3, 5 + 2*3
	call, room := writeCall(), scratch{}
	took := inTurns(r.Sample, func(n int) {
		for range n {
			k := newKernel("ses-bench", &room)
			k.open()
			for range actions {
				k.settle(k.act(call))
			}
			k.end()
		}
	}, hashes(records))
	return []Row{Row{Work: "pipeline: create, join, activate, 3 actions and outcomes, terminate, root", Value: micros(took[0]), Unit: "µs", Reach: "≤ 20 µs",
		Beside: "its leaf and node hashes alone", Baseline: micros(took[1])}.atMost(20)}, nil
}
