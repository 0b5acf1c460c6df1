package hypervisor

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/session"
)

// sagaimage.go: what was there before a step that is tried again.

// imageBeforeTries gives a try the image of the earlier ones, where one of them may have happened: what is there now may be its own
// work, and an undo would put that back as what was there before.
func (s *Session) imageBeforeTries(ctx context.Context, t session.SagaTry, tool *handler, found *session.Call) error {
	if t.Undo || found.Image != action.ImageTaken && found.Image != action.ImageAbsent {
		return nil
	}
	earlier, err := s.mayHaveHappened(ctx, t)
	if err != nil || earlier == "" {
		return err
	}
	before, err := s.imageOf(ctx, earlier)
	switch {
	case err != nil:
		return err
	case before == nil:
		found.Image, found.ImageFault = action.ImageFailed, "what was there before "+earlier+", which may have changed it, is not known"
		return nil
	}
	left, err := tool.Descriptor.Left(action.Scope{Args: found.Values, Image: before})
	if err == nil && !found.Before.Equal(*before) && !isPartOf(found.Before, left) {
		return nil // somebody else has changed it since, and that is what is there
	}
	found.Image, found.Before = action.ImageTaken, *before
	if before.Absent {
		found.Image = action.ImageAbsent
	}
	return nil
}

// isPartOf reports whether an image is of what an action leaves, or of as much of it as was written when its server died.
func isPartOf(image, left action.Image) bool {
	return image.Absent == left.Absent && bytes.HasPrefix(left.Bytes, image.Bytes)
}

// mayHaveHappened returns the newest action of a step of whose tries one may have happened; empty: none may.
func (s *Session) mayHaveHappened(ctx context.Context, t session.SagaTry) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return "", err
	}
	if g := s.live.state.Sagas[t.Saga]; g != nil && g.Run.Steps[t.Step].Maybe {
		return g.Actions[t.Step], nil
	}
	return "", nil
}

// imageOf returns what was there before an action of the session; nil: none was taken, or it was collected.
func (s *Session) imageOf(ctx context.Context, id string) (*action.Image, error) {
	seq, err := strconv.ParseUint(id[strings.LastIndexAny(id, "-.")+1:], 10, 64) // an id derives from its record
	if err != nil {
		return nil, fmt.Errorf("the record of action %s: %w", id, err)
	}
	for r, err := range s.hv.read(ctx, audit.SessionPrefix+s.id, seq) {
		if err != nil {
			return nil, err
		}
		events, err := session.ParseEvents(r.Events)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			a, ok := e.(session.Admitted)
			switch {
			case !ok || a.ID != id:
			case a.Absent:
				return &action.Image{Absent: true}, nil
			case a.Image != audit.Hash{}:
				raw, err := s.hv.part(ctx, r, "image")
				if err != nil || raw == nil {
					return nil, err
				}
				return &action.Image{Bytes: raw}, nil
			}
		}
		break
	}
	return nil, nil
}
