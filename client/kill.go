package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"github.com/agenthypervisor/hypervisor/api"
)

// Kill stops everything, a session, an agent, or an agent in a session.
func (c *Client) Kill(ctx context.Context, in api.Killing) (r api.KillReport, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/kill", nil, in, &r)
	return r, err
}

// LiftKill ends a kill. A killed session has ended and cannot be lifted.
func (c *Client) LiftKill(ctx context.Context, in api.Killing) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodDelete, "/v1/kill", nil, in, &d)
	return d, err
}

// Kills yields the kills in force, by id.
func (c *Client) Kills(ctx context.Context) iter.Seq2[api.Kill, error] {
	return list[api.Kill](ctx, c, "/v1/kill", url.Values{})
}

// Quarantine lets an agent only read for a time, or extends that time.
func (c *Client) Quarantine(ctx context.Context, did string, in api.QuarantineRequest) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/agents/"+url.PathEscape(did)+"/quarantine", nil, in, &d)
	return d, err
}

// Release ends an agent's quarantine.
func (c *Client) Release(ctx context.Context, did string, in api.Release) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/agents/"+url.PathEscape(did)+"/release", nil, in, &d)
	return d, err
}
