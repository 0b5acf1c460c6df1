package api

import "time"

// An UndoRequest is the body that asks for actions to be taken back: of a session where the path names one, else of all.
type UndoRequest struct {
	Agent string `json:"agent,omitempty"` // only this agent's; empty: all agents', of an agent that asks: its own
	Saga  string `json:"saga,omitempty"`  // only what was done as a step of this saga of the session, such as sag-7
	Since string `json:"since,omitempty"` // admitted so long ago or later, such as 10m; empty: whenever
	Plan  bool   `json:"plan,omitempty"`  // only say what would be done
}

// An UndoStep is one action of an undo, and what became of it.
type UndoStep struct {
	Session  string    `json:"session"`
	ID       string    `json:"id"`
	Agent    string    `json:"agent"`
	Action   string    `json:"action"`
	Resource string    `json:"resource,omitempty"` // "server:resource"; left out: not known
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"`  // reversible, compensable, expired, impossible, conflict
	State    string    `json:"state"` // planned, undone, refused, failed, unknown, left
	Reason   string    `json:"reason,omitempty"`
	By       string    `json:"by,omitempty"`       // the action that took it back, SESSION/act-15
	Decision *Decision `json:"decision,omitempty"` // why it was refused
	Diff     string    `json:"diff,omitempty"`     // what the action left (-) and what is there (+)
}

// An Undo is what an undo came to, newest step first.
type Undo struct {
	Steps   []UndoStep `json:"steps"`
	Undone  int        `json:"undone"`
	Left    int        `json:"left"`
	Stopped string     `json:"stopped,omitempty"` // the surprise that ended it before its end
}

// An UndoLine is one line of an undo that is told as it goes: a step that has ended, or at last the whole.
type UndoLine struct {
	Step *UndoStep `json:"step,omitempty"`
	Undo *Undo     `json:"undo,omitempty"`
}
