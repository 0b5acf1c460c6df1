package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

// book_test.go: the world's own reading of the log. It is told of each record the moment it is in, and of nothing else that the
// hypervisor believes.

type book struct {
	w        *world
	sessions map[string]*sessionBook
	agents   map[policy.DID]*agentBook
	node     *system.State
	nodeSeq  uint64
	nodeHead audit.Hash
	opened   map[string]bool
	summed   map[string]audit.Hash
	reserved map[string]bool // bonds that were set aside, SESSION/vch-3
	undone   map[string]int  // actions that were taken back, SESSION/act-12
	doubted  map[string]bool // actions of which an undo has no known outcome
	kills    map[string]bool // by id
	records  int
}

// A sessionBook is what the records of a session say.
type sessionBook struct {
	id        string
	state     *session.State // the kernel's own fold, to compare what is in memory with
	head      audit.Hash
	tree      audit.Tree
	eventual  bool
	active    bool
	archived  bool
	members   map[policy.DID]*member
	deeds     map[string]*deed
	ids       map[string]bool
	sagas     map[string]*sagaBook
	waits     map[string]*wait  // of steps, by SAGA/STEP
	approvals map[string]string // granted, denied; empty: neither
	slashed   map[policy.DID]bool
	bonds     map[string]*bond
	elevated  map[policy.DID]*elevation
}

// A member is an agent in a session.
type member struct {
	parent   policy.DID
	present  bool
	held     heldRing
	fraction float64 // of the bucket, as it is at least as full as
	at       time.Time
}

// A deed is an admitted action.
type deed struct {
	id, action string
	agent      policy.DID
	readOnly   bool
	operator   bool // an operator's, or in one's name
	undo       bool
	effect     string // SESSION/sag-3/east of a saga's step, with /undo of its undo; empty: it is no step
	position   int    // records that were in before
	started    int
	outcome    string // done, failed, unknown; empty: none yet
	sent       int
	taken      string // what takes it back brings about, where a saga's step names that; empty: else
	undoes     string // the action that it takes back, SESSION/act-12; empty: none
}

// A sagaBook is what the records say of a saga.
type sagaBook struct {
	id        string
	steps     []session.SagaStep
	committed []string // in order
	settled   map[string]saga.StepState
	undoing   map[string]bool // steps whose newest try is of their undo
	undone    map[string]int
	ended     string
	groups    []saga.Group
	skips     map[string]bool // steps that a replay leaves as they are
	invalid   map[string]bool // goals that somebody has said are reached no more
}

func (g *sagaBook) step(id string) *session.SagaStep {
	return &g.steps[slices.IndexFunc(g.steps, func(s session.SagaStep) bool { return s.ID == id })]
}

// effectOf names what a step of a saga brings about, or its undo.
func effectOf(session, saga, step string, undo bool) string {
	name := session + "/" + saga + "/" + step
	if undo {
		name += "/undo"
	}
	return name
}

// An agentBook is what the records of an agent say.
type agentBook struct {
	state *agent.State
	head  audit.Hash
	sigma ring.Sigma
	at    map[uint64]ring.Sigma // σ_raw behind each record
	bonds map[string]ring.Sigma

	before ring.Sigma // the highest σ_raw before it moved last
	fell   int        // in which turn
}

func newBook(w *world) *book {
	return &book{w: w, sessions: map[string]*sessionBook{}, agents: map[policy.DID]*agentBook{}, node: system.NewState(),
		opened: map[string]bool{}, summed: map[string]audit.Hash{}, reserved: map[string]bool{}, undone: map[string]int{}, doubted: map[string]bool{}, kills: map[string]bool{}}
}

func (b *book) session(id string) *sessionBook {
	s := b.sessions[id]
	if s == nil {
		s = &sessionBook{id: id, state: session.NewState(id), members: map[policy.DID]*member{}, deeds: map[string]*deed{},
			ids: map[string]bool{}, sagas: map[string]*sagaBook{}, waits: map[string]*wait{}, approvals: map[string]string{}, slashed: map[policy.DID]bool{},
			bonds: map[string]*bond{}, elevated: map[policy.DID]*elevation{}}
		b.sessions[id] = s
	}
	return s
}

func (b *book) agent(did policy.DID) *agentBook {
	a := b.agents[did]
	if a == nil {
		a = &agentBook{state: &agent.State{DID: did}, sigma: ring.Newcomer, at: map[uint64]ring.Sigma{}, bonds: map[string]ring.Sigma{}}
		b.agents[did] = a
	}
	return a
}

// add reads a record that is in.
func (b *book) add(rec *eventlog.Append) {
	w := b.w
	b.records++
	r, err := audit.ParseRecord(rec.Body)
	w.must(decided, err == nil && r.Caller.DID != "" && r.Caller.Role != "", "record %d of %s: %v, caller %+v", rec.Seq, rec.Stream, err, r.Caller)
	w.noteRecord(rec)
	id, ofSession := strings.CutPrefix(rec.Stream, audit.SessionPrefix)
	did, ofAgent := strings.CutPrefix(rec.Stream, audit.AgentPrefix)
	n := 0
	switch {
	case ofSession:
		events, err := session.ParseEvents(r.Events)
		w.must(decided, err == nil, "record %d of %s: %v", rec.Seq, rec.Stream, err)
		b.addSession(b.session(id), rec, r, events)
		n = len(events)
	case ofAgent:
		events, err := agent.ParseEvents(r.Events)
		w.must(decided, err == nil, "record %d of %s: %v", rec.Seq, rec.Stream, err)
		b.addAgent(b.agent(policy.DID(did)), rec, r, events)
		n = len(events)
	default:
		events, err := system.ParseEvents(r.Events)
		w.must(decided, err == nil, "record %d of %s: %v", rec.Seq, rec.Stream, err)
		b.addSystem(rec, r, events)
		n = len(events)
	}
	w.must(decided, n > 0, "record %d of %s tells of nothing", rec.Seq, rec.Stream)
}

func (b *book) addSystem(rec *eventlog.Append, r audit.Record, events []system.Event) {
	for _, e := range events {
		switch e := e.(type) {
		case system.Opened:
			b.w.must(idsOnce, !b.opened[e.Session], "session %s was opened twice", e.Session)
			b.opened[e.Session] = true
		case system.Killed:
			b.kills[e.ID] = true
		case system.Committed:
			s := b.session(e.Session)
			b.w.must(logVerifies, s.archived && e.Summary == s.tree.Root() && e.Records == s.tree.Size, "the summary of %s is not of its records", e.Session)
			b.summed[e.Session] = e.Summary
		}
	}
	system.Apply(b.node, rec.Seq, r.Time, events)
	b.nodeSeq, b.nodeHead = rec.Seq, rec.Hash
}

func (b *book) addSession(s *sessionBook, rec *eventlog.Append, r audit.Record, events []session.Event) {
	session.Apply(s.state, session.Stamp{Seq: rec.Seq, Time: r.Time, Caller: policy.DID(r.Caller.DID)}, events)
	s.head = rec.Hash
	s.tree.Add(rec.Hash)
	b.w.must(decided, !s.archived, "record %d of %s follows its last", rec.Seq, s.id)
	for _, e := range events {
		b.sessionEvent(s, r, e)
		b.waitEvent(s, rec.Seq, r.Time, e)
	}
	b.waitsLast(s, rec.Seq, r.Time)
}

// once notes that an id was given out.
func (b *book) once(s *sessionBook, id string) {
	b.w.must(idsOnce, !s.ids[id], "%s/%s was given out twice", s.id, id)
	s.ids[id] = true
}

func (b *book) sessionEvent(s *sessionBook, r audit.Record, e session.Event) {
	switch e := e.(type) {
	case session.Created:
		s.eventual = e.Config.Consistency == session.Eventual
	case session.Activated:
		s.active = true
	case session.SessionArchived:
		s.archived = true
	case session.Joined:
		if m := s.members[e.Agent]; m != nil {
			m.present, m.parent = true, e.Parent
		} else {
			s.members[e.Agent] = &member{parent: e.Parent, present: true, fraction: 1}
		}
	case session.Left:
		s.members[e.Agent].present = false
	case session.Admitted:
		b.admitted(s, r, e)
	case session.Started:
		s.deeds[e.ID].started++
	case session.ApprovalGranted:
		s.approvals[e.ID] = "granted"
	case session.ApprovalDenied:
		s.approvals[e.ID] = "denied"
	case session.IncidentRaised:
		b.once(s, e.ID)
	case session.SlashExecuted:
		s.slashed[e.Agent] = true
	case session.AgentKilled:
		b.kills[e.ID] = true
	case session.SessionKilled:
		b.kills[e.ID] = true
	case session.Undone:
		b.undone[e.ID]++
		b.w.must(undoneOnce, b.undone[e.ID] == 1, "%s is undone %d times", e.ID, b.undone[e.ID])
	case session.Completed:
		b.became(s, e.ID, "done")
	case session.Failed:
		b.became(s, e.ID, "failed")
	case session.Unknown:
		b.became(s, e.ID, "unknown")
	default:
		b.sagaEvent(s, e)
	}
	b.ringEvent(s, e)
}

// admitted notes an admission, which takes a token of its agent's.
func (b *book) admitted(s *sessionBook, r audit.Record, e session.Admitted) {
	b.once(s, e.ID)
	agents := r.Caller.Role == policy.AgentRole.String() || e.Saga != nil && !e.Saga.Undo // a step may stand in the record of the outcome before it
	d := &deed{id: e.ID, action: e.Action, agent: e.Agent, readOnly: e.ReadOnly, position: b.records,
		operator: !agents, undoes: e.Undoes, undo: e.Undoes != "" || e.Saga != nil && e.Saga.Undo}
	s.deeds[e.ID] = d
	if e.Saga != nil {
		step := &s.sagas[e.Saga.Saga].steps[e.Saga.Step]
		d.effect = effectOf(s.id, e.Saga.Saga, step.ID, e.Saga.Undo)
		byItself := e.Saga.Undo && r.Caller.Role != policy.AgentRole.String() // the hypervisor, or who runs the saga
		b.w.must(handedOn, e.Agent == step.Agent || byItself, "%s, which is %s, is done by %s", d.effect, step.Agent, e.Agent)
		if step.Undo != "" {
			d.taken = effectOf(s.id, e.Saga.Saga, step.ID, true)
		}
	} else if in, id, _ := strings.Cut(e.Undoes, "/"); e.Undoes != "" {
		d.effect = b.session(in).deeds[id].taken // as the saga itself would have called it
	}
	m := s.members[e.Agent]
	if m == nil || !agents {
		return // an operator's
	}
	b.judgeRing(s, r, e)
	const rate = 0.5 // of a bucket, each second, in every ring
	_, burst := bucketOf(e.Ring)
	if !m.at.IsZero() {
		m.fraction = min(1, m.fraction+r.Time.Sub(m.at).Seconds()*rate)
	}
	m.fraction, m.at = m.fraction-1/burst, r.Time
	b.w.must(rateHolds, m.fraction > -1e-6, "%s of %s in %s is more than its bucket holds: %v below", e.ID, e.Agent, s.id, m.fraction)
}

// bucketOf is SPEC §2's table.
func bucketOf(r ring.Ring) (rate, burst float64) {
	return [...]float64{100, 50, 20, 5}[r], [...]float64{200, 100, 40, 10}[r]
}

func (b *book) became(s *sessionBook, id, what string) {
	d := s.deeds[id]
	b.w.must(decided, d != nil && d.started == 1 && d.outcome == "", "%s/%s became %s: %+v", s.id, id, what, d)
	d.outcome = what
	b.doubted[d.undoes] = b.doubted[d.undoes] || what == "unknown"
}

func (b *book) sagaEvent(s *sessionBook, e session.Event) {
	switch e := e.(type) {
	case session.SagaCreated:
		b.once(s, e.ID)
		s.sagas[e.ID] = &sagaBook{id: e.ID, steps: slices.Clone(e.Steps), settled: map[string]saga.StepState{}, undoing: map[string]bool{}, undone: map[string]int{},
			groups: e.FanOut, skips: map[string]bool{}, invalid: map[string]bool{}}
		b.replays(s, s.sagas[e.ID], e)
	case session.SagaInvalidated:
		for _, step := range e.Steps {
			s.sagas[e.Saga].invalid[step] = true
		}
	case session.SagaHandedOff:
		b.handedOn(s, s.sagas[e.Saga].step(e.Step), e)
	case session.SagaStepStarted:
		b.w.must(goalsStand, !s.sagas[e.Saga].skips[e.Step], "%s of %s/%s is begun, and stands since another saga", e.Step, s.id, e.Saga)
		if e.Undo {
			b.undoBegins(s, s.sagas[e.Saga], e.Step)
		}
	case session.SagaStepSettled:
		g := s.sagas[e.Saga]
		g.settled[e.Step] = e.To
		switch e.To {
		case saga.Committed:
			g.committed = append(g.committed, e.Step)
		case saga.Compensated:
			g.undone[e.Step]++
			b.w.must(inReverse, g.undone[e.Step] == 1, "%s of %s/%s is undone %d times", e.Step, s.id, e.Saga, g.undone[e.Step])
		}
	case session.SagaEnded:
		g := s.sagas[e.Saga]
		b.w.must(sagasEnd, g.ended == "", "%s/%s ends twice", s.id, e.Saga)
		g.ended = e.To.String()
	default: // nothing that the book judges by
	}
}

// undoBegins checks that nothing stands that was done behind what is undone now.
func (b *book) undoBegins(s *sessionBook, g *sagaBook, step string) {
	at := slices.Index(g.committed, step)
	b.w.must(inReverse, at >= 0, "%s of %s/%s is undone and was not done", step, s.id, g.id)
	for _, later := range g.committed[at+1:] {
		i := slices.IndexFunc(g.steps, func(st session.SagaStep) bool { return st.ID == later })
		stands := g.settled[later] == saga.Committed && g.steps[i].Undoable && !g.steps[i].ReadOnly
		b.w.must(inReverse, !stands, "%s of %s/%s is undone before %s, which was done behind it", step, s.id, g.id, later)
	}
}

func (b *book) addAgent(a *agentBook, rec *eventlog.Append, r audit.Record, events []agent.Event) {
	agent.Apply(a.state, rec.Seq, r.Time, events)
	a.head = rec.Hash
	if a.state.Quarantine == nil {
		delete(b.w.apart, a.state.DID) // another one is to be acknowledged anew
	}
	for _, e := range events {
		b.agentEvent(a, e)
	}
	a.at[rec.Seq] = a.sigma
	sum := ring.Sigma(0)
	for _, amount := range a.bonds {
		sum += amount
	}
	b.w.must(bondsHold, uint64(sum)*10 <= uint64(a.sigma)*8, "%s has bonded %s of its %s", a.state.DID, sum, a.sigma)
}

func (b *book) agentEvent(a *agentBook, e agent.Event) {
	did, key := a.state.DID, func(session, bond string) string { return session + "/" + bond }
	switch e := e.(type) {
	case agent.SigmaSet:
		a.moves(b, e.Sigma)
	case agent.Moved:
		if e.Kind == agent.Clip {
			had, there := a.bonds[key(e.Session, e.Bond)]
			b.w.must(bondsHold, there && e.Lost <= had && a.sigma-min(a.sigma, e.Sigma) <= had, "%s loses %s (σ %s to %s) of a bond of %s", did, e.Lost, a.sigma, e.Sigma, had)
			delete(a.bonds, key(e.Session, e.Bond))
		}
		a.moves(b, e.Sigma)
	case agent.BondReserved:
		_, there := a.bonds[key(e.Session, e.Bond)]
		b.w.must(bondsHold, !there, "%s reserves %s/%s twice", did, e.Session, e.Bond)
		a.bonds[key(e.Session, e.Bond)] = e.Amount
		b.reserved[key(e.Session, e.Bond)] = true
	case agent.Killed:
		b.kills[e.ID] = true
	case agent.BondReleased:
		_, there := a.bonds[key(e.Session, e.Bond)]
		b.w.must(bondsHold, there, "%s releases %s/%s, which it has not", did, e.Session, e.Bond)
		delete(a.bonds, key(e.Session, e.Bond))
	case agent.BondsCut:
		for _, c := range e.Bonds {
			b.w.must(bondsHold, c.Amount < a.bonds[key(c.Session, c.Bond)], "%s: the bond %s/%s is cut and not less", did, c.Session, c.Bond)
			a.bonds[key(c.Session, c.Bond)] = c.Amount
		}
	default: // moves no bond
	}
}

func (d *deed) String() string { return fmt.Sprintf("%s %s of %s", d.id, d.action, d.agent) }

// streams returns the session of a stream; nil: it is of no session that is recorded.
func (b *book) streams(name string) *sessionBook {
	id, ok := strings.CutPrefix(name, audit.SessionPrefix)
	if !ok || b.sessions[id] == nil {
		return nil
	}
	return b.sessions[id]
}

// killed reports whether a kill stands in a record, perhaps an earlier one of the same, or what it would stop has ended.
func (b *book) killed(scope policy.Scope, id string) bool {
	switch {
	case b.kills[id]:
		return true
	case scope.All:
		return b.node.Killed != nil
	case scope.Session == "":
		return b.agent(scope.Agent).state.Killed != nil
	}
	s := b.session(scope.Session).state
	_, there := s.Kills[scope.Agent]
	return there || scope.Agent == "" && s.Killed || s.Lifecycle == session.Archived
}

// line returns an agent and those who brought it into the session.
func (s *sessionBook) line(did policy.DID) (line []policy.DID) {
	for did != "" && !slices.Contains(line, did) {
		line = append(line, did)
		m := s.members[did]
		if m == nil {
			break
		}
		did = m.parent
	}
	return line
}
