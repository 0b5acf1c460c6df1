package session

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// approval.go: a vote or a grant for one call with exactly these arguments (SPEC §2 "Consensus").

// The published names.
const (
	openedType     = "approval.opened"
	votedType      = "approval.voted"
	grantedType    = "approval.granted"
	approvalDenied = "approval.denied"
	expiredType    = "approval.expired"
)

// Who can grant an approval, as Decision.Approval.By says it.
const (
	byConsensus = "consensus"
	byApprover  = "approver"
	byOperator  = "operator"
)

const leastElectors = 2 // below it a vote is none; only an approver can grant

// A Status is where an approval stands.
type Status string

// The stations of an approval. A used one is gone.
const (
	Open            Status = "open"
	Granted         Status = "granted"
	DeniedUntilEnd  Status = "denied"  // its digest is refused until it would have expired
	ExpiredUnspoken Status = "expired" // a grant that ran out; the next attempt is told so, once
)

// An Approval is bound to one agent's call: the digest covers the exact arguments, the descriptor and the policy version.
type Approval struct {
	ID         string       `json:"id"`
	Agent      policy.DID   `json:"agent"`
	Action     string       `json:"action"`
	Digest     audit.Hash   `json:"digest"`
	Descriptor audit.Hash   `json:"descriptor"`
	Rules      string       `json:"rules,omitempty"`
	Rule       string       `json:"rule,omitempty"` // the policy that asked for it
	By         []string     `json:"by"`
	Electors   []policy.DID `json:"electors,omitempty"` // fixed when it opened
	For        []policy.DID `json:"for,omitempty"`
	Against    []policy.DID `json:"against,omitempty"`
	Status     Status       `json:"status"`
	Opened     time.Time    `json:"opened"`
	Expires    time.Time    `json:"expires"`
	GrantedBy  string       `json:"granted_by,omitempty"` // a DID, or consensus
	Seq        uint64       `json:"seq"`                  // of the record that opened it, beside which the arguments stand
	// Elevation says that it is for an elevation, and not for a call.
	Elevation *AskedElevation `json:"elevation,omitempty"`
}

// An approvalNeed says why a call needs an approval and so who can grant it. The zero value needs none.
type approvalNeed struct {
	consensus bool   // a non-reversible action of a ring-1 agent
	approver  bool   // a ring-1 action of a ring-2 agent
	witness   bool   // an admin action, with a second operator configured
	rule      string // a policy's name
}

func (n approvalNeed) any() bool { return n.consensus || n.approver || n.witness || n.rule != "" }

// metBy reports whether a grant is enough. It may have been given for another need: the agents' vote for a call in ring 1 does
// not let the same call pass once its agent is in ring 2 (SPEC §2 "Ring 1").
func (n approvalNeed) metBy(ap *Approval) bool {
	switch {
	case n.witness:
		return slices.Contains(ap.By, byOperator)
	case n.approver || n.rule != "":
		return ap.GrantedBy != byConsensus
	}
	return true
}

// ApprovalOpened is recorded when a call needs an approval that is not there yet.
type ApprovalOpened struct {
	ID         string       `json:"id"`
	Agent      policy.DID   `json:"agent"`
	Action     string       `json:"action"`
	Digest     audit.Hash   `json:"digest"`
	Descriptor audit.Hash   `json:"descriptor"`
	Rules      string       `json:"rules,omitempty"`
	Rule       string       `json:"rule,omitempty"`
	Args       audit.Hash   `json:"args"` // commitment
	By         []string     `json:"by"`
	Electors   []policy.DID `json:"electors,omitempty"`
	Expires    time.Time    `json:"expires"`
	Ring       ring.Ring    `json:"ring"`

	Elevation *AskedElevation `json:"elevation,omitempty"` // what it is for, if for no call
}

// digest is what is recognised again: HMAC under the session's key over agent, descriptor, policy version and arguments.
func (a *admission) digest() (h audit.Hash) {
	mac := hmac.New(sha256.New, bytes.Clone(a.env.Secret[:]))
	call := a.env.Call
	for _, b := range [...][]byte{[]byte(a.agent), call.Digest[:], []byte(a.env.RulesID), call.Args} {
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		mac.Write(b)
	}
	mac.Sum(h[:0])
	return h
}

// decideApproval answers a call that nothing refuses but that needs an approval.
func (a *admission) decideApproval() Outcome {
	digest := a.digest()
	ap, open, kept := a.s.approvalFor(a.env, a.agent, digest)
	switch {
	case ap == nil && open >= maxConcurrentApprovals:
		return a.refused(*deny(policy.QuotaExceeded, "%s has %d approvals open, and may have no more; wait for one to be decided", a.agent, open))
	case ap == nil && kept >= maxKeptApprovals:
		return a.refused(*deny(policy.QuotaExceeded, "%s has %d approvals decided and not yet used or over; wait for one to end", a.agent, kept))
	case ap == nil:
		return a.open(digest)
	case ap.Status == Granted && a.env.Now.Before(ap.Expires) && !a.needs.metBy(ap):
		return a.open(digest, ApprovalExpired{ID: ap.ID, Why: "not enough"})
	case ap.Status == Granted && a.env.Now.Before(ap.Expires):
		return a.admitted(ap.ID)
	case ap.Status == Granted || ap.Status == ExpiredUnspoken:
		return a.forget(ap, *deny(policy.ApprovalExpired, "the grant %s ran out before it was used; ask again for a new one", ap.ID))
	case ap.Status == DeniedUntilEnd && a.env.Now.Before(ap.Expires):
		return a.refused(*deny(policy.ApprovalDenied, "%s with these arguments was denied (%s) until %s", a.act.Action, ap.ID, ap.Expires.Format(time.RFC3339)))
	case !a.env.Now.Before(ap.Expires):
		return a.open(digest) // what was there ran out and nobody waits for it
	}
	d := a.pointAt(ap.ID, digest, ap.By)
	return a.refused(d)
}

// approvalFor finds the agent's approval for a digest, and counts those it has open, that is, that can be granted yet, and all
// that are kept for it.
func (s *State) approvalFor(env *Env, agent policy.DID, digest audit.Hash) (found *Approval, open, kept int) {
	for _, ap := range s.Approvals {
		if ap.Agent != agent {
			continue
		}
		if ap.Digest == digest {
			found = ap // there is one: opening another replaces it
		}
		if s.forgettable(ap, env.Now) {
			continue
		}
		kept++
		if ap.Status == Open && ap.Rules == env.RulesID && env.Now.Before(ap.Expires) {
			open++
		}
	}
	return found, open, kept
}

// forgettable reports whether nobody will be told of the approval any more.
func (s *State) forgettable(ap *Approval, now time.Time) bool {
	end := ap.Expires
	if ap.Status == ExpiredUnspoken {
		end = end.Add(s.Config.ApprovalTTL)
	}
	return !now.Before(end) && ap.Status != Granted
}

// pointAt is the refusal that points at an approval.
func (a *admission) pointAt(id string, digest audit.Hash, by []string) policy.Decision {
	code := policy.ApprovalRequired
	if a.needs.witness {
		code = policy.WitnessRequired
	}
	d := policy.Refuse(code, "%s needs an approval by %s: %s is open; call again with the same arguments once it is granted",
		a.act.Action, strings.Join(by, " or "), id)
	d.Approval, d.Policy = &policy.ApprovalRef{ID: id, Digest: digest.String(), By: by}, a.needs.rule
	return d
}

// open refuses the call and opens an approval for it; ended is what that brings to its end, beside what time has.
func (a *admission) open(digest audit.Hash, ended ...Event) Outcome {
	id, call := a.s.newID(a.env, "apr-"), a.env.Call
	electors := a.electors()
	by := []string{byApprover}
	switch {
	case a.needs.witness:
		by, electors = []string{byOperator}, nil
	case !a.needs.consensus || a.needs.rule != "" || len(electors) < leastElectors:
		electors = nil
	default:
		by = []string{byConsensus, byApprover}
	}
	args := part(a.env, "args", call.Args)
	out := Outcome{Decision: a.pointAt(id, digest, by), ID: id, Parts: []audit.Part{args}, Durable: a.s.strong()}
	a.describe(&out.Decision)
	a.explain(&out.Decision)
	out.Events = slices.Concat(a.s.ringChange(a.env, a.agent), a.s.expire(a.env), ended)
	out.Events = append(out.Events, ApprovalOpened{
		ID: id, Agent: a.agent, Action: call.Descriptor.ID, Digest: digest, Descriptor: call.Digest, Rules: a.env.RulesID, Rule: a.needs.rule,
		Args: args.Commitment(), By: by, Electors: electors, Expires: a.env.Now.Add(a.s.Config.ApprovalTTL), Ring: a.ring,
	})
	out.Tallies = []TallyOf{{a.agent, a.tally}}
	return out
}

// electors are the participants of ring ≤ 2 by their own score, but for the proposer (SPEC §2).
func (a *admission) electors() []policy.DID {
	var electors []policy.DID
	for did := range a.s.Participants {
		// A child is its parent (SPEC §2), so it has no vote beside it, and nobody one on its own proposal through a child.
		if a.s.Participants[did].Parent == "" && did != a.s.root(a.agent) && ring.ByScore(a.env.sigma(did)) <= ring.Standard && !a.s.slashed(a.env, did) && !a.s.killedItself(a.env, did) && a.s.quarantined(a.env, did) == nil && !a.s.bonded(did, a.s.root(a.agent)) {
			electors = append(electors, did)
		}
	}
	slices.Sort(electors)
	return electors
}

// forget refuses a call because its grant ran out; the record ends the memory of it, so the next attempt opens a new one.
func (a *admission) forget(ap *Approval, d policy.Decision) Outcome {
	a.describe(&d)
	a.explain(&d)
	tally, e, _ := a.tally.refuse(d.Code, a.act.Action, a.ring, a.env.Now, true)
	e.Agent, e.Approval = a.agent, ap.ID
	out := Outcome{Decision: d, Events: a.s.ringChange(a.env, a.agent), Durable: a.s.strong(), Tallies: []TallyOf{{a.agent, tally}}}
	if ap.Status == Granted {
		out.Events = append(out.Events, ApprovalExpired{ID: ap.ID, Why: "time"})
	}
	out.Events = append(out.Events, e.event())
	return out
}

// approvalIDs lists the approvals in the order they were opened.
func (s *State) approvalIDs() []string {
	return ordered(s.Approvals, func(a, b string) int {
		return cmp.Compare(s.Approvals[a].Seq, s.Approvals[b].Seq)
	})
}

// Append appends the event's JSON.
func (e ApprovalOpened) Append(dst []byte) []byte {
	o := audit.Event(dst, openedType).Str("id", e.ID).Str("agent", string(e.Agent)).Str("action", e.Action).
		Hash("digest", e.Digest).Hash("descriptor", e.Descriptor).OptStr("rules", e.Rules).OptStr("rule", e.Rule).
		Hash("args", e.Args).Strs("by", e.By)
	if len(e.Electors) > 0 {
		o = o.Strs("electors", texts(e.Electors))
	}
	o = o.Time("expires", e.Expires).Uint("ring", uint64(e.Ring))
	if e.Elevation != nil {
		o = o.Raw("elevation", e.Elevation.append(nil))
	}
	return o.End()
}

func texts(dids []policy.DID) []string {
	out := make([]string, len(dids))
	for i, d := range dids {
		out[i] = string(d)
	}
	return out
}

func (e ApprovalOpened) apply(s *State, at Stamp) {
	// A grant that ran out and was never asked for again is forgotten here, so the table stays small.
	for id, a := range s.Approvals {
		if a.Agent == e.Agent && (a.Digest == e.Digest || s.forgettable(a, at.Time)) {
			delete(s.Approvals, id)
		}
	}
	s.Approvals[e.ID] = &Approval{ID: e.ID, Agent: e.Agent, Action: e.Action, Digest: e.Digest, Descriptor: e.Descriptor,
		Rules: e.Rules, Rule: e.Rule, By: e.By, Electors: e.Electors, Status: Open, Opened: at.Time, Expires: e.Expires, Seq: at.Seq,
		Elevation: e.Elevation}
	if p := s.Participants[e.Agent]; p != nil && e.Elevation == nil {
		p.Bucket, _, _ = p.Bucket.Refill(e.Ring, at.Time).Take()
		p.window().called([]string{e.Action}, 1, false, at.Time)
	}
}
