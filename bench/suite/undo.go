package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/session"
)

// undo.go: what it costs to take back what was done.

const (
	undoneWrites = 100
	fewPlanned   = 100
)

// undoing measures the undo of file writes beside the writes themselves, and the plan of few and of many actions.
func undoing(ctx context.Context, r *run) (rows []Row, err error) {
	n, err := r.openNode(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.close(ctx)) }()
	writes, err := r.undoOfWrites(ctx, n)
	if err != nil {
		return nil, err
	}
	r.say("planning the undo of many actions")
	plans, err := planning(ctx, r.Planned)
	return []Row{writes, plans}, err
}

// undoOfWrites has files written over and taken back. The image is read, the write and the undo are made by functions on real
// files, and every record is durable.
func (r *run) undoOfWrites(ctx context.Context, n *node) (Row, error) {
	var doing, back []time.Duration
	dir := filepath.Join(r.dir, "files")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Row{}, err
	}
	for i := range undoneWrites {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%d", i)), []byte("what was there"), 0o600); err != nil {
			return Row{}, err
		}
	}
	for range max(2, r.Rounds/4) {
		s, err := openSession(ctx, n.hv, session.Strong)
		if err != nil {
			return Row{}, err
		}
		if err := s.SetTools("", "files.", fileTools(dir)); err != nil {
			return Row{}, err
		}
		var fault error
		doing = append(doing, took(func() { fault = writeAll(ctx, s, undoneWrites) }))
		if fault != nil {
			return Row{}, fault
		}
		back = append(back, took(func() { fault = undoAll(ctx, n.hv, s, undoneWrites) }))
		if fault != nil {
			return Row{}, fault
		}
	}
	row := Row{Work: fmt.Sprintf("undo of %d file writes", undoneWrites), Value: millis(percentile(back, 50)), Unit: "ms", Reach: "≤ 3 × doing them",
		Beside: fmt.Sprintf("%d file writes, each with its image", undoneWrites), Baseline: millis(percentile(doing, 50)),
		Note: "each undo looks at the file before it and after it"}
	return row.atMost(3 * row.Baseline), nil
}

// writeAll writes over n files.
func writeAll(ctx context.Context, s *hypervisor.Session, n int) error {
	for i := range n {
		args := json.RawMessage(fmt.Sprintf(`{"path":"file-%d","text":"written by an agent, number %d"}`, i, i))
		out, err := s.Act(ctx, ann, session.Act{Action: "files.write", Args: args})
		if err != nil || !out.Allowed || out.Err != nil {
			return fmt.Errorf("writing: %+v, %w", out, errors.Join(err, out.Err))
		}
	}
	return nil
}

func undoAll(ctx context.Context, hv *hypervisor.Hypervisor, s *hypervisor.Session, n int) error {
	report, err := hv.Undo(ctx, admin, hypervisor.UndoRequest{Session: s.ID()})
	if err == nil && (report.Undone != n || report.Left > 0) {
		err = fmt.Errorf("%d of %d were taken back: %s", report.Undone, n, report.Stopped)
	}
	return err
}

// planning measures the plan of few and of many actions, in memory.
func planning(ctx context.Context, many int) (Row, error) {
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Clock: newClock(), Program: "bench"})
	if err != nil {
		return Row{}, err
	}
	per := map[int]time.Duration{}
	for _, n := range []int{many, fewPlanned} {
		s, err := openSession(ctx, hv, session.Strong)
		if err != nil {
			return Row{}, err
		}
		if err := s.SetTools("", "files.", blankTools()); err != nil {
			return Row{}, err
		}
		if err := writeAll(ctx, s, n); err != nil {
			return Row{}, err
		}
		var samples []time.Duration
		for range 9 {
			var fault error
			samples = append(samples, took(func() {
				var report hypervisor.UndoReport
				report, fault = hv.Undo(ctx, admin, hypervisor.UndoRequest{Session: s.ID(), Plan: true})
				if fault == nil && len(report.Steps) != n {
					fault = fmt.Errorf("%d of %d actions are planned", len(report.Steps), n)
				}
			}))
			if fault != nil {
				return Row{}, fault
			}
		}
		per[n] = percentile(samples, 50) / time.Duration(n)
	}
	row := Row{Work: fmt.Sprintf("plan of %d undos, an action", many), Value: micros(per[many]), Unit: "µs",
		Reach: fmt.Sprintf("≤ 2 × of %d", fewPlanned), Beside: fmt.Sprintf("plan of %d, an action", fewPlanned), Baseline: micros(per[fewPlanned])}
	return row.atMost(2 * row.Baseline), hv.Close(ctx)
}

var errNoFile = errors.New("ENOENT: there is no such file")

// A fileCall is what the file tools are called with.
type fileCall struct{ Path, Text string }

// fileTools read, write and remove files of a directory, and say how a write is taken back.
func fileTools(dir string) []hypervisor.Tool {
	return describedFiles(func(c fileCall) (string, error) {
		b, err := os.ReadFile(filepath.Join(dir, filepath.Base(c.Path)))
		if errors.Is(err, fs.ErrNotExist) {
			err = errNoFile
		}
		return string(b), err
	}, func(c fileCall) (string, error) {
		return "", os.WriteFile(filepath.Join(dir, filepath.Base(c.Path)), []byte(c.Text), 0o600)
	}, func(c fileCall) (string, error) { return "", os.Remove(filepath.Join(dir, filepath.Base(c.Path))) })
}

// blankTools do nothing.
func blankTools() []hypervisor.Tool {
	nothing := func(fileCall) (string, error) { return "", nil }
	return describedFiles(nothing, nothing, nothing)
}

func describedFiles(read, write, remove func(fileCall) (string, error)) []hypervisor.Tool {
	path := map[string]any{"path": "{{args.path}}"}
	as := func(do func(fileCall) (string, error)) action.Func {
		return func(_ context.Context, args json.RawMessage) (json.RawMessage, error) {
			var c fileCall
			if err := json.Unmarshal(args, &c); err != nil {
				return nil, err
			}
			text, err := do(c)
			if err != nil {
				return nil, err
			}
			return json.Marshal(map[string]string{"text": text})
		}
	}
	return []hypervisor.Tool{
		{Server: "files", Descriptor: action.Descriptor{ID: "files.read", ReadOnly: true}, Do: as(read)},
		{Server: "files", Descriptor: action.Descriptor{ID: "files.remove"}, Do: as(remove)},
		{Server: "files", Do: as(write), Descriptor: action.Descriptor{ID: "files.write", Reversibility: action.Full, Idempotent: true, Resource: "{{args.path}}",
			Image:      &action.Look{Call: action.Call{Tool: "read", Args: path}, Bytes: "{{result.text}}", Absent: "ENOENT"},
			After:      "{{args.text}}",
			Undo:       []action.Call{{Tool: "write", Args: map[string]any{"path": "{{args.path}}", "text": "{{image.text}}"}}},
			UndoAbsent: []action.Call{{Tool: "remove", Args: path}}}},
	}
}
