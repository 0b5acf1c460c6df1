package api

import "time"

// kill.go: the kill switch.

// A Killing is the body that kills, and with DELETE the one that lifts a kill: of everything, of a session, of an agent everywhere,
// or of an agent in a session.
type Killing struct {
	All     bool   `json:"all,omitempty"`
	Session string `json:"session,omitempty"` // an id, or a name
	Agent   string `json:"agent,omitempty"`
	Reason  string `json:"reason,omitempty"` // drift, rate, breach, manual, quarantine_timeout, session_timeout; any other text is a note to manual
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
}

// A KilledCall is a call that was under way.
type KilledCall struct {
	Session string `json:"session"`
	ID      string `json:"id"`
	Action  string `json:"action"`
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
}
