package hypervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// undocalls.go: what an undo calls, made one action.

// A composed call of an undo.
type composed struct {
	tool *handler
	args json.RawMessage
}

// compose makes the undo one action: its descriptor, what is decided on, and what does it. The fault says why it cannot be done.
func (u *undoing) compose(t *taking) (*handler, *session.Call, string) {
	d := action.Descriptor{ID: session.UndoAction, Reversibility: action.Partial, Admin: t.Required == 0}
	found := &session.Call{Values: map[string]any{}}
	fault := t.fault
	var steps []composed
	if t.tool != nil {
		d.Network, d.Files, d.Subprocess = t.tool.Descriptor.Network, t.tool.Descriptor.Files, t.tool.Descriptor.Subprocess
		found.Server = t.tool.Server
		found.Resource = strings.TrimPrefix(t.Resource, t.tool.Server+":")
		for _, c := range t.steps {
			by := c.by
			if by == nil {
				by = t.place.tool(t.by.owner, t.tool.sibling(c.Tool))
			}
			if by == nil {
				fault = fmt.Sprintf("its undo calls %s, which its server does not list", c.Tool)
				continue
			}
			one := by.call(c.Args)
			d.Network, d.Files, d.Subprocess = d.Network || one.Descriptor.Network, d.Files || one.Descriptor.Files, d.Subprocess || one.Descriptor.Subprocess
			found.Changed = found.Changed || one.Changed
			if one.Fault != "" {
				found.Fault = one.Fault
			}
			if t.own != "" {
				fault = cmp.Or(u.asItsOwn(t, &d, by), fault)
			}
			found.Steps = append(found.Steps, *one)
			steps = append(steps, composed{by, c.Args})
		}
	}
	said, err := json.Marshal(struct {
		Undoes string         `json:"undoes"`
		Calls  []resolvedCall `json:"calls"`
	}{t.Name(), t.steps})
	if err == nil {
		var args action.Args
		args, err = action.DecodeArgs(said)
		found.Args, found.Values = args.Canonical, args.Values
	}
	if err != nil {
		found.Fault = err.Error()
	}
	tool := &handler{described: &described{d, d.Digest()}}
	tool.Do = func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) { return u.do(ctx, t, steps) }
	found.Descriptor, found.Digest = d, tool.digest
	return tool, found, fault
}

// asItsOwn makes an undo that a saga's step names no less than that action is by itself: nobody has checked what it would do. What an
// agent has named is not done with an operator's authority where the agent would have needed an approval. It returns the fault.
func (u *undoing) asItsOwn(t *taking, d *action.Descriptor, by *handler) string {
	named := by.Descriptor.Effective(action.NoImage)
	d.Reversibility, d.Admin = min(d.Reversibility, named), d.Admin || by.Descriptor.Admin
	if t.Word && u.caller.Role != policy.AgentRole && (named == action.Irreversible || by.Descriptor.Admin) {
		return fmt.Sprintf("%s has named %s for its undo, which cannot itself be taken back; call it yourself if that is wanted", t.Agent, t.own)
	}
	return ""
}

// do makes the calls, and looks whether all is as it was.
func (u *undoing) do(ctx context.Context, t *taking, steps []composed) (json.RawMessage, error) {
	results := make([]json.RawMessage, 0, len(steps))
	for i, c := range steps {
		if ctx.Err() != nil && i > 0 { // before the first the call itself has asked
			return nil, fmt.Errorf("%w: %d of its %d calls were made; %w", errHalfDone, i, len(steps), context.Cause(ctx))
		}
		effect := t.effect
		if effect == "" {
			effect = fmt.Sprint(EffectOf(ctx), "/", i)
		}
		result, err := c.tool.Do(withEffect(ctx, effect), c.args)
		switch {
		case err != nil && i > 0:
			return nil, fmt.Errorf("%w: %d of its %d calls were made; %s: %w", errHalfDone, i, len(steps), c.tool.Descriptor.ID, err)
		case err != nil:
			return result, err
		}
		if result == nil {
			result = json.RawMessage("null")
		}
		results = append(results, result)
	}
	if t.now != nil {
		err := u.isAsBefore(ctx, t)
		switch {
		case err != nil && t.Reversibility == action.Full:
			return nil, fmt.Errorf("%w: its calls were made; %w", errHalfDone, err)
		case err != nil: // nobody promised more, but it is not passed over in silence
			t.remark = "its calls were made; " + err.Error()
		}
	}
	return json.Marshal(results)
}

// isAsBefore returns why the resource is not known to be as it was before the action.
func (u *undoing) isAsBefore(ctx context.Context, t *taking) error {
	look, cancel := t.place.inSystemsName(ctx, t.by)
	defer cancel()
	now, err := t.place.look(look, t.by, t.tool, t.args)
	if err != nil {
		return fmt.Errorf("reading it again: %w", err)
	}
	if !t.image || now.Absent != t.absent || session.Recognise(u.keys[t.Session], now) != t.before {
		return errors.New("the resource does not read as it did before")
	}
	return nil
}
