package agent

import (
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// notice.go: what a reputation service is told of an agent (SPEC §9 "supply and receive scores"). Each entry that conduct has brought
// is owed to it until a record says that it was told. What is owed is kept as a stretch of the stream, so that a service that is away
// for a year costs no memory.

// noticedType is the published name.
const noticedType = "agent.reported"

// A Notice is what a service is told of one entry.
type Notice struct {
	ID       audit.Hash // leaf hash of the record that the entry stands in: the same however often it is told
	Agent    policy.DID
	Time     time.Time
	Kind     Kind
	Session  string     // empty: of no session
	Sigma    ring.Sigma // σ_raw after it
	Share    ring.Sigma // of a Fault
	Severity ring.Sigma
	Lost     ring.Sigma // of a Clip: the bond
	Cause    string
}

// Notable reports whether a service is told of entries of the kind: those that conduct brought, and what lifts them. What an
// operator or a service said of an agent's σ is not its conduct.
func (k Kind) Notable() bool {
	switch k {
	case Clean, Fault, Quarantine, Slashing, Clip, Reinstatement:
		return true
	default:
		return false
	}
}

// A Stretch is the records of a stream from First to Last. The zero Stretch is none.
type Stretch struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Noticed says that a service was told of the entries up to a record. The hypervisor's own.
type Noticed struct {
	Through uint64
	Refused bool // the service has read the last of them and does not take it
}

func (Noticed) command() {}

// Reported is recorded when a service was told.
type Reported struct {
	Through uint64 `json:"through"`
	Refused bool   `json:"refused,omitempty"`
}

func decideNoticed(s *State, env *Env, c Noticed) Outcome {
	switch {
	case env.Caller.Role != policy.SystemRole:
		return refuse(policy.Forbidden, "only the hypervisor knows what it has told; %s is %s", env.Caller.DID, env.Caller.Role)
	case !Owes(s) || c.Through < s.Untold.First:
		return allow() // somebody was faster
	case c.Through > s.Untold.Last:
		return refuse(policy.InvalidArguments, "record %d owes nothing yet", c.Through)
	}
	return allow(Reported(c))
}

// Owes reports whether a service is yet to be told of an entry.
func Owes(s *State) bool { return s.Untold != Stretch{} }

// owe notes that a service is to be told of the record that is being applied.
func (s *State) owe() {
	if s.Untold.First == 0 {
		s.Untold.First = s.Seq
	}
	s.Untold.Last = s.Seq
}

// Append appends the event's JSON.
func (e Reported) Append(dst []byte) []byte {
	return audit.Event(dst, noticedType).Uint("through", e.Through).OptBool("refused", e.Refused).End()
}

func (e Reported) apply(s *State, _ time.Time) {
	s.Untold.First = e.Through + 1
	if s.Untold.First > s.Untold.Last {
		s.Untold = Stretch{}
	}
}
