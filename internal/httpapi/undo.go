package httpapi

import (
	"context"
	stdjson "encoding/json"
	"errors"
	"iter"
	"net/http"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/policy"
)

// undo.go: the routes that take actions back. Each answers once all is done, or, with ?progress=true, in JSON lines as it goes.

func (a *API) routeUndo() {
	for path, meant := range map[string]func(context.Context, policy.Caller, request[api.UndoRequest]) (hypervisor.UndoRequest, error){
		"POST /v1/undo":                             a.undoAnywhere,
		"POST /v1/sessions/{id}/undo":               a.undoInSession,
		"POST /v1/sessions/{id}/actions/{aid}/undo": a.undoOne,
	} {
		whole := handle(a, func(ctx context.Context, caller policy.Caller, in request[api.UndoRequest]) (api.Undo, error) {
			req, err := meant(ctx, caller, in)
			if err != nil {
				return api.Undo{}, err
			}
			report, err := a.hv.Undo(ctx, caller, req)
			if err == nil {
				err = refusedAlone(&req, &report)
			}
			return undoView(report), err
		}, "progress")
		lines := handleLines(a, func(ctx context.Context, caller policy.Caller, in request[api.UndoRequest]) iter.Seq2[stdjson.RawMessage, error] {
			if _, err := in.query.flag("progress"); err != nil { // who asks what is not understood has nothing undone
				return func(yield func(stdjson.RawMessage, error) bool) { yield(nil, err) }
			}
			return a.undoLines(ctx, caller, in, meant)
		}, "progress")
		a.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if told, err := query(r.URL.Query()).flag("progress"); err == nil && !told {
				whole(w, r)
				return
			}
			lines(w, r)
		})
	}
}

// undoLines does an undo and yields its steps as they end, and then the whole.
func (a *API) undoLines(ctx context.Context, caller policy.Caller, in request[api.UndoRequest], meant func(context.Context, policy.Caller, request[api.UndoRequest]) (hypervisor.UndoRequest, error)) iter.Seq2[stdjson.RawMessage, error] {
	return func(yield func(stdjson.RawMessage, error) bool) {
		req, err := meant(ctx, caller, in)
		if err != nil {
			yield(nil, err)
			return
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		req.Told = func(s hypervisor.UndoStep) {
			line := stepView(s)
			if ctx.Err() == nil && (!yield(encoded(api.UndoLine{Step: &line}), nil) || !yield(nil, nil)) {
				cancel(errors.New("nobody listens any more")) // the step under way ends; no other begins
			}
		}
		report, err := a.hv.Undo(ctx, caller, req)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			yield(nil, err)
			return
		}
		whole := undoView(report)
		yield(encoded(api.UndoLine{Undo: &whole}), nil)
	}
}

func encoded(v any) stdjson.RawMessage {
	b, err := stdjson.Marshal(v)
	if err != nil {
		panic("httpapi: an answer does not encode: " + err.Error())
	}
	return b
}

func (a *API) undoAnywhere(_ context.Context, caller policy.Caller, in request[api.UndoRequest]) (hypervisor.UndoRequest, error) {
	if err := mustRun(caller); err != nil { // an agent's token is for one session
		return hypervisor.UndoRequest{}, err
	}
	return undoRequest(in.body)
}

func (a *API) undoInSession(ctx context.Context, caller policy.Caller, in request[api.UndoRequest]) (hypervisor.UndoRequest, error) {
	req, err := undoRequest(in.body)
	if err != nil {
		return req, err
	}
	s, err := a.undoable(ctx, caller, in)
	if err == nil {
		req.Session = s.ID()
	}
	return req, err
}

func (a *API) undoOne(ctx context.Context, caller policy.Caller, in request[api.UndoRequest]) (hypervisor.UndoRequest, error) {
	if in.body.Agent != "" || in.body.Since != "" || in.body.Saga != "" {
		return hypervisor.UndoRequest{}, invalid("agent, saga and since are for the undo of a session; one action is named by its path")
	}
	s, err := a.undoable(ctx, caller, in)
	if err != nil {
		return hypervisor.UndoRequest{}, err
	}
	return hypervisor.UndoRequest{Session: s.ID(), Action: in.path("aid"), Plan: in.body.Plan}, nil
}

// undoable returns the session that a path names, if its caller may take back anything of it: an agent of its own.
func (a *API) undoable(ctx context.Context, caller policy.Caller, in request[api.UndoRequest]) (*hypervisor.Session, error) {
	if caller.Role == policy.AgentRole {
		if err := a.isOwn(in.who, in.path("id")); err != nil {
			return nil, err
		}
	} else if err := mustRun(caller); err != nil {
		return nil, err
	}
	return a.named(ctx, in.path("id"))
}

func undoRequest(in api.UndoRequest) (req hypervisor.UndoRequest, err error) {
	req.Plan, req.Saga = in.Plan, in.Saga
	if in.Agent != "" {
		if req.Agent, err = policy.ParseDID(in.Agent); err != nil {
			return req, err
		}
	}
	return req, duration("since", in.Since, &req.Since)
}

// refusedAlone makes an error of the refusal of one action that was asked for alone.
func refusedAlone(req *hypervisor.UndoRequest, report *hypervisor.UndoReport) error {
	if req.Action == "" || req.Plan || len(report.Steps) != 1 || report.Steps[0].State != hypervisor.StepRefused {
		return nil
	}
	step := stepView(report.Steps[0])
	return &problem{refusalStatus(report.Steps[0].Decision.Code), api.Error{Code: step.Decision.Code, Message: step.Reason, Seq: step.Decision.Seq,
		Details: api.ErrorDetails{Decision: step.Decision, Diff: step.Diff}}}
}

func undoView(r hypervisor.UndoReport) api.Undo {
	out := api.Undo{Steps: []api.UndoStep{}, Undone: r.Undone, Left: r.Left, Stopped: r.Stopped}
	for _, s := range r.Steps {
		out.Steps = append(out.Steps, stepView(s))
	}
	return out
}

func stepView(s hypervisor.UndoStep) api.UndoStep {
	out := api.UndoStep{Session: s.Session, ID: s.ID, Agent: string(s.Agent), Action: s.Action, Resource: s.Resource, Time: s.Time,
		Kind: string(s.Kind), State: s.State, Reason: s.Reason, By: s.By, Diff: s.Diff}
	if s.Decision != nil {
		d := decision(*s.Decision)
		out.Decision = &d
	}
	return out
}
