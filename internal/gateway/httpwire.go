package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// Bounds of an upstream over HTTP. A message has maxLineBytes, as everywhere.
const (
	maxCallBytes    = 64 << 20         // all that is read while one request waits for its answer, progress included
	maxErrorBytes   = 64 << 10         // of the body of an answer that is an HTTP error
	callPatience    = 15 * time.Minute // for a request to be answered
	noticePatience  = 30 * time.Second // for a notification, or an answer of ours, to be taken
	farewell        = 5 * time.Second  // for the server to be told that its session is over
	hearing         = 5 * time.Second  // for the stream of what it says unasked to open before its tools are listed
	maxIdleSockets  = 256              // kept for the next calls: a shared server has as many callers
	maxReopenings   = 5                // of a stream, one after another, that brought nothing
	firstReopening  = time.Second      // and twice that each time, maxBackoff at most
	maxSessionBytes = 1 << 10          // of an Mcp-Session-Id
	maxEventIDBytes = 1 << 10
)

// Names of headers (MCP, Streamable HTTP).
const (
	versionHeader   = "Mcp-Protocol-Version"
	sessionHeader   = "Mcp-Session-Id"
	methodHeader    = "Mcp-Method"
	nameHeader      = "Mcp-Name"
	lastEventHeader = "Last-Event-ID"
)

var (
	errElsewhere    = errors.New("the server redirects to another address; name that one in the configuration")
	errNoAnswer     = errors.New("the server ended its answer without answering")
	errPatience     = errors.New("the server took too long")
	errCallTooLong  = errors.New("the server sent more than 64 MiB before it answered")
	errForgotten    = errors.New("the server has forgotten the session")
	errUnreachable  = errors.New("the server is out of reach")
	errWrongAnswer  = fmt.Errorf("%w: it answers another request", errGarbage)
	errContentType  = fmt.Errorf("%w: its answer is neither application/json nor text/event-stream", errGarbage)
	errLongerThan16 = fmt.Errorf("%w: %w", errGarbage, errLineTooLong)
)

// An httpWire is the wire to a Streamable HTTP server. Every request is a POST of its own, so that a broken answer breaks that
// request only; what the server says unasked comes on a GET (until 2025-11-25) or on the answer to subscriptions/listen.
//
// It stands in for the SDK's own transport, which reads bodies without a bound, decodes what it reads and follows redirects.
type httpWire struct {
	at     Endpoint
	client *http.Client
	tokens *tokenSource // nil: no OAuth
	clock  Clock
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	in     chan incoming

	mu      sync.Mutex
	cause   error
	work    sync.WaitGroup // added to under mu while cause is nil
	session string         // as the server gave it; empty: none
	version string         // as initialize settled it; empty: not yet, or every request says its own
	opening chan struct{}  // closed once the first stream of what the server says unasked is open or cannot be; nil: none is asked for
	late    bool           // nobody waited until it was
}

func newHTTPWire(at Endpoint, clock Clock, log *slog.Logger) *httpWire {
	w := &httpWire{at: at, client: newHTTPClient(), clock: clock, log: log, in: make(chan incoming)}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	if at.OAuth != nil {
		w.tokens = newTokenSource(*at.OAuth)
	}
	return w
}

// newHTTPClient returns a client that goes where it is sent and nowhere else.
func newHTTPClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxResponseHeaderBytes = 64 << 10
	t.MaxIdleConns, t.MaxIdleConnsPerHost = maxIdleSockets, maxIdleSockets
	return &http.Client{Transport: t, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		first := via[0]
		if r.URL.Scheme != first.URL.Scheme || r.URL.Host != first.URL.Host || r.Method != first.Method || len(via) > 3 {
			return errElsewhere
		}
		return nil
	}}
}

func (w *httpWire) next(ctx context.Context) (incoming, error) {
	select {
	case in := <-w.in:
		return in, nil
	case <-w.ctx.Done():
		return incoming{}, io.EOF
	case <-ctx.Done():
		return incoming{}, ctx.Err()
	}
}

// push hands a message to next.
func (w *httpWire) push(in incoming) {
	select {
	case w.in <- in:
	case <-w.ctx.Done():
	}
}

func (w *httpWire) ended() <-chan struct{} { return w.ctx.Done() }

func (w *httpWire) reason() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cause
}

func (w *httpWire) wait() {
	w.work.Wait()
	w.client.CloseIdleConnections()
}

// begin counts a piece of work in, unless the wire has ended.
func (w *httpWire) begin() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause == nil {
		w.work.Add(1)
	}
	return w.cause
}

func (w *httpWire) end(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause != nil {
		return
	}
	if w.session != "" && !errors.Is(why, errForgotten) {
		w.work.Go(w.sayFarewell)
	}
	w.cause = why
	w.cancel()
}

// sayFarewell tells the server that its session is over. Nobody waits for its answer but us.
func (w *httpWire) sayFarewell() {
	ctx, stop := withTimeout(context.Background(), w.clock, farewell, errPatience)
	defer stop()
	if resp, err := w.do(ctx, http.MethodDelete, nil, nil); err == nil {
		_ = resp.Body.Close()
	}
}

// send begins a request's POST; a notification's or an answer's it also waits for, so that they keep their order. A notification
// that gets lost is no reason to end the wire, but that of initialized is: nothing works after it.
func (w *httpWire) send(ctx context.Context, o *outgoing) error {
	if err := w.begin(); err != nil {
		o.state.Store(dropped)
		return err
	}
	r, _ := o.msg.(*jsonrpc.Request)
	if r != nil && r.IsCall() {
		if r.Method == "subscriptions/listen" {
			w.listens()
		}
		go func() {
			defer w.work.Done()
			w.ask(ctx, o, r)
		}()
		return nil
	}
	defer w.work.Done()
	ctx, stop := withTimeout(w.within(ctx), w.clock, noticePatience, errPatience)
	defer stop()
	resp, err := w.do(ctx, http.MethodPost, o, r)
	if err == nil {
		defer resp.Body.Close()
		if resp.StatusCode >= 300 {
			err = fmt.Errorf("the server answered %s", resp.Status)
		}
	}
	if r == nil || r.Method != "notifications/initialized" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("beginning the session: %w", err)
	}
	if w.begin() == nil {
		w.listens()
		go func() {
			defer w.work.Done()
			w.listen()
		}()
	}
	return nil
}

// within returns ctx, ended with the wire too. Its cancellation is the caller's affair.
func (w *httpWire) within(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(w.ctx, func() { cancel(errClosed) })
	context.AfterFunc(ctx, func() { stop() })
	return ctx
}

// ask makes one request and hands its answer, or why there is none, to next.
func (w *httpWire) ask(ctx context.Context, o *outgoing, r *jsonrpc.Request) {
	ctx, cancel := context.WithCancel(w.within(ctx))
	defer cancel()
	if r.Method == "subscriptions/listen" {
		w.subscribe(ctx, o, r)
		return
	}
	ctx, stop := withTimeout(ctx, w.clock, callPatience, errPatience)
	defer stop()
	resp, err := w.do(ctx, http.MethodPost, o, r)
	if err == nil {
		err = w.read(ctx, resp, o, r)
	}
	if err != nil {
		w.push(incoming{of: o, err: err})
	}
}

// do sends one HTTP request, with a new token if the one at hand is refused.
func (w *httpWire) do(ctx context.Context, method string, o *outgoing, r *jsonrpc.Request) (*http.Response, error) {
	for again := false; ; again = true {
		req, err := w.request(ctx, method, o, r)
		if err == nil && w.tokens != nil {
			err = w.tokens.authorise(ctx, req, again)
		}
		if err != nil {
			return nil, unsentBecause(o, err)
		}
		resp, err := w.client.Do(req)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return nil, unsentBecause(o, err)
		}
		if resp.StatusCode != http.StatusUnauthorized || w.tokens == nil || again {
			return resp, nil
		}
		_ = resp.Body.Close()
	}
}

// unsentBecause notes that a request certainly did not arrive, if none of it was written.
func unsentBecause(o *outgoing, err error) error {
	if o != nil {
		o.state.CompareAndSwap(queued, unsent)
	}
	return err
}

func (w *httpWire) request(ctx context.Context, method string, o *outgoing, r *jsonrpc.Request) (*http.Request, error) {
	var body io.Reader
	if o != nil {
		body = bytes.NewReader(o.text)
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { o.state.Store(writing) }})
	}
	req, err := http.NewRequestWithContext(ctx, method, w.at.URL, body)
	if err != nil {
		return nil, err
	}
	for name, value := range w.at.Headers {
		req.Header.Set(name, value)
	}
	if o != nil {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
	} else {
		req.Header.Set("Accept", "text/event-stream")
	}
	w.mu.Lock()
	version, session := w.version, w.session
	w.mu.Unlock()
	if r != nil {
		version = describe(req.Header, r, version)
		if t, ok := ctx.Value(tapKey{}).(*tap); ok && version >= modernProtocol {
			for name, value := range t.headers {
				req.Header.Set(name, value)
			}
		}
	}
	if version != "" {
		req.Header.Set(versionHeader, version)
	}
	if session != "" {
		req.Header.Set(sessionHeader, session)
	}
	return req, nil
}

// describe sets what a request of modernProtocol says of itself in headers, and returns its revision.
func describe(h http.Header, r *jsonrpc.Request, settled string) string {
	var p struct {
		Name string         `json:"name"`
		URI  string         `json:"uri"`
		Meta map[string]any `json:"_meta"`
	}
	_ = jsonv2.Unmarshal(r.Params, &p) // our own text: it has what the method has
	version, _ := p.Meta["io.modelcontextprotocol/protocolVersion"].(string)
	if version == "" {
		version = settled
	}
	if version < modernProtocol {
		return version
	}
	h.Set(methodHeader, r.Method)
	switch r.Method {
	case "tools/call", "prompts/get":
		h.Set(nameHeader, p.Name)
	case "resources/read":
		h.Set(nameHeader, p.URI)
	}
	return version
}
