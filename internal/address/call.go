package address

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
)

// call.go: one call of an address, and what its end means.

// A caller calls one address.
type caller struct {
	book    *Book
	entry   *entry
	address string
}

// An answer is what a server said.
type answer struct {
	Status  int             `json:"status"`
	Body    json.RawMessage `json:"body,omitempty"`     // JSON as it came, else a string; empty: nothing came
	TooLong bool            `json:"too_long,omitempty"` // it was longer than is read, and is left out
	Binary  bool            `json:"binary,omitempty"`   // it is neither JSON nor text, and is left out
}

// errTooLong is returned by read for an answer that is longer than the entry allows.
var errTooLong = errors.New("the answer is longer than is read")

// do is the action's function: it sends the arguments and follows redirects that the allowlist covers.
func (c *caller) do(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.entry.Timeout, fmt.Errorf("no answer within %v: %w", c.entry.Timeout, context.DeadlineExceeded))
	defer cancel()
	e, at, from := c.entry, c.address, c.address
	for hop := 0; ; hop++ {
		w, err := c.send(ctx, e, at, from, args)
		if err != nil {
			return nil, err
		}
		next, err := c.redirected(w, e, at, hop)
		if err != nil || next == "" {
			out, end := c.ended(ctx, w)
			return out, errors.Join(err, end)
		}
		if err := w.Body.Close(); err != nil {
			return nil, lost(ctx, err)
		}
		if e, err = c.book.find(next); err != nil {
			return nil, fmt.Errorf("it redirects: %w", err)
		}
		at = next
	}
}

// send makes one request over a connection of its own: on one that was used before, net/http may send it twice.
func (c *caller) send(ctx context.Context, e *entry, at, from string, args json.RawMessage) (*http.Response, error) {
	var sent atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}
	var body io.Reader
	if c.entry.Method != http.MethodGet {
		body = bytes.NewReader(args)
	}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), c.entry.Method, at, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", action.ErrNotDispatched, err)
	}
	c.head(r, hypervisor.EffectOf(ctx), args, sameOrigin(at, from))
	w, err := c.book.carry(e, r)
	switch {
	case err == nil:
		return w, nil
	case sent.Load():
		return nil, lost(ctx, err)
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return nil, fmt.Errorf("%w: %w", action.ErrNotDispatched, context.Cause(ctx)) // somebody wants it so
	case isRefused(err):
		return nil, fmt.Errorf("%w: %s: %w", action.ErrNotDispatched, at, err)
	}
	return nil, fmt.Errorf("%w: %s: %w", action.ErrUnreachable, at, err)
}

// carry takes a request to its address.
func (b *Book) carry(e *entry, r *http.Request) (*http.Response, error) {
	if b.opts.Carrier != nil {
		return b.opts.Carrier.RoundTrip(r)
	}
	t := b.transport(e)
	defer t.CloseIdleConnections()
	return t.RoundTrip(r)
}

// lost says that a request went out and no answer came back.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("no answer came: %w", context.Cause(ctx))
	}
	return fmt.Errorf("%w: %w", action.ErrUnknownOutcome, err)
}

// head adds the request's fields. own says that it goes where the entry's own secrets belong.
func (c *caller) head(r *http.Request, effect string, body []byte, own bool) {
	key := strings.ReplaceAll(effect, ".", "~") // in what is signed a full stop ends the id
	if own {
		for name, value := range c.entry.Headers {
			r.Header.Set(name, value)
		}
	}
	r.Header.Set("User-Agent", "agent-hypervisor")
	r.Header.Set("Accept", "application/json")
	if r.Body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	if own && c.entry.Secret != nil {
		if r.Body == nil {
			body = nil
		}
		sign(r.Header, c.entry.Secret, key, c.book.opts.Now(), body)
	}
}

// sign signs a message as Standard Webhooks 1.0.0 has it: HMAC-SHA-256 over its id, its time and its body.
func sign(h http.Header, secret []byte, id string, now time.Time, body []byte) {
	at := strconv.FormatInt(now.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", at)
	h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

// transport returns one that connects to what an entry's guard lets through, directly, and forgets it afterwards.
func (b *Book) transport(e *entry) *http.Transport {
	d := &net.Dialer{Timeout: dialTimeout, Control: e.guard.Safe, Resolver: b.opts.lookup}
	t := &http.Transport{DialContext: d.DialContext, Proxy: nil, // of the environment's proxies none is asked: it would connect unguarded
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader, TLSHandshakeTimeout: dialTimeout}
	if b.opts.client != nil {
		t.TLSClientConfig = b.opts.client.Transport.(*http.Transport).TLSClientConfig.Clone()
	}
	return t
}

// redirected returns where a call goes on; empty: this is the answer. The error says why it goes nowhere.
func (c *caller) redirected(w *http.Response, e *entry, at string, hop int) (string, error) {
	switch w.StatusCode {
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect: // RFC 9110 §15.4: the same request, elsewhere
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther:
		if c.entry.Method != http.MethodGet {
			return "", nil // it may be the answer of a form that was taken
		}
	default:
		return "", nil
	}
	base, err := url.Parse(at)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotAllowed, err)
	}
	next, err := base.Parse(w.Header.Get("Location"))
	switch {
	case err != nil || w.Header.Get("Location") == "":
		return "", errors.New("it redirects to nowhere")
	case next.Scheme != base.Scheme:
		return "", fmt.Errorf("it redirects to another scheme, %q", next.Scheme)
	case hop >= maxRedirects:
		return "", fmt.Errorf("it redirects more than %d times", maxRedirects)
	}
	return next.String(), nil
}

// sameOrigin reports whether two sound addresses are of one scheme, host and port (RFC 6454 §4).
func sameOrigin(a, b string) bool {
	x, errX := url.Parse(a)
	y, errY := url.Parse(b)
	return errX == nil && errY == nil && x.Scheme == y.Scheme && x.Host == y.Host
}

// ended returns what the server answered, and what that means.
func (c *caller) ended(ctx context.Context, w *http.Response) (json.RawMessage, error) {
	a := answer{Status: w.StatusCode}
	body, err := c.read(w)
	switch {
	case errors.Is(err, errTooLong):
		a.TooLong = true
	case err != nil && w.StatusCode < 300: // what it did is not known without what it says of it
		return nil, lost(ctx, err)
	case err != nil || len(body) == 0:
	case action.WellFormed(body) == nil:
		a.Body = body
	case utf8.Valid(body):
		a.Body, _ = json.Marshal(string(body)) // a string always can
	default:
		a.Binary = true
	}
	out, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("%w: encoding its answer: %w", action.ErrUnknownOutcome, err)
	}
	return out, meaning(c.entry, w, c.book.opts.Now())
}

// read reads as much of an answer as the entry allows.
func (c *caller) read(w *http.Response) (_ []byte, err error) {
	defer func() { err = errors.Join(err, w.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(w.Body, c.entry.MaxAnswer+1))
	if int64(len(body)) > c.entry.MaxAnswer {
		return nil, errTooLong
	}
	return body, err
}

// meaning says what a status means for whether the action took place (SPEC §5).
func meaning(e *entry, w *http.Response, now time.Time) error {
	after, said := retryAfter(w.Header.Get("Retry-After"), now)
	switch code := w.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable && said:
		return &action.Postponed{After: after, Err: fmt.Errorf("it answers %s", w.Status)}
	case code >= 400 && code < 500, code == http.StatusTemporaryRedirect, code == http.StatusPermanentRedirect:
		return fmt.Errorf("it answers %s", w.Status)
	}
	if e.Method == http.MethodGet {
		return fmt.Errorf("it answers %s", w.Status)
	}
	return fmt.Errorf("%w: it answers %s", action.ErrUnknownOutcome, w.Status)
}

// retryAfter reads a Retry-After (RFC 9110 §10.2.3): seconds, or a date. It is bounded.
func retryAfter(text string, now time.Time) (time.Duration, bool) {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, mostRetryAfter), true
	}
	at, err := http.ParseTime(text)
	return max(0, min(at.Sub(now), mostRetryAfter)), err == nil
}
