package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// sagas.go: several actions that end either all done or undone.

func (a *API) routeSagas() {
	a.mux.HandleFunc("POST /v1/sessions/{id}/sagas", handle(a, a.runSaga, "wait"))
	a.mux.HandleFunc("GET /v1/sessions/{id}/sagas", handle(a, a.sagas, "cursor", "limit"))
	a.mux.HandleFunc("GET /v1/sessions/{id}/sagas/{sid}", handle(a, a.saga, "wait"))
	a.mux.HandleFunc("POST /v1/sessions/{id}/sagas/{sid}/resolve", handle(a, a.resolveSaga))
	a.mux.HandleFunc("POST /v1/sessions/{id}/sagas/{sid}/replay", handle(a, a.replaySaga, "wait"))
	a.mux.HandleFunc("POST /v1/sessions/{id}/sagas/{sid}/invalidate", handle(a, a.invalidateGoal))
	a.mux.HandleFunc("DELETE /v1/sessions/{id}/sagas/{sid}", handle(a, a.cancelSaga))
}

// runSaga starts a saga and answers at once, or with ?wait=true when it rests.
func (a *API) runSaga(ctx context.Context, caller policy.Caller, in request[jsontext.Value]) (api.Saga, error) {
	wait, err := in.query.flag("wait")
	if err != nil {
		return api.Saga{}, err
	}
	s, err := a.ownOr(ctx, in.who, in.path("id"), mustRun)
	if err != nil {
		return api.Saga{}, err
	}
	d, err := saga.ParseJSON("body", in.body, saga.Known{})
	if err != nil {
		return api.Saga{}, unsound(err)
	}
	out, err := s.RunSagaOnce(ctx, caller, in.key, *d)
	switch {
	case err != nil:
		return api.Saga{}, err
	case !out.Allowed:
		return api.Saga{}, &hypervisor.Refused{Decision: out.Decision}
	}
	return a.sagaNow(ctx, s, out.ID, wait)
}

// unsound says what is wrong with a definition.
func unsound(err error) error {
	var faults document.Faults
	if !errors.As(err, &faults) {
		return err
	}
	body := api.Error{Code: string(policy.SagaInvalid), Message: faults[0].Error()}
	if n := len(faults) - 1; n > 0 {
		body.Message += fmt.Sprintf(" (and %d more)", n)
	}
	for _, f := range faults {
		body.Details.Faults = append(body.Details.Faults, api.Fault{Line: f.Line, Col: f.Col, What: f.What})
	}
	return &problem{http.StatusUnprocessableEntity, body}
}

func (a *API) sagaNow(ctx context.Context, s *hypervisor.Session, id string, wait bool) (api.Saga, error) {
	look := s.Saga
	if wait {
		look = s.AwaitSaga
	}
	v, err := look(ctx, id)
	return sagaView(v), err
}

// sagas lists those that are remembered, to an agent those that it runs or does a step of.
func (a *API) sagas(ctx context.Context, caller policy.Caller, in request[none]) (api.Page[api.Saga], error) {
	s, err := a.ownOr(ctx, in.who, in.path("id"), mayRead)
	if err != nil {
		return api.Page[api.Saga]{}, err
	}
	views, err := s.Sagas(ctx)
	if err != nil {
		return api.Page[api.Saga]{}, err
	}
	views = slices.DeleteFunc(views, func(v hypervisor.SagaView) bool { return !maySee(caller, v) })
	return part(in.query, views, sagaView, func(v api.Saga) string { return v.ID })
}

func maySee(caller policy.Caller, v hypervisor.SagaView) bool {
	return caller.Role != policy.AgentRole || v.By == caller.DID ||
		slices.ContainsFunc(v.Steps, func(step hypervisor.SagaStepView) bool { return step.Agent == caller.DID })
}

func (a *API) saga(ctx context.Context, caller policy.Caller, in request[none]) (api.Saga, error) {
	wait, err := in.query.flag("wait")
	if err != nil {
		return api.Saga{}, err
	}
	s, err := a.ownOr(ctx, in.who, in.path("id"), mayRead)
	if err != nil {
		return api.Saga{}, err
	}
	v, err := s.Saga(ctx, in.path("sid"))
	if err == nil && !maySee(caller, v) {
		err = fmt.Errorf("saga %s of session %s: %w", in.path("sid"), s.ID(), hypervisor.ErrNotFound)
	}
	if err != nil || !wait {
		return sagaView(v), err
	}
	return a.sagaNow(ctx, s, in.path("sid"), wait)
}

func (a *API) resolveSaga(ctx context.Context, caller policy.Caller, in request[api.SagaResolve]) (api.Decision, error) {
	if err := mustRun(caller); err != nil {
		return api.Decision{}, err
	}
	s, err := a.named(ctx, in.path("id"))
	if err != nil {
		return api.Decision{}, err
	}
	return decided(s.ResolveSaga(ctx, caller, in.path("sid"), in.body.Step, in.body.How))
}

// replaySaga answers as runSaga does.
func (a *API) replaySaga(ctx context.Context, caller policy.Caller, in request[none]) (api.Saga, error) {
	wait, err := in.query.flag("wait")
	if err != nil {
		return api.Saga{}, err
	}
	s, err := a.ownOr(ctx, in.who, in.path("id"), mustRun)
	if err != nil {
		return api.Saga{}, err
	}
	out, err := s.ReplaySagaOnce(ctx, caller, in.key, in.path("sid"))
	switch {
	case err != nil:
		return api.Saga{}, err
	case !out.Allowed:
		return api.Saga{}, &hypervisor.Refused{Decision: out.Decision}
	}
	return a.sagaNow(ctx, s, out.ID, wait)
}

func (a *API) invalidateGoal(ctx context.Context, caller policy.Caller, in request[api.SagaGoal]) (api.Decision, error) {
	s, err := a.ownOr(ctx, in.who, in.path("id"), mustRun)
	if err != nil {
		return api.Decision{}, err
	}
	return decided(s.InvalidateGoal(ctx, caller, in.path("sid"), in.body.Step))
}

func (a *API) cancelSaga(ctx context.Context, caller policy.Caller, in request[none]) (api.Decision, error) {
	s, err := a.ownOr(ctx, in.who, in.path("id"), mustRun)
	if err != nil {
		return api.Decision{}, err
	}
	return decided(s.CancelSaga(ctx, caller, in.path("sid")))
}

func sagaView(v hypervisor.SagaView) api.Saga {
	out := api.Saga{ID: v.ID, Session: v.Session, Seq: v.Seq, AsOf: v.AsOf, Saga: v.Name, Replays: v.Replays, By: string(v.By), State: v.State, Why: v.Why, On: v.On, Steps: []api.SagaStep{},
		Failed: v.Failed, Faultless: v.Faultless}
	if v.Blame != nil {
		out.Shares = shares(v.Blame)
	}
	if !v.Ended.IsZero() {
		out.Ended = &v.Ended
	}
	for _, s := range v.Steps {
		step := api.SagaStep{ID: s.ID, Agent: string(s.Agent), InPlaceOf: string(s.InPlaceOf), Action: s.Does, Needs: s.Needs, State: s.State, ActionID: s.Action, Tries: s.Tries,
			Waits: s.Waits, Why: s.Why, Checkpoint: s.Goal}
		if !s.Until.IsZero() {
			step.Until = &s.Until
		}
		out.Steps = append(out.Steps, step)
	}
	for _, g := range v.Groups {
		out.FanOut = append(out.FanOut, api.SagaFanOut{Policy: string(g.Policy), Branches: g.Branches, Verdict: g.Verdict})
	}
	return out
}
