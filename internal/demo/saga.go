package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// saga.go: several actions of several agents that end either all done or undone (SPEC §5).

// release is five steps of three agents. Its fan-out wants all of its branches, and the second of them, the fourth step, reads a
// note that nobody has written. It says that a step's failing is a fault: of who did it, and of who led to it by the steps it needs.
var release = saga.Definition{
	Name:  "release",
	Fault: true,
	Steps: []saga.Step{
		{ID: "outline", Agent: editor, Action: "notes.write_note", Args: json.RawMessage(`{"name":"outline","text":"north first"}`)},
		{ID: "look", Agent: chief, Action: "notes.read_note", Args: json.RawMessage(`{"name":"outline"}`), Needs: []string{"outline"}},
		{ID: "north", Agent: chief, Action: "notes.write_note", Args: json.RawMessage(`{"name":"north","text":"released"}`), Needs: []string{"look"}},
		{ID: "south", Agent: writer, Action: "notes.read_note", Args: json.RawMessage(`{"name":"south"}`), Needs: []string{"look"}},
		{ID: "east", Agent: editor, Action: "notes.write_note", Args: json.RawMessage(`{"name":"east","text":"released"}`), Needs: []string{"look"}},
	},
	FanOut: []saga.Group{{Policy: saga.All, Branches: []string{"north", "south", "east"}}},
}

// saga runs the release, tells each of its steps as it goes, and what became of it.
func (st *stage) saga(ctx context.Context, s *step, line *Line) error {
	line.Did = "saga " + s.saga.Name
	out, err := st.session.RunSaga(ctx, policy.Operator(s.who), *s.saga)
	if err != nil {
		return err
	}
	if !out.Allowed {
		line.Decision = &out.Decision
		return nil
	}
	if err := st.opts.Report(Line{Say: s.say, Who: line.Who, OK: true}); err != nil {
		return err
	}
	if err := st.follow(ctx, out, s.saga); err != nil {
		return err
	}
	v, err := st.session.AwaitSaga(ctx, out.ID)
	if err != nil {
		return err
	}
	line.Say, line.Result, line.OK = s.then, sagaText(&v), true
	for _, told := range s.tells {
		line.OK = line.OK && strings.Contains(line.Result, told)
	}
	return nil
}

// follow reports what the log says of a saga's steps, as it comes, until the saga has ended.
func (st *stage) follow(ctx context.Context, run hypervisor.Outcome, d *saga.Definition) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var before uint64
	for r, err := range st.session.Records(ctx, run.Seq) {
		if err != nil {
			return err
		}
		before = r.Position - 1
		break
	}
	agents := map[string]string{}
	for i := range d.Steps {
		agents[d.Steps[i].ID] = string(d.Steps[i].Agent)
	}
	for e, err := range st.hv.Follow(ctx, before) {
		if err != nil {
			return err
		}
		l, of := Line{OK: true}, ""
		switch e := e.Value.(type) {
		case session.SagaStepStarted:
			of = e.Saga
			if l.Did, l.Result = e.Step, "begins"; e.Undo {
				l.Result = "is taken back"
			}
		case session.SagaStepSettled:
			of, l.Did, l.Result = e.Saga, e.Step, e.To.String()
		case session.SagaEnded:
			if e.Saga == run.ID {
				return nil
			}
		default: // nothing of a step
		}
		if of != run.ID {
			continue
		}
		l.Who = agents[l.Did]
		if err := st.opts.Report(l); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// sagaText is where a saga and its steps stand.
func sagaText(v *hypervisor.SagaView) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", v.State, v.Why)
	for _, s := range v.Steps {
		fmt.Fprintf(&b, "; %s by %s %s", s.ID, strings.TrimPrefix(string(s.Agent), "did:mesh:"), s.State)
	}
	for _, bears := range borne(v.Blame, v.Faultless) {
		fmt.Fprintf(&b, "; %s", strings.TrimPrefix(bears, "did:mesh:"))
	}
	return b.String()
}
