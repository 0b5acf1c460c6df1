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

// listen reads the stream of a server until 2025-11-25, which need not have one, and opens it again when it ends. One that can
// be had no more ends the wire.
func (w *httpWire) listen() {
	opened := false
	for tries := 0; tries <= maxReopenings; tries++ {
		resp, err := w.resume(w.ctx, "")
		switch {
		case err == nil:
			if opened {
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
			if done, err = w.readStream(s, o, r, resp); done {
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
