package policy

import (
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/ring"
)

// A Request is what an operator's rules may know of a call.
type Request struct {
	Agent    DID
	Action   action.Descriptor
	Args     map[string]any // as decoded once at the door; what is forwarded is made of the same value
	Resource string         // the action's resource for these arguments, normalised; empty: none
	Session  string
	Name     string // of the session; a successor has the same, and an id of its own. Empty: it has none
	Ring     ring.Ring
	Sigma    ring.Sigma // σ_eff
	Now      time.Time
}

// An Effect is what a rule does to a call. The zero Effect lets it pass.
type Effect uint8

// The effects, in order of strength.
const (
	Pass Effect = iota
	RequireApproval
	Deny
)

// A Verdict is what the rules as a whole say of a request.
type Verdict struct {
	Effect Effect
	Rule   string // by name; empty with Pass
	Reason string // for people, empty if the rule's name says it all
}

// Rules decide on a request. Implementations MUST be deterministic and free of side effects, and MUST answer Deny where a
// rule cannot be evaluated (SPEC: a rule that errs denies). They are safe for concurrent use.
type Rules interface {
	Evaluate(Request) Verdict
}

// NoRules lets everything pass.
type NoRules struct{}

// Evaluate returns Pass.
func (NoRules) Evaluate(Request) Verdict { return Verdict{} }
