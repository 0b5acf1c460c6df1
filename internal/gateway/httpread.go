package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// httpread.go: the answer to a request over Streamable HTTP, whole or as a stream that may break off and be resumed.

// read reads the answer to a request. An error means that it gets none.
func (w *httpWire) read(ctx context.Context, resp *http.Response, o *outgoing, r *jsonrpc.Request) error {
	defer resp.Body.Close()
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode == http.StatusNotFound && kind != "application/json" && resp.Request.Header.Get(sessionHeader) != "":
		o.state.Store(unsent)
		w.end(errForgotten)
		return errForgotten
	case resp.StatusCode >= 300:
		return w.readError(resp, o)
	case kind == "application/json":
		text, err := readBody(ctx, resp.Body, maxLineBytes)
		if err != nil {
			return err
		}
		_, err = w.take(text, o, r, resp)
		return err
	case kind == "text/event-stream":
		return w.readEvents(ctx, resp, o, r)
	}
	return errContentType
}

// readError reads an HTTP error: the request's answer, if it has a JSON-RPC error in it. A server that says the request is at
// fault (4xx) has not done it.
func (w *httpWire) readError(resp *http.Response, o *outgoing) error {
	text, err := readBody(resp.Request.Context(), resp.Body, maxErrorBytes)
	if err == nil {
		if e, f := parse(text); f == nil && e.method == "" && e.err != nil && (!e.id.IsValid() || e.id == o.id) {
			w.push(incoming{envelope: e, of: o})
			return nil
		}
	}
	if resp.StatusCode < 500 {
		o.state.Store(unsent)
	}
	return fmt.Errorf("it answered %s", resp.Status)
}

// take checks one message that came on a request's own answer, hands it on, and reports whether it is what was waited for.
func (w *httpWire) take(text []byte, o *outgoing, r *jsonrpc.Request, resp *http.Response) (bool, error) {
	e, f := parse(text)
	switch {
	case f != nil:
		return false, fmt.Errorf("%w: %w: %q", errGarbage, f, clip(string(text)))
	case e.method != "":
		w.push(incoming{envelope: e, of: o})
		return false, nil
	case e.id != o.id && (e.id.IsValid() || e.err == nil):
		return false, errWrongAnswer
	}
	if r.Method == "initialize" && e.err == nil {
		if err := w.settle(resp, e.result); err != nil {
			return false, err
		}
	}
	w.push(incoming{envelope: e, of: o})
	return true, nil
}

// settle notes what initialize has settled.
func (w *httpWire) settle(resp *http.Response, result json.RawMessage) error {
	var p struct {
		Version string `json:"protocolVersion"`
	}
	if err := jsonv2.Unmarshal(result, &p); err != nil {
		return fmt.Errorf("%w: %w", errGarbage, err)
	}
	session := resp.Header.Get(sessionHeader)
	if len(session) > maxSessionBytes {
		return fmt.Errorf("%w: an %s of %d bytes", errGarbage, sessionHeader, len(session))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.version, w.session = p.Version, session
	return nil
}

// readEvents reads a request's answer from a stream of events. A stream that ends too early is resumed where the server has
// given its events numbers.
func (w *httpWire) readEvents(ctx context.Context, resp *http.Response, o *outgoing, r *jsonrpc.Request) error {
	left := int64(maxCallBytes)
	lastID := ""
	for tries := 0; ; tries++ {
		s := newEventStream(resp.Body, &left)
		s.lastID = lastID
		done, err := w.readStream(s, o, r, resp)
		if done || errors.Is(err, errGarbage) {
			return err
		}
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if s.retry > 0 { // it is to be asked again later, and whoever waits for us may do the same
			w.push(incoming{of: o, pause: min(s.retry, maxBackoff)})
		}
		switch {
		case errors.Is(err, errCallTooLong):
			return err
		case s.lastID == "" || tries >= maxReopenings:
			return errNoAnswer
		case s.lastID != lastID:
			lastID, tries = s.lastID, 0
		}
		select {
		case <-w.clock.After(reopening(tries, s.retry)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if resp, err = w.resume(ctx, lastID); err != nil {
			return err
		}
		defer resp.Body.Close()
	}
}

// readStream reads messages until the one that is waited for.
func (w *httpWire) readStream(s *eventStream, o *outgoing, r *jsonrpc.Request, resp *http.Response) (done bool, err error) {
	for !done && err == nil {
		done, err = w.readOne(s, o, r, resp)
	}
	return done, err
}

// readOne reads a message, and reports whether it is the one that is waited for.
func (w *httpWire) readOne(s *eventStream, o *outgoing, r *jsonrpc.Request, resp *http.Response) (bool, error) {
	text, err := s.next()
	if err != nil {
		return false, err
	}
	return w.take(text, o, r, resp)
}

// reopening is how long to wait before a stream is opened again.
func reopening(tries int, asked time.Duration) time.Duration {
	return min(maxBackoff, max(asked, firstReopening<<min(tries, 10)))
}

// resume opens a stream by GET: a request's own from an event on, or, without one, that of what the server says unasked.
func (w *httpWire) resume(ctx context.Context, lastID string) (*http.Response, error) {
	req, err := w.request(ctx, http.MethodGet, nil, nil)
	if err != nil {
		return nil, err
	}
	if lastID != "" {
		req.Header.Set(lastEventHeader, lastID)
	}
	if w.tokens != nil {
		if err := w.tokens.authorise(ctx, req, false); err != nil {
			return nil, err
		}
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, err
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); resp.StatusCode != http.StatusOK || kind != "text/event-stream" {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%w: GET answered %s", errNoStream, resp.Status)
	}
	return resp, nil
}

// readBody reads a body of at most bound bytes.
func readBody(ctx context.Context, body io.Reader, bound int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(body, bound+1))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if int64(len(text)) > bound {
		return nil, errLongerThan16
	}
	return text, nil
}
