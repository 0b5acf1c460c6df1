package api

import (
	"encoding/json"
	"time"
)

// saga.go: sagas, as they are asked for and as they are.

// A SagaDefinition is the body that starts a saga: a saga file as JSON.
type SagaDefinition struct {
	Saga      string               `json:"saga"`
	Isolation string               `json:"isolation,omitempty"`
	Fault     bool                 `json:"fault,omitempty"` // a tool's ordinary error is the fault of who led to it
	Steps     []SagaDefinitionStep `json:"steps"`
	FanOut    []SagaFanOut         `json:"fan_out,omitempty"`
}

// A SagaDefinitionStep is one step of a definition.
type SagaDefinitionStep struct {
	ID         string          `json:"id"`
	Agent      string          `json:"agent"`
	Action     string          `json:"action,omitempty"`
	Execute    string          `json:"execute,omitempty"`
	Undo       string          `json:"undo,omitempty"`
	Args       json.RawMessage `json:"args,omitempty"`
	Needs      []string        `json:"needs,omitempty"`
	Timeout    string          `json:"timeout,omitempty"` // such as 30s
	Retries    int             `json:"retries,omitempty"`
	Checkpoint string          `json:"checkpoint,omitempty"`

	Substitutes []string `json:"substitutes,omitempty"` // who does it when its agent is killed, in quarantine or gone
}

// A SagaFanOut is a group of steps that are begun together.
type SagaFanOut struct {
	Policy   string   `json:"policy"` // all, majority, any
	Branches []string `json:"branches"`
	Verdict  string   `json:"verdict,omitempty"` // of a saga: open, satisfied, lost
}

// A Saga is one as it is now.
type Saga struct {
	ID      string       `json:"id"`
	Session string       `json:"session"`
	Seq     uint64       `json:"seq"`               // of the record that began it
	AsOf    uint64       `json:"as_of"`             // of the session's newest record when it was so
	Saga    string       `json:"saga"`              // its name
	Replays string       `json:"replays,omitempty"` // the saga of which what stands is not done again
	By      string       `json:"by"`
	State   string       `json:"state"` // running, waiting, compensating, completed, compensated, escalated
	Why     string       `json:"why,omitempty"`
	On      string       `json:"on,omitempty"` // the step on whose account it turned
	Ended   *time.Time   `json:"ended,omitempty"`
	Steps   []SagaStep   `json:"steps"`
	FanOut  []SagaFanOut `json:"fan_out,omitempty"`

	Failed    string  `json:"failed,omitempty"`    // the action by which it failed, where that is attributed
	Shares    []Share `json:"shares,omitempty"`    // who bears how much of that; they sum to 1
	Faultless string  `json:"faultless,omitempty"` // why nobody does: cancelled, agent_saga, unknown_outcome, failed_outcome, refused
}

// A SagaStep is one step of a saga.
type SagaStep struct {
	ID         string     `json:"id"`
	Agent      string     `json:"agent"`
	InPlaceOf  string     `json:"in_place_of,omitempty"` // the agent from whom it was handed on
	Action     string     `json:"action"`
	Needs      []string   `json:"needs,omitempty"`
	State      string     `json:"state"`
	ActionID   string     `json:"action_id,omitempty"` // the newest action that it was
	Tries      int        `json:"tries"`
	Waits      string     `json:"waits,omitempty"` // for what: approval apr-12, tool, unreachable, quarantine, kill, outcome
	Until      *time.Time `json:"until,omitempty"` // how long; between two tries: when the next begins
	Why        string     `json:"why,omitempty"`
	Checkpoint string     `json:"checkpoint,omitempty"`
}

// A SagaGoal is the body that says that a goal is reached no more.
type SagaGoal struct {
	Step string `json:"step"` // that names it
}

// A SagaResolve is the body that ends what a step of a saga waits for.
type SagaResolve struct {
	Step string `json:"step"`
	How  string `json:"how"` // happened, not, retry
}
