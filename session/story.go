package session

import (
	"slices"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/liability"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// story.go: what led to what in a session, from its records (SPEC §3 "Attribution"). It is put together when somebody asks, and
// not kept in State.

const (
	maxStory = 1 << 18 // actions remembered; of a longer session the older ones led to nothing any more
	maxKnown = 64      // what of others' work an agent has read last and may have acted upon
)

// A Story is a session's actions with their causes, read from its records in their order: Add each, then ask Of. A cause is (1) the
// action in whose course another was asked for; (2) the newest action of its parent when an agent was spawned; (3) the newest
// write of the resource that an action reads; (4) what its agent has read that way, of an action that changes something; (5) of a saga's step what
// it needs. For blame
// a spawned agent is its parent (SPEC §2). The zero Story is empty.
type Story struct {
	session string
	nodes   []plot
	base    int // the place of nodes[0]: that many are forgotten
	places  map[string]int
	writers map[string][]int                      // by resource: the places of what has changed it and not failed, in order
	known   map[policy.DID][]int                  // by agent: the places of its reads of what was written
	newest  map[policy.DID]int                    // by agent
	parents map[policy.DID]policy.DID             // by spawned agent
	sparked map[policy.DID]int                    // by spawned agent: what its parent did last before
	ends    map[string]struct{ what, why string } // by action, of the outcomes
	sagas   map[string]*plotSaga                  // that have not ended
	faults  map[string]bool                       // actions by which a saga failed that says whose fault that is, and could not be undone
}

// A plot is an action of the story.
type plot struct {
	liability.Action
	agent    policy.DID // as recorded
	resource string
	changes  bool
}

// Add takes in a record's events.
func (t *Story) Add(at time.Time, events []Event) {
	if t.places == nil {
		*t = Story{session: t.session, places: map[string]int{}, writers: map[string][]int{}, known: map[policy.DID][]int{}, newest: map[policy.DID]int{},
			parents: map[policy.DID]policy.DID{}, sparked: map[policy.DID]int{}, ends: map[string]struct{ what, why string }{},
			sagas: map[string]*plotSaga{}, faults: map[string]bool{}}
	}
	for _, e := range events {
		switch e := e.(type) {
		case Joined:
			t.joined(e)
		case Admitted:
			t.admitted(e, at)
		case Completed:
			t.ended(e.ID, "done", "")
		case Failed:
			t.failed(e.ID)
			t.ended(e.ID, "failed", e.Why)
		case Unknown:
			t.ended(e.ID, "unknown", e.Why)
		case SagaCreated:
			t.sagas[e.ID] = newPlotSaga(e)
		case SagaEnded:
			delete(t.sagas, e.Saga)
			if e.Failed != "" && e.To == saga.Escalated {
				t.faults[e.Failed] = true
			}
		case Created:
			t.session = e.ID
		case Undone: // it stands no more; what had read it before was led by it all the same
			if id, ours := strings.CutPrefix(e.ID, t.session+"/"); ours {
				t.failed(id)
			}
		case Resolved:
			if id, ours := strings.CutPrefix(e.ID, t.session+"/"); ours {
				t.ended(id, e.Outcome, "")
			}
		default: // no other event makes one action the cause of another
		}
	}
}

func (t *Story) joined(e Joined) {
	delete(t.parents, e.Agent)
	delete(t.sparked, e.Agent)
	if e.Parent == "" {
		return
	}
	t.parents[e.Agent] = e.Parent
	if spark, acted := t.newest[e.Parent]; acted {
		t.sparked[e.Agent] = spark
	}
}

// root returns who answers for an agent.
func (t *Story) root(did policy.DID) policy.DID {
	for parent := t.parents[did]; parent != ""; parent = t.parents[did] {
		did = parent
	}
	return did
}

func (t *Story) admitted(e Admitted, at time.Time) {
	p := plot{Action: liability.Action{ID: e.ID, Agent: t.root(e.Agent), Weight: e.RiskWeight, Time: at}, agent: e.Agent, resource: e.Resource, changes: !e.ReadOnly}
	place := t.base + len(t.nodes)
	if during, there := t.places[e.During]; there {
		p.Causes = append(p.Causes, during)
	}
	if spark, there := t.sparked[e.Agent]; there {
		p.Causes = append(p.Causes, spark)
	}
	p.Causes = append(p.Causes, t.needed(e, place)...)
	switch writers := t.writers[e.Resource]; {
	case p.changes:
		p.Causes = append(p.Causes, t.known[e.Agent]...)
		if e.Resource != "" {
			t.writers[e.Resource] = append(writers, place)
		}
	case len(writers) > 0:
		p.Causes = append(p.Causes, writers[len(writers)-1])
		t.know(e.Agent, place, e.Resource)
	}
	t.places[e.ID], t.newest[e.Agent] = place, place
	t.nodes = append(t.nodes, p)
	if len(t.nodes) > maxStory {
		t.forget(len(t.nodes) / 2)
	}
}

// know notes a read of what was written; an earlier one of the same resource led to nothing any more.
func (t *Story) know(did policy.DID, place int, resource string) {
	known := slices.DeleteFunc(t.known[did], func(i int) bool { return i < t.base || t.nodes[i-t.base].resource == resource })
	if len(known) >= maxKnown {
		known = known[1:]
	}
	t.known[did] = append(known, place)
}

// failed takes back that an action has written: nothing was changed, or nobody says so.
func (t *Story) failed(id string) {
	place, there := t.places[id]
	if !there {
		return
	}
	p := t.nodes[place-t.base]
	if writers := t.writers[p.resource]; p.changes && len(writers) > 0 {
		t.writers[p.resource] = slices.DeleteFunc(writers, func(i int) bool { return i == place })
	}
}

func (t *Story) ended(id, what, why string) {
	if _, there := t.places[id]; there {
		t.ends[id] = struct{ what, why string }{what, why}
	}
}

// forget drops the oldest actions.
func (t *Story) forget(n int) {
	for _, p := range t.nodes[:n] {
		delete(t.places, p.ID)
		delete(t.ends, p.ID)
		delete(t.faults, p.ID)
	}
	t.nodes = slices.Clone(t.nodes[n:])
	t.base += n
}

// A Finding is what the records say of an action that an incident is about.
type Finding struct {
	Agent   policy.DID // whose action it is, as recorded
	Outcome string     // running, done, failed or unknown
	Why     string     // of one that failed or is unknown
	Fault   bool       // a saga failed by it that says whose fault that is, and could not all be undone
	Blame   liability.Blame
}

// Of returns who bears how much of what an action has done, and false if the story has no such action.
func (t *Story) Of(id string, seed uint64) (Finding, bool) {
	place, there := t.places[id]
	if !there {
		return Finding{}, false
	}
	g := make(liability.Graph, place-t.base+1)
	for i := range g {
		g[i] = t.nodes[i].Action
		g[i].Causes = nil
		for _, c := range t.nodes[i].Causes {
			if c >= t.base { // an older one is forgotten
				g[i].Causes = append(g[i].Causes, c-t.base)
			}
		}
	}
	f := Finding{Agent: t.nodes[place-t.base].agent, Outcome: "running", Fault: t.faults[id], Blame: liability.Attribute(g, place-t.base, seed)}
	if end, ended := t.ends[id]; ended {
		f.Outcome, f.Why = end.what, end.why
	}
	return f, true
}
