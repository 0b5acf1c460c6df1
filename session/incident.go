package session

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"unicode/utf8"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/liability"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// incident.go: something went wrong, and who bears how much of it (SPEC §3 "Attribution").

// The published names.
const (
	incidentType   = "liability.incident_raised"
	attributedType = "liability.fault_attributed"
)

// DefaultSeverity is an incident's where nothing is said.
const DefaultSeverity ring.Sigma = 500_000

const maxOwnIncidents = 16 // that an agent itself reports in one session

// RaiseIncident reports that something went wrong. An operator's is attributed and moves standings; an agent's own is recorded and
// moves nobody's.
type RaiseIncident struct {
	Action   string      // what has done it, by its id; or
	Agent    policy.DID  // who has, where no single action has
	Severity *ring.Sigma // nil: 0.50
	Reason   string      // at most 256 bytes
	Key      string      // idempotency key; empty: none

	Found *Finding // what the records say of the action; nil: there is no such action
}

func (RaiseIncident) command() {}

// IncidentRaised is recorded with every incident.
type IncidentRaised struct {
	ID       string     `json:"id"`
	Action   string     `json:"action,omitempty"`
	Agent    policy.DID `json:"agent"` // who is said to have done it
	Severity ring.Sigma `json:"severity"`
	Reason   string     `json:"reason"`
	By       policy.DID `json:"by"`
	// Faultless says why nobody bears it: agent_report, unknown_outcome, failed_outcome, suspicious_history. Empty: it is attributed in the same record.
	Faultless string `json:"faultless,omitempty"`
}

// Why an incident is nobody's fault.
const (
	agentReport    = "agent_report"    // an agent says so
	unknownOutcome = "unknown_outcome" // a timeout, or an answer that was lost
	failedOutcome  = "failed_outcome"  // nothing was sent, or the tool said that it failed

	suspiciousHistory = "suspicious_history" // of receipts at join: the ring is what it costs
)

// FaultAttributed is recorded when an incident, or that a saga failed, is divided among agents.
type FaultAttributed struct {
	ID       string     `json:"id"` // of the incident, or of the saga that failed
	Severity ring.Sigma `json:"severity"`
	Shares   []Borne    `json:"shares"`           // they sum to 1
	Chains   uint64     `json:"chains,omitempty"` // causal chains that were counted
	// Drawn says that there are more than liability.MaxChains, and as many were drawn by Seed; StandardError is the greatest of any
	// share then.
	Drawn         bool              `json:"drawn,omitempty"`
	Seed          uint64            `json:"seed,omitempty"`
	StandardError liability.Portion `json:"standard_error,omitempty"`
}

// A Borne is what one agent bears, and why.
type Borne struct {
	Agent policy.DID        `json:"agent"`
	Share liability.Portion `json:"share"`
	Why   []string          `json:"why"`
}

func decideRaiseIncident(s *State, env *Env, c RaiseIncident) Outcome {
	by := env.Caller
	_, present := s.Participants[by.DID]
	severity := DefaultSeverity
	if c.Severity != nil {
		severity = *c.Severity
	}
	switch {
	case by.Role != policy.AgentRole && !by.Runs():
		return refuse(policy.Forbidden, "operators raise incidents, and agents report them; %s is %s", by.DID, by.Role)
	case s.Lifecycle == Absent || s.Lifecycle == Archived:
		return refuse(policy.SessionNotActive, "session %s is %s", s.ID, s.Lifecycle)
	case by.Role == policy.AgentRole && !present:
		return refuse(policy.NotAParticipant, "%s is not in session %s", by.DID, s.ID)
	case (c.Action == "") == (c.Agent == ""):
		return refuse(policy.InvalidArguments, "an incident is about an action or about an agent")
	case severity > ring.One:
		return refuse(policy.InvalidArguments, "a severity is from 0 to 1, and %d millionths are more", severity)
	case len(c.Reason) > maxReasonBytes || !utf8.ValidString(c.Reason):
		return refuse(policy.InvalidArguments, "a reason is text of at most %d bytes", maxReasonBytes)
	case c.Action != "" && c.Found == nil:
		return refuse(policy.NotFound, "session %s has no action %s", s.ID, c.Action)
	case c.Agent != "" && !s.tookPart(c.Agent):
		return refuse(policy.NotAParticipant, "%s has not been in session %s", c.Agent, s.ID)
	case by.Role == policy.AgentRole && s.Participants[by.DID].Incidents >= maxOwnIncidents:
		return refuse(policy.QuotaExceeded, "%s has reported %d incidents in session %s, and may report no more", by.DID, maxOwnIncidents, s.ID)
	}
	raised := IncidentRaised{ID: s.newID(env, "inc-"), Action: c.Action, Agent: c.Agent, Severity: severity, Reason: c.Reason, By: by.DID}
	blame := liability.Alone(s.root(c.Agent))
	if c.Found != nil {
		raised.Agent, blame = c.Found.Agent, c.Found.Blame
	}
	raised.Faultless = faultless(by, c.Found)
	out := allow(raised)
	out.ID = raised.ID
	if raised.Faultless != "" {
		return out
	}
	out.Events = append(out.Events, attribution(raised, blame))
	if most := mostBlamed(blame); most != "" && s.tookPart(most) && !s.slashed(env, most) {
		slash := SlashExecuted{Agent: most, Severity: cmp.Or(severity, ring.One), Cause: raised.ID}
		if c.Agent != "" && by.Role == policy.OperatorRole { // nothing was computed: it is the operator's word, and so an act of ring 0
			slash.Unwitnessed = env.Operators < 2
			if env.Operators > 1 {
				witness, ask := s.witness(env, sha256.Sum256(fmt.Appendf(nil, "incident %s %s %q", c.Agent, severity, c.Reason)))
				if ask != nil {
					return *ask
				}
				slash.Witness = witness
			}
		}
		out.Events = append(out.Events, s.slash(env, slash)...)
	}
	return out
}

// mostBlamed returns who bears enough to be slashed; empty: nobody does.
func mostBlamed(blame liability.Blame) policy.DID {
	for _, share := range blame.Shares {
		if share.Share >= liability.SlashFrom {
			return share.Agent
		}
	}
	return ""
}

// tookPart reports whether an agent is or was in the session.
func (s *State) tookPart(did policy.DID) bool { return s.took(did) != nil }

// took returns what is known of an agent that is or was in the session; nil: it was not, or that is forgotten.
func (s *State) took(did policy.DID) *Participant {
	if p := s.Participants[did]; p != nil {
		return p
	}
	return s.Left[did]
}

// faultless returns why nobody bears an incident (SPEC §3: "a timeout, an unreachable or broken tool is nobody's fault and only
// recorded; so is a tool's ordinary error"; §7: "an agent's own incident is recorded and moves nobody's standing"); empty:
// somebody does.
func faultless(by policy.Caller, found *Finding) string {
	switch {
	case !by.Runs():
		return agentReport
	case found == nil:
		return ""
	case found.Outcome == "unknown":
		return unknownOutcome
	case found.Outcome == "failed" && !found.Fault:
		return failedOutcome
	}
	return ""
}

// attribution writes down who bears how much.
func attribution(raised IncidentRaised, blame liability.Blame) FaultAttributed {
	e := FaultAttributed{ID: raised.ID, Severity: raised.Severity, Chains: uint64(blame.Chains), Drawn: blame.Drawn, Seed: blame.Seed, StandardError: blame.StandardError}
	for _, share := range blame.Shares {
		e.Shares = append(e.Shares, Borne{share.Agent, share.Share, share.Reasons()})
	}
	return e
}

// Append appends the event's JSON.
func (e IncidentRaised) Append(dst []byte) []byte {
	return audit.Event(dst, incidentType).Str("id", e.ID).OptStr("action", e.Action).Str("agent", string(e.Agent)).
		Millionths("severity", uint32(e.Severity)).Str("reason", e.Reason).Str("by", string(e.By)).OptStr("faultless", e.Faultless).End()
}

func (e IncidentRaised) apply(s *State, _ Stamp) {
	if p := s.Participants[e.By]; p != nil && e.Faultless == agentReport {
		p.Incidents++
	}
}

// Append appends the event's JSON.
func (e FaultAttributed) Append(dst []byte) []byte {
	var shares []byte
	for i, b := range e.Shares {
		shares = append(shares, "[,"[min(i, 1)])
		shares = audit.AppendString(append(shares, `{"agent":`...), string(b.Agent))
		shares = ring.AppendMillionths(append(shares, `,"share":`...), uint32(b.Share))
		shares = append(shares, `,"why":`...)
		for j, why := range b.Why {
			shares = audit.AppendString(append(shares, "[,"[min(j, 1)]), why)
		}
		if len(b.Why) == 0 {
			shares = append(shares, '[')
		}
		shares = append(shares, ']', '}')
	}
	return audit.Event(dst, attributedType).Str("id", e.ID).Millionths("severity", uint32(e.Severity)).Raw("shares", append(shares, ']')).
		OptUint("chains", e.Chains).OptBool("drawn", e.Drawn).
		OptUint("seed", e.Seed).OptMillionths("standard_error", uint32(e.StandardError)).End()
}

// apply owes each agent that took part its fault. An operator who acted has a share and no ledger.
func (e FaultAttributed) apply(s *State, _ Stamp) {
	s.attributed(e)
	for _, b := range e.Shares {
		if s.tookPart(b.Agent) && b.Share > 0 {
			s.owe(b.Agent, agent.Entry{Kind: agent.Fault, Share: ring.Sigma(b.Share), Severity: e.Severity, Cause: e.ID})
		}
	}
}

func (FaultAttributed) owes() Effect { return Tell{} }
