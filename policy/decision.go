package policy

import (
	"fmt"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/ring"
)

// A Code says in one word why a command was allowed or refused. Codes are part of the outside contract.
type Code string

// The codes. A code appears here when a rule can give it.
const (
	OK                  Code = "ok"
	SessionNotActive    Code = "session_not_active"
	SessionFull         Code = "session_full"
	NotAParticipant     Code = "not_a_participant"
	AgentKilled         Code = "agent_killed"
	KilledAll           Code = "killed_all"
	AgentQuarantined    Code = "agent_quarantined"
	BreakerOpen         Code = "breaker_open"
	RateLimited         Code = "rate_limited"
	ConcurrencyExceeded Code = "concurrency_exceeded"
	UnknownAction       Code = "unknown_action"
	InvalidArguments    Code = "invalid_arguments"
	ToolChanged         Code = "tool_changed"
	CapabilityDenied    Code = "capability_denied"
	RingInsufficient    Code = "ring_insufficient"
	Blacklisted         Code = "blacklisted"
	RiskDenied          Code = "risk_denied"
	PolicyDenied        Code = "policy_denied"
	ApprovalRequired    Code = "approval_required"
	ApprovalDenied      Code = "approval_denied"
	ApprovalExpired     Code = "approval_expired"
	WitnessRequired     Code = "witness_required"
	ElevationRefused    Code = "elevation_refused"
	ExposureExceeded    Code = "exposure_exceeded"
	VouchRefused        Code = "vouch_refused"
	UndoWindowClosed    Code = "undo_window_closed"
	UndoConflict        Code = "undo_conflict"
	UndoUnavailable     Code = "undo_unavailable"
	QuotaExceeded       Code = "quota_exceeded"
	IdempotencyConflict Code = "idempotency_conflict"
	SagaInvalid         Code = "saga_invalid"
	NotFound            Code = "not_found"
	Forbidden           Code = "forbidden"
	Overloaded          Code = "overloaded"
	StoreUnavailable    Code = "store_unavailable"
)

// A Decision is the answer to a command, the same at every door (docs/contract.md "Decision").
type Decision struct {
	Allowed      bool         `json:"allowed"`
	Code         Code         `json:"code"`
	Reason       string       `json:"reason"`
	RequiredRing *ring.Ring   `json:"required_ring,omitempty"` // nil: the command needs no ring
	Ring         *ring.Ring   `json:"ring,omitempty"`          // the caller's; nil: it has none here
	SigmaEff     *ring.Sigma  `json:"sigma_eff,omitempty"`
	RiskWeight   action.Omega `json:"risk_weight,omitempty"`
	Approval     *ApprovalRef `json:"approval,omitempty"`
	RetryAfterMS int64        `json:"retry_after_ms,omitempty"`
	Policy       string       `json:"policy,omitempty"`      // the rule that decided, by its name
	Seq          uint64       `json:"seq,omitempty"`         // of the record; zero: the answer stands in none
	Explanation  *Explanation `json:"explanation,omitempty"` // of a refused call; nil: there is no more to say
}

// An ApprovalRef points at the approval that a refused call opened or waits for.
type ApprovalRef struct {
	ID     string   `json:"id"`
	Digest string   `json:"digest"`
	By     []string `json:"by"` // who can grant it: consensus, approver, operator
}

// Refuse returns a refusal with a reason for people and models.
func Refuse(code Code, format string, args ...any) Decision {
	return Decision{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// Allow returns a plain permission.
func Allow() Decision { return Decision{Allowed: true, Code: OK} }
