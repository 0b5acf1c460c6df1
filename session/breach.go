package session

import (
	"fmt"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// breach.go: an agent that keeps asking for what its ring does not allow (SPEC §2 "Breach"). It is judged on records.

const breachType = "ring.breach_detected"

const whyBreach = "breach"

// The figures of SPEC §2.
const (
	breachWindow  = time.Minute
	leastCalls    = 5  // below it nothing is judged; a share is of at least so many, so that one action tried again and again is no breach
	manyRefusals  = 20 // refused calls in the window that are high in any case
	breakerTime   = 30 * time.Second
	maxRemembered = 64 // distinct actions of the window
	lastBreach    = 2  // the so many-th critical one in a session slashes
)

// A BreachLevel says how bad a breach is. The zero level is none.
type BreachLevel uint8

// The levels.
const (
	NoBreach BreachLevel = iota
	LowBreach
	MediumBreach
	HighBreach
	CriticalBreach
)

var breachLevels = [...]string{"none", "low", "medium", "high", "critical"}

// breachFrom is the share, in millionths, from which a breach is of the level.
var breachFrom = [...]int{LowBreach: 300_000, MediumBreach: 500_000, HighBreach: 700_000, CriticalBreach: 900_000}

// String returns the level's word.
func (l BreachLevel) String() string { return breachLevels[l] }

// MarshalText returns the level's word.
func (l BreachLevel) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a level's word; any other is an error of the record or snapshot it stands in.
func (l *BreachLevel) UnmarshalText(b []byte) error { return readWord(l, breachLevels[:], b) }

// A Window is what the records say of an agent's calls within the last minute, and what followed. Times are in microseconds of Unix
// time. The zero Window is of an agent that has not called.
type Window struct {
	Calls     []int64      `json:"calls,omitempty"`   // the newest that were judged, as many as are asked for
	Refused   []int64      `json:"refused,omitempty"` // the newest refused for ring or capability, as many as are asked for
	Actions   []ActionSeen `json:"actions,omitempty"` // distinct, of the calls that were judged
	Level     BreachLevel  `json:"level,omitempty"`   // of a breach that was recorded and opened no breaker
	LevelAt   time.Time    `json:"level_at,omitzero"`
	Breaker   time.Time    `json:"breaker,omitzero"`    // until when nothing is asked of the agent's calls
	Criticals uint64       `json:"criticals,omitempty"` // also of those whom it brought
}

// An ActionSeen is an action that an agent called.
type ActionSeen struct {
	Action  string `json:"action"`
	Called  int64  `json:"called"`            // last
	Refused int64  `json:"refused,omitempty"` // last, for ring or capability; zero: never
}

// BreachDetected is recorded when an agent's refused calls come to a level, or beyond it.
type BreachDetected struct {
	Agent   policy.DID  `json:"agent"`
	Level   BreachLevel `json:"level"`
	Refused uint64      `json:"refused"` // distinct actions refused for ring or capability, within a minute
	Actions uint64      `json:"actions"` // distinct actions called
	Calls   uint64      `json:"calls"`   // refused; not counted beyond 20
	Breaker time.Time   `json:"breaker,omitzero"`
	Slashes bool        `json:"slashes,omitempty"` // the agent loses its standing by it
}

// refusedForRing reports whether a refusal counts as one of a breach.
func refusedForRing(code policy.Code) bool {
	return code == policy.RingInsufficient || code == policy.CapabilityDenied
}

// judged reports whether a refused call came as far as the question of rings. A name that no server lists did not: it could be
// made up to thin the share.
func judged(code policy.Code) bool {
	switch code {
	case policy.RingInsufficient, policy.CapabilityDenied, policy.PolicyDenied, policy.ApprovalRequired, policy.ApprovalDenied,
		policy.ApprovalExpired, policy.WitnessRequired, policy.QuotaExceeded:
		return true
	}
	return false
}

// called takes calls into account that a record tells of.
func (c *Window) called(actions []string, count uint64, refused bool, at time.Time) {
	now := at.UnixMicro()
	since := at.Add(-breachWindow).UnixMicro()
	c.Calls = newest(c.Calls, count, leastCalls, now)
	if refused {
		c.Refused = newest(c.Refused, count, manyRefusals, now)
	}
	for _, name := range actions {
		i := slices.IndexFunc(c.Actions, func(a ActionSeen) bool { return a.Action == name })
		if i < 0 {
			i = c.room(since)
			c.Actions[i] = ActionSeen{Action: name}
		}
		c.Actions[i].Called = now
		if refused {
			c.Actions[i].Refused = now
		}
	}
}

// room returns a place for one more action: that of one that is over, or a new one, or the oldest's.
func (c *Window) room(since int64) int {
	oldest := -1
	for i, a := range c.Actions {
		if a.Called <= since {
			return i
		}
		if oldest < 0 || a.Called < c.Actions[oldest].Called {
			oldest = i
		}
	}
	if len(c.Actions) < maxRemembered {
		c.Actions = append(c.Actions, ActionSeen{})
		return len(c.Actions) - 1
	}
	return oldest
}

// newest adds a time to the newest ones, count times, and keeps at most so many.
func newest(times []int64, count, most uint64, now int64) []int64 {
	for range min(count, most) {
		times = append(times, now)
	}
	if over := len(times) - int(most); over > 0 {
		times = append(times[:0], times[over:]...)
	}
	return times
}

// within counts the times in the window.
func within(times []int64, since int64) (n int) {
	for _, t := range times {
		if t > since {
			n++
		}
	}
	return n
}

// judge returns what the window comes to.
func (c *Window) judge(did policy.DID, now time.Time) BreachDetected {
	since := now.Add(-breachWindow).UnixMicro()
	b := BreachDetected{Agent: did, Calls: uint64(within(c.Refused, since))}
	for _, a := range c.Actions {
		if a.Called > since {
			b.Actions++
		}
		if a.Refused > since {
			b.Refused++
		}
	}
	if within(c.Calls, since) >= leastCalls {
		share := int(b.Refused) * int(ring.One) / max(int(b.Actions), leastCalls)
		for l := LowBreach; l <= CriticalBreach; l++ {
			if share >= breachFrom[l] {
				b.Level = l
			}
		}
	}
	if b.Calls >= manyRefusals {
		b.Level = max(b.Level, HighBreach)
	}
	if b.Level >= HighBreach {
		b.Breaker = now.Add(breakerTime)
	}
	return b
}

func (c *Window) clone() *Window {
	if c == nil {
		return &Window{}
	}
	d := *c
	d.Calls, d.Refused, d.Actions = slices.Clone(c.Calls), slices.Clone(c.Refused), slices.Clone(c.Actions)
	return &d
}

// breach returns what follows from refusals that are about to be recorded: nothing, or that a level is reached, and what that
// brings with it.
func (s *State) breach(env *Env, denials ...Denial) []Event {
	did := denials[0].Agent
	p := s.Participants[did]
	if p == nil || !slices.ContainsFunc(denials, func(d Denial) bool { return refusedForRing(d.Code) }) {
		return nil
	}
	c := p.Window.clone()
	for _, d := range denials {
		if judged(d.Code) {
			c.called(d.Actions, d.Count, refusedForRing(d.Code), env.Now)
		}
	}
	b := c.judge(did, env.Now)
	known := c.Level
	if env.Now.Sub(c.LevelAt) >= breachWindow {
		known = NoBreach
	}
	if b.Level <= known {
		return nil
	}
	b.Slashes = b.Level == CriticalBreach && s.criticals(did)+1 >= lastBreach && !env.standing(s.root(did)).Blacklisted
	events := []Event{b}
	if b.Level == CriticalBreach && p.Held < ring.Sandbox {
		r, score := s.RingOf(env, did)
		events = append(events, RingDemoted{Agent: did, From: r, Ring: ring.Sandbox, SigmaEff: score, Held: true, Why: whyBreach})
	}
	return events
}

// criticals counts the critical breaches in this session of who answers for an agent: its own, and those of whom it brought.
func (s *State) criticals(did policy.DID) uint64 {
	if p := s.Participants[s.root(did)]; p != nil && p.Window != nil {
		return p.Window.Criticals
	}
	return 0
}

// breachedTogether has breaches of one record slash that are the second only together: of several whom one agent brought.
func (s *State) breachedTogether(env *Env, events []Event) {
	seen := map[policy.DID]uint64{}
	for i, e := range events {
		if b, ok := e.(BreachDetected); ok && b.Level == CriticalBreach {
			root := s.root(b.Agent)
			seen[root]++
			b.Slashes = b.Slashes || seen[root] > 1 && s.criticals(root)+seen[root] >= lastBreach && !env.standing(root).Blacklisted
			events[i] = b
		}
	}
}

// slashBreaker slashes the first of those whose second critical breach was recorded: one with a record, since a slash is computed
// from what the one before has left. For blame a child is its parent (SPEC §2).
func (s *State) slashBreaker(env *Env) []Event {
	if len(s.Breakers) == 0 || len(s.Slashes) >= maxLiveSlashes {
		return nil
	}
	return s.slash(env, SlashExecuted{Agent: s.root(s.Breakers[0]), Severity: ring.One, Cause: "the second critical breach of " + string(s.Breakers[0])})
}

// brokenOff refuses whose breaker is open (SPEC §2 "breaker closed").
func (a *admission) brokenOff() *policy.Decision {
	if a.member == nil || a.member.Window == nil || !a.env.Now.Before(a.member.Window.Breaker) {
		return nil
	}
	wait := a.member.Window.Breaker.Sub(a.env.Now)
	d := deny(policy.BreakerOpen, "%s has asked for too much that ring %d does not allow; nothing it calls is looked at for another %d s",
		a.agent, a.ring, int((wait+time.Second-1)/time.Second))
	d.RetryAfterMS = wait.Milliseconds() + 1
	return d
}

// window returns a participant's, to be changed.
func (p *Participant) window() *Window {
	if p.Window == nil {
		p.Window = &Window{}
	}
	return p.Window
}

// Append appends the event's JSON.
func (e BreachDetected) Append(dst []byte) []byte {
	o := audit.Event(dst, breachType).Str("agent", string(e.Agent)).Str("level", e.Level.String()).Uint("refused", e.Refused).
		Uint("actions", e.Actions).Uint("calls", e.Calls)
	if !e.Breaker.IsZero() {
		o = o.Time("breaker", e.Breaker)
	}
	return o.OptBool("slashes", e.Slashes).End()
}

// owes the agent's quarantine, where the breach is critical.
func (e BreachDetected) owes() Effect {
	if e.Level == CriticalBreach {
		return Tell{}
	}
	return nil
}

func (e BreachDetected) apply(s *State, at Stamp) {
	p := s.Participants[e.Agent]
	if p == nil {
		panic(fmt.Sprintf("session: a breach of %s, who takes no part", e.Agent))
	}
	c := p.window()
	if e.Level < HighBreach {
		c.Level, c.LevelAt = e.Level, at.Time
		return
	}
	c.Breaker = e.Breaker
	if e.Level == CriticalBreach {
		s.Participants[s.root(e.Agent)].window().Criticals++ // a child is its parent, for blame
		s.owe(s.root(e.Agent), agent.Entry{Kind: agent.Quarantine, Severity: ring.One, Cause: whyBreach})
	}
	if e.Slashes {
		s.Breakers = append(s.Breakers, e.Agent)
	}
	// What has opened the breaker is not held against the agent a second time once it is closed.
	c.Calls, c.Refused, c.Actions, c.Level, c.LevelAt = nil, nil, nil, NoBreach, time.Time{}
}
