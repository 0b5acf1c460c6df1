package client

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"

	"github.com/agenthypervisor/hypervisor/api"
)

// control.go: what operators, and agents over HTTP, ask for.

func sessionPath(id, verb string) string { return "/v1/sessions/" + url.PathEscape(id) + "/" + verb }

// CreateSession opens a session. With a key it can be repeated: the same key returns the session that was made with it.
func (c *Client) CreateSession(ctx context.Context, cfg api.SessionConfig, key string) (s api.Session, err error) {
	err = c.callOnce(ctx, key, http.MethodPost, "/v1/sessions", cfg, &s)
	return s, err
}

// Join brings an agent into a session. An empty key is none.
func (c *Client) Join(ctx context.Context, session string, in api.Join, key string) (j api.Joined, err error) {
	err = c.callOnce(ctx, key, http.MethodPost, sessionPath(session, "join"), in, &j)
	return j, err
}

// Leave takes an agent out of a session. An empty agent is the caller.
func (c *Client) Leave(ctx context.Context, session, agent string) (s api.Session, err error) {
	err = c.call(ctx, http.MethodPost, sessionPath(session, "leave"), nil, api.Leave{Agent: agent}, &s)
	return s, err
}

// Activate lets a session's participants act.
func (c *Client) Activate(ctx context.Context, session string) (s api.Session, err error) {
	err = c.call(ctx, http.MethodPost, sessionPath(session, "activate"), nil, nil, &s)
	return s, err
}

// Elevate asks for a more privileged ring for a while: for the caller, or for another where an operator asks.
func (c *Client) Elevate(ctx context.Context, session string, in api.ElevationRequest) (e api.Elevation, err error) {
	err = c.call(ctx, http.MethodPost, sessionPath(session, "elevations"), nil, in, &e)
	return e, err
}

// Elevations yields a session's elevations that are asked for or in effect.
func (c *Client) Elevations(ctx context.Context, session string) iter.Seq2[api.Elevation, error] {
	return list[api.Elevation](ctx, c, sessionPath(session, "elevations"), url.Values{})
}

// EndElevation revokes an elevation, or withdraws the request for one.
func (c *Client) EndElevation(ctx context.Context, session, id string) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodDelete, sessionPath(session, "elevations/"+url.PathEscape(id)), nil, nil, &d)
	return d, err
}

// RaiseIncident reports that something went wrong. With a key it can be repeated.
func (c *Client) RaiseIncident(ctx context.Context, session string, in api.IncidentRequest, key string) (i api.Incident, err error) {
	err = c.callOnce(ctx, key, http.MethodPost, sessionPath(session, "incidents"), in, &i)
	return i, err
}

// Incidents yields a session's incidents, oldest first.
func (c *Client) Incidents(ctx context.Context, session string) iter.Seq2[api.Incident, error] {
	return list[api.Incident](ctx, c, sessionPath(session, "incidents"), url.Values{})
}

// Incident returns an incident.
func (c *Client) Incident(ctx context.Context, session, id string) (i api.Incident, err error) {
	err = c.call(ctx, http.MethodGet, sessionPath(session, "incidents/"+url.PathEscape(id)), nil, nil, &i)
	return i, err
}

// ReportDrift says how far an agent has moved from what it claims: with a service's token, or an operator's. With a key it can be repeated.
func (c *Client) ReportDrift(ctx context.Context, session string, in api.DriftReport, key string) (d api.Drift, err error) {
	err = c.callOnce(ctx, key, http.MethodPost, sessionPath(session, "drifts"), in, &d)
	return d, err
}

// LiftDemotion ends what holds an agent in a ring since a breach or drift.
func (c *Client) LiftDemotion(ctx context.Context, session, did string) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodDelete, sessionPath(session, "demotions/"+url.PathEscape(did)), nil, nil, &d)
	return d, err
}

// Act asks to have an action done. A refusal is an *Error whose details hold the decision. With a key it can be repeated.
func (c *Client) Act(ctx context.Context, session string, in api.Act, key string) (o api.Outcome, err error) {
	err = c.callOnce(ctx, key, http.MethodPost, sessionPath(session, "actions"), in, &o)
	return o, err
}

// DryRun asks what Act would answer, and has nothing done.
func (c *Client) DryRun(ctx context.Context, session string, in api.Act) (o api.Outcome, err error) {
	err = c.call(ctx, http.MethodPost, sessionPath(session, "actions"), url.Values{"dry_run": {"true"}}, in, &o)
	return o, err
}

// Agents yields the agents that have a ledger, by DID.
func (c *Client) Agents(ctx context.Context) iter.Seq2[api.Agent, error] {
	return list[api.Agent](ctx, c, "/v1/agents", url.Values{})
}

// Agent returns an agent.
func (c *Client) Agent(ctx context.Context, did string) (a api.Agent, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/agents/"+url.PathEscape(did), nil, nil, &a)
	return a, err
}

// Register makes an agent known.
func (c *Client) Register(ctx context.Context, in api.Registration) (a api.Agent, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/agents", nil, in, &a)
	return a, err
}

// Ledger yields what moved an agent's standing, oldest first.
func (c *Client) Ledger(ctx context.Context, did string) iter.Seq2[api.LedgerEntry, error] {
	return list[api.LedgerEntry](ctx, c, "/v1/agents/"+url.PathEscape(did)+"/ledger", url.Values{})
}

// Vouch puts up some of the caller's σ for another agent. An empty key is none.
func (c *Client) Vouch(ctx context.Context, session string, in api.Vouch, key string) (b api.Bond, err error) {
	err = c.callOnce(ctx, key, http.MethodPost, sessionPath(session, "vouches"), in, &b)
	return b, err
}

// Vouches yields a session's bonds.
func (c *Client) Vouches(ctx context.Context, session string) iter.Seq2[api.Bond, error] {
	return list[api.Bond](ctx, c, sessionPath(session, "vouches"), url.Values{})
}

// Withdraw takes a vouch back.
func (c *Client) Withdraw(ctx context.Context, session, id string) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodDelete, sessionPath(session, "vouches/"+url.PathEscape(id)), nil, nil, &d)
	return d, err
}

// SlashIn takes an agent's standing for what it did in a session, and its vouchers' bonds.
func (c *Client) SlashIn(ctx context.Context, session string, in api.SessionSlash) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodPost, sessionPath(session, "slashes"), nil, in, &d)
	return d, err
}

// Reinstate lifts an agent's blacklist. With two operators it is done when the second asks for the same.
func (c *Client) Reinstate(ctx context.Context, did string, in api.Reinstatement) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/agents/"+url.PathEscape(did)+"/reinstate", nil, in, &d)
	return d, err
}

// Slash takes an agent's standing. With two operators it is done when the second asks for the same.
func (c *Client) Slash(ctx context.Context, did string, in api.Slash) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/agents/"+url.PathEscape(did)+"/slash", nil, in, &d)
	return d, err
}

// Seat issues a token with which an agent comes to a session.
func (c *Client) Seat(ctx context.Context, did string, in api.SeatRequest) (t api.IssuedToken, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/agents/"+url.PathEscape(did)+"/tokens", nil, in, &t)
	return t, err
}

// IssueToken issues a token for who is not an agent.
func (c *Client) IssueToken(ctx context.Context, in api.RoleRequest) (t api.IssuedToken, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/tokens", nil, in, &t)
	return t, err
}

// Tokens yields the tokens that count, by id, without their secrets.
func (c *Client) Tokens(ctx context.Context) iter.Seq2[api.Token, error] {
	return list[api.Token](ctx, c, "/v1/tokens", url.Values{})
}

// RevokeToken ends a token before its time.
func (c *Client) RevokeToken(ctx context.Context, id string) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), nil, nil, &d)
	return d, err
}

// Tools yields what is pinned and seen of the tools of a server, or of all where it is empty, by name.
func (c *Client) Tools(ctx context.Context, server string) iter.Seq2[api.Tool, error] {
	q := url.Values{}
	if server != "" {
		q.Set("server", server)
	}
	return list[api.Tool](ctx, c, "/v1/tools", q)
}

// Accept accepts a tool's definition: the one seen last, if the digest is its.
func (c *Client) Accept(ctx context.Context, tool, digest string) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/tools/accept", nil, api.Acceptance{Tool: tool, Digest: digest}, &d)
	return d, err
}

// Undo takes actions back: one of a session, if it is named; else what a session's agents did, or, without a session, what an
// agent did in all. told hears of each step as it ends; it may be nil.
func (c *Client) Undo(ctx context.Context, session, action string, in api.UndoRequest, told func(api.UndoStep)) (u api.Undo, err error) {
	path := "/v1/undo"
	switch {
	case action != "":
		path = sessionPath(session, "actions/"+url.PathEscape(action)+"/undo")
	case session != "":
		path = sessionPath(session, "undo")
	}
	if in.Plan || told == nil {
		err = c.call(ctx, http.MethodPost, path, nil, in, &u)
		return u, err
	}
	resp, err := c.send(ctx, http.MethodPost, path, url.Values{"progress": {"true"}}, in)
	if err != nil {
		return u, err
	}
	defer resp.Body.Close()
	lines, whole := newLines(resp.Body), false
	for lines.Scan() {
		var line api.UndoLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return u, &UnreachableError{Where: c.where, Err: fmt.Errorf("its answer is not a hypervisor's: %w", err), Hint: c.hint}
		}
		if line.Step != nil {
			told(*line.Step)
		}
		if line.Undo != nil {
			u, whole = *line.Undo, true
		}
	}
	if err := lines.Err(); err != nil || !whole {
		return u, c.lost(ctx, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	return u, nil
}
