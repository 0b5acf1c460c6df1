package packtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/agenthypervisor/hypervisor/action"
)

// A Server is the real server that a pack is about.
type Server interface {
	// Tools returns the names of the tools that it lists.
	Tools() []string
	// Fits returns why a tool's own schema does not take arguments; nil: it does.
	Fits(tool string, args map[string]any) error
	// Call calls a tool and returns its result as the server wrote it: one by which the tool says that it failed is no error.
	Call(ctx context.Context, tool string, args json.RawMessage) (json.RawMessage, error)
}

// A Report is what became of a pack's cases.
type Report struct {
	OK          bool     `json:"ok"`
	Rows        []Row    `json:"rows"`        // by tool, in the order of the file
	Untested    []string `json:"untested"`    // tools with an undo and no case
	Undescribed []string `json:"undescribed"` // tools that the server lists and the pack does not know: they are decided as none
	Unlisted    []string `json:"unlisted"`    // tools of the pack that the server does not list, at least not for a client that can do what this one can
}

// A Row is what became of one case.
type Row struct {
	Tool          string               `json:"tool"`
	Case          string               `json:"case"`
	Image         string               `json:"image"` // taken, absent, failed or none
	Reversibility action.Reversibility `json:"reversibility"`
	Undone        Undone               `json:"undone,omitempty"` // empty: the tool refused the call, or the case came to nothing
	Holds         bool                 `json:"holds"`
	What          []string             `json:"what,omitempty"` // why it does not, and for people why nothing takes it back
	At            string               `json:"at"`
}

// Run tries all cases, each in a folder of its own below dir. The error says that the server could not be asked any more.
func Run(ctx context.Context, pack map[string]action.Claim, cases *Cases, server Server, dir string) (Report, error) {
	r := Report{OK: true, Rows: []Row{}, Untested: []string{}, Undescribed: []string{}, Unlisted: []string{}}
	tools := server.Tools()
	for _, tool := range slices.Sorted(maps.Keys(pack)) {
		c := pack[tool]
		if (len(c.Undo) > 0 || len(c.UndoAbsent) > 0) && len(cases.Of[tool]) == 0 {
			r.Untested = append(r.Untested, tool)
		}
		if !slices.Contains(tools, tool) {
			r.Unlisted = append(r.Unlisted, tool)
		}
	}
	for _, tool := range slices.Sorted(slices.Values(tools)) {
		if _, ok := pack[tool]; !ok {
			r.Undescribed = append(r.Undescribed, tool)
		}
	}
	r.OK = len(r.Untested) == 0
	for _, tool := range slices.Sorted(maps.Keys(cases.Of)) {
		for _, c := range cases.Of[tool] {
			t := &trial{Case: c, cases: cases, server: server, id: len(r.Rows) + 1}
			t.row = Row{Tool: tool, Case: c.Name, At: c.At}
			t.d = action.Resolve("pack."+tool, pack[tool])
			if err := t.try(ctx, dir); err != nil {
				t.row.What = append(t.row.What, err.Error())
			}
			if ctx.Err() != nil {
				return r, context.Cause(ctx)
			}
			t.row.Holds = len(t.complaints) == 0
			t.row.What = append(t.complaints, t.row.What...)
			r.OK = r.OK && t.row.Holds
			r.Rows = append(r.Rows, t.row)
		}
	}
	return r, nil
}

// A trial is one case under way.
type trial struct {
	Case
	cases  *Cases
	server Server
	d      action.Descriptor
	id     int
	dir    string

	row        Row
	complaints []string
}

// complain notes why the case does not hold.
func (t *trial) complain(format string, args ...any) {
	t.complaints = append(t.complaints, fmt.Sprintf(format, args...))
}

// try does the case. The error is noted beside the complaints, and makes the case fail.
func (t *trial) try(ctx context.Context, root string) (err error) {
	defer func() {
		if err != nil {
			t.complain("%v", err)
			err = nil
		}
	}()
	if err := t.setUp(ctx, root); err != nil {
		return err
	}
	canonical, err := json.Marshal(inDir(t.Args, t.dir))
	if err != nil {
		return err
	}
	args, err := action.DecodeArgs(canonical)
	if err != nil {
		return err
	}
	if err := t.server.Fits(t.row.Tool, args.Values); err != nil {
		return fmt.Errorf("the arguments do not fit: %w", err)
	}
	scope := action.Scope{Args: args.Values, ID: "act-" + strconv.Itoa(t.id), Session: "packtest"}
	state := t.lookBefore(ctx, &scope)
	t.row.Image, t.row.Reversibility = imageWords[state], t.d.Effective(state)
	if t.Image != "" && t.Image != t.row.Image {
		t.complain("the image is %s, and the case says %s", t.row.Image, t.Image)
	}
	if t.row.Reversibility != t.Decided {
		t.complain("decided as %s, and the case says %s", t.row.Reversibility, t.Decided)
	}
	if t.row.Reversibility == action.Irreversible && !t.Fails {
		t.found(Impossible)
		return nil
	}
	before, err := t.take(ctx)
	if err != nil {
		return err
	}
	return t.doAndUndo(ctx, scope, args.Canonical, before)
}

var imageWords = map[action.ImageState]string{action.NoImage: "none", action.ImageTaken: "taken", action.ImageAbsent: "absent", action.ImageFailed: "failed"}

// found notes what came of the undo, and whether that was to come.
func (t *trial) found(undone Undone) {
	t.row.Undone = undone
	if undone != t.Undone {
		t.complain("undone: %s, and the case says %s", undone, t.Undone)
	}
}

func (t *trial) setUp(ctx context.Context, root string) error {
	t.dir = filepath.Join(root, "case-"+strconv.Itoa(t.id))
	if err := os.Mkdir(t.dir, 0o755); err != nil {
		return err
	}
	for _, f := range t.Files {
		if err := f.make(t.dir); err != nil {
			return fmt.Errorf("setting up: %w", err)
		}
	}
	for _, c := range t.Setup {
		if _, err := t.call(ctx, c.Tool, inDir(c.Args, t.dir)); err != nil {
			return fmt.Errorf("setting up: %w", err)
		}
	}
	return nil
}

func (f File) make(dir string) error {
	name := filepath.Join(dir, filepath.FromSlash(f.Name))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	mode := f.Mode
	switch {
	case f.Link != "":
		return os.Symlink(inDir(f.Link, dir).(string), name)
	case f.Folder && mode == 0:
		return os.MkdirAll(name, 0o755)
	case f.Folder:
		return errors.Join(os.MkdirAll(name, 0o755), os.Chmod(name, mode))
	case mode == 0:
		mode = 0o644
	}
	return errors.Join(os.WriteFile(name, f.Bytes, 0o644), os.Chmod(name, mode)) // whatever the umask
}

// lookBefore takes the before-image into the scope, as the hypervisor does before it decides.
func (t *trial) lookBefore(ctx context.Context, scope *action.Scope) action.ImageState {
	if t.d.Image == nil {
		return action.NoImage
	}
	image, err := t.look(ctx, *scope)
	if err == nil {
		scope.Image = &image
		err = t.d.Rehearse(*scope, t.server.Fits)
	}
	switch {
	case err != nil:
		t.row.What = append(t.row.What, err.Error())
		return action.ImageFailed
	case image.Absent:
		return action.ImageAbsent
	}
	return action.ImageTaken
}

func (t *trial) look(ctx context.Context, scope action.Scope) (action.Image, error) {
	args, err := t.d.Image.Resolve(action.Scope{Args: scope.Args})
	if err != nil {
		return action.Image{}, err
	}
	r, err := t.send(ctx, t.d.Image.Tool, args)
	if err != nil {
		return action.Image{}, err
	}
	return t.d.Image.Read(scope.Args, r)
}

// doAndUndo makes the call and takes it back.
func (t *trial) doAndUndo(ctx context.Context, scope action.Scope, args json.RawMessage, before snapshot) error {
	if err := t.probed(ctx, scope, action.DidNot); err != nil {
		return err
	}
	r, err := t.send(ctx, t.row.Tool, args)
	if err != nil {
		return err
	}
	if r.Failed || t.Fails {
		return t.refused(ctx, r, before)
	}
	scope.Result = &r
	if err := t.probed(ctx, scope, action.TookPlace); err != nil {
		return err
	}
	if t.d.Image != nil && !t.shows(ctx, scope) {
		t.found(Impossible)
		return nil
	}
	calls := t.d.UndoFor(scope.Image != nil && scope.Image.Absent)
	if calls == nil {
		t.found(Impossible)
		return nil
	}
	for _, c := range calls {
		undo, err := c.Resolve(scope)
		if err != nil {
			return fmt.Errorf("making the undo: %w", err)
		}
		r, err := t.send(ctx, c.Tool, undo)
		if err != nil {
			return err
		}
		if r.Failed { // said, and so no claim: a case can say that it is impossible
			t.row.What = append(t.row.What, fmt.Sprintf("the undo's %s failed: %s", c.Tool, clip(r.Text)))
			t.found(Impossible)
			return nil
		}
	}
	return t.compare(ctx, scope, before)
}

// refused checks a call by which the tool said that it failed.
func (t *trial) refused(ctx context.Context, r action.Result, before snapshot) error {
	switch {
	case !t.Fails:
		return fmt.Errorf("the tool refused the call: %s", clip(r.Text))
	case !r.Failed:
		return errors.New("the tool did the call, and the case says that it fails")
	}
	now, err := t.take(ctx)
	if err != nil {
		return err
	}
	what, _ := before.difference(now, nil)
	t.complaints = append(t.complaints, what...)
	return nil
}

// shows checks the image after the call against what the pack says of it, and reports whether it shows that anything was done.
func (t *trial) shows(ctx context.Context, scope action.Scope) bool {
	after, err := t.look(ctx, scope)
	if err != nil { // what nobody can look at is not taken back either
		t.row.What = append(t.row.What, fmt.Sprintf("after the call: %v", err))
		return false
	}
	left, err := t.d.Left(scope)
	if err == nil && !left.Equal(after) {
		t.complain("after says that the call leaves %q, and the image is %q", clip(string(left.Bytes)), clip(string(after.Bytes)))
	}
	if t.d.Blind(*scope.Image, after) {
		t.row.What = append(t.row.What, "the image does not show what the call did")
		return false
	}
	return true
}

// compare checks the state after the undo.
func (t *trial) compare(ctx context.Context, scope action.Scope, before snapshot) error {
	now, err := t.take(ctx)
	if err != nil {
		return err
	}
	what, left := before.difference(now, t.Leaves)
	alike, err := t.looksAlike(ctx, scope)
	switch {
	case err != nil:
		return fmt.Errorf("after the undo: %w", err)
	case len(what) > 0 && !alike && t.Undone == Impossible && t.row.Reversibility != action.Full:
		t.row.What = append(t.row.What, "after the undo it does not read as it did, by the pack's own image")
		t.found(Impossible)
		return nil
	case !alike && t.row.Reversibility == action.Full:
		t.complain("after the undo it does not read as it did, by the pack's own image")
	}
	t.complaints = append(t.complaints, what...)
	if left {
		t.found(Partial)
	} else {
		t.found(OK)
	}
	return nil
}

// looksAlike reports whether the pack's own image is as it was before the call, as far as there is one.
func (t *trial) looksAlike(ctx context.Context, scope action.Scope) (bool, error) {
	if t.d.Image == nil {
		return true, nil
	}
	image, err := t.look(ctx, scope)
	return err == nil && image.Equal(*scope.Image), err
}

// probed checks that the probe, where there is one, says what is so.
func (t *trial) probed(ctx context.Context, scope action.Scope, want action.Verdict) error {
	p := t.d.Probe
	if p == nil || t.Fails {
		return nil
	}
	args, err := p.Resolve(scope)
	if err != nil {
		return fmt.Errorf("probing: %w", err)
	}
	r, err := t.send(ctx, p.Tool, args)
	if err != nil {
		return fmt.Errorf("probing: %w", err)
	}
	if got, err := p.Read(scope, r); err != nil || got != want {
		t.complain("the probe says %s of a call that %s: %s", verdictWords[got], verdictWords[want], clip(r.Text))
	}
	return nil
}

var verdictWords = map[action.Verdict]string{action.Unsaid: "nothing", action.TookPlace: "took place", action.DidNot: "did not take place"}

// call makes a call that must succeed.
func (t *trial) call(ctx context.Context, tool string, args any) (action.Result, error) {
	text, err := json.Marshal(args)
	if err != nil {
		return action.Result{}, err
	}
	r, err := t.send(ctx, tool, text)
	if err == nil && r.Failed {
		err = fmt.Errorf("%s failed: %s", tool, clip(r.Text))
	}
	return r, err
}

func (t *trial) send(ctx context.Context, tool string, args json.RawMessage) (action.Result, error) {
	answer, err := t.server.Call(ctx, tool, args)
	if err != nil {
		return action.Result{}, fmt.Errorf("calling %s: %w", tool, err)
	}
	return action.DecodeResult(answer)
}
