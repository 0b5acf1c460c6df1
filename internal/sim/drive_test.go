package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/session"
)

// drive_test.go: a folder, which all sessions share. What is done to a file is taken back by its image.

var errNoFile = errors.New("ENOENT: no such file")

// drive are its tools in one session.
func (w *world) drive(session string) []hypervisor.Tool {
	path := map[string]any{"path": "{{args.path}}"}
	change := action.Descriptor{ID: "drive.write", Reversibility: action.Full, UndoWindow: 24 * time.Hour, Resource: "{{args.path}}", After: "{{args.text}}",
		Image:      &action.Look{Call: action.Call{Tool: "read", Args: path}, Bytes: "{{result.text}}", Absent: "ENOENT"},
		Undo:       []action.Call{{Tool: "write", Args: map[string]any{"path": "{{args.path}}", "text": "{{image.text}}"}}},
		UndoAbsent: []action.Call{{Tool: "remove", Args: path}}}
	does := func(name string, work func(path, text string) (string, error)) action.Func {
		return func(ctx context.Context, raw json.RawMessage) (json.RawMessage, error) {
			var a struct{ Path, Text string }
			if err := json.Unmarshal(raw, &a); err != nil {
				return nil, err
			}
			return w.weathered(ctx, session, name, raw, func() (json.RawMessage, error) {
				text, err := work(a.Path, a.Text)
				if err != nil {
					return nil, err
				}
				w.note("drive %s %s: %s", name, a.Path, text)
				return json.Marshal(map[string]any{"text": text, "content": []any{map[string]any{"type": "text", "text": text}}})
			})
		}
	}
	return []hypervisor.Tool{
		{Server: "drive", Descriptor: action.Descriptor{ID: "drive.read", ReadOnly: true, Resource: "{{args.path}}"}, Do: does("drive.read", func(path, _ string) (string, error) {
			if text, there := w.files[path]; there {
				return text, nil
			}
			return "", errNoFile
		})},
		{Server: "drive", Descriptor: change, Do: does("drive.write", func(path, text string) (string, error) {
			w.files[path] = text
			return text, nil
		})},
		{Server: "drive", Descriptor: action.Descriptor{ID: "drive.remove"}, Do: does("drive.remove", func(path, _ string) (string, error) {
			delete(w.files, path)
			return "", nil
		})},
	}
}

// changeFile has an agent write one of a few files.
func (w *world) changeFile() {
	s := w.anySession()
	if s == nil {
		return
	}
	w.number++
	args := fmt.Sprintf(`{"path":"/f%d","text":"by %d"}`, w.deeds.IntN(4), w.number)
	out := w.asks(s, w.anyone(s), session.Act{Action: "drive.write", Args: json.RawMessage(args)})
	for range w.deeds.IntN(3) { // it is taken back at once, or asked for twice
		if out.State == "done" {
			w.undoes(admin, hypervisor.UndoRequest{Session: s.ID(), Action: out.ID})
		}
	}
}
