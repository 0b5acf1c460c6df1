package action

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// Effective returns as what the action is decided, by what is known of its before-image. A full claim needs an undo and an
// image of what was there before; without an image it is decided as partial at best, without an undo as not reversible
// (SPEC §4). An image that could not be taken makes an action irreversible that says it needs one; where nothing was there,
// what undoes it is UndoAbsent, which is partial at best. A read-only action leaves nothing to take back, so it is full
// whatever it says.
func (d Descriptor) Effective(image ImageState) Reversibility {
	switch {
	case d.ReadOnly:
		return Full
	case d.Reversibility == Irreversible || image == ImageFailed:
		return Irreversible
	case d.Undo == nil && d.UndoAbsent == nil:
		if d.Reversibility == Full {
			return Irreversible
		}
		return Partial // by its nature, as whoever described it says: no call of ours
	}
	undo := d.UndoFor(image == ImageAbsent)
	switch {
	case undo == nil && image != NoImage, d.Undo == nil && d.Reversibility == Full && image == NoImage:
		return Irreversible
	case image == ImageTaken:
		return d.Reversibility
	}
	return Partial
}

// UndoFor returns the calls that take the action back: absent says that nothing was there before. Nil: nothing does; empty:
// nothing has to be called.
func (d Descriptor) UndoFor(absent bool) []Call {
	if absent {
		return d.UndoAbsent
	}
	return d.Undo
}

// Rehearse returns why the undo cannot be made of an image and arguments, whatever the action answers; nil: it can. It is
// asked before the action is decided: an image that cannot be put back is ImageFailed. fits is asked whether a tool takes
// arguments, of the calls that do not wait for an answer; the arguments are as DecodeArgs gives them.
func (d Descriptor) Rehearse(s Scope, fits func(tool string, args map[string]any) error) error {
	s.Result, s.ahead = nil, true
	if err := d.undoIsFor(s.Args); err != nil {
		return err
	}
	for _, c := range d.UndoFor(s.Image != nil && s.Image.Absent) {
		canonical, err := c.Resolve(s)
		if err == nil && !c.refersTo("result") && !c.refersTo("json") {
			var args Args
			if args, err = DecodeArgs(canonical); err == nil {
				err = fits(c.Tool, args.Values)
			}
		}
		if err != nil {
			return fmt.Errorf("%w: preparing %s: %w", ErrImage, c.Tool, err)
		}
	}
	return nil
}

// Blind reports whether the images do not show what the action did, so that no undo can be known to take it back: it left what
// it found, and is none of which that can be (idempotent).
func (d Descriptor) Blind(before, left Image) bool { return !d.Idempotent && left.Equal(before) }

// undoIsFor returns why the undo is not one of a call with these arguments; nil: it is.
func (d Descriptor) undoIsFor(args map[string]any) error {
	for name, values := range d.UndoOnly {
		given, err := appendCanonical(nil, args[name])
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrImage, name, err)
		}
		if !slices.ContainsFunc(values, func(v any) bool {
			want, err := appendCanonical(nil, v)
			return err == nil && bytes.Equal(want, given)
		}) {
			return fmt.Errorf("%w: nothing takes back a call with %s: %s", ErrImage, name, clipText(string(given)))
		}
	}
	return nil
}

// ErrNotSaid is returned by Left where the arguments do not say what the action leaves.
var ErrNotSaid = errors.New("what the action leaves is not said")

// Left returns the image of what the action leaves, as far as After says it. It returns ErrNotSaid if the descriptor has no
// After, or the value that it refers to is not there, and ErrImage if it would not read back as it is; then the look tells.
func (d Descriptor) Left(s Scope) (Image, error) {
	if d.After == "" {
		return Image{}, ErrNotSaid
	}
	t, err := ParseTemplate(d.After, InAfter)
	if err != nil {
		return Image{}, err
	}
	text, err := t.Render(s)
	if err != nil {
		return Image{}, fmt.Errorf("%w: %w", ErrNotSaid, err)
	}
	b, err := Text.bytes(text)
	if err != nil {
		return Image{}, fmt.Errorf("%w: %w", ErrImage, err)
	}
	return Image{Bytes: b}, nil
}
