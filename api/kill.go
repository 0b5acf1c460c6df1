package api

import "time"

// kill.go: the kill switch, and quarantine.

// A Killing is the body that kills, and with DELETE the one that lifts a kill: of everything, of a session, of an agent everywhere,
// or of an agent in a session.
type Killing struct {
	All     bool   `json:"all,omitempty"`
	Session string `json:"session,omitempty"` // an id, or a name
	Agent   string `json:"agent,omitempty"`
	Reason  string `json:"reason,omitempty"` // drift, rate, breach, manual, quarantine_timeout, session_timeout; any other text is a note to manual
	// Substitute does in sagas what the killed agent was to do, if its ring suffices.
	Substitute string `json:"substitute,omitempty"`
}

// A Kill is one turn of the kill switch.
type Kill struct {
	ID      string    `json:"id"`
	All     bool      `json:"all,omitempty"`
	Session string    `json:"session,omitempty"`
	Agent   string    `json:"agent,omitempty"`
	Reason  string    `json:"reason"`
	Note    string    `json:"note,omitempty"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`

	Substitute string `json:"substitute,omitempty"` // who does its steps of sagas
}

// A KilledCall is a call that was under way.
type KilledCall struct {
	Session string `json:"session"`
	ID      string `json:"id,omitempty"` // left out: a look at what an action touches
	Action  string `json:"action,omitempty"`
	Outcome string `json:"outcome,omitempty"` // done, failed or unknown; left out: it still runs
}

// A KillReport says what a kill brought about, as far as was known when it was answered.
type KillReport struct {
	Kill            Kill         `json:"kill"`
	Cancelled       []KilledCall `json:"cancelled"`     // those that have ended
	StillRunning    []KilledCall `json:"still_running"` // those that could not be cancelled so far
	TokensRevoked   int          `json:"tokens_revoked"`
	ApprovalsClosed int          `json:"approvals_closed"`
	Recorded        bool         `json:"recorded"` // false: its record is owed; it is in force all the same
	Tasks           []KilledTask `json:"tasks"`    // steps of sagas that were the killed agent's to do
	Work            []KilledWork `json:"work"`     // what it did that stands, in the sessions that are in memory
}

// A KilledTask is a step of a saga that was a killed agent's, or of one that it brought, to do.
type KilledTask struct {
	Session string `json:"session"`
	Saga    string `json:"saga"`
	Step    string `json:"step"`
	Agent   string `json:"agent"`
	To      string `json:"to,omitempty"` // who does it now, or will once it begins; left out: nobody
	State   string `json:"state"`
}

// KilledWork is what a killed agent, or one that it brought, has done in a session.
type KilledWork struct {
	Session string `json:"session"`
	Agent   string `json:"agent"`
	Stands  int    `json:"stands"` // calls that changed something and are not undone
}

// A QuarantineRequest is the body that puts an agent in quarantine, or extends one that is in force.
type QuarantineRequest struct {
	Reason   string  `json:"reason,omitempty"`   // as of a kill; after drift or breach the end of the time kills
	Severity Decimal `json:"severity,omitempty"` // what its ledger counts; empty: 0.50
	For      string  `json:"for,omitempty"`      // at most 7d; empty: 300s
}

// A Release is the body that ends a quarantine.
type Release struct {
	Reason string `json:"reason,omitempty"`
}

// A Quarantine is one in force: the agent reads, and does nothing else.
type Quarantine struct {
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
	Reasons  []string  `json:"reasons"`
	Severity Decimal   `json:"severity"`
	Kills    bool      `json:"kills,omitempty"` // the end of its time kills the agent instead of releasing it
}
