package session

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// act.go: one call, from the question to the record that admits it (SPEC §2 "Admission").

// The published names.
const (
	admittedType = "action.admitted"
	startedType  = "action.started"
)

// Act asks to have an action done.
type Act struct {
	Action string          // as policies and records say it
	Args   json.RawMessage // a JSON object; empty: {}
	Key    string          // idempotency key; empty: none
	During string          `json:",omitempty"` // the agent's running action in whose course its server asks for this (course.go); empty: none
	Saga   *SagaTry        `json:",omitempty"` // the try of a saga's step that this is; nil: none
}

func (Act) command() {}

// Admitted is recorded, and durable, before anything is dispatched.
type Admitted struct {
	ID            string               `json:"id"`
	Agent         policy.DID           `json:"agent"`
	Action        string               `json:"action"`
	Descriptor    audit.Hash           `json:"descriptor"` // digest of what was known of the action
	Args          audit.Hash           `json:"args"`       // commitment
	Ring          ring.Ring            `json:"ring"`
	RequiredRing  ring.Ring            `json:"required_ring"`
	SigmaEff      ring.Sigma           `json:"sigma_eff"`
	Standing      uint64               `json:"standing,omitempty"` // the newest record of the agent's stream that it was decided on; 0: it has none
	RiskWeight    action.Omega         `json:"risk_weight"`
	Reversibility action.Reversibility `json:"reversibility"`
	ReadOnly      bool                 `json:"read_only,omitempty"`
	Rules         string               `json:"rules,omitempty"`       // version of the operator's rules
	Approval      string               `json:"approval,omitempty"`    // used up by this
	During        string               `json:"during,omitempty"`      // the action in whose course it was asked for
	Saga          *SagaTry             `json:"saga,omitempty"`        // the try of a saga's step that it is
	Unwitnessed   bool                 `json:"unwitnessed,omitempty"` // an admin action of the only operator there is
	Resource      string               `json:"resource,omitempty"`    // what it touches, "server:resource"; empty: not known
	UndoUntil     time.Time            `json:"undo_until,omitzero"`   // when its undo window closes; zero: no end is known
	Image         audit.Hash           `json:"image,omitzero"`        // commitment to what was there before; zero: nothing was looked for, or Absent
	ImageMAC      audit.Hash           `json:"image_mac,omitzero"`    // what it is recognised by
	Absent        bool                 `json:"absent,omitempty"`      // there was nothing before
	Undoes        string               `json:"undoes,omitempty"`      // SESSION/act-12: the action that this one takes back
	UndoesOf      policy.DID           `json:"undoes_of,omitempty"`   // whose that is
}

// Started is recorded when a call may go out. A process that finds a start of another's without an outcome records the
// outcome as unknown: whether the call went out cannot be known, and it is not sent again.
type Started struct {
	ID          string `json:"id"`
	Incarnation string `json:"incarnation"`
}

// An admission is one Act on its way through the order of SPEC §2.
type admission struct {
	s   *State
	env *Env
	act Act

	agent    policy.DID
	operator bool
	instead  policy.DID   // in whose place the system undoes what it did in a saga of its own; empty: in nobody's
	member   *Participant // nil for an operator, and the system
	ring     ring.Ring
	score    ring.Sigma
	tally    Tally
	counted  bool // it came as far as the rate, so the tally is the agent's own

	effective action.Reversibility
	required  ring.Ring
	needs     approvalNeed
	undo      *UndoStep // what is asked for takes another action back; nil: an Act
}

// decideAct asks one question after the other; the first that refuses answers.
func decideAct(s *State, env *Env, c Act) (Outcome, error) {
	a := &admission{s: s, env: env.kept(), act: c, agent: env.Caller.DID, operator: env.Caller.Role == policy.OperatorRole}
	if env.Caller.Role == policy.SystemRole && c.Saga != nil && c.Saga.Undo {
		a.operator, a.instead = s.standingIn(c.Saga)
	}
	out, err := a.decide(inactive, absent, brokenOff, tooFast, tooMany, outOfCourse, notKnown, setApart, aboveRing, beyondCapability, againstPolicy)
	if err == nil && out.Allowed && env.Call.Untried {
		return Outcome{Decision: out.Decision}, ErrImageWanted
	}
	return out, err
}

func (a *admission) decide(order ...question) (Outcome, error) {
	for _, q := range order {
		if d := a.refuses(q); d != nil {
			return a.refused(*d), nil
		}
	}
	if a.needs.any() {
		return a.decideApproval(), nil
	}
	return a.admitted(""), nil
}

// A question is asked of a call before it is admitted.
type question uint8

// The questions.
const (
	inactive question = iota
	absent
	notItsOwn
	brokenOff
	tooFast
	tooMany
	outOfCourse
	notKnown
	setApart
	aboveRing
	beyondCapability
	againstPolicy
	beyondUndo
)

// refuses asks. It calls by name: called through a list of functions, an admission would escape to the heap.
func (a *admission) refuses(q question) *policy.Decision {
	switch q {
	case inactive:
		return a.inactive()
	case absent:
		return a.absent()
	case notItsOwn:
		return a.notItsOwn()
	case brokenOff:
		return a.brokenOff()
	case tooFast:
		return a.tooFast()
	case tooMany:
		return a.tooMany()
	case outOfCourse:
		return a.outOfCourse()
	case notKnown:
		return a.notKnown()
	case setApart:
		return a.setApart()
	case aboveRing:
		return a.aboveRing()
	case beyondCapability:
		return a.beyondCapability()
	case againstPolicy:
		return a.againstPolicy()
	case beyondUndo:
		return a.beyondUndo()
	}
	panic("session: an unknown question")
}

func (a *admission) inactive() *policy.Decision {
	switch {
	case a.s.Lifecycle == Terminating && (a.act.Saga != nil && a.act.Saga.Undo || a.undo != nil && a.undo.Compensates):
		return nil // the session ends, and its sagas are undone before
	case a.s.Lifecycle != Active:
		return deny(policy.SessionNotActive, "session %s is %s, so nothing can be done in it", a.s.ID, a.s.Lifecycle)
	case !a.env.Now.Before(a.s.Ends): // the clock has not ended it yet, but it is over
		return deny(policy.SessionNotActive, "session %s is over since %s", a.s.ID, a.s.Ends.Format(time.RFC3339))
	}
	return nil
}

func (a *admission) absent() *policy.Decision {
	if a.operator {
		a.ring, a.score = ring.Root, ring.One
		return a.stopped("")
	}
	if a.instead != "" { // what takes a step back is the agent's own word: it gets no further by being away
		a.ring, a.score = ring.Standard, a.s.sigmaEff(a.env, a.instead)
		return a.stopped("")
	}
	if a.env.Caller.Role != policy.AgentRole {
		return deny(policy.Forbidden, "%s is %s, and only agents and operators act", a.agent, a.env.Caller.Role)
	}
	member, ok := a.s.Participants[a.agent]
	if !ok {
		return deny(policy.NotAParticipant, "%s is not in session %s; an operator can join it", a.agent, a.s.ID)
	}
	a.member = member
	a.ring, a.score = a.s.ringAs(a.env, a.agent, a.s.stanceOf(a.env, a.agent, member))
	return a.stopped(a.agent)
}

// stopped refuses who is killed; a kill of everything stops operators too.
func (a *admission) stopped(agent policy.DID) *policy.Decision {
	if k, ok := a.s.killed(a.env, agent); ok {
		d := k.Refusal()
		return &d
	}
	return nil
}

// tooFast takes the call's token. Every call that comes this far pays one, refused or not, but what the call pays for in whose
// course it is asked for.
func (a *admission) tooFast() *policy.Decision {
	a.tally = a.env.Tallies[a.agent]
	if a.tally.Bucket.At.IsZero() && a.member != nil {
		a.tally.Bucket = a.member.Bucket
	}
	if a.inCourse() {
		a.counted = true
		return nil
	}
	bucket, wait, ok := a.tally.Bucket.Refill(a.ring, a.env.Now).Take()
	a.tally.Bucket, a.counted = bucket, true
	if ok {
		return nil
	}
	d := tooSoon(a.agent, a.ring, wait)
	return &d
}

// tooSoon refuses an agent whose bucket has no token before wait is over.
func tooSoon(agent policy.DID, r ring.Ring, wait time.Duration) policy.Decision {
	l := r.Limits()
	d := policy.Refuse(policy.RateLimited, "%s may make %d calls a second in ring %d, at most %d at once; wait %d ms", agent, l.Rate, r, l.Burst, wait.Milliseconds()+1)
	d.RetryAfterMS = wait.Milliseconds() + 1
	return d
}

func (a *admission) tooMany() *policy.Decision {
	running, most := a.running(), a.ring.Limits().Concurrent
	if running >= most && !a.inCourse() {
		return deny(policy.ConcurrencyExceeded, "%s has %d calls running, and ring %d allows %d; wait for one to end", a.agent, running, a.ring, most)
	}
	return nil
}

func (a *admission) running() (n int) {
	if a.member != nil {
		return a.member.Running
	}
	for _, r := range a.s.Running {
		if r.Agent == a.agent && r.During == "" {
			n++
		}
	}
	return n
}

func (a *admission) notKnown() *policy.Decision {
	call := a.env.Call
	switch {
	case call == nil:
		return deny(policy.UnknownAction, "no server here has an action %q", a.act.Action)
	case call.Changed:
		return deny(policy.ToolChanged, "the definition of %s is not the one that was pinned; an operator must look at it and accept it", a.act.Action)
	case call.Fault != "":
		return deny(policy.InvalidArguments, "the arguments of %s do not fit: %s", a.act.Action, call.Fault)
	}
	a.effective = call.Descriptor.Effective(call.Image)
	a.required = call.Descriptor.RequiredRing(a.effective)
	return nil
}

// aboveRing refuses what the ring does not allow, and notes the approval that would (SPEC §2 "Ring 1", "Ring 0").
func (a *admission) aboveRing() *policy.Decision {
	switch {
	case a.operator:
		a.needs.witness = a.required == ring.Root && a.env.Operators > 1
	case a.required == ring.Privileged && a.ring == ring.Privileged:
		a.needs.consensus = true
	case a.required == ring.Privileged && a.ring == ring.Standard:
		a.needs.approver = true // a grant stands in for the score; the agents' vote does not
	case a.required == ring.Root:
		return deny(policy.RingInsufficient, "%s is an administrative action, and ring 0 is no agent's; an operator can do it", a.act.Action)
	case a.ring > a.required:
		return deny(policy.RingInsufficient, "%s needs ring %d and %s is in ring %d (σ %s; %s)", a.act.Action, a.required, a.agent, a.ring, a.score, a.shortOf())
	}
	return nil
}

// shortOf says what would have to be true for a ring-3 agent to do more.
func (a *admission) shortOf() string {
	if most, why := a.s.ceiling(a.env, a.agent); most > a.required {
		return why
	}
	if most := a.member.Manifest.most(ring.One); ring.ByScore(most) > a.required {
		return "its own manifest claims a trust of " + most.String() + " at most"
	}
	return "above " + ring.StandardAbove.String() + " is needed"
}

func (a *admission) beyondCapability() *policy.Decision {
	d, l := &a.env.Call.Descriptor, a.ring.Limits()
	if d.Network && l.Network != ring.Full {
		if refusal := a.beyond("network", l.Network, a.s.Config.NetworkAllow, action.HostCovers); refusal != nil {
			return refusal
		}
	}
	if d.Files && l.Files != ring.Full {
		if refusal := a.beyond("files", l.Files, a.s.Config.FilesScope, action.PathCovers); refusal != nil {
			return refusal
		}
	}
	if d.Subprocess && l.Subprocess != ring.Full {
		return a.beyond("subprocess", l.Subprocess, nil, nil)
	}
	return nil
}

// beyond refuses a use that the ring has not, or only of what the session lists.
func (a *admission) beyond(what string, reach ring.Reach, allowed []string, covers func(entry, resource string) bool) *policy.Decision {
	switch {
	case reach == ring.Scoped && covered(allowed, a.env.Call.Resource, covers):
		return nil
	case reach == ring.Scoped:
		return deny(policy.CapabilityDenied, "%s uses %s beyond what this session lists for ring %d", a.act.Action, what, a.ring)
	}
	return deny(policy.CapabilityDenied, "%s uses %s, and ring %d has none", a.act.Action, what, a.ring)
}

func covered(entries []string, resource string, covers func(entry, resource string) bool) bool {
	if resource == "" {
		return false // what is touched is not known, so it cannot be known to be allowed
	}
	for _, e := range entries {
		if covers(e, resource) {
			return true
		}
	}
	return false
}

// againstPolicy asks the rules about the call, and about each call that an undo is made of.
func (a *admission) againstPolicy() *policy.Decision {
	if a.env.Rules == nil {
		return nil
	}
	for i := range a.env.Call.Steps {
		if d := a.ruled(&a.env.Call.Steps[i]); d != nil {
			return d
		}
	}
	return a.ruled(a.env.Call)
}

func (a *admission) ruled(call *Call) *policy.Decision {
	v := a.env.Rules.Evaluate(policy.Request{
		Agent: cmp.Or(a.instead, a.agent), Action: call.Descriptor, Args: call.Values, Resource: call.Resource,
		Session: a.s.ID, Name: a.s.Config.Name, Ring: a.ring, Sigma: a.score, Now: a.env.Now,
	})
	switch v.Effect {
	case policy.Pass:
		return nil
	case policy.RequireApproval:
		a.needs.rule = v.Rule
		return nil
	}
	d := deny(policy.PolicyDenied, "policy %q refuses %s", v.Rule, call.Descriptor.ID)
	if v.Reason != "" {
		d.Reason += ": " + v.Reason
	}
	d.Policy = v.Rule
	return d
}

// admitted is the answer when nothing refuses; approval names the grant it uses up.
func (a *admission) admitted(approval string) Outcome {
	call, id := a.env.Call, a.s.newID(a.env, "act-")
	args := part(a.env, "args", call.Args)
	room := new(struct { // allocated at once
		parts   [1]audit.Part // an image is another
		events  [4]Event
		tallies [1]TallyOf
	})
	out := Outcome{Decision: policy.Allow(), ID: id, Parts: append(room.parts[:0], args)}
	a.describe(&out.Decision)
	out.Events = append(room.events[:0], a.s.ringChange(a.env, a.agent)...)
	irreversible := a.effective == action.Irreversible
	if irreversible && !a.s.strong() {
		out.Events = append(out.Events, ConsistencyForced{})
	}
	e := Admitted{
		ID: id, Agent: a.agent, Action: call.Descriptor.ID, Descriptor: call.Digest, Args: args.Commitment(),
		Ring: a.ring, RequiredRing: a.required, SigmaEff: a.score, Standing: a.env.Standings[a.agent].Version, RiskWeight: a.effective.Weight(), Reversibility: a.effective,
		ReadOnly: call.Descriptor.ReadOnly, Rules: a.env.RulesID, Approval: approval, During: a.act.During, Saga: a.act.Saga,
		Unwitnessed: a.operator && a.required == ring.Root && a.env.Operators < 2, Resource: call.resource(),
	}
	if w := call.Descriptor.UndoWindow; w > 0 && !irreversible && !call.Descriptor.ReadOnly {
		e.UndoUntil = a.env.Now.Add(w)
	}
	if call.Image == action.ImageTaken || call.Image == action.ImageAbsent {
		before := imageOf(a.env, "image", call.Before)
		if e.ImageMAC, e.Absent = before.mac, before.absent; before.part != nil {
			e.Image = before.part.Commitment()
			out.Parts = append(out.Parts, *before.part)
		}
	}
	if a.undo != nil {
		e.Undoes, e.UndoesOf = a.undo.Of.Name(), a.undo.Of.Agent
	}
	if t := a.act.Saga; t != nil && t.Undo { // of the step's own, by the action that it names for that
		if g := a.s.Sagas[t.Saga]; g.Actions[t.Step] != "" {
			e.Undoes, e.UndoesOf = a.s.ID+"/"+g.Actions[t.Step], g.Doers[t.Step]
		}
	}
	out.Events = append(out.Events, e, Started{id, a.env.Incarnation})
	out.Durable = a.s.strong() || !call.Descriptor.ReadOnly || approval != "" // a grant whose use is lost would be used again
	out.Tallies = append(room.tallies[:0], TallyOf{a.agent, a.tally})
	return out
}

// describe adds to a decision what it was made on.
func (a *admission) describe(d *policy.Decision) {
	room := &struct { // allocated at once
		ring, required ring.Ring
		score          ring.Sigma
	}{ring: a.ring, score: a.score}
	if a.member != nil || a.operator {
		d.Ring, d.SigmaEff = &room.ring, &room.score
	}
	if call := a.env.Call; call != nil {
		effective := call.Descriptor.Effective(call.Image)
		room.required = call.Descriptor.RequiredRing(effective)
		d.RequiredRing, d.RiskWeight = &room.required, effective.Weight()
		if call.Image == action.ImageFailed && !d.Allowed && room.required == ring.Privileged {
			d.Reason += "; it counts as one that cannot be taken back: " + call.ImageFault
		}
	}
}

func deny(code policy.Code, format string, args ...any) *policy.Decision {
	d := policy.Refuse(code, format, args...)
	return &d
}

// part makes a part whose salt derives from the command's random bytes.
func part(env *Env, name string, b []byte) audit.Part {
	var seed [len(env.Random) + 32]byte // a longer name costs one allocation
	salt := sha256.Sum256(append(append(seed[:0], env.Random[:]...), name...))
	return audit.Part{Name: name, Salt: salt, Bytes: b}
}

// Append appends the event's JSON.
func (e Admitted) Append(dst []byte) []byte {
	o := audit.Event(dst, admittedType).Str("id", e.ID).Str("agent", string(e.Agent)).Str("action", e.Action).
		Hash("descriptor", e.Descriptor).Hash("args", e.Args).Uint("ring", uint64(e.Ring)).Uint("required_ring", uint64(e.RequiredRing)).
		Millionths("sigma_eff", uint32(e.SigmaEff)).OptUint("standing", e.Standing).Millionths("risk_weight", uint32(e.RiskWeight)).
		Str("reversibility", e.Reversibility.String()).OptBool("read_only", e.ReadOnly).OptStr("rules", e.Rules).
		OptStr("approval", e.Approval).OptStr("during", e.During)
	if e.Saga != nil {
		o = o.Within("saga", e.Saga.append)
	}
	return o.OptBool("unwitnessed", e.Unwitnessed).OptStr("resource", e.Resource).
		OptTime("undo_until", e.UndoUntil).OptHash("image", e.Image).OptHash("image_mac", e.ImageMAC).OptBool("absent", e.Absent).
		OptStr("undoes", e.Undoes).OptStr("undoes_of", string(e.UndoesOf)).End()
}

func (e Admitted) apply(s *State, at Stamp) {
	s.Running[e.ID] = &Running{Agent: e.Agent, Action: e.Action, ReadOnly: e.ReadOnly, Seq: at.Seq, During: e.During, Saga: e.Saga, Undoes: e.Undoes, UndoesOf: e.UndoesOf}
	if e.Saga != nil && !e.Saga.Undo {
		g := s.Sagas[e.Saga.Saga]
		g.Actions[e.Saga.Step], g.Doers[e.Saga.Step] = e.ID, e.Agent
	}
	if e.Undoes != "" {
		s.marked(e.Undoes, UndoMark{e.ID, at.Seq, UndoRunning})
	}
	if r := s.Running[e.During]; r != nil {
		r.Asked++
	} else if p := s.Participants[e.Agent]; p != nil {
		p.Running++
		p.Bucket, _, _ = p.Bucket.Refill(e.Ring, at.Time).Take()
		p.window().called([]string{e.Action}, 1, false, at.Time)
	}
	delete(s.Approvals, e.Approval)
}

// Append appends the event's JSON.
func (e Started) Append(dst []byte) []byte {
	return audit.Event(dst, startedType).Str("id", e.ID).Str("incarnation", e.Incarnation).End()
}

func (e Started) apply(s *State, _ Stamp) { s.Running[e.ID].Incarnation = e.Incarnation }
