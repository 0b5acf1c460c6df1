package sim

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/address"
)

// host_test.go: two hosts that steps of sagas, and agents, call. What calls them is the shipped internal/address, as far as to where a
// request would go out: what comes of it the weather says. One host knows a call again by its Idempotency-Key, and answers as it did
// before; the other does whatever it is asked.

const (
	plain = "https://plain.sim/"
	keyed = "https://keyed.sim/"
)

var errNobody = errors.New("connection refused")

// addresses are what may be called.
func (w *world) addresses() *address.Book {
	partial, yes := action.Partial, true
	book, err := address.NewBook([]address.Entry{
		{At: plain, Claim: action.Claim{Reversibility: &partial}, Timeout: address.MostTimeout},
		{At: keyed, Claim: action.Claim{Reversibility: &partial, Idempotent: &yes}, Timeout: address.MostTimeout},
	}, &address.Options{Now: w.clock.Now, Carrier: w})
	if err != nil {
		panic(err)
	}
	return book
}

// Reaches says whether somebody takes connections.
func (w *world) Reaches(context.Context, string) error {
	if w.dark > 0 {
		return errNobody
	}
	return nil
}

// RoundTrip is one request, in the weather.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	name, id := r.URL.String(), hypervisor.ActionOf(r.Context())
	session := w.calledBy(hypervisor.EffectOf(r.Context()), id)
	w.dispatched(session, name, id, body)
	w.mayCrash(crashTool)
	if w.hits(hostDies) {
		w.dark = 2 + w.faults.IntN(8)
	}
	if w.dark > 0 || w.hits(hostDown) {
		return nil, errNobody
	}
	if t := httptrace.ContextClientTrace(r.Context()); t != nil && t.GotConn != nil {
		t.GotConn(httptrace.GotConnInfo{})
	}
	status := http.StatusOK
	switch {
	case w.hits(hostBusy):
		return answer([]int{http.StatusTooManyRequests, http.StatusServiceUnavailable}[w.faults.IntN(2)], strconv.Itoa(w.faults.IntN(90))), nil
	case w.hits(toolFails):
		return answer(http.StatusConflict, ""), nil
	case w.hits(answerNever):
		return nil, io.ErrUnexpectedEOF // it did not come, and nobody knows
	case w.hits(toolSlow):
		w.clock.Advance(time.Duration(w.faults.IntN(400)) * time.Second)
	case w.hits(answerLate):
		w.meanwhile()
	case w.hits(hostErrs):
		if status = http.StatusInternalServerError; w.faults.IntN(2) == 0 {
			return answer(status, ""), nil
		}
	}
	if err := r.Context().Err(); err != nil && w.order.IntN(2) == 0 {
		return nil, err // it hears that it was cancelled, or it does not
	}
	d := w.book.session(session).deeds[id]
	w.serve(d, session, r.Header.Get("Idempotency-Key"), name, body)
	if strings.HasPrefix(name, keyed) && w.hits(hostTwice) {
		w.serve(d, session, r.Header.Get("Idempotency-Key"), name, body)
	}
	w.mayCrash(crashEffect)
	if w.hits(answerLost) {
		return nil, io.ErrUnexpectedEOF
	}
	return answer(status, ""), nil
}

// calledBy returns the session of the action that an address is called for: the effect's, or that in which the effect is taken back when
// the effect's own has ended.
func (w *world) calledBy(effect, id string) string {
	for _, s := range w.book.sessions {
		if d := s.deeds[id]; d != nil && d.effect == effect {
			return s.id
		}
	}
	session, _, _ := strings.Cut(effect, "/")
	return session
}

// serve is what a host does with a request that it has.
func (w *world) serve(d *deed, session, key, name string, body []byte) {
	effect := d.effect
	if effect == "" {
		effect = session + "/" + d.id
	}
	w.keyIs(key, effect)
	w.keyIs("of "+effect, key)
	if strings.HasPrefix(name, keyed) {
		what, again := w.served[key]
		w.must(keyOnce, !again || what == name+string(body), "%s is called with %q for two things: %s and %s", name, key, what, name+string(body))
		if again {
			return // as before
		}
		w.served[key] = name + string(body)
	}
	w.happens(d, name, body)
}

// keyIs checks that what was told of a key, or an effect, is told again.
func (w *world) keyIs(of, is string) {
	was, there := w.keys[of]
	w.must(keyOnce, of != "" && is != "" && (!there || was == is), "%q stands for %q, and did before for %q", of, is, was)
	w.keys[of] = is
}

func answer(status int, after string) *http.Response {
	header := http.Header{}
	if after != "" {
		header.Set("Retry-After", after)
	}
	return &http.Response{StatusCode: status, Status: strconv.Itoa(status) + " " + http.StatusText(status), Header: header,
		Body: io.NopCloser(bytes.NewReader([]byte(`"ok"`)))}
}
