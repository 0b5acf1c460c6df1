package saga

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/policy"
)

// Bounds of a definition.
const (
	MaxSteps       = 1_000
	MaxRetries     = 10
	MaxTimeout     = 24 * time.Hour
	DefaultTimeout = 300 * time.Second // SPEC §5
	maxIDBytes     = 64
	maxNameBytes   = 128
	maxGoalBytes   = 256
	maxNeeds       = 10_000 // of all steps together
	leastTimeout   = time.Millisecond
	maxTargetBytes = 2_048
	maxSubstitutes = 8 // of a step
)

// A Definition is a saga as somebody wrote it. ParseYAML and ParseJSON return sound ones; Check says what is wrong with another.
type Definition struct {
	Name      string    // what the file calls saga
	Isolation Isolation // of what it reads and writes in the session's files; empty: none asked for
	Steps     []Step    // 1 to MaxSteps
	FanOut    []Group
	Fault     bool // a tool's ordinary error is the fault of who led to it (SPEC §3), should the saga fail by it; else it is nobody's
}

// A Step is one action of one agent, and what takes it back.
type Step struct {
	ID         string          // unique in the saga
	Agent      policy.DID      // whose action it is
	Action     string          // server.tool or a registered function, undone as its descriptor says; or Execute is said
	Execute    string          // mcp:server/tool, func:name, https://… ; empty: Action is said
	Undo       string          // what takes Execute back, written likewise; empty: what the descriptor says, else nothing
	Args       json.RawMessage // a JSON object; empty: {}
	Needs      []string        // steps that must have committed, or whose group must be satisfied, before this one begins
	Timeout    time.Duration   // of one try; zero: DefaultTimeout
	Retries    int             // tries after the first, to MaxRetries
	Checkpoint string          // the goal that is reached when this step has committed; empty: none
	// Substitutes do the step, the first whose ring suffices, when its agent is killed, in quarantine or gone. Nil: it fails.
	Substitutes []policy.DID
}

// Isolation is one of SPEC §6's levels. The zero Isolation asks for none.
type Isolation string

// The levels.
const (
	ReadCommitted Isolation = "read_committed"
	Snapshot      Isolation = "snapshot"
	Serializable  Isolation = "serializable"
)

// A Group is steps that are begun together and judged together.
type Group struct {
	Policy   Policy
	Branches []string // steps, each in one group only
}

// A Policy says how many branches must commit.
type Policy string

// The policies. A group is satisfied as soon as enough have committed, and lost as soon as not enough can.
const (
	All      Policy = "all"
	Majority Policy = "majority" // more than half
	Any      Policy = "any"
)

// wanted returns how many of n branches must commit.
func (p Policy) wanted(n int) int {
	switch p {
	case Any:
		return 1
	case Majority:
		return n/2 + 1
	}
	return n
}

// Tool returns the server and the tool of a step that calls one; ok is false for an address or a function.
func (s *Step) Tool() (server, tool string, ok bool) {
	if rest, isTool := strings.CutPrefix(s.Execute, "mcp:"); isTool {
		return strings.Cut(rest, "/")
	}
	return strings.Cut(s.Action, ".")
}
