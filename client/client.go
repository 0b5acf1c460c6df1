package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor/api"
)

const (
	dialTimeout = 5 * time.Second
	// maxAnswerBytes bounds an answer that is not a stream.
	maxAnswerBytes = 256 << 20
	// maxLineBytes bounds a line of a stream; a record has at most 1 MiB.
	maxLineBytes = 4 << 20
)

// An UnreachableError is returned when a hypervisor gave no answer.
type UnreachableError struct {
	Where string // a socket's path, or an address
	Err   error
	Hint  string // what to do; may be empty
}

// Error says where, why and what to do.
func (e *UnreachableError) Error() string {
	text := fmt.Sprintf("no hypervisor answers at %s", e.Where)
	if e.Err != nil {
		text += fmt.Sprintf(" (%v)", e.Err)
	}
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// An Error is an answer of 400 and above.
type Error struct {
	Status int
	API    api.Error
}

// Error returns the answer's message.
func (e *Error) Error() string { return e.API.Error() }

// IsNotFound reports whether an error is the answer that there is no such thing.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// A Client talks to one hypervisor. Socket or HTTP makes one.
type Client struct {
	base  string
	where string
	token string
	hint  string
	http  *http.Client
}

// Socket returns a client of the hypervisor behind a control socket.
func Socket(path string) *Client {
	dialer := net.Dialer{Timeout: dialTimeout}
	return &Client{base: "http://hypervisor", where: path, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", path) },
	}}}
}

// HTTP returns a client of the hypervisor at an address such as http://127.0.0.1:7700. A token may be empty.
func HTTP(server, token string) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("server %q is not an address such as http://127.0.0.1:7700", server)
	}
	return &Client{base: strings.TrimSuffix(server, "/"), where: server, token: token, http: &http.Client{
		Transport:     &http.Transport{DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, Proxy: http.ProxyFromEnvironment},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a token is for whom it was given to
	}}, nil
}

// Where returns the socket's path or the address.
func (c *Client) Where() string { return c.where }

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Sessions yields all sessions, by id.
func (c *Client) Sessions(ctx context.Context) iter.Seq2[api.Session, error] {
	return list[api.Session](ctx, c, "/v1/sessions", url.Values{})
}

// Session returns a session.
func (c *Client) Session(ctx context.Context, id string) (s api.Session, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/sessions/"+url.PathEscape(id), nil, nil, &s)
	return s, err
}

// Terminate ends a session and returns its summary. Ending it twice returns the same.
func (c *Client) Terminate(ctx context.Context, id string) (s api.Summary, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/sessions/"+url.PathEscape(id)+"/terminate", nil, nil, &s)
	return s, err
}

// Log yields a session's records from a sequence number on, each as it is stored; with follow also those that come, until
// the session ends.
func (c *Client) Log(ctx context.Context, id string, from uint64, follow bool) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		q := url.Values{"from": {strconv.FormatUint(max(from, 1), 10)}}
		if follow {
			q.Set("follow", "true")
		}
		resp, err := c.send(ctx, http.MethodGet, "/v1/sessions/"+url.PathEscape(id)+"/log", q, nil)
		if err != nil {
			yield(nil, err)
			return
		}
		defer resp.Body.Close()
		lines := newLines(resp.Body)
		for lines.Scan() {
			if !yield(json.RawMessage(bytes.Clone(lines.Bytes())), nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(nil, c.lost(ctx, err))
		}
	}
}

// Actions yields a session's actions, oldest first.
func (c *Client) Actions(ctx context.Context, session string) iter.Seq2[api.Action, error] {
	return list[api.Action](ctx, c, "/v1/sessions/"+url.PathEscape(session)+"/actions", url.Values{})
}

// Action returns an action. An empty session finds it by its id alone, if only one session has it.
func (c *Client) Action(ctx context.Context, session, id string) (a api.Action, err error) {
	path := "/v1/actions/" + url.PathEscape(id)
	if session != "" {
		path = "/v1/sessions/" + url.PathEscape(session) + "/actions/" + url.PathEscape(id)
	}
	err = c.call(ctx, http.MethodGet, path, nil, nil, &a)
	return a, err
}

// Approvals yields the approvals of a session, or of all that have not ended where it is empty.
func (c *Client) Approvals(ctx context.Context, session string) iter.Seq2[api.Approval, error] {
	return list[api.Approval](ctx, c, "/v1/approvals", ofSession(session))
}

// Approval returns an approval. An empty session finds it by its id alone, if only one session has it open.
func (c *Client) Approval(ctx context.Context, session, id string) (a api.Approval, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/approvals/"+url.PathEscape(id), ofSession(session), nil, &a)
	return a, err
}

// Grant lets the call an approval is for pass, once. The digest is the one the approval showed.
func (c *Client) Grant(ctx context.Context, session, id, digest string) (api.Decision, error) {
	return c.vote(ctx, "grant", session, id, digest)
}

// Deny closes an approval. The digest is the one the approval showed.
func (c *Client) Deny(ctx context.Context, session, id, digest string) (api.Decision, error) {
	return c.vote(ctx, "deny", session, id, digest)
}

func (c *Client) vote(ctx context.Context, verb, session, id, digest string) (d api.Decision, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/approvals/"+url.PathEscape(id)+"/"+verb, ofSession(session), api.Ballot{Digest: digest}, &d)
	return d, err
}

func ofSession(session string) url.Values {
	q := url.Values{}
	if session != "" {
		q.Set("session", session)
	}
	return q
}

// list yields the entries of all pages of a list.
func list[T any](ctx context.Context, c *Client, path string, q url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			var page api.Page[T]
			if err := c.call(ctx, http.MethodGet, path, q, nil, &page); err != nil {
				var zero T
				yield(zero, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if page.Cursor == "" {
				return
			}
			q.Set("cursor", page.Cursor)
		}
	}
}

// call makes a request and decodes its answer.
func (c *Client) call(ctx context.Context, method, path string, q url.Values, body, out any) error {
	resp, err := c.send(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	return c.decode(ctx, resp, out)
}

// callOnce is call with an idempotency key; an empty one is none.
func (c *Client) callOnce(ctx context.Context, key, method, path string, body, out any) error {
	var header http.Header
	if key != "" {
		header = http.Header{"Idempotency-Key": {key}}
	}
	resp, err := c.sendWith(ctx, header, method, path, nil, body)
	if err != nil {
		return err
	}
	return c.decode(ctx, resp, out)
}

// decode reads an answer.
func (c *Client) decode(ctx context.Context, resp *http.Response, out any) error {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return c.lost(ctx, err)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return &UnreachableError{Where: c.where, Err: fmt.Errorf("its answer is not a hypervisor's: %w", err), Hint: c.hint}
	}
	return nil
}

// send makes a request and returns an answer below 400.
func (c *Client) send(ctx context.Context, method, path string, q url.Values, body any) (*http.Response, error) {
	return c.sendWith(ctx, nil, method, path, q, body)
}

// sendWith is send with header fields of its own.
func (c *Client) sendWith(ctx context.Context, header http.Header, method, path string, q url.Values, body any) (*http.Response, error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		in = bytes.NewReader(b)
	}
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, in)
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the address is said already
		}
		return nil, c.lost(ctx, err)
	}
	if resp.StatusCode < http.StatusMultipleChoices {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.refusal(resp)
}

// refusal reads the error an answer holds.
func (c *Client) refusal(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, api.MaxBodyBytes))
	var body api.ErrorBody
	if err == nil {
		err = json.Unmarshal(b, &body)
	}
	if err != nil || body.Error.Code == "" {
		return &UnreachableError{Where: c.where, Err: fmt.Errorf("%s, which is not a hypervisor's answer", resp.Status), Hint: c.hint}
	}
	return &Error{resp.StatusCode, body.Error}
}

// lost is the error of an answer that did not come, or broke off.
func (c *Client) lost(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &UnreachableError{Where: c.where, Err: errors.New("no answer in time"), Hint: "wait longer with --timeout"}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return &UnreachableError{Where: c.where, Err: err, Hint: c.hint}
}
