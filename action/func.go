package action

import (
	"context" // in a pure room only for the name of Func, which the outside contract puts here
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// A Func does an action: arguments in, result out, both JSON. It returns when ctx ends.
//
// The error decides what is recorded. ErrUnknownOutcome, or ctx's own error: whether the action took place is unknown.
// Any other: it failed. Of ErrNotDispatched, ErrUnreachable and Postponed it is known that it did not take place. A result beside an error is recorded and handed to the caller too, as a tool's account of its failure.
type Func func(ctx context.Context, args json.RawMessage) (json.RawMessage, error)

// ErrUnknownOutcome is returned, wrapped, by a Func that cannot say whether the action took place: the connection broke
// while it was under way, the answer was lost or unreadable.
var ErrUnknownOutcome = errors.New("whether the action took place is unknown")

// ErrNotDispatched is returned, wrapped, by a Func that knows the action did not take place: nothing was sent.
var ErrNotDispatched = errors.New("the action was not sent")

// ErrUnreachable is returned, wrapped, by a Func that could reach nobody: nothing was sent, and it may be worth waiting. It is an
// ErrNotDispatched.
var ErrUnreachable = fmt.Errorf("%w: nobody answers there", ErrNotDispatched)

// A Postponed error is returned by a Func whose server has not done the action because it has no time for it.
type Postponed struct {
	After time.Duration // until it may be asked again; zero: it did not say
	Err   error         // in the server's words
}

// Error returns the server's words.
func (p *Postponed) Error() string { return p.Err.Error() }

// Unwrap returns them as they are.
func (p *Postponed) Unwrap() error { return p.Err }
