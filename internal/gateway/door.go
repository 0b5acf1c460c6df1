package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/agenthypervisor/hypervisor"
)

// Bounds of one HTTP request.
const (
	maxBodyBytes   = 4 << 20
	bodyPatience   = 30 * time.Second // for a body to come
	writerPatience = 30 * time.Second // for a client to take what it is sent
	retryAfter     = "1"              // seconds, said with a 503
)

// Identify says who asks, from the request's token and from nothing else: never from Mcp-Session-Id or the body. Its errors
// become answers: ErrForbidden 403, hypervisor.ErrStoreUnavailable and ErrOverloaded 503, any other 401, each with the error's
// text, which must hold no secret. It is called for every request and again, now and then, for one that stays open: a token
// that was revoked ends its streams. Safe for concurrent use.
type Identify func(*http.Request) (Seat, error)

// ErrForbidden is returned, wrapped with why, by an Identify that knows who asks and does not let them in.
var ErrForbidden = errors.New("forbidden")

// Handler serves MCP over Streamable HTTP, for /mcp: every revision the SDK speaks, at this one address. The caller checks Host
// and Origin around it.
func (h *Hub) Handler(identify Identify) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v := h.admit(w, r, identify); v != nil {
			v.serve(w)
		}
	})
}

// admit counts a request in, or answers it and returns nil.
func (h *Hub) admit(w http.ResponseWriter, r *http.Request, identify Identify) *visit {
	who, err := identify(r)
	if err != nil {
		refuse(w, err)
		return nil
	}
	v, err := h.enter(r, who, identify)
	if err != nil {
		w.Header().Set("Retry-After", retryAfter)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return nil
	}
	return v
}

// refuse answers a request whose sender is not let in.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusUnauthorized
	switch {
	case errors.Is(err, ErrForbidden):
		status = http.StatusForbidden
	case errors.Is(err, hypervisor.ErrStoreUnavailable), errors.Is(err, hypervisor.ErrOverloaded), errors.Is(err, hypervisor.ErrClosed):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", retryAfter)
	default:
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	http.Error(w, err.Error(), status)
}

// A visit is one HTTP request at a seat.
type visit struct {
	seat     *seat
	identify Identify
	r        *http.Request // as it came, with its token
	ctx      context.Context
	cancel   context.CancelCauseFunc
	client   *clientUse // nil: of no session that is known here
	waits    bool       // it asks for nothing but to be told; guarded by the hub's mu
}

// enter counts a request in.
func (h *Hub) enter(r *http.Request, who Seat, identify Identify) (*visit, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, err := h.seatOf(r.Context(), who)
	if err != nil {
		return nil, err
	}
	v := &visit{seat: s, identify: identify, r: r, waits: r.Method == http.MethodGet && !resumesCall(r)}
	v.ctx, v.cancel = context.WithCancelCause(r.Context())
	if v.client = s.clients[r.Header.Get(sessionHeader)]; v.client != nil {
		v.client.open++
	}
	s.visits[v] = struct{}{}
	h.visits++
	return v, nil
}

// resumesCall reports whether a request is for the rest of a call's stream.
func resumesCall(r *http.Request) bool {
	stream, _, ok := strings.Cut(r.Header.Get(lastEventHeader), "_")
	return ok && stream != ""
}

func (h *Hub) leave(v *visit) {
	v.cancel(nil)
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.opt.Clock.Now()
	v.seat.used = now
	if v.client != nil {
		v.client.open--
		v.client.used = now
	}
	delete(v.seat.visits, v)
	if h.visits--; h.visits == 0 && h.left != nil {
		close(h.left)
		h.left = nil
	}
}

// checkAgain ends a stream whose token has become another's or nobody's.
func (v *visit) checkAgain() {
	who, err := v.identify(v.r)
	if err == nil && who.Session != nil && (seatKey{who.Agent.DID, who.Session.ID()}) == v.seat.key {
		return
	}
	if errors.Is(err, hypervisor.ErrStoreUnavailable) || errors.Is(err, hypervisor.ErrOverloaded) {
		return // it cannot be told; the next sweep asks again
	}
	v.cancel(ErrForbidden)
}

// serve serves a request until it has its answer or its stream ends, and counts it out.
//
// What stands between net/http and here stands on the stack of each open stream, and a stack is a power of two, so these functions
// are small: all else is done and gone when the SDK's handler waits (docs/decisions/035-what-an-idle-agent-costs.md).
func (v *visit) serve(w http.ResponseWriter) {
	defer v.seat.hub.leave(v)
	if next, pw, r := v.route(w); next != nil {
		next.ServeHTTP(pw, r)
	}
}

// route checks the body and returns the handler of the request's revision with what it is to be given, or answers and returns
// nil: the SDK takes 2026-07-28 only without sessions, and can ask a client something only with one.
func (v *visit) route(w http.ResponseWriter) (http.Handler, *patientWriter, *http.Request) {
	r := v.r.WithContext(v.ctx)
	r.Header = maps.Clone(r.Header)
	r.Header.Del("Authorization") // nobody behind here has any business with it
	r.Header.Del("Cookie")
	pw := &patientWriter{ResponseWriter: w, rc: http.NewResponseController(w), patience: v.seat.hub.patience, giveUp: v.cancel}
	version := r.Header.Get(versionHeader)
	var e envelope
	var body []byte
	if r.Method == http.MethodPost {
		var ok bool
		if e, body, ok = v.readBody(pw, r); !ok {
			return nil, nil, nil
		}
		if version == "" {
			version = claimedVersion(e.params)
		}
		if e.method == "subscriptions/listen" {
			v.seat.hub.mu.Lock()
			v.waits = true
			v.seat.hub.mu.Unlock()
		}
	}
	if version >= modernProtocol {
		if why := v.seat.checkHeaders(r.Header, e); why != nil {
			answerFault(pw, &fault{code: codeHeaderMismatch, text: why.Error(), id: salvageID(body)})
			return nil, nil, nil
		}
		return v.seat.stateless, pw, r
	}
	if e.call && v.client != nil && !isServed(e.method) { // of whom the SDK knows nothing it answers no JSON-RPC
		reply(pw, http.StatusOK, &fault{code: jsonrpc.CodeMethodNotFound, text: fmt.Sprintf("%q is not served", clip(e.method)), id: salvageID(body)})
		return nil, nil, nil
	}
	if r.Method == http.MethodPost && r.Header.Get(sessionHeader) == "" && !v.seat.hasRoom() {
		pw.Header().Set("Retry-After", retryAfter)
		http.Error(pw, "this agent has too many clients in this session", http.StatusServiceUnavailable)
		return nil, nil, nil
	}
	return v.seat.stateful, pw, r
}

// readBody reads and checks the body, puts it back, and reports whether there is more to do.
func (v *visit) readBody(w *patientWriter, r *http.Request) (envelope, []byte, bool) {
	_ = w.rc.SetReadDeadline(time.Now().Add(bodyPatience)) // a connection that has none, as in a test, is not a slow one
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	_ = w.rc.SetReadDeadline(time.Time{})
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		http.Error(w, "a message is at most 4 MiB", http.StatusRequestEntityTooLarge)
		return envelope{}, nil, false
	case err != nil:
		http.Error(w, "the body did not come", http.StatusBadRequest)
		return envelope{}, nil, false
	}
	e, f := parseClients(body)
	if f != nil {
		answerFault(w, f)
		return envelope{}, nil, false
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return e, body, true
}

// answerFault answers a request that goes no further.
func answerFault(w http.ResponseWriter, f *fault) { reply(w, http.StatusBadRequest, f) }

func reply(w http.ResponseWriter, status int, f *fault) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(f.line()) // whoever sent it may be gone
}

// isServed reports whether a client's request is of a method that there is.
func isServed(method string) bool {
	switch method {
	case "initialize", "ping", "server/discover", "tools/list", "tools/call", "logging/setLevel", "subscriptions/listen":
		return true
	}
	return readMethods[method] != nil
}

// checkHeaders returns what of a modern call's headers says otherwise than its arguments, by the tool's schema.
func (s *seat) checkHeaders(h http.Header, e envelope) error {
	if e.method != "tools/call" {
		return nil
	}
	var p struct {
		Name string          `json:"name"`
		Args json.RawMessage `json:"arguments"`
	}
	if jsonv2.Unmarshal(e.params, &p) != nil {
		return nil // which the SDK refuses
	}
	t, ok := s.front.shownTool(p.Name)
	if !ok {
		return nil
	}
	return t.checkHeaders(h, p.Args)
}

// claimedVersion returns the revision that a request says it is of; empty: it says none.
func claimedVersion(params json.RawMessage) string {
	var p struct {
		Meta map[string]json.RawMessage `json:"_meta"`
	}
	if jsonv2.Unmarshal(params, &p) != nil {
		return ""
	}
	version, _ := unquote(p.Meta["io.modelcontextprotocol/protocolVersion"])
	return version
}

// A patientWriter gives a client some time to take what it is sent, and then up.
type patientWriter struct {
	http.ResponseWriter
	rc       *http.ResponseController
	patience time.Duration
	giveUp   context.CancelCauseFunc
}

// Write writes in time or ends the request.
func (w *patientWriter) Write(p []byte) (int, error) {
	_ = w.rc.SetWriteDeadline(time.Now().Add(w.patience)) // a writer without deadlines has no slow client
	n, err := w.ResponseWriter.Write(p)
	if err != nil {
		w.giveUp(err)
	}
	return n, err
}

// Flush sends what is buffered.
func (w *patientWriter) Flush() {
	_ = w.rc.SetWriteDeadline(time.Now().Add(w.patience))
	if err := w.rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		w.giveUp(err)
	}
}

// Unwrap returns the writer behind.
func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
