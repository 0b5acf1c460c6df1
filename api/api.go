package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// A Decimal is a figure in [0, 1] with at most six places, as text, so that no float rounds it.
type Decimal = json.Number

// Bounds of what is sent.
const (
	MaxBodyBytes = 1 << 20 // of a request
	MaxPage      = 200     // entries of one page of a list; fewer come where they are large
)

// A Page is one page of a list. Cursor leads to the next; empty: this is the last.
type Page[T any] struct {
	Items  []T    `json:"items"`
	Cursor string `json:"cursor,omitempty"`
}

// A Session is a session as it stands.
type Session struct {
	ID            string          `json:"id"`
	Lifecycle     string          `json:"lifecycle"` // handshaking, active, terminating, archived
	Opener        string          `json:"opener"`
	Kind          string          `json:"kind,omitempty"` // undo: it takes back actions of Of, which has ended
	Of            string          `json:"of,omitempty"`
	Opened        time.Time       `json:"opened"`
	Ends          time.Time       `json:"ends"`    // when max_duration is over
	Records       uint64          `json:"records"` // in its log
	Changed       time.Time       `json:"changed"` // time of the newest record
	Epoch         uint64          `json:"epoch"`   // from 1; one more after each unclean stop
	Participants  []Participant   `json:"participants"`
	Running       []string        `json:"running"`        // actions whose outcome is not recorded
	OpenApprovals []string        `json:"open_approvals"` // that wait to be granted or denied
	Config        json.RawMessage `json:"config"`         // the settings, with the words of the configuration file
}

// A Participant is an agent in a session.
type Participant struct {
	Agent   string    `json:"agent"`
	Ring    int       `json:"ring"` // as last recorded; decisions compute it anew
	Joined  time.Time `json:"joined"`
	Running int       `json:"running"` // actions under way
	// Manifest is the digest of what the agent says of itself; empty: it says nothing.
	Manifest string `json:"manifest,omitempty"`
	// History is what its receipts told; left out: it has presented none.
	History *History `json:"history,omitempty"`
	Killed  bool     `json:"killed,omitempty"` // stopped by a kill of whatever scope, of who brought it too
	Held    int      `json:"held,omitempty"`   // the ring that a demotion by a breach or drift holds it in; left out: none does
}

// A Summary is what a session's end answers.
type Summary struct {
	SummaryHash string          `json:"summary_hash"` // root of the RFC 6962 tree over the session's records
	Records     uint64          `json:"records"`
	Receipt     json.RawMessage `json:"receipt"` // null until the summary is sealed in the transparency log
}

// An Action is an admitted action as its records tell it.
type Action struct {
	ID            string          `json:"id"`
	Session       string          `json:"session"`
	Agent         string          `json:"agent"`
	Action        string          `json:"action"`
	Seq           uint64          `json:"seq"` // of the record that admitted it
	Time          time.Time       `json:"time"`
	Ring          int             `json:"ring"`
	RequiredRing  int             `json:"required_ring"`
	SigmaEff      Decimal         `json:"sigma_eff"`
	RiskWeight    Decimal         `json:"risk_weight"`
	Reversibility string          `json:"reversibility"` // none, partial, full
	ReadOnly      bool            `json:"read_only"`
	Resource      string          `json:"resource,omitempty"`   // "server:resource"; left out: not known
	UndoUntil     *time.Time      `json:"undo_until,omitempty"` // when its undo window closes
	Undoes        string          `json:"undoes,omitempty"`     // the action that it took back, SESSION/act-12
	Approval      string          `json:"approval,omitempty"`   // the grant it used up
	During        string          `json:"during,omitempty"`     // the action in whose course its server asked for this
	Args          json.RawMessage `json:"args,omitempty"`       // left out: collected
	Outcome       string          `json:"outcome"`              // running, done, failed, unknown
	Why           string          `json:"why,omitempty"`
	Result        json.RawMessage `json:"result,omitempty"` // left out: nothing was answered, or collected
	OutcomeSeq    uint64          `json:"outcome_seq,omitempty"`
	Ended         *time.Time      `json:"ended,omitempty"`
	Saga          string          `json:"saga,omitempty"`        // of which it is a step, or a step's undo
	Shares        []Share         `json:"shares,omitempty"`      // who bears that its saga failed by it; in the answer about one action
	Explanation   *Explanation    `json:"explanation,omitempty"` // in the answer about one action
}

// An Approval is an approval and the call it is for. A used one is gone.
type Approval struct {
	ID         string          `json:"id"`
	Session    string          `json:"session"`
	Agent      string          `json:"agent"`
	Action     string          `json:"action"`
	Args       json.RawMessage `json:"args,omitempty"` // left out: collected
	Digest     string          `json:"digest"`         // of agent, arguments, descriptor and policies; a grant repeats it
	Status     string          `json:"status"`         // open, granted, denied, expired
	By         []string        `json:"by"`             // who can grant it: consensus, approver, operator
	Policy     string          `json:"policy,omitempty"`
	Electors   []string        `json:"electors,omitempty"`
	For        []string        `json:"for,omitempty"`
	Against    []string        `json:"against,omitempty"`
	Opened     time.Time       `json:"opened"`
	Expires    time.Time       `json:"expires"`
	GrantedBy  string          `json:"granted_by,omitempty"` // a DID, or consensus
	Seq        uint64          `json:"seq"`                  // of the record that opened it
	Descriptor string          `json:"descriptor"`           // digest of what was known of the action
}

// A Ballot is the body of a grant or a denial.
type Ballot struct {
	Digest string `json:"digest"` // as the approval showed it
}

// A Decision is the answer to a command, everywhere the same.
type Decision struct {
	Allowed      bool         `json:"allowed"`
	Code         string       `json:"code"`
	Reason       string       `json:"reason"`
	RequiredRing *int         `json:"required_ring,omitempty"`
	Ring         *int         `json:"ring,omitempty"`
	SigmaEff     Decimal      `json:"sigma_eff,omitempty"`
	RiskWeight   Decimal      `json:"risk_weight,omitempty"`
	Approval     *ApprovalRef `json:"approval,omitempty"`
	RetryAfterMS int64        `json:"retry_after_ms,omitempty"`
	Policy       string       `json:"policy,omitempty"`
	Seq          uint64       `json:"seq,omitempty"` // of the record; zero: the answer stands in none
	Explanation  *Explanation `json:"explanation,omitempty"`
}

// An Explanation says why a call was decided as it was.
type Explanation struct {
	Requires  string    `json:"requires,omitempty"`   // why the action needs the ring it needs
	ByScore   *int      `json:"by_score,omitempty"`   // the ring that σ_eff alone gives
	Elevated  *int      `json:"elevated,omitempty"`   // the ring that an elevation gives for a while
	Ceilings  []Ceiling `json:"ceilings,omitempty"`   // what holds the agent whatever its score, the strictest first
	RefusedBy string    `json:"refused_by,omitempty"` // the question of the admission that refused
	ToPass    []string  `json:"to_pass,omitempty"`    // what would have to be true for it to pass
}

// A Ceiling is a ring above which an agent is not let.
type Ceiling struct {
	Ring int    `json:"ring"`
	Why  string `json:"why"`
}

// An ApprovalRef points at the approval a refused call opened or waits for.
type ApprovalRef struct {
	ID     string   `json:"id"`
	Digest string   `json:"digest"`
	By     []string `json:"by"`
}

// The codes of errors that are no decision's.
const (
	CodeMalformed = "malformed" // the request is not one: not JSON, an unknown field, a number that is none
	CodeTooLarge  = "too_large" // the body is over MaxBodyBytes
	CodeAmbiguous = "ambiguous" // an id without its session that several sessions have; details.candidates lists them
	CodeInternal  = "internal"  // a fault of the hypervisor's own; its log says more
)

// An Error is what the body of an answer of 400 and above holds under "error".
type Error struct {
	Code    string       `json:"code"`
	Message string       `json:"message"`
	Details ErrorDetails `json:"details"`
	Seq     uint64       `json:"seq,omitempty"` // of the record of the refusal; zero: it stands in none
}

// ErrorDetails are what else there is to say. The zero value says nothing.
type ErrorDetails struct {
	Decision   *Decision `json:"decision,omitempty"`   // the refusal
	Candidates []string  `json:"candidates,omitempty"` // what an ambiguous id may mean, as SESSION/ID
	Faults     []Fault   `json:"faults,omitempty"`     // all that is wrong with a document
	Diff       string    `json:"diff,omitempty"`       // of an undo that was refused: what the action left (-) and what is there (+)
}

// A Fault is one thing that is wrong with a document, and where: from 1, and in code points.
type Fault struct {
	Line int    `json:"line"`
	Col  int    `json:"col"`
	What string `json:"what"`
}

// An ErrorBody is the whole body of such an answer.
type ErrorBody struct {
	Error Error `json:"error"`
}

// Error returns the message, and what an ambiguous id may mean.
func (e *Error) Error() string {
	if len(e.Details.Candidates) > 0 {
		return fmt.Sprintf("%s: %s", e.Message, strings.Join(e.Details.Candidates, ", "))
	}
	return e.Message
}

// SplitID takes SESSION/act-12 apart. A bare id has no session. The last slash counts.
func SplitID(text string) (session, id string) {
	if i := strings.LastIndexByte(text, '/'); i >= 0 {
		return text[:i], text[i+1:]
	}
	return "", text
}
