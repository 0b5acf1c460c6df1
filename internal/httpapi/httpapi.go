package httpapi

import (
	"bytes"
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/internal/auth"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// An Identify says who makes a request, as its listener or its token shows; never by what the request says of itself. It
// returns auth.ErrUnauthenticated when it cannot.
type Identify func(*http.Request) (auth.Identity, error)

// Options are what an API can be told. The zero value, or nil, has none of it.
type Options struct {
	// Defaults returns the settings of a new session where its creator says nothing. Nil: package session's.
	Defaults func() session.Config
	// Tools sees to it that a caller's tools are there in a session, before it acts. Nil: they are, or are not.
	Tools func(ctx context.Context, s *hypervisor.Session, caller policy.Caller) error
	// Unlisted returns why an action that was refused as unknown may be there all the same, such as a server that does not start.
	// Nil: nobody knows.
	Unlisted func(s *hypervisor.Session, caller policy.Caller, action string) error
	// Ready returns why /readyz says no, beside a store that cannot be read. Nil: nothing else does.
	Ready func() error
	// Logger is told of requests that could not be answered. Nil: nobody is.
	Logger *slog.Logger
}

// An API answers /v1 from a hypervisor. New makes one. Safe for concurrent use.
type API struct {
	hv       *hypervisor.Hypervisor
	door     *auth.Door
	identify Identify
	opts     Options
	logger   *slog.Logger
	mux      *http.ServeMux
	streams  chan struct{} // one place for each stream of events
	acts     underWay
}

// New returns the handler of /v1, /healthz and /readyz.
func New(hv *hypervisor.Hypervisor, identify Identify, opts *Options) *API {
	a := &API{hv: hv, door: auth.NewDoor(hv), identify: identify, mux: http.NewServeMux(), streams: make(chan struct{}, maxStreams)}
	if opts != nil {
		a.opts = *opts
	}
	if a.logger = a.opts.Logger; a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	a.route()
	return a
}

// route lists the routes.
func (a *API) route() {
	a.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, struct{}{}) })
	a.mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		err := a.ready(r.Context())
		a.reply(w, r, struct{}{}, err)
	})
	a.mux.HandleFunc("POST /v1/sessions", handle(a, a.create))
	a.mux.HandleFunc("GET /v1/sessions", handle(a, a.sessions, "cursor", "limit"))
	a.mux.HandleFunc("GET /v1/sessions/{id}", handle(a, a.session))
	a.mux.HandleFunc("POST /v1/sessions/{id}/join", handle(a, a.join))
	a.mux.HandleFunc("POST /v1/sessions/{id}/leave", handle(a, a.leave))
	a.mux.HandleFunc("POST /v1/sessions/{id}/activate", handle(a, a.activate))
	a.mux.HandleFunc("POST /v1/sessions/{id}/actions", handle(a, a.act, "dry_run"))
	a.mux.HandleFunc("POST /v1/sessions/{id}/elevations", handle(a, a.elevate))
	a.mux.HandleFunc("GET /v1/sessions/{id}/elevations", handle(a, a.elevations, "cursor", "limit"))
	a.mux.HandleFunc("DELETE /v1/sessions/{id}/elevations/{eid}", handle(a, a.endElevation))
	a.mux.HandleFunc("POST /v1/sessions/{id}/drifts", handle(a, a.reportDrift))
	a.mux.HandleFunc("POST /v1/sessions/{id}/incidents", handle(a, a.raiseIncident))
	a.mux.HandleFunc("GET /v1/sessions/{id}/incidents", handle(a, a.incidents, "cursor", "limit"))
	a.mux.HandleFunc("GET /v1/sessions/{id}/incidents/{iid}", handle(a, a.incident))
	a.mux.HandleFunc("POST /v1/sessions/{id}/vouches", handle(a, a.vouch))
	a.mux.HandleFunc("GET /v1/sessions/{id}/vouches", handle(a, a.vouches, "cursor", "limit"))
	a.mux.HandleFunc("DELETE /v1/sessions/{id}/vouches/{vid}", handle(a, a.withdraw))
	a.mux.HandleFunc("POST /v1/sessions/{id}/slashes", handle(a, a.slashIn))
	a.mux.HandleFunc("DELETE /v1/sessions/{id}/demotions/{did}", handle(a, a.liftDemotion))
	a.mux.HandleFunc("POST /v1/sessions/{id}/terminate", handle(a, a.terminate))
	a.mux.HandleFunc("GET /v1/sessions/{id}/log", handleLines(a, a.log, "from", "follow"))
	a.mux.HandleFunc("GET /v1/sessions/{id}/actions", handle(a, a.actions, "cursor", "limit"))
	a.mux.HandleFunc("GET /v1/sessions/{id}/actions/{aid}", handle(a, a.action))
	a.mux.HandleFunc("GET /v1/actions/{aid}", handle(a, a.actionAnywhere))
	a.routeUndo()
	a.routeSagas()
	a.mux.HandleFunc("GET /v1/approvals", handle(a, a.approvals, "session", "cursor", "limit"))
	a.mux.HandleFunc("GET /v1/approvals/{aid}", handle(a, a.approval, "session"))
	a.mux.HandleFunc("POST /v1/approvals/{aid}/grant", handle(a, a.grant, "session"))
	a.mux.HandleFunc("POST /v1/approvals/{aid}/deny", handle(a, a.deny, "session"))
	a.mux.HandleFunc("GET /v1/agents", handle(a, a.agents, "cursor", "limit"))
	a.mux.HandleFunc("POST /v1/agents", handle(a, a.register))
	a.mux.HandleFunc("GET /v1/agents/{did}", handle(a, a.agent))
	a.mux.HandleFunc("GET /v1/agents/{did}/ledger", handle(a, a.ledger, "cursor", "limit"))
	a.mux.HandleFunc("POST /v1/agents/{did}/reinstate", handle(a, a.reinstate))
	a.mux.HandleFunc("POST /v1/agents/{did}/slash", handle(a, a.slash))
	a.mux.HandleFunc("POST /v1/agents/{did}/score", handle(a, a.score))
	a.mux.HandleFunc("POST /v1/agents/{did}/tokens", handle(a, a.seat))
	a.mux.HandleFunc("POST /v1/agents/{did}/kill", handle(a, a.killAgent))
	a.mux.HandleFunc("POST /v1/agents/{did}/quarantine", handle(a, a.quarantine))
	a.mux.HandleFunc("POST /v1/agents/{did}/release", handle(a, a.release))
	a.mux.HandleFunc("POST /v1/kill", handle(a, a.kill))
	a.mux.HandleFunc("DELETE /v1/kill", handle(a, a.lift))
	a.mux.HandleFunc("GET /v1/kill", handle(a, a.kills, "cursor", "limit"))
	a.mux.HandleFunc("GET /v1/tokens", handle(a, a.tokens, "cursor", "limit"))
	a.mux.HandleFunc("POST /v1/tokens", handle(a, a.issue))
	a.mux.HandleFunc("DELETE /v1/tokens/{tid}", handle(a, a.revoke))
	a.mux.HandleFunc("GET /v1/tools", handle(a, a.tools, "server", "cursor", "limit"))
	a.mux.HandleFunc("POST /v1/tools/accept", handle(a, a.accept))
	a.mux.HandleFunc("GET /v1/events", a.events)
	a.mux.HandleFunc("/", a.unrouted)
}

// Guard answers requests that check refuses, and passes on the others.
func Guard(check func(*http.Request) error, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := check(r); err != nil {
			refuse(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// refuse answers a request that goes no further. It is no part of Guard, whose stack each open stream behind it holds.
//
//go:noinline
func refuse(w http.ResponseWriter, err error) {
	status, body := answer(err)
	write(w, status, api.ErrorBody{Error: body})
}

// ServeHTTP answers a request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	a.mux.ServeHTTP(w, r)
}

// unrouted answers what no route takes: with the methods the path has, if it has others.
func (a *API) unrouted(w http.ResponseWriter, r *http.Request) {
	var others []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := a.mux.Handler(probe); pattern != "/" && method != r.Method {
			others = append(others, method)
		}
	}
	if len(others) > 0 {
		w.Header().Set("Allow", strings.Join(others, ", "))
		a.reply(w, r, nil, &problem{http.StatusMethodNotAllowed, api.Error{Code: api.CodeMalformed, Message: fmt.Sprintf("%s does not take %s", r.URL.Path, r.Method)}})
		return
	}
	a.reply(w, r, nil, &problem{http.StatusNotFound, api.Error{Code: string(policy.NotFound), Message: fmt.Sprintf("there is no %s", r.URL.Path)}})
}

// bodyPatience is how long a body may take to come.
const bodyPatience = 30 * time.Second

// A request is a decoded request: what its path, its query and its body say.
type request[B any] struct {
	who   auth.Identity
	path  func(name string) string
	query query
	key   string // Idempotency-Key; empty: none
	body  B
}

// none is the body of a request that has none; an empty object will do too.
type none struct{}

// handle makes a handler of a method: the one place where requests are decoded and callers found out. params are the query
// parameters the method knows; others are refused.
func handle[B, O any](a *API, method func(context.Context, policy.Caller, request[B]) (O, error), params ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		caller, in, err := decode[B](a, w, r, params)
		var out O
		if err == nil {
			out, err = method(r.Context(), caller, in)
		}
		a.reply(w, r, out, err)
	}
}

// handleLines is handle for a method whose answer is a stream of JSON lines. An error before the first line is an answer like
// any other; one behind it cuts the connection, so that nobody takes the part for the whole.
func handleLines[B any](a *API, method func(context.Context, policy.Caller, request[B]) iter.Seq2[stdjson.RawMessage, error], params ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		caller, in, err := decode[B](a, w, r, params)
		if err != nil {
			a.reply(w, r, nil, err)
			return
		}
		begun := false
		begin := func() {
			if !begun {
				w.Header().Set("Content-Type", "application/jsonl")
				w.WriteHeader(http.StatusOK)
			}
			begun = true
		}
		flush := http.NewResponseController(w).Flush
		for line, err := range method(r.Context(), caller, in) {
			if err != nil && !begun {
				a.reply(w, r, nil, err)
				return
			}
			if err != nil {
				a.note(r, err)
				panic(http.ErrAbortHandler)
			}
			begin()
			if line != nil {
				_, err = w.Write(append(line[:len(line):len(line)], '\n'))
			} else {
				err = flush() // the method has no more for now
			}
			if err != nil {
				return
			}
		}
		begin()
	}
}

// decode reads a request strictly.
func decode[B any](a *API, w http.ResponseWriter, r *http.Request, params []string) (caller policy.Caller, in request[B], err error) {
	if in.who, err = a.identify(r); err != nil {
		return caller, in, err
	}
	caller = in.who.Caller
	if in.key, err = idempotencyKey(r); err != nil {
		return caller, in, err
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return caller, in, malformed("the query cannot be read: %v", err)
	}
	for name, all := range values {
		if !slices.Contains(params, name) {
			return caller, in, malformed("unknown query parameter %q", name)
		}
		if len(all) > 1 {
			return caller, in, malformed("query parameter %q is said %d times", name, len(all))
		}
	}
	in.path, in.query = r.PathValue, query(values)
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Now().Add(bodyPatience)) // a recorder in a test has none
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, api.MaxBodyBytes))
	_ = conn.SetReadDeadline(time.Time{})
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return caller, in, err
		}
		return caller, in, malformed("the body broke off: %v", err)
	}
	if _, bodiless := any(in.body).(none); bodiless && len(body) == 0 {
		return caller, in, nil
	}
	if string(bytes.TrimSpace(body)) == "null" { // the decoder takes it for an empty object
		return caller, in, malformed("the body: want an object, got null")
	}
	// Duplicate names, invalid UTF-8, other cases of a name and trailing bytes are refused by this decoder as it stands.
	if err := json.Unmarshal(body, &in.body, json.RejectUnknownMembers(true), json.WithUnmarshalers(json.UnmarshalFunc(readDecimal))); err != nil {
		return caller, in, malformed("the body: %s", document.DecodeFault(err))
	}
	return caller, in, nil
}

// idempotencyKey returns what makes a mutation one that can be repeated.
func idempotencyKey(r *http.Request) (string, error) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	if key := values[0]; len(values) == 1 && key != "" && len(key) <= session.MaxKeyBytes && utf8.ValidString(key) {
		return key, nil
	}
	return "", malformed("Idempotency-Key: want one text of 1 to %d bytes", session.MaxKeyBytes)
}

// readDecimal reads a figure as it is written, so that no float rounds it.
func readDecimal(b []byte, d *api.Decimal) error {
	if c := b[0]; c != '-' && (c < '0' || c > '9') {
		return errors.New("want a number")
	}
	*d = api.Decimal(b)
	return nil
}

// reply writes an answer, or what became of it.
func (a *API) reply(w http.ResponseWriter, r *http.Request, out any, err error) {
	if err == nil {
		write(w, http.StatusOK, out)
		return
	}
	status, body := answer(err)
	if status >= http.StatusInternalServerError {
		a.note(r, err)
	}
	switch {
	case status == http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case status == http.StatusTooManyRequests && body.Details.Decision != nil:
		wait := time.Duration(body.Details.Decision.RetryAfterMS) * time.Millisecond
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	}
	write(w, status, api.ErrorBody{Error: body})
}

func (a *API) note(r *http.Request, err error) {
	if r.Context().Err() == nil {
		a.logger.Warn("a request was not answered", "method", r.Method, "path", r.URL.Path, "error", err)
	}
}

func write(w http.ResponseWriter, status int, v any) {
	b, err := stdjson.Marshal(v)
	if err != nil {
		panic("httpapi: an answer does not encode: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // who does not take the answer does not hear of it either
}

// A query is a request's query parameters, each said at most once.
type query url.Values

func (q query) text(name string) string { return url.Values(q).Get(name) }

// number returns a parameter from least to most; otherwise where it is not said.
func (q query) number(name string, otherwise, least, most uint64) (uint64, error) {
	text := q.text(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, malformed("query parameter %s: want a number from %d to %d, got %q", name, least, most, text)
	}
	return n, nil
}

// flag reports whether a parameter is set: alone, or true.
func (q query) flag(name string) (bool, error) {
	all, said := url.Values(q)[name]
	if !said || all[0] == "false" {
		return false, nil
	}
	if all[0] == "" || all[0] == "true" {
		return true, nil
	}
	return false, malformed("query parameter %s: want true or false, got %q", name, all[0])
}
