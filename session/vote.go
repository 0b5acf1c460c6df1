package session

import (
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// vote.go: what ends an approval: votes of its electorate, an approver's word, or its time (SPEC §2 "Consensus").

// Grant lets the call pass once. An approver's or operator's alone.
type Grant struct {
	Approval string
	Digest   string // as shown: the grant is for what was seen
}

// Deny closes the approval; the same call is refused until it would have expired.
type Deny struct {
	Approval string
	Digest   string
}

// Vote is an elector's voice.
type Vote struct {
	Approval string
	Digest   string
	Against  bool
}

func (Grant) command() {}
func (Deny) command()  {}
func (Vote) command()  {}

// find checks what grants, denials and votes have in common.
func (s *State) find(env *Env, id, digest string) (*Approval, *policy.Decision) {
	ap, ok := s.Approvals[id]
	switch {
	case !ok:
		return nil, deny(policy.NotFound, "there is no approval %s in session %s, or it was used", id, s.ID)
	case digest != ap.Digest.String():
		return nil, deny(policy.InvalidArguments, "the digest is not %s's; look at it again with 'approval show'", id)
	case ap.Status == Open && ap.Rules != env.RulesID:
		return nil, deny(policy.ApprovalExpired, "the policies have changed since %s was opened; the agent must ask again", id)
	case s.Lifecycle != Active:
		return nil, deny(policy.SessionNotActive, "session %s is %s", s.ID, s.Lifecycle)
	case s.killedItself(env, ap.Agent): // and it is closed soon
		return nil, deny(policy.AgentKilled, "%s, which asked for %s, was killed", ap.Agent, id)
	case ap.Status == ExpiredUnspoken || !env.Now.Before(ap.Expires):
		return nil, deny(policy.ApprovalExpired, "%s ran out at %s", id, ap.Expires.Format(time.RFC3339))
	}
	return ap, nil
}

// mayDecide refuses who can neither grant nor deny alone.
func mayDecide(env *Env, ap *Approval) *policy.Decision {
	switch {
	case env.Caller.DID == ap.Agent:
		return deny(policy.Forbidden, "%s asked for %s itself; someone else decides it", ap.Agent, ap.ID)
	case slices.Contains(ap.By, byOperator) && env.Caller.Role != policy.OperatorRole:
		return deny(policy.Forbidden, "%s needs a second operator", ap.ID)
	case !env.Caller.MayApprove():
		return deny(policy.Forbidden, "only an approver or an operator grants or denies; %s is %s", env.Caller.DID, env.Caller.Role)
	}
	return nil
}

func decideGrant(s *State, env *Env, c Grant) Outcome {
	ap, d := s.find(env, c.Approval, c.Digest)
	if d == nil && ap.Elevation != nil {
		return s.sponsor(env, ap)
	}
	if d == nil {
		d = mayDecide(env, ap)
	}
	switch {
	case d != nil:
		return Outcome{Decision: *d}
	case ap.Status == Granted:
		return Outcome{Decision: policy.Allow(), ID: ap.ID, Durable: true} // granting twice grants once
	case ap.Status != Open:
		return refuse(policy.ApprovalDenied, "%s was denied", ap.ID)
	}
	out := allow(ApprovalGranted{ap.ID, string(env.Caller.DID), env.Now.Add(s.Config.ApprovalTTL)})
	out.ID = ap.ID
	return out
}

func decideDeny(s *State, env *Env, c Deny) Outcome {
	ap, d := s.find(env, c.Approval, c.Digest)
	if d == nil {
		d = mayDecide(env, ap)
	}
	switch {
	case d != nil:
		return Outcome{Decision: *d}
	case ap.Status == DeniedUntilEnd:
		return Outcome{Decision: policy.Allow(), ID: ap.ID, Durable: true}
	}
	out := allow(ApprovalDenied{ap.ID, string(env.Caller.DID)}) // also takes back a grant that was not used
	out.ID = ap.ID
	return out
}

func decideVote(s *State, env *Env, c Vote) Outcome {
	ap, d := s.find(env, c.Approval, c.Digest)
	voter := env.Caller.DID
	k, stopped := s.killed(env, voter)
	apart := s.quarantined(env, voter)
	switch {
	case d != nil:
		return Outcome{Decision: *d}
	case ap.Elevation != nil && c.Against:
		return refuse(policy.Forbidden, "a participant sponsors %s or does not; only an approver or an operator denies it", ap.ID)
	case ap.Elevation != nil:
		return s.sponsor(env, ap)
	case env.Caller.Role != policy.AgentRole || !slices.Contains(ap.Electors, voter):
		return refuse(policy.Forbidden, "%s is not among the electors of %s", voter, ap.ID)
	case s.Participants[voter] == nil:
		return refuse(policy.NotAParticipant, "%s has left session %s", voter, s.ID)
	case stopped:
		return Outcome{Decision: k.Refusal()}
	case apart != nil:
		return Outcome{Decision: *apart}
	case s.slashed(env, voter): // it stays in the count, as who is killed does
		return refuse(policy.Blacklisted, "%s was slashed, and has no voice", voter)
	case s.kin(voter, ap.Agent): // it left since, and was brought back
		return refuse(policy.Forbidden, "%s and %s answer as one", voter, ap.Agent)
	case slices.Contains(ap.For, voter) || slices.Contains(ap.Against, voter):
		return refuse(policy.Forbidden, "%s has voted on %s; a vote is not taken back", voter, ap.ID)
	case ap.Status != Open:
		return refuse(policy.Forbidden, "%s is decided: %s", ap.ID, ap.Status)
	}
	out := allow(ApprovalVoted{ap.ID, voter, c.Against})
	out.ID = ap.ID
	inFavour, against := len(ap.For), len(ap.Against)
	if c.Against {
		against++
	} else {
		inFavour++
	}
	switch {
	case 2*against >= len(ap.Electors):
		out.Events = append(out.Events, ApprovalDenied{ap.ID, byConsensus})
	case 2*inFavour > len(ap.Electors) && inFavour >= leastElectors:
		out.Events = append(out.Events, ApprovalGranted{ap.ID, byConsensus, env.Now.Add(s.Config.ApprovalTTL)})
	}
	return out
}

// expire ends the approvals whose time is over, or whose proposer is killed.
func (s *State) expire(env *Env) []Event {
	var events []Event
	for _, id := range s.approvalIDs() {
		switch a := s.Approvals[id]; {
		case a.Status == ExpiredUnspoken:
		case !env.Now.Before(a.Expires):
			events = append(events, ApprovalExpired{ID: id, Why: "time"})
		case a.Status != DeniedUntilEnd && s.killedItself(env, a.Agent): // SPEC §2: it dies with a killed proposer
			events = append(events, ApprovalExpired{ID: id, Why: whyKilled})
		}
	}
	return events
}

// ApprovalVoted is recorded with each voice.
type ApprovalVoted struct {
	ID      string     `json:"id"`
	Voter   policy.DID `json:"voter"`
	Against bool       `json:"against,omitempty"`
}

// Append appends the event's JSON.
func (e ApprovalVoted) Append(dst []byte) []byte {
	return audit.Event(dst, votedType).Str("id", e.ID).Str("voter", string(e.Voter)).OptBool("against", e.Against).End()
}

func (e ApprovalVoted) apply(s *State, _ Stamp) {
	a := s.Approvals[e.ID]
	if e.Against {
		a.Against = append(a.Against, e.Voter)
	} else {
		a.For = append(a.For, e.Voter)
	}
}

// ApprovalGranted is recorded when the call may pass, once, until Expires.
type ApprovalGranted struct {
	ID      string    `json:"id"`
	By      string    `json:"by"` // a DID, or consensus
	Expires time.Time `json:"expires"`
}

// Append appends the event's JSON.
func (e ApprovalGranted) Append(dst []byte) []byte {
	return audit.Event(dst, grantedType).Str("id", e.ID).Str("by", e.By).Time("expires", e.Expires).End()
}

func (e ApprovalGranted) apply(s *State, _ Stamp) {
	a := s.Approvals[e.ID]
	a.Status, a.GrantedBy, a.Expires = Granted, e.By, e.Expires
}

// ApprovalDenied is recorded when the call is not to pass.
type ApprovalDenied struct {
	ID string `json:"id"`
	By string `json:"by"` // a DID, or consensus
}

// Append appends the event's JSON.
func (e ApprovalDenied) Append(dst []byte) []byte {
	return audit.Event(dst, approvalDenied).Str("id", e.ID).Str("by", e.By).End()
}

func (e ApprovalDenied) apply(s *State, _ Stamp) { s.Approvals[e.ID].Status = DeniedUntilEnd }

// ApprovalExpired is recorded when an approval ends without having been used.
type ApprovalExpired struct {
	ID  string `json:"id"`
	Why string `json:"why"` // time, killed, session ended, the agent left, clock set back, not enough
}

// Append appends the event's JSON.
func (e ApprovalExpired) Append(dst []byte) []byte {
	return audit.Event(dst, expiredType).Str("id", e.ID).Str("why", e.Why).End()
}

func (e ApprovalExpired) apply(s *State, _ Stamp) {
	a := s.Approvals[e.ID]
	if a.Status == Granted {
		a.Status = ExpiredUnspoken
		return
	}
	delete(s.Approvals, e.ID)
}
