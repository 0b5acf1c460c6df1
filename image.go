package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// image.go: what is there before an action, and what it left (SPEC §4). Both are read in the system's name: a look is no action
// of the agent's and takes none of its tokens.

// lookPatience is how long a look may take.
const lookPatience = 10 * time.Second

type systemKey struct{}

// InSystemsName reports whether a tool is called by the hypervisor for itself: there is no agent to be told or asked anything.
func InSystemsName(ctx context.Context) bool { return ctx.Value(systemKey{}) != nil }

// A party is in whose stead something is read: whose tools are used, and who asked, whom a kill stops.
type party struct {
	owner policy.DID
	line  []policy.DID // and who brought that, to the root; none: an operator
}

// inSystemsName returns a context for a read of the hypervisor's own. It ends when who asked is killed.
func (s *Session) inSystemsName(ctx context.Context, p party) (context.Context, context.CancelFunc) {
	hv := s.hv
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, systemKey{}, true))
	look := &call{session: s.id, line: p.line, cancel: cancel}
	hv.kills.watch(look) // before it asks whether it may: a kill finds it, or it finds the kill
	var wait sync.WaitGroup
	if !hv.opts.Stepped { // there one goroutine does all, and nothing would end a look
		late := hv.opts.Clock.After(lookPatience)
		wait.Go(func() {
			select {
			case <-late:
				cancel(fmt.Errorf("the look took longer than %v", lookPatience))
			case <-ctx.Done():
			}
		})
	}
	return ctx, func() {
		hv.kills.end(look, "")
		cancel(nil)
		wait.Wait()
	}
}

// tool returns an agent's tool by its id; nil: there is none.
func (s *Session) tool(agent policy.DID, id string) *handler {
	s.mu.Lock()
	t := s.tools[agent][id]
	if t == nil {
		t = s.tools[""][id]
	}
	s.mu.Unlock()
	if t == nil && action.IsAddress(id) {
		t, _ = s.hv.addressed(id) // toolFor says why it may not be called
	}
	return t
}

// sibling returns the id of a tool of the same server.
func (t *handler) sibling(name string) string {
	if t.Server == "" {
		return name
	}
	return t.Server + "." + name
}

// untried prepares what is found of a call for the first decision: as if the image it wants were there.
func (t *handler) untried(found *session.Call) {
	d := &t.Descriptor
	if d.ReadOnly || d.Undo == nil && d.UndoAbsent == nil {
		return
	}
	if d.Image != nil {
		found.Image = action.ImageTaken
		if d.Effective(action.ImageTaken) == action.Irreversible {
			found.Image = action.ImageAbsent
		}
	}
	found.Untried = d.Effective(found.Image) != action.Irreversible
	if !found.Untried {
		found.Image = action.NoImage
	}
}

// takeImage finds out what is there before a call, and whether what would take it back answers. The error is ctx's.
func (s *Session) takeImage(ctx context.Context, p party, t *handler, found *session.Call) error {
	image, err := s.imageBefore(ctx, p, t, found.Values)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	found.Untried = false
	switch {
	case err != nil:
		found.Image, found.ImageFault = action.ImageFailed, err.Error()
	case image == nil:
		found.Image = action.NoImage
	default:
		found.Image, found.Before = action.ImageTaken, *image
		if image.Absent {
			found.Image = action.ImageAbsent
		}
	}
	return nil
}

// imageBefore returns the image, nil for an action that has none, or why the action is one that cannot be taken back.
func (s *Session) imageBefore(ctx context.Context, p party, t *handler, args map[string]any) (*action.Image, error) {
	if t.Descriptor.Undo == nil && t.Descriptor.UndoAbsent == nil {
		return nil, nil
	}
	if err := s.undoFault(p.owner, t); err != nil {
		return nil, err
	}
	ctx, cancel := s.inSystemsName(ctx, p)
	defer cancel()
	if t.Descriptor.Image == nil {
		if t.Answers != nil {
			return nil, t.Answers(ctx)
		}
		return nil, nil
	}
	image, err := s.look(ctx, p, t, args)
	if err != nil {
		return nil, err
	}
	return &image, t.Descriptor.Rehearse(action.Scope{Args: args, Image: &image}, func(name string, args map[string]any) error {
		if u := s.tool(p.owner, t.sibling(name)); u != nil && u.Check != nil {
			return u.Check(args)
		}
		return nil
	})
}

// undoFault returns why the tools of an action's undo cannot be called; nil: they can.
func (s *Session) undoFault(owner policy.DID, t *handler) error {
	for _, calls := range [][]action.Call{t.Descriptor.Undo, t.Descriptor.UndoAbsent} {
		for _, c := range calls {
			switch u := s.tool(owner, t.sibling(c.Tool)); {
			case u == nil:
				return fmt.Errorf("its undo calls %s, which its server does not list", c.Tool)
			case u.Changed:
				return fmt.Errorf("its undo calls %s, whose definition is not the one that was pinned", c.Tool)
			}
		}
	}
	return nil
}

// look reads what a call of a tool touches, as it is now.
func (s *Session) look(ctx context.Context, p party, t *handler, args map[string]any) (action.Image, error) {
	l := t.Descriptor.Image
	result, err := s.consult(ctx, p, t, l.Call, action.Scope{Args: args})
	if err != nil {
		return action.Image{}, err
	}
	return l.Read(args, result)
}

// consult makes one reading call in the system's name. A tool's own error is a Result.
func (s *Session) consult(ctx context.Context, p party, t *handler, c action.Call, scope action.Scope) (action.Result, error) {
	by := s.tool(p.owner, t.sibling(c.Tool))
	_, dead := s.hv.kills.ofAny(s.id, p.line)
	switch {
	case dead:
		return action.Result{}, errKilled
	case by == nil:
		return action.Result{}, fmt.Errorf("%w: %s is not listed", action.ErrImage, c.Tool)
	case by.Changed:
		return action.Result{}, fmt.Errorf("%w: the definition of %s is not the one that was pinned", action.ErrImage, c.Tool)
	}
	args, err := c.Resolve(scope)
	if err != nil {
		return action.Result{}, err
	}
	answer, err := by.Do(ctx, args)
	switch {
	case err != nil && ctx.Err() != nil:
		return action.Result{}, context.Cause(ctx)
	case errors.Is(err, action.ErrNotDispatched), errors.Is(err, action.ErrUnknownOutcome):
		return action.Result{}, fmt.Errorf("%w: %w", action.ErrImage, err)
	case err != nil && answer == nil:
		return action.Result{Failed: true, Text: err.Error()}, nil
	}
	r, bad := action.DecodeResult(answer)
	if bad != nil {
		return action.Result{}, bad
	}
	r.Failed = r.Failed || err != nil
	return r, nil
}

// leaving finds out, for an action that was done, what it left and what would take it back. What cannot be had is left out.
func (s *Session) leaving(ctx context.Context, c *call, result json.RawMessage) session.Leaving {
	d := &c.tool.Descriptor
	if !c.undoable || d.Image == nil && d.Undo == nil { // no undo_absent is without an image
		return session.Leaving{}
	}
	scope := action.Scope{Args: c.values, Image: c.before, ID: c.id, Session: s.id}
	if r, err := action.DecodeResult(result); err == nil {
		scope.Result = &r
	}
	undo, err := undoCalls(d, scope)
	if err != nil {
		s.hv.opts.Logger.Warn("an action was done, and what takes it back cannot be made of what it answered", "session", s.id, "action", c.id, "error", err)
		return session.Leaving{}
	}
	out := session.Leaving{Undo: undo}
	if d.Image == nil {
		return out
	}
	left, err := d.Left(scope)
	if err != nil { // the arguments do not say
		p := party{c.owner, c.line}
		look, cancel := s.inSystemsName(context.WithoutCancel(ctx), p)
		defer cancel()
		left, err = s.look(look, p, c.tool, c.values)
		out.Keep = len(left.Bytes) <= audit.MaxInline
	}
	if err != nil {
		s.hv.opts.Logger.Warn("an action was done, and what it left cannot be read", "session", s.id, "action", c.id, "error", err)
		return out
	}
	out.After = &left
	if d.Blind(*c.before, left) {
		s.hv.opts.Logger.Warn("an action was done, and the image does not show it, so that nothing is known to take it back", "session", s.id, "action", c.id)
		out.Undo = nil
	}
	return out
}

// A resolvedCall is one call of an undo, as it is recorded with the outcome of the action that it takes back.
type resolvedCall struct {
	Tool string          `json:"tool"` // of the same server
	Args json.RawMessage `json:"args"`

	by *handler // what does it; nil: the tool of the server
}

// undoCalls returns what takes an action back, resolved, as JSON; nil: nothing does.
func undoCalls(d *action.Descriptor, scope action.Scope) ([]byte, error) {
	calls := d.UndoFor(scope.Image != nil && scope.Image.Absent)
	if calls == nil {
		return nil, nil
	}
	out := make([]resolvedCall, len(calls))
	for i, c := range calls {
		args, err := c.Resolve(scope)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Tool, err)
		}
		out[i] = resolvedCall{Tool: c.Tool, Args: args}
	}
	return json.Marshal(out)
}

// probe asks, for an action whose outcome is not known, whether it took place.
func (s *Session) probe(ctx context.Context, by party, t *handler, scope action.Scope) action.Verdict {
	p := t.Descriptor.Probe
	if p == nil {
		return action.Unsaid
	}
	ctx, cancel := s.inSystemsName(ctx, by)
	defer cancel()
	r, err := s.consult(ctx, by, t, p.Call, scope)
	if err != nil {
		s.hv.opts.Logger.Warn("a probe did not answer", "session", scope.Session, "action", scope.ID, "error", err)
		return action.Unsaid
	}
	verdict, err := p.Read(scope, r)
	if err != nil {
		s.hv.opts.Logger.Warn("a probe's answer cannot be read", "session", scope.Session, "action", scope.ID, "error", err)
		return action.Unsaid
	}
	return verdict
}
