package api

import (
	"encoding/json"
	"time"
)

// control.go: what operators, and agents over HTTP, ask for.

// A SessionConfig is the body that creates a session: the words of session: in the configuration file. What is left out is as
// that file says.
type SessionConfig struct {
	Name            string   `json:"name,omitempty"`             // an alias; empty: none
	Consistency     string   `json:"consistency,omitempty"`      // strong or eventual
	MaxParticipants int      `json:"max_participants,omitempty"` // 1 to 1000
	MaxDuration     string   `json:"max_duration,omitempty"`     // 1s to 7d
	MinSigmaEff     Decimal  `json:"min_sigma_eff,omitempty"`
	VouchWeight     Decimal  `json:"vouch_weight,omitempty"`
	Audit           *bool    `json:"audit,omitempty"`
	ApprovalTTL     string   `json:"approval_ttl,omitempty"` // 1s to 7d
	NetworkAllow    []string `json:"network_allow,omitempty"`
	FilesScope      []string `json:"files_scope,omitempty"`
}

// A Join is the body that brings an agent into a session. With an agent's token it brings that agent's child.
type Join struct {
	Agent string  `json:"agent"`
	Sigma Decimal `json:"sigma,omitempty"` // an operator's word on its standing; empty: as it stands
	// Manifest is what the agent says of itself, an IATP manifest (docs/manifest.schema.json). It only makes stricter. Nil: nothing.
	Manifest json.RawMessage `json:"manifest,omitempty"`
	// Receipts are of the agent's past sessions, at most 64, the one that ended first first. Nil: none.
	Receipts []Receipt `json:"receipts,omitempty"`
}

// A Receipt says that an agent took part in a session that has ended.
type Receipt struct {
	Hypervisor  string    `json:"hypervisor"` // whose session it was: the origin of its transparency log
	Session     string    `json:"session"`    // its id there
	Agent       string    `json:"agent"`
	Opened      time.Time `json:"opened"`
	Ended       time.Time `json:"ended"`
	SummaryHash string    `json:"summary_hash"` // root of the RFC 6962 tree over the session's records
	Records     uint64    `json:"records"`
	Proof       string    `json:"proof"` // inclusion proof and checkpoint, at most 8 KiB
}

// A History is what a session thinks of an agent's receipts.
type History struct {
	Result string    `json:"result"`        // verified, few, suspicious (held in ring 3), unreachable
	Why    string    `json:"why,omitempty"` // of one that is suspicious
	Until  time.Time `json:"until"`         // when it counts no more
}

// A Joined is the answer to a join.
type Joined struct {
	Agent    string   `json:"agent"`
	Ring     int      `json:"ring"`
	SigmaEff Decimal  `json:"sigma_eff"`
	Manifest string   `json:"manifest,omitempty"` // SHA-256 of the manifest that was taken, in its canonical form (RFC 8785)
	History  *History `json:"history,omitempty"`  // of an agent that has presented receipts
}

// A Leave is the body that takes an agent out of a session.
type Leave struct {
	Agent string `json:"agent,omitempty"` // empty: the caller
}

// An ElevationRequest is the body that asks for a more privileged ring for a while.
type ElevationRequest struct {
	Agent  string `json:"agent,omitempty"` // empty: the caller; another is an operator's to name
	Ring   int    `json:"ring"`            // 1 or 2
	For    string `json:"for,omitempty"`   // at most an hour; empty: five minutes
	Reason string `json:"reason"`          // for who sponsors it
}

// An Elevation is one that is asked for or in effect.
type Elevation struct {
	ID       string      `json:"id"`
	Session  string      `json:"session"`
	Agent    string      `json:"agent"`
	Ring     int         `json:"ring"`
	Status   string      `json:"status"` // asked: it waits for its sponsor; active
	For      string      `json:"for"`
	Reason   string      `json:"reason,omitempty"`
	Since    *time.Time  `json:"since,omitempty"` // when it took effect
	Until    time.Time   `json:"until"`           // when it ends by itself, or the wait for its sponsor does
	By       string      `json:"by,omitempty"`    // its sponsor
	Approval ApprovalRef `json:"approval"`        // what its sponsor grants; of an active one the id alone
	Decision *Decision   `json:"decision,omitempty"`
}

// A DriftReport is the body with which a service says how far an agent has moved from what it claims (docs/drift.schema.json): two
// embeddings, which are compared here, or their distance.
type DriftReport struct {
	Agent    string    `json:"agent"`
	Claimed  []Decimal `json:"claimed,omitempty"` // 1 to 4096 numbers from -1000 to 1000
	Observed []Decimal `json:"observed,omitempty"`
	Metric   string    `json:"metric,omitempty"`   // cosine or euclidean; empty: cosine
	Distance Decimal   `json:"distance,omitempty"` // from 0 to 1, measured elsewhere
	Reason   string    `json:"reason,omitempty"`   // at most 256 bytes
}

// A Drift is the answer to such a report.
type Drift struct {
	ID       string  `json:"id,omitempty"` // left out: the agent does as it claims, and nothing is recorded
	Level    string  `json:"level"`        // none, low, medium, high, critical
	Distance Decimal `json:"distance"`
	Metric   string  `json:"metric,omitempty"`
}

// An IncidentRequest is the body that reports that something went wrong: with an action, or with an agent.
type IncidentRequest struct {
	Action   string  `json:"action,omitempty"` // its id
	Agent    string  `json:"agent,omitempty"`
	Severity Decimal `json:"severity,omitempty"` // 0 to 1; empty: 0.50
	Reason   string  `json:"reason"`
}

// An Incident is one that was raised.
type Incident struct {
	ID            string    `json:"id"`
	Session       string    `json:"session"`
	Action        string    `json:"action,omitempty"`
	Agent         string    `json:"agent"` // who is said to have done it
	Severity      Decimal   `json:"severity"`
	Reason        string    `json:"reason"`
	By            string    `json:"by"`
	Seq           uint64    `json:"seq"`
	Time          time.Time `json:"time"`
	Faultless     string    `json:"faultless,omitempty"` // why nobody bears it: agent_report, unknown_outcome, failed_outcome, suspicious_history
	Shares        []Share   `json:"shares"`              // they sum to 1; none: nobody bears it
	Slashed       []string  `json:"slashed,omitempty"`
	Chains        uint64    `json:"chains,omitempty"` // causal chains that were counted
	Drawn         bool      `json:"drawn,omitempty"`  // there are more, and as many were drawn, by Seed
	Seed          uint64    `json:"seed,omitempty"`
	StandardError Decimal   `json:"standard_error,omitempty"` // the greatest of any share, where they were drawn
}

// A Share is what one agent bears of an incident.
type Share struct {
	Agent string   `json:"agent"`
	Share Decimal  `json:"share"`
	Why   []string `json:"why"`
}

// An Act is the body that asks to have an action done.
type Act struct {
	Action string          `json:"action"` // server.tool
	Args   json.RawMessage `json:"args,omitempty"`
	Wait   *bool           `json:"wait,omitempty"` // false: answered once it is admitted; nil: true
}

// An Outcome is the answer to an act that was admitted, or to a dry run.
type Outcome struct {
	ID       string          `json:"id,omitempty"` // left out: a dry run
	Decision Decision        `json:"decision"`
	Outcome  string          `json:"outcome,omitempty"` // running, done, failed, unknown
	Why      string          `json:"why,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
}

// An Agent is an agent that has a ledger.
type Agent struct {
	DID         string      `json:"did"`
	Sigma       Decimal     `json:"sigma"`                 // its standing now
	Risk        Decimal     `json:"risk"`                  // from 0.30 on it joins in ring 3 only, from 0.60 on not at all
	Blacklisted bool        `json:"blacklisted,omitempty"` // slashed, and not reinstated
	Quarantine  *Quarantine `json:"quarantine,omitempty"`  // left out: none
	Killed      *Kill       `json:"killed,omitempty"`      // it is stopped everywhere; left out: it is not
	Ring        int         `json:"ring"`                  // that its σ gives, where nothing else holds or lifts it
	Admission   string      `json:"admission"`             // how sessions admit it: yes, probation, risk_denied, blacklisted
	Bonded      Decimal     `json:"bonded"`                // put up for others, in all sessions together
	MayBond     Decimal     `json:"may_bond"`              // yet: 80 % of σ less what is bonded, and nothing up to 0.60
	Records     uint64      `json:"records"`               // in its ledger; zero: it has none, and is in a session
	Changed     time.Time   `json:"changed,omitzero"`      // time of the newest; left out: there is none

	// Of one agent that is asked for: its bonds, and the newest entries its σ came from, oldest first.
	Bonds   []AgentBond   `json:"bonds,omitempty"`
	Entries []LedgerEntry `json:"entries,omitempty"`
	// Seats say where it stands in the sessions that are in memory, and why.
	Seats []Seat `json:"seats,omitempty"`
}

// A Seat is where an agent stands in a session now.
type Seat struct {
	Session     string       `json:"session"`
	Ring        int          `json:"ring"`
	SigmaEff    Decimal      `json:"sigma_eff"`
	Explanation *Explanation `json:"explanation"` // by_score, elevated, ceilings
}

// An AgentBond is what an agent has put up for another.
type AgentBond struct {
	ID      string  `json:"id"`
	Session string  `json:"session"`
	Vouchee string  `json:"vouchee"`
	Bond    Decimal `json:"bond"`
	Cut     bool    `json:"cut,omitempty"` // since its σ fell
}

// A Registration is the body that makes an agent known.
type Registration struct {
	DID   string  `json:"did"`
	Sigma Decimal `json:"sigma,omitempty"` // empty: as it stands, a newcomer's at first
}

// A LedgerEntry is one thing that moved an agent's standing.
type LedgerEntry struct {
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"time"`
	Caller Caller    `json:"caller"`
	Sigma  Decimal   `json:"sigma"`  // from then on
	Source string    `json:"source"` // config, join, operator; clean, fault, quarantine, slash, clip, reinstate, score

	Risk        Decimal `json:"risk,omitempty"`    // from then on
	Session     string  `json:"session,omitempty"` // where it happened
	Share       Decimal `json:"share,omitempty"`   // of the blame
	Severity    Decimal `json:"severity,omitempty"`
	Cause       string  `json:"cause,omitempty"`
	Witness     string  `json:"witness,omitempty"`     // the operator who had asked for the same before
	Unwitnessed bool    `json:"unwitnessed,omitempty"` // the act of the only operator there is
}

// A Reinstatement is the body that lifts an agent's blacklist.
type Reinstatement struct {
	Sigma  Decimal `json:"sigma,omitempty"` // empty: 0.30
	Reason string  `json:"reason,omitempty"`
}

// A Vouch is the body with which an agent puts up some of its σ for another.
type Vouch struct {
	Vouchee string     `json:"vouchee"`
	Bond    Decimal    `json:"bond,omitempty"`    // an amount of σ; empty: 20 % of the voucher's
	Expires *time.Time `json:"expires,omitempty"` // left out: with the session
}

// A Bond is what one agent has put up for another.
type Bond struct {
	ID      string     `json:"id"`
	Session string     `json:"session"`
	Voucher string     `json:"voucher"`
	Vouchee string     `json:"vouchee"`
	Bond    Decimal    `json:"bond"`   // what is left of it
	Status  string     `json:"status"` // requested, active, answering: it counts no more and can still be lost
	Expires *time.Time `json:"expires,omitempty"`
}

// A SessionSlash is the body that takes an agent's standing for what it did in a session, and its vouchers' bonds.
type SessionSlash struct {
	Agent    string  `json:"agent"`
	Severity Decimal `json:"severity,omitempty"` // empty: 1
	Reason   string  `json:"reason,omitempty"`
}

// A Slash is the body that takes an agent's standing.
type Slash struct {
	Severity Decimal `json:"severity,omitempty"` // empty: 1
	Reason   string  `json:"reason,omitempty"`
}

// A Score is the body with which a service rates an agent.
type Score struct {
	Sigma  Decimal `json:"sigma"`
	Reason string  `json:"reason,omitempty"`
}

// A Caller is who did something, in what role and through which door.
type Caller struct {
	DID  string `json:"did"`
	Role string `json:"role"`
	Via  string `json:"via"`
}

// A SeatRequest is the body that asks for an agent's token. One of Session and Alias is said.
type SeatRequest struct {
	Session string `json:"session,omitempty"` // an id, or a name
	Alias   string `json:"alias,omitempty"`   // a name
	For     string `json:"for,omitempty"`     // how long, such as 12h or 90d; empty: 30d
}

// A RoleRequest is the body that asks for a token of who is not an agent.
type RoleRequest struct {
	DID  string `json:"did"`
	Role string `json:"role"` // operator, approver, auditor, service
	For  string `json:"for,omitempty"`
}

// An IssuedToken is a token with its secret, which is told this once.
type IssuedToken struct {
	Token   string    `json:"token,omitempty"`
	ID      string    `json:"id"`
	Expires time.Time `json:"expires"`
}

// A Token is a token that counts, without its secret.
type Token struct {
	ID      string    `json:"id"`
	DID     string    `json:"did"`
	Role    string    `json:"role"`
	Session string    `json:"session,omitempty"`
	Alias   string    `json:"alias,omitempty"`
	Expires time.Time `json:"expires"`
}

// A Tool is what is pinned of a tool and what was seen of it last.
type Tool struct {
	Tool    string          `json:"tool"`             // server.tool
	Pinned  string          `json:"pinned,omitempty"` // digest; left out: not pinned
	Seen    string          `json:"seen,omitempty"`   // digest; left out: not seen since the hypervisor started
	Changed bool            `json:"changed"`          // its calls are refused until the definition seen last is accepted
	Was     json.RawMessage `json:"was,omitempty"`    // of a changed one: the pinned definition
	Is      json.RawMessage `json:"is,omitempty"`     // of a changed one: the definition seen last
}

// An Acceptance is the body that accepts a tool's definition.
type Acceptance struct {
	Tool   string `json:"tool"`
	Digest string `json:"digest"` // as seen
}

// An Event is the data of one message of /v1/events.
type Event struct {
	Position uint64          `json:"position"` // of its record, across all streams
	Stream   string          `json:"stream"`   // session/ID, agent/DID or system
	Seq      uint64          `json:"seq"`
	Time     time.Time       `json:"time"`
	Caller   Caller          `json:"caller"`
	Trace    string          `json:"trace"`
	Type     string          `json:"type"`
	Event    json.RawMessage `json:"event"` // as it is recorded
}
