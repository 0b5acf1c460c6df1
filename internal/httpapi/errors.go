package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/internal/auth"
	"github.com/agenthypervisor/hypervisor/manifest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// A problem is an error of the request's own making.
type problem struct {
	status int
	body   api.Error
}

func (p *problem) Error() string { return p.body.Message }

func malformed(format string, args ...any) error {
	return &problem{http.StatusBadRequest, api.Error{Code: api.CodeMalformed, Message: fmt.Sprintf(format, args...)}}
}

func ambiguous(id string, candidates []string) error {
	return &problem{http.StatusConflict, api.Error{Code: api.CodeAmbiguous, Details: api.ErrorDetails{Candidates: candidates},
		Message: fmt.Sprintf("several sessions have a %s; say which as SESSION/%s", id, id)}}
}

func forbidden(format string, args ...any) error {
	return &hypervisor.Refused{Decision: policy.Refuse(policy.Forbidden, format, args...)}
}

// answer is all there is of turning errors into statuses and bodies.
func answer(err error) (status int, body api.Error) {
	var p *problem
	var refused *hypervisor.Refused
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &p):
		return p.status, p.body
	case errors.As(err, &refused):
		d := decision(refused.Decision)
		return refusalStatus(refused.Decision.Code), api.Error{Code: d.Code, Message: d.Reason, Seq: d.Seq, Details: api.ErrorDetails{Decision: &d}}
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge, api.Error{Code: api.CodeTooLarge, Message: fmt.Sprintf("the body is over %d bytes", large.Limit)}
	}
	for _, row := range []struct {
		is     error
		status int
		code   string
	}{
		{auth.ErrUnauthenticated, http.StatusUnauthorized, "unauthenticated"},
		{auth.ErrForbidden, http.StatusForbidden, string(policy.Forbidden)},
		{hypervisor.ErrNotFound, http.StatusNotFound, string(policy.NotFound)},
		{session.ErrConfig, http.StatusUnprocessableEntity, string(policy.InvalidArguments)},
		{manifest.ErrManifest, http.StatusUnprocessableEntity, string(policy.InvalidArguments)},
		{policy.ErrDID, http.StatusUnprocessableEntity, string(policy.InvalidArguments)},
		{hypervisor.ErrOverloaded, http.StatusServiceUnavailable, string(policy.Overloaded)},
		{hypervisor.ErrStoreUnavailable, http.StatusServiceUnavailable, string(policy.StoreUnavailable)},
		{hypervisor.ErrClosed, http.StatusServiceUnavailable, string(policy.StoreUnavailable)},
		{eventlog.ErrClosed, http.StatusServiceUnavailable, string(policy.StoreUnavailable)},
		{context.Canceled, http.StatusServiceUnavailable, string(policy.Overloaded)}, // the server is going away, or the client has
		{context.DeadlineExceeded, http.StatusServiceUnavailable, string(policy.Overloaded)},
	} {
		if errors.Is(err, row.is) {
			return row.status, api.Error{Code: row.code, Message: err.Error()}
		}
	}
	return http.StatusInternalServerError, api.Error{Code: api.CodeInternal, Message: "the hypervisor could not answer; its log says why"}
}

// refusalStatus is the status of a refused command.
func refusalStatus(code policy.Code) int {
	switch code {
	case policy.NotFound:
		return http.StatusNotFound
	case policy.InvalidArguments, policy.SagaInvalid:
		return http.StatusUnprocessableEntity
	case policy.SessionNotActive, policy.SessionFull, policy.IdempotencyConflict, policy.ApprovalDenied, policy.ApprovalExpired,
		policy.UndoConflict, policy.UndoWindowClosed, policy.UndoUnavailable:
		return http.StatusConflict
	case "stale_write":
		return http.StatusPreconditionFailed
	case policy.RateLimited:
		return http.StatusTooManyRequests
	case policy.Overloaded, policy.StoreUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusForbidden
}
