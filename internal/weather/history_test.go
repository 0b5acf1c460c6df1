//go:build unix

package weather

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/sqlitelog"
)

// A history is what a log says, read offline by whoever has the directory, after all of it has verified.
type history struct {
	summary audit.Summary
	calls   []*recorded
	byN     map[int][]*recorded // the calls that changed something, by the number in their arguments
	started int
	ended   map[string]bool // sessions that are archived
	reasons map[string]int  // why sessions ended
	expired []session.ApprovalExpired
}

// A recorded is a call as its records tell it.
type recorded struct {
	session, id, action string
	n                   int
	text                string
	started             bool
	outcome             string // running, done, failed, unknown
	why                 string
}

// readHistory verifies the log in dir and folds it.
func readHistory(t testing.TB, dir string) *history {
	t.Helper()
	h, err := readLog(t.Context(), dir)
	if err != nil {
		t.Fatalf("reading the log in %s: %v", dir, err)
	}
	return h
}

func readLog(ctx context.Context, dir string) (h *history, err error) {
	r, err := sqlitelog.OpenReader(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	h = &history{byN: map[int][]*recorded{}, ended: map[string]bool{}, reasons: map[string]int{}}
	open := map[string]*recorded{}
	v := audit.Verifier{Blobs: blobsOf{ctx, r}}
	for row, err := range r.Tail(ctx, 0) {
		if err != nil {
			return nil, err
		}
		if err := v.Add(audit.Stored{Position: row.Position, Stream: row.Stream, Seq: row.Seq, Hash: row.Hash, Body: row.Body, Payload: row.Payload}); err != nil {
			return nil, fmt.Errorf("the log does not verify: %w", err)
		}
		if id, ok := strings.CutPrefix(row.Stream, audit.SessionPrefix); ok {
			if err := h.fold(ctx, r, id, row, open); err != nil {
				return nil, fmt.Errorf("%s record %d: %w", row.Stream, row.Seq, err)
			}
		}
	}
	if h.summary, err = v.Close(); err != nil {
		return nil, fmt.Errorf("the log does not verify: %w", err)
	}
	return h, nil
}

type blobsOf struct {
	ctx    context.Context
	reader *sqlitelog.Reader
}

func (b blobsOf) Blob(commitment audit.Hash) ([]byte, bool, error) {
	blob, err := b.reader.Blob(b.ctx, commitment)
	if errors.Is(err, eventlog.ErrNoBlob) {
		return nil, false, nil
	}
	return blob, err == nil, err
}

func (h *history) fold(ctx context.Context, r *sqlitelog.Reader, id string, row sqlitelog.Row, open map[string]*recorded) error {
	rec, err := audit.ParseRecord(row.Body)
	if err != nil {
		return err
	}
	events, err := session.ParseEvents(rec.Events)
	if err != nil {
		return err
	}
	end := func(action, outcome, why string) error {
		c := open[id+"/"+action]
		if c == nil || c.outcome != "running" {
			return fmt.Errorf("%s ends as %s, and was not running", action, outcome)
		}
		c.outcome, c.why = outcome, why
		return nil
	}
	for _, e := range events {
		err := error(nil)
		switch e := e.(type) {
		case session.Admitted:
			c := &recorded{session: id, id: e.ID, action: e.Action, outcome: "running"}
			if err = c.readArgs(ctx, r, row.Payload); err == nil && !e.ReadOnly {
				h.byN[c.n] = append(h.byN[c.n], c)
			}
			h.calls, open[id+"/"+e.ID] = append(h.calls, c), c
		case session.Started:
			open[id+"/"+e.ID].started = true
			h.started++
		case session.Completed:
			err = end(e.ID, "done", "")
		case session.Failed:
			err = end(e.ID, "failed", e.Why)
		case session.Unknown:
			err = end(e.ID, "unknown", e.Why)
		case session.Terminated:
			h.reasons[e.Reason]++
		case session.ApprovalExpired:
			h.expired = append(h.expired, e)
		case session.SessionArchived:
			h.ended[id] = true
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *recorded) readArgs(ctx context.Context, r *sqlitelog.Reader, payload []byte) error {
	parts, err := audit.ParsePayload(payload)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if p.Name != "args" {
			continue
		}
		b := p.Bytes
		if p.External {
			if b, err = r.Blob(ctx, p.Outside); err != nil {
				return err
			}
		}
		var args errand
		if err := json.Unmarshal(b, &args); err != nil {
			return err
		}
		c.n, c.text = args.N, args.Text
		return nil
	}
	return errors.New("an admission without arguments")
}

// count returns how many calls ended so.
func (h *history) count(outcome string) (n int) {
	for _, c := range h.calls {
		if c.outcome == outcome {
			n++
		}
	}
	return n
}

// holds checks the log against what the agents were told and what the keeper did, call by call. acked has the text of each call
// that was answered as done.
func (h *history) holds(t testing.TB, acked map[int]string, kept map[int][]string) {
	t.Helper()
	for n, text := range acked {
		switch calls := h.byN[n]; {
		case len(calls) != 1:
			t.Errorf("call %d was acknowledged, and is %d times in the log", n, len(calls))
		case calls[0].outcome != "done" || calls[0].text != text:
			t.Errorf("call %d (%s) was acknowledged, and is in the log as %+v", n, text, calls[0])
		}
	}
	for n, texts := range kept {
		if len(texts) != 1 {
			t.Errorf("call %d was dispatched %d times", n, len(texts))
		}
		switch calls := h.byN[n]; {
		case len(calls) != 1:
			t.Errorf("call %d happened, and was admitted %d times", n, len(calls))
		case calls[0].text != texts[0]:
			t.Errorf("call %d happened as %q, and was admitted as %q", n, texts[0], calls[0].text)
		case !calls[0].started:
			t.Errorf("call %d happened, and its start is not recorded", n)
		case calls[0].outcome == "failed":
			t.Errorf("call %d happened, and is recorded as failed (%s)", n, calls[0].why)
		}
	}
	for _, c := range h.calls {
		if c.outcome == "running" && h.ended[c.session] {
			t.Errorf("%s/%s still runs in a session that ended", c.session, c.id)
		}
		if c.outcome == "done" && !strings.HasSuffix(c.action, "peek") && len(kept[c.n]) == 0 {
			t.Errorf("call %d is recorded as done, and never happened", c.n)
		}
	}
}

// sum says what there is to say of it.
func (h *history) sum(acked map[int]string, kept map[int][]string) string {
	happened := 0
	for _, c := range h.calls {
		if c.outcome == "unknown" && len(kept[c.n]) > 0 {
			happened++
		}
	}
	return fmt.Sprintf("admitted %d, started %d, completed %d, failed %d, unknown %d (of which %d had happened), running %d; acknowledged %d; happened %d; %d records, %d sessions, %d open",
		len(h.calls), h.started, h.count("done"), h.count("failed"), h.count("unknown"), happened, h.count("running"),
		len(acked), len(kept), h.summary.Records, h.summary.Sessions, h.summary.Open)
}
