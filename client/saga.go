package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"github.com/agenthypervisor/hypervisor/api"
)

// saga.go: several actions that end either all done or undone.

func waiting(wait bool) url.Values {
	if wait {
		return url.Values{"wait": {"true"}}
	}
	return nil
}

// RunSaga starts a saga. With wait it answers once the saga has ended, or waits for somebody.
func (c *Client) RunSaga(ctx context.Context, session string, d api.SagaDefinition, wait bool) (s api.Saga, err error) {
	err = c.call(ctx, http.MethodPost, sessionPath(session, "sagas"), waiting(wait), d, &s)
	return s, err
}

// Sagas yields a session's sagas: those that have not ended, and the last that have.
func (c *Client) Sagas(ctx context.Context, session string) iter.Seq2[api.Saga, error] {
	return list[api.Saga](ctx, c, sessionPath(session, "sagas"), url.Values{})
}

// Saga returns a saga; with wait once it has ended, or waits for somebody.
func (c *Client) Saga(ctx context.Context, session, id string, wait bool) (s api.Saga, err error) {
	err = c.call(ctx, http.MethodGet, sessionPath(session, "sagas/"+url.PathEscape(id)), waiting(wait), nil, &s)
	return s, err
}

// ResolveSaga ends what a step of a saga waits for: happened or not, of an unknown outcome; retry, of a step that is held.
func (c *Client) ResolveSaga(ctx context.Context, session, id, step, how string) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodPost, sessionPath(session, "sagas/"+url.PathEscape(id)+"/resolve"), nil, api.SagaResolve{Step: step, How: how}, &d)
	return d, err
}

// ReplaySaga starts a saga that does again what another, which has ended, has not reached. With wait it answers once that rests.
func (c *Client) ReplaySaga(ctx context.Context, session, id string, wait bool) (s api.Saga, err error) {
	err = c.call(ctx, http.MethodPost, sessionPath(session, "sagas/"+url.PathEscape(id)+"/replay"), waiting(wait), nil, &s)
	return s, err
}

// InvalidateGoal says that the goal of a step is reached no more, nor what depends on it.
func (c *Client) InvalidateGoal(ctx context.Context, session, id, step string) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodPost, sessionPath(session, "sagas/"+url.PathEscape(id)+"/invalidate"), nil, api.SagaGoal{Step: step}, &d)
	return d, err
}

// CancelSaga has a saga undone.
func (c *Client) CancelSaga(ctx context.Context, session, id string) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodDelete, sessionPath(session, "sagas/"+url.PathEscape(id)), nil, nil, &d)
	return d, err
}
