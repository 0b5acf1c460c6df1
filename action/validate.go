package action

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// MaxIDBytes bounds an action's ID.
const MaxIDBytes = 256

// MaxUndoCalls bounds the calls of one undo.
const MaxUndoCalls = 16

// ErrDescriptor is returned, wrapped with what is wrong, by Validate.
var ErrDescriptor = errors.New("bad descriptor")

var idShape = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._:/-]*[a-zA-Z0-9_-])?$`)

// Validate returns ErrDescriptor for a descriptor that contradicts itself or cannot be named in a record.
func (d Descriptor) Validate() error {
	if err := CheckID(d.ID); err != nil {
		return err
	}
	for _, contradiction := range [...]func(Descriptor) string{
		Descriptor.contradictsReading, Descriptor.contradictsWindow, Descriptor.contradictsImage, Descriptor.contradictsAbsence,
	} {
		if what := contradiction(d); what != "" {
			return fmt.Errorf("%w: %s %s", ErrDescriptor, d.ID, what)
		}
	}
	if err := d.checkCalls(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDescriptor, d.ID, err)
	}
	return nil
}

// CheckID returns ErrDescriptor, wrapped with what is wrong, for what can be no action's id.
func CheckID(id string) error {
	if IsAddress(id) {
		if err := CheckAddress(id); err != nil {
			return fmt.Errorf("%w: id: %w", ErrDescriptor, err)
		}
		return nil
	}
	if len(id) > MaxIDBytes || !idShape.MatchString(id) {
		return fmt.Errorf("%w: id %q: letters, digits and ._:/- only, at most %d bytes", ErrDescriptor, id, MaxIDBytes)
	}
	return nil
}

func (d Descriptor) contradictsReading() string {
	switch {
	case d.ReadOnly && d.Admin:
		return "is both read_only and admin"
	case d.ReadOnly && (d.Undo != nil || d.UndoAbsent != nil):
		return "is read_only and has an undo"
	case d.ReadOnly && (d.Image != nil || d.After != "" || d.Probe != nil):
		return "is read_only and has an image, an after or a probe: what changes nothing needs none"
	}
	return ""
}

func (d Descriptor) contradictsWindow() string {
	if d.UndoWindow < 0 {
		return "has a negative undo_window"
	}
	return ""
}

func (d Descriptor) contradictsImage() string {
	switch {
	case d.Image != nil && d.Undo == nil && d.UndoAbsent == nil:
		return "has an image and no undo that it would be for"
	case d.UndoOnly != nil && d.Image == nil:
		return "has an undo_only and no image: what it is not for could not be told before"
	case d.After != "" && d.Image == nil:
		return "has an after and no image that it could be compared with"
	case d.After != "" && d.Image.Encoding != "" && d.Image.Encoding != Text:
		return "has an after, which is a text, and an image that is none"
	}
	used := d.After != "" && refersToImage(d.After)
	for _, c := range d.Undo {
		used = used || c.refersTo("image")
	}
	switch {
	case used && d.Image == nil:
		return "refers to an image and has none"
	case used && d.Image.Encoding == Compare:
		return "refers to an image of which the encoding says that it is only compared"
	}
	return ""
}

func refersToImage(text string) bool {
	t, err := ParseTemplate(text, InAfter)
	return err == nil && t.refersTo("image")
}

func (d Descriptor) contradictsAbsence() string {
	if d.UndoAbsent != nil && (d.Image == nil || d.Image.Absent == "" && d.Image.Empty == nil) {
		return "has an undo_absent, and no image that could say that nothing was there: image.absent, image.empty"
	}
	return ""
}

// checkCalls returns what is wrong with the calls of an undo, an image or a probe.
func (d Descriptor) checkCalls() error {
	for _, u := range []struct {
		name  string
		calls []Call
		in    Place
	}{{"undo", d.Undo, InUndo}, {"undo_absent", d.UndoAbsent, InUndoAbsent}} {
		if len(u.calls) > MaxUndoCalls {
			return fmt.Errorf("%s has more than %d calls", u.name, MaxUndoCalls)
		}
		for _, c := range u.calls {
			if c.Tool == "" {
				return fmt.Errorf("%s without a tool", u.name)
			}
			if err := c.Check(u.in); err != nil {
				return fmt.Errorf("arguments of the %s: %w", u.name, err)
			}
		}
	}
	if d.Image != nil {
		if err := d.Image.check(); err != nil {
			return fmt.Errorf("image: %w", err)
		}
	}
	if d.Probe != nil {
		if err := d.Probe.check(); err != nil {
			return fmt.Errorf("probe: %w", err)
		}
	}
	if strings.Contains(d.After, "{{") {
		if _, err := ParseTemplate(d.After, InAfter); err != nil {
			return fmt.Errorf("after: %w", err)
		}
	}
	if _, err := json.Marshal(d); err != nil { // YAML and Go know values that JSON does not, such as .nan
		return fmt.Errorf("arguments: %w", err)
	}
	return nil
}
