package session

import (
	"slices"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// refusal.go: refusals are recorded per agent and code: the first at once, then one record a second with the count, so a
// flood of refused calls fills no disk (SPEC §2).

// The published names.
const (
	deniedType      = "action.denied"
	rateLimitedType = "security.rate_limited"
)

const (
	// coalesce is how long refusals of one code are counted before the next record.
	coalesce = time.Second
	// maxDistinct bounds the distinct actions that a refusal record names.
	maxDistinct = 64
)

// A Tally is what is known of an agent's calls beyond its session's records: the level of its bucket, and refusals not yet
// written. It is lost in a crash and by eviction; a load begins with the bucket as the recorded calls left it.
// The zero Tally is an agent that has not called.
type Tally struct {
	Bucket  ring.Bucket
	Refused []Refused
}

// A Refused counts the refusals of one code since the last record of them.
type Refused struct {
	Code    policy.Code
	Written time.Time // when the last record was
	Count   uint64
	Actions []string  // distinct, at most 64
	Ring    ring.Ring // of the agent at the newest of them
}

// A TallyOf is an agent's new tally. An agent that does not take part shares the tally of the zero DID with all others.
type TallyOf struct {
	Agent policy.DID
	Tally Tally
}

// A Denial is what a refusal record says.
type Denial struct {
	Agent   policy.DID  `json:"agent"`
	Code    policy.Code `json:"code"`
	Count   uint64      `json:"count"`
	Actions []string    `json:"actions"`
	Ring    ring.Ring   `json:"ring"`
	Policy  string      `json:"policy,omitempty"`
	// Approval names an approval whose end the agent has now been told of: it is forgotten with this record.
	Approval string `json:"approval,omitempty"`
}

// Denied is recorded when calls were refused.
type Denied struct{ Denial }

// RateLimited is recorded when calls were refused for their rate.
type RateLimited struct{ Denial }

// refused records a refusal, or counts it if one of its kind was recorded within the last second.
func (a *admission) refused(d policy.Decision) Outcome {
	a.describe(&d)
	a.explain(&d)
	if a.s.Lifecycle == Absent || a.s.Lifecycle == Archived {
		return Outcome{Decision: d} // before the first record and after the last there is no log to write in
	}
	out := Outcome{Decision: d, Events: a.s.ringChange(a.env, a.agent), Durable: a.s.strong()}
	who := a.agent
	if !a.operator && a.instead == "" && a.s.Participants[who] == nil {
		who = ""
	}
	if !a.counted {
		a.tally = a.env.Tallies[who]
	}
	tally, e, due := a.tally.refuse(d.Code, a.act.Action, a.recordedRing(), a.env.Now, false)
	if due {
		e.Agent, e.Policy = a.agent, d.Policy
		if who == "" && e.Count > 1 {
			e.Agent = who // some of them were others'
		}
		out.Events = append(out.Events, e.event())
		if who != "" && !a.operator {
			out.Events = append(out.Events, a.s.breach(a.env, e)...)
		}
	}
	out.Tallies = []TallyOf{{who, tally}}
	return out
}

// event wraps the denial in the event of its code.
func (d Denial) event() Event {
	if d.Code == policy.RateLimited {
		return RateLimited{d}
	}
	return Denied{d}
}

// refuse counts one refusal and says whether a record of it is due. The receiver's memory is not changed.
func (t Tally) refuse(code policy.Code, name string, in ring.Ring, now time.Time, must bool) (Tally, Denial, bool) {
	t.Refused = slices.Clone(t.Refused)
	i := slices.IndexFunc(t.Refused, func(r Refused) bool { return r.Code == code })
	if i < 0 {
		i = len(t.Refused)
		t.Refused = append(t.Refused, Refused{Code: code})
	}
	r := &t.Refused[i]
	r.Count++
	r.Actions, r.Ring = withAction(r.Actions, name), in
	if !must && !r.Written.IsZero() && now.Sub(r.Written) < coalesce {
		return t, Denial{}, false
	}
	d := Denial{Code: code, Count: r.Count, Actions: r.Actions, Ring: in}
	*r = Refused{Code: code, Written: now}
	return t, d, true
}

func withAction(names []string, name string) []string {
	const most = 128 // bytes of a name that no server lists; a listed one is shorter
	if len(name) > most {
		name = name[:most]
	}
	name = strings.ToValidUTF8(name, "\uFFFD")
	if len(names) >= maxDistinct || slices.Contains(names, name) {
		return names
	}
	return append(slices.Clone(names), name)
}

// NextFlush returns when refusals that are counted but not written are due; zero: there are none.
func (t Tally) NextFlush() (due time.Time) {
	for _, r := range t.Refused {
		if at := r.Written.Add(coalesce); r.Count > 0 && (due.IsZero() || at.Before(due)) {
			due = at
		}
	}
	return due
}

// refused lists the agents that were refused of late, in order. Mostly there are none.
func (e *Env) refused() (agents []policy.DID) {
	for agent, t := range e.Tallies {
		if len(t.Refused) > 0 {
			agents = append(agents, agent)
		}
	}
	slices.Sort(agents)
	return agents
}

// flush returns the records of refusals that are due, or of all.
func (s *State) flush(env *Env, all bool) []Event {
	var events []Event
	for _, agent := range env.refused() {
		var denials []Denial
		for _, r := range env.Tallies[agent].Refused {
			if r.Count > 0 && (all || env.Now.Sub(r.Written) >= coalesce) {
				denials = append(denials, Denial{Agent: agent, Code: r.Code, Count: r.Count, Actions: r.Actions, Ring: r.Ring})
				events = append(events, denials[len(denials)-1].event())
			}
		}
		if len(denials) > 0 && s.Lifecycle == Active {
			events = append(events, s.breach(env, denials...)...)
		}
	}
	s.breachedTogether(env, events)
	return events
}

// recordedRing is the ring that a record of a refusal names: the caller's, were it refused before or after one was computed.
func (a *admission) recordedRing() ring.Ring {
	member := a.s.Participants[a.agent]
	switch {
	case a.counted || a.operator:
		return a.ring
	case member != nil:
		return member.Ring
	}
	return ring.Sandbox
}

// settled returns the tallies as flush leaves them.
func (s *State) settled(env *Env, all bool) []TallyOf {
	var changed []TallyOf
	for _, agent := range env.refused() {
		t := env.Tallies[agent]
		fresh, dirty := Tally{Bucket: t.Bucket}, false
		for _, r := range t.Refused {
			switch idle := env.Now.Sub(r.Written) >= coalesce; {
			case r.Count > 0 && (all || idle):
				fresh.Refused, dirty = append(fresh.Refused, Refused{Code: r.Code, Written: env.Now}), true
			case idle:
				dirty = true // nothing counted and nothing to hold back any more
			default:
				fresh.Refused = append(fresh.Refused, r)
			}
		}
		if dirty {
			changed = append(changed, TallyOf{agent, fresh})
		}
	}
	return changed
}

func (d Denial) append(dst []byte, kind string) []byte {
	return audit.Event(dst, kind).Str("agent", string(d.Agent)).Str("code", string(d.Code)).Uint("count", d.Count).
		Strs("actions", d.Actions).Uint("ring", uint64(d.Ring)).OptStr("policy", d.Policy).OptStr("approval", d.Approval).End()
}

// untaken reports whether the refused calls took no token of the agent's bucket.
func (d Denial) untaken() bool {
	switch d.Code {
	case policy.RateLimited, policy.SessionNotActive, policy.BreakerOpen, policy.AgentKilled, policy.KilledAll:
		return true
	}
	return false
}

func (d Denial) apply(s *State, at Stamp) {
	delete(s.Approvals, d.Approval)
	p := s.Participants[d.Agent]
	if p == nil || d.untaken() {
		return // what found no token took none, and what was refused before the rate was asked for none
	}
	p.Bucket = p.Bucket.Refill(d.Ring, at.Time)
	for range min(d.Count, uint64(ring.Privileged.Limits().Burst)) {
		p.Bucket, _, _ = p.Bucket.Take()
	}
	if judged(d.Code) {
		p.window().called(d.Actions, d.Count, refusedForRing(d.Code), at.Time)
	}
}

// Append appends the event's JSON.
func (e Denied) Append(dst []byte) []byte { return e.append(dst, deniedType) }

// Append appends the event's JSON.
func (e RateLimited) Append(dst []byte) []byte { return e.append(dst, rateLimitedType) }
