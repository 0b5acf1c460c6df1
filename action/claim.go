package action

import "time"

// A Claim is what one source says of an action. A nil field says nothing.
//
// The tools of an Image and a Probe are called in the hypervisor's own name, before anybody has decided on anything: a claim
// made of what an agent or a server says MUST leave both nil.
type Claim struct {
	Name          *string          `json:"name,omitempty"`
	Image         *Look            `json:"image,omitempty"`
	Undo          []Call           `json:"undo,omitzero"` // empty and not nil: nothing has to be called
	UndoAbsent    []Call           `json:"undo_absent,omitzero"`
	UndoOnly      map[string][]any `json:"undo_only,omitempty"`
	After         *string          `json:"after,omitempty"`
	Probe         *Probe           `json:"probe,omitempty"`
	Reversibility *Reversibility   `json:"reversibility,omitempty"`
	UndoWindow    *time.Duration   `json:"undo_window,omitempty"`
	ReadOnly      *bool            `json:"read_only,omitempty"`
	Admin         *bool            `json:"admin,omitempty"`
	Idempotent    *bool            `json:"idempotent,omitempty"`
	Resource      *string          `json:"resource,omitempty"`
	Network       *bool            `json:"network,omitempty"`
	Files         *bool            `json:"files,omitempty"`
	Subprocess    *bool            `json:"subprocess,omitempty"`
}

// Resolve makes one descriptor of what several sources say, the strongest first: the operator's configuration, then the
// server's annotations if the operator trusts them (SPEC §4). For each field the strongest source that speaks of it
// decides; a weaker one that also speaks can only make the action stricter. Where nobody speaks the strict zero holds.
//
// How an action is taken back is said by one source alone: the strongest that speaks of image, undo, undo_absent,
// undo_only or after.
// They refer to each other, so one source's undo never meets another's image. A stronger source that says "full" and speaks
// of none of them takes a weaker one's.
//
// Saying "reversible" and saying "read-only" answer one question, so a stronger source that answers either leaves no room
// for a weaker one to loosen the other.
func Resolve(id string, claims ...Claim) Descriptor {
	d := Descriptor{ID: id}
	var said struct{ effect, admin, idempotent, undo, window, name, resource, network, files, subprocess bool }
	for _, c := range claims {
		d.resolveEffect(c, said.effect)
		said.effect = said.effect || c.ReadOnly != nil || c.Reversibility != nil
		tighten(&d.Admin, &said.admin, c.Admin, true)
		tighten(&d.Idempotent, &said.idempotent, c.Idempotent, false)
		tighten(&d.Network, &said.network, c.Network, true)
		tighten(&d.Files, &said.files, c.Files, true)
		tighten(&d.Subprocess, &said.subprocess, c.Subprocess, true)
		first(&d.Name, &said.name, c.Name)
		first(&d.Resource, &said.resource, c.Resource)
		if w := c.UndoWindow; w != nil && (!said.window || isShorter(*w, d.UndoWindow)) {
			d.UndoWindow, said.window = *w, true
		}
		if c.takesBack() && !said.undo {
			d.Image, d.Undo, d.UndoAbsent, d.UndoOnly, said.undo = c.Image, c.Undo, c.UndoAbsent, c.UndoOnly, true
			if c.After != nil {
				d.After = *c.After
			}
		}
		if d.Probe == nil {
			d.Probe = c.Probe
		}
	}
	if d.ReadOnly { // nothing to take back; a wildcard may have said both
		d.Image, d.Undo, d.UndoAbsent, d.UndoOnly, d.After, d.Probe = nil, nil, nil, nil, "", nil
	}
	return d
}

// Tightened returns the descriptor with what a source weaker than all others says: only what makes it stricter counts, also where
// nobody else has spoken (SPEC §4). How the action is taken back is not the weakest's to say.
func (d Descriptor) Tightened(c Claim) Descriptor {
	d.resolveEffect(c, true)
	said := true
	tighten(&d.Admin, &said, c.Admin, true)
	tighten(&d.Idempotent, &said, c.Idempotent, false)
	tighten(&d.Network, &said, c.Network, true)
	tighten(&d.Files, &said, c.Files, true)
	tighten(&d.Subprocess, &said, c.Subprocess, true)
	if w := c.UndoWindow; w != nil && isShorter(*w, d.UndoWindow) {
		d.UndoWindow = *w
	}
	return d
}

// takesBack reports whether the claim speaks of how the action is taken back.
func (c Claim) takesBack() bool {
	return c.Image != nil || c.Undo != nil || c.UndoAbsent != nil || c.UndoOnly != nil || c.After != nil
}

// resolveEffect folds in what c says of the action's effect: as it stands if nobody stronger spoke, otherwise only if stricter.
func (d *Descriptor) resolveEffect(c Claim, spoken bool) {
	if !spoken {
		if c.Reversibility != nil {
			d.Reversibility = *c.Reversibility
		}
		if c.ReadOnly != nil {
			d.ReadOnly = *c.ReadOnly
		}
		return
	}
	if c.Reversibility != nil {
		was := d.Reversibility
		if d.ReadOnly {
			was = Full // a read-only action is as reversible as can be
		}
		d.Reversibility = min(was, *c.Reversibility)
		d.ReadOnly = d.ReadOnly && d.Reversibility == Full
	}
	if c.ReadOnly != nil && !*c.ReadOnly {
		d.ReadOnly = false
	}
}

// tighten sets *field to what the claim says if nobody stronger spoke, otherwise only if it says the strict value.
func tighten(field, said *bool, claim *bool, strict bool) {
	if claim == nil {
		return
	}
	if !*said || *claim == strict {
		*field = *claim
	}
	*said = true
}

// isShorter compares undo windows, of which zero has no end.
func isShorter(a, b time.Duration) bool { return a != 0 && (b == 0 || a < b) }

func first(field *string, said *bool, claim *string) {
	if claim != nil && !*said {
		*field, *said = *claim, true
	}
}

// Annotations are a tool's own hints (MCP, ToolAnnotations). Nil is unsaid.
type Annotations struct {
	ReadOnly    bool
	Destructive *bool
	Idempotent  bool
	OpenWorld   *bool
}

// Claim returns what a trusted server's hints amount to: readOnlyHint → read-only; destructiveHint false → partial; openWorldHint
// true → network. Anything else is what MCP's defaults say of every tool, so it is no claim and tightens nothing an
// operator has described (SPEC §4).
func (a Annotations) Claim() Claim {
	var c Claim
	yes, partial := true, Partial
	switch {
	case a.ReadOnly:
		c.ReadOnly = &yes
	case a.Destructive != nil && !*a.Destructive:
		c.Reversibility = &partial
	}
	if a.Idempotent {
		c.Idempotent = &yes
	}
	if a.OpenWorld != nil && *a.OpenWorld {
		c.Network = &yes
	}
	return c
}
