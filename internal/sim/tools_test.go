package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
)

// tools_test.go: what the agents call. No crash takes back what a tool has done.

// the descriptors of what can be done in every session.
var descriptors = []action.Descriptor{
	{ID: "read", ReadOnly: true},
	{ID: "write", Reversibility: action.Partial},
	{ID: "unwrite", Reversibility: action.Partial},
	{ID: "put", Reversibility: action.Partial, Idempotent: true},
	{ID: "unput", Reversibility: action.Partial, Idempotent: true},
	{ID: "destroy"},
}

// harmless holds the tools whose effect may happen twice.
var harmless = map[string]bool{"read": true, "put": true, "unput": true, "drive.read": true}

// equip brings a session its tools, once in each process; a seed's session may be without them for a while.
func (w *world) equip(s *hypervisor.Session) {
	if w.equipped[s.ID()] == w.boot {
		return
	}
	w.equipped[s.ID()] = w.boot
	var tools []hypervisor.Tool
	for _, d := range descriptors {
		tools = append(tools, hypervisor.Tool{Descriptor: d, Do: w.tool(s.ID(), d.ID)})
	}
	tools = append(tools, w.drive(s.ID())...)
	w.must(acknowledged, s.SetTools("", "", tools) == nil, "the tools are refused")
}

// tool is one tool in one session: slow, gone, wrong, or as it should be.
func (w *world) tool(session, name string) action.Func {
	return func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
		return w.weathered(ctx, session, name, args, func() (json.RawMessage, error) {
			w.happens(w.book.session(session).deeds[hypervisor.ActionOf(ctx)], name, args)
			return json.RawMessage(`"ok"`), nil
		})
	}
}

// weathered does a call's work in the weather.
func (w *world) weathered(ctx context.Context, session, name string, args json.RawMessage, work func() (json.RawMessage, error)) (json.RawMessage, error) {
	if id := hypervisor.ActionOf(ctx); id != "" { // else it is a look, in the system's name
		w.dispatched(session, name, id, args)
	}
	w.mayCrash(crashTool)
	if w.hits(toolDies) {
		w.gone = 2 + w.faults.IntN(8)
	}
	switch {
	case w.gone > 0 || w.hits(toolDown):
		return nil, action.ErrNotDispatched
	case w.hits(toolFails):
		return nil, errors.New("no")
	case w.hits(answerNever):
		return nil, action.ErrUnknownOutcome // it did not happen, and nobody knows
	case w.hits(toolSlow):
		w.clock.Advance(time.Duration(w.faults.IntN(400)) * time.Second)
	case w.hits(answerLate):
		w.meanwhile()
	}
	if err := ctx.Err(); err != nil && w.order.IntN(2) == 0 {
		return nil, err // it hears that it was cancelled, or it does not
	}
	answer, err := work()
	w.mayCrash(crashEffect)
	if err == nil && w.hits(answerLost) {
		return nil, action.ErrUnknownOutcome // it did happen, and nobody knows
	}
	return answer, err
}

// dispatched judges a call that has come out.
func (w *world) dispatched(session, name, id string, args json.RawMessage) {
	w.note("call %s %s/%s %s", name, session, id, short(args))
	s := w.book.session(session)
	d := s.deeds[id]
	if d == nil {
		w.must(decided, s.eventual && harmless[name], "%s/%s (%s) goes out and no record admits it", session, id, name)
		return
	}
	w.must(decided, d.started == 1 && (d.action == name || d.undo), "%s/%s goes out as %s: %s, started %d times", session, id, name, d, d.started)
	if d.undo && name == "drive.read" {
		return // it looks whether all is as before
	}
	d.sent++
	w.must(harmOnce, d.sent == 1, "%s/%s goes out %d times", session, d, d.sent)
	w.still(s, d)
}

// happens is the effect of an action; nil: it is in no record yet.
func (w *world) happens(d *deed, name string, args json.RawMessage) {
	key := name + string(args)
	if d != nil && d.effect != "" {
		key = d.effect
	}
	w.effects[key]++
	w.note("effect %s", short(key))
	of := harmOnce
	if strings.HasPrefix(name, keyed) {
		of = keyOnce
	}
	w.must(of, harmless[name] || w.effects[key] == 1, "%s took effect %d times", short(key), w.effects[key])
}

// argsOf are a request's: no two are alike.
func argsOf(number, step int) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"n":%d,"s":%d}`, number, step))
}

// largeArgs are so large that they stand outside their record.
func largeArgs(number int) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"n":%d,"s":0,"text":%q}`, number, strings.Repeat("x", audit.MaxInline)))
}

// short is a text that can be read.
func short[T ~string | ~[]byte](text T) string { return string(text[:min(len(text), 80)]) }
