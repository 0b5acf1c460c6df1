package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// httplisten.go: what a Streamable HTTP server says unasked.

var errNoStream = errors.New("the server has no such stream")

// listens notes that a stream of what the server says unasked is asked for. Only the first is waited for.
func (w *httpWire) listens() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.opening == nil {
		w.opening = make(chan struct{})
	}
}

// heard notes that the stream is open, or cannot be, and returns whether something may have been said before that nobody waited for.
func (w *httpWire) heard() (late bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.opening:
	default:
		close(w.opening)
	}
	late, w.late = w.late, false
	return late
}

// awaitHearing returns once what the server says unasked reaches us, if it is asked for that: what is listed from then on is known to
// change. A server that takes too long to open the stream is not waited for. What it has may have changed by then, and is asked
// for once more.
func (w *httpWire) awaitHearing(ctx context.Context) {
	w.mu.Lock()
	opening := w.opening
	w.mu.Unlock()
	if opening == nil {
		return
	}
	select {
	case <-opening:
	case <-w.ctx.Done():
	case <-ctx.Done():
	case <-w.clock.After(hearing):
		w.mu.Lock()
		defer w.mu.Unlock()
		select {
		case <-opening:
		default:
			w.late = true
		}
	}
}

// listen reads the stream of a server until 2025-11-25, which need not have one, and opens it again when it ends. One that can
// be had no more ends the wire.
func (w *httpWire) listen() {
	opened := false
	for tries := 0; tries <= maxReopenings; tries++ {
		resp, err := w.resume(w.ctx, "")
		late := w.heard()
		switch {
		case err == nil:
			if opened || late {
				missed(w.push)
			}
			opened = true
			s := newEventStream(resp.Body, nil)
			err = w.overhear(s)
			_ = resp.Body.Close()
			if s.events > 0 {
				tries = 0
			}
		case errors.Is(err, errNoStream) && !opened:
			return
		}
		if errors.Is(err, errGarbage) {
			w.end(err)
		}
		select {
		case <-w.clock.After(reopening(tries, 0)):
		case <-w.ctx.Done():
			return
		}
	}
	w.end(errUnreachable)
}

// overhear hands on what comes on a stream that belongs to no request. No answer may come there.
func (w *httpWire) overhear(s *eventStream) error {
	for {
		text, err := s.next()
		if err != nil {
			return err
		}
		e, f := parse(text)
		switch {
		case f != nil:
			return fmt.Errorf("%w: %w: %q", errGarbage, f, clip(string(text)))
		case e.method == "":
			return errWrongAnswer
		}
		w.push(incoming{envelope: e})
	}
}

// subscribe keeps the answer to subscriptions/listen open, which is where a modern server says what it was not asked. The SDK
// is told of its end only if the server refuses it or can be had no more.
func (w *httpWire) subscribe(ctx context.Context, o *outgoing, r *jsonrpc.Request) {
	defer w.heard()
	opened := false
	for tries := 0; ; tries++ {
		resp, err := w.do(ctx, http.MethodPost, o, r)
		if err == nil && resp.StatusCode == http.StatusOK {
			if opened {
				missed(w.push)
			}
			opened = true
			s := newEventStream(resp.Body, nil)
			var done bool
			if done, err = w.readOne(s, o, r, resp); err == nil && w.heard() { // the first says that we are heard
				missed(w.push)
			}
			if !done && err == nil {
				done, err = w.readStream(s, o, r, resp)
			}
			if done {
				_ = resp.Body.Close()
				return
			}
			if s.events > 1 { // the first only says that it is heard
				tries = 0
			}
		} else if err == nil {
			err = w.readError(resp, o)
			_ = resp.Body.Close()
			if err == nil {
				return
			}
		}
		if resp != nil {
			_ = resp.Body.Close()
		}
		switch {
		case ctx.Err() != nil || !opened || errors.Is(err, errGarbage):
			w.push(incoming{of: o, err: err})
			return
		case tries >= maxReopenings:
			w.end(errUnreachable)
			return
		}
		select {
		case <-w.clock.After(reopening(tries, 0)):
		case <-ctx.Done():
		}
	}
}
