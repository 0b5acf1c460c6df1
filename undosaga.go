package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/session"
)

// undosaga.go: what the log says of the sagas that actions were steps of.

// An ofSaga is what matters here of a saga: what takes its steps back, and whether it goes on.
type ofSaga struct {
	steps []session.SagaStep
	agent bool // an agent runs it
	open  bool
}

// read finds out about a saga, SESSION/sag-3: of its steps in the record that it is named after.
func (g *ofSaga) read(ctx context.Context, hv *Hypervisor, name string) error {
	in, id, _ := strings.Cut(name, "/")
	seq, ok := seqOf(id)
	if !ok {
		return fmt.Errorf("saga %s: %w", name, ErrNotFound)
	}
	s, err := hv.Session(ctx, in)
	if err != nil {
		return err
	}
	for r, err := range hv.read(ctx, audit.SessionPrefix+in, seq) {
		if err != nil {
			return err
		}
		events, err := session.ParseEvents(r.Events)
		if err != nil {
			return fmt.Errorf("%s, record %d: %w", r.Stream, r.Seq, err)
		}
		for _, e := range events {
			if e, ok := e.(session.SagaCreated); ok && e.ID == id {
				g.steps, g.agent = e.Steps, e.Agent
			}
		}
		break
	}
	v, err := s.Saga(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return nil // it ended long ago
	}
	g.open = v.Ended.IsZero()
	return err
}

// sagaOf returns what is known of the saga that a wanted action is of; nil: it is of none.
func (h *history) sagaOf(d *deed) *ofSaga {
	if d.try == nil {
		return nil
	}
	return h.sagas[d.Session+"/"+d.try.Saga]
}

// ownUndo notes what the step that an action was names for its undo: nothing of that stands beside its outcome.
func (h *history) ownUndo(d *deed) {
	g := h.sagaOf(d)
	if g == nil || d.try.Undo || d.try.Step >= len(g.steps) {
		return
	}
	step := &g.steps[d.try.Step]
	if d.own = step.Undo; d.own != "" {
		d.Word = g.agent
		d.Saga, d.effect = d.try.Saga, d.Session+"/"+d.try.Saga+"/"+step.ID+"/undo"
		d.Reversibility = min(d.Reversibility, action.Partial) // whatever its descriptor's own undo could do
	}
}
