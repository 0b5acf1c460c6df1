package action

import (
	"errors"
	"fmt"
	"strings"
)

// A Probe is a read that says of an action with an unknown outcome whether it took place. As of a Look, its tool only reads.
// What the tool answers is looked through as text, that of an error too.
type Probe struct {
	Call
	Done   string `json:"done"`   // template over args and action: a text in the answer that says that the action took place
	Undone string `json:"undone"` // the same, for one that says that it did not
}

// A Verdict is what a probe found out. The zero value is Unsaid.
type Verdict uint8

// The verdicts.
const (
	Unsaid Verdict = iota // neither text is in the answer, or both are
	TookPlace
	DidNot
)

// Read returns what the answer says. It returns ErrMissingValue or ErrValueType if the texts cannot be made.
func (p Probe) Read(s Scope, r Result) (Verdict, error) {
	found := [2]bool{}
	for i, text := range []string{p.Done, p.Undone} {
		t, err := ParseTemplate(text, InProbe)
		if err != nil {
			return Unsaid, err
		}
		want, err := t.Render(s)
		if err != nil {
			return Unsaid, err
		}
		found[i] = want != "" && strings.Contains(r.Text, want)
	}
	switch found {
	case [2]bool{true, false}:
		return TookPlace, nil
	case [2]bool{false, true}:
		return DidNot, nil
	}
	return Unsaid, nil
}

// check returns what is wrong with the probe; nil: nothing.
func (p *Probe) check() error {
	switch {
	case p.Tool == "":
		return errors.New("without a tool")
	case p.Done == "" || p.Undone == "":
		return errors.New("without the texts that say done and undone")
	case p.Done == p.Undone:
		return errors.New("done and undone are the same text")
	}
	for _, text := range []string{p.Done, p.Undone} {
		if _, err := ParseTemplate(text, InProbe); err != nil {
			return fmt.Errorf("%q: %w", clipText(text), err)
		}
	}
	return p.Check(InProbe)
}
