package address

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
)

// meansOf says in a word what an error means for whether the action took place.
func meansOf(err error) string {
	var p *action.Postponed
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &p):
		return "postponed " + p.After.String()
	case errors.Is(err, action.ErrUnreachable):
		return "unreachable"
	case errors.Is(err, action.ErrNotDispatched):
		return "not sent"
	case errors.Is(err, action.ErrUnknownOutcome), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "unknown"
	}
	return "failed"
}

// SPEC §5: what a status means for whether the action took place.
func TestWhatAStatusMeans(t *testing.T) {
	var status int
	var after string
	server, _ := counted(t, func(w http.ResponseWriter, _ *http.Request) {
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(status)
		if status != http.StatusNoContent {
			fmt.Fprintf(w, `{"n":%d}`, status)
		}
	})
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		status      int
		after, want string
	}{
		{200, "", "done"}, {201, "", "done"}, {204, "", "done"},
		{400, "", "failed"}, {401, "", "failed"}, {404, "", "failed"}, {409, "", "failed"}, {422, "7", "failed"},
		{429, "", "postponed 0s"}, {429, "7", "postponed 7s"}, {429, "soon", "postponed 0s"}, {429, "999999999", "postponed 15m0s"},
		{429, "Fri, 02 Jan 2026 03:04:35 GMT", "postponed 30s"}, {429, "Fri, 02 Jan 2026 03:00:00 GMT", "postponed 0s"}, {429, "-1", "postponed 0s"},
		{503, "", "unknown"}, {503, "2", "postponed 2s"}, {500, "2", "unknown"}, {502, "", "unknown"}, {504, "", "unknown"}, {300, "", "unknown"}, {304, "", "unknown"},
	} {
		status, after = c.status, c.after
		a, err := call(t, []Entry{{At: server.URL + "/", Private: loopback}}, &Options{Now: func() time.Time { return now }}, server.URL+"/x", `{}`)
		if got := meansOf(err); got != c.want || a.Status != c.status {
			t.Errorf("%d %q: %s (%v), want %s; %+v", c.status, c.after, got, err, c.want, a)
		}
	}
	status, after = 500, ""
	if _, err := call(t, []Entry{{At: server.URL + "/", Method: "GET", Private: loopback}}, nil, server.URL+"/x", `{}`); meansOf(err) != "failed" {
		t.Errorf("a GET that fails: %v", err)
	}
}

// An answer that never comes leaves open what happened, but where nothing was sent that is known. Each call is sent once.
func TestWhatAMissingAnswerMeans(t *testing.T) {
	hang := make(chan struct{})
	server, n := counted(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hangs":
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		case "/dies":
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_ = conn.Close()
		case "/breaks": // says more than it sends
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "{")
		}
	})
	defer close(hang)
	entry := Entry{At: server.URL + "/", Private: loopback}
	for path, want := range map[string]string{"/dies": "unknown", "/breaks": "unknown"} {
		n.Store(0)
		if _, err := call(t, []Entry{entry}, nil, server.URL+path, `{}`); meansOf(err) != want || n.Load() != 1 {
			t.Errorf("%s: %v, called %d times", path, err, n.Load())
		}
	}
	entry.Timeout = 50 * time.Millisecond
	if _, err := call(t, []Entry{entry}, nil, server.URL+"/hangs", `{}`); !errors.Is(err, context.DeadlineExceeded) || meansOf(err) == "unreachable" {
		t.Errorf("/hangs: %v", err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + l.Addr().String() + "/"
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, []Entry{{At: nobody, Private: loopback}}, nil, nobody, `{}`); meansOf(err) != "unreachable" {
		t.Errorf("nobody listens: %v", err)
	}
	lost := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no name server") }}
	if _, err := call(t, []Entry{{At: "http://deploy.example/"}}, &Options{lookup: lost}, "http://deploy.example/", `{}`); meansOf(err) != "unreachable" {
		t.Errorf("nobody knows the name: %v", err)
	}
	b, err := NewBook([]Entry{{At: nobody, Private: loopback}, {At: server.URL + "/", Private: loopback}, {At: server.URL + "/far"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]bool{nobody: false, server.URL + "/x": true, server.URL + "/far": false} {
		tool, err := b.Address(at)
		if err != nil {
			t.Fatal(err)
		}
		if err := tool.Reaches(t.Context()); (err == nil) != want {
			t.Errorf("%s is reached: %v", at, err)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tool, err := b.Address(server.URL + "/x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tool.Do(cancelled, json.RawMessage(`{}`)); meansOf(err) != "not sent" {
		t.Errorf("cancelled before it went out: %v", err)
	}
}

// What an address answers is bounded, and JSON, or text, or left out.
func TestWhatIsReadOfAnAnswer(t *testing.T) {
	var body string
	server, _ := counted(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
	for text, want := range map[string]answer{
		``: {Status: 200}, `{"a":1}`: {Status: 200, Body: json.RawMessage(`{"a":1}`)}, `{"a":1,"a":2}`: {Status: 200, Body: json.RawMessage(`"{\"a\":1,\"a\":2}"`)},
		"hello": {Status: 200, Body: json.RawMessage(`"hello"`)}, "\xff\xfe": {Status: 200, Binary: true}, strings.Repeat("x", 2048): {Status: 200, TooLong: true},
	} {
		body = text
		a, err := call(t, []Entry{{At: server.URL + "/", Private: loopback, MaxAnswer: 1024}}, nil, server.URL+"/", `{}`)
		if err != nil || a.Status != want.Status || string(a.Body) != string(want.Body) || a.TooLong != want.TooLong || a.Binary != want.Binary {
			t.Errorf("%.20q: %+v %v", text, a, err)
		}
	}
}

// What a server gets is the arguments, as JSON, signed so that it can tell whose they are.
func TestACallIsSigned(t *testing.T) {
	secret, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	// The example of Standard Webhooks 1.0.0, "Signature scheme".
	sign(h, secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if got := h.Get("Webhook-Signature"); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Errorf("signed %s", got)
	}
	var got *http.Request
	var body []byte
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		if body, err = io.ReadAll(r.Body); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	now := time.Unix(1700000000, 0)
	entry := Entry{At: server.URL + "/", Private: loopback, Secret: secret, Headers: map[string]string{"X-Api": "k"}}
	if _, err := call(t, []Entry{entry}, &Options{Now: func() time.Time { return now }, client: server.Client()}, server.URL+"/east?z=1", `{"v":7}`); err != nil {
		t.Fatal(err)
	}
	want := http.Header{}
	sign(want, secret, got.Header.Get("Webhook-Id"), now, []byte(`{"v":7}`))
	if got.Header.Get("Webhook-Signature") != want.Get("Webhook-Signature") || string(body) != `{"v":7}` || got.Header.Get("Content-Type") != "application/json" ||
		got.Header.Get("X-Api") != "k" || got.URL.RawQuery != "z=1" || got.Method != http.MethodPost {
		t.Errorf("%s %s %v %s", got.Method, got.URL, got.Header, body)
	}
	if _, err := call(t, []Entry{entry}, nil, server.URL+"/east", `{}`); meansOf(err) != "unreachable" {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
	if text := fmt.Sprint(entry.LogValue()); strings.Contains(text, "k]") || strings.Contains(text, string(secret)) {
		t.Errorf("logged: %s", text)
	}
}

func TestAGETTakesNoArguments(t *testing.T) {
	b, err := NewBook([]Entry{{At: "https://h/", Method: http.MethodGet}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	tool, err := b.Address("https://h/x")
	if err != nil {
		t.Fatal(err)
	}
	if tool.Check(map[string]any{"a": 1}) == nil || tool.Check(nil) != nil {
		t.Error("wrong about the arguments of a GET")
	}
}

func TestEntriesThatAreNone(t *testing.T) {
	for want, e := range map[error]Entry{action.ErrAddress: {At: "https://h"}, ErrNotAllowed: {At: "https://h/", Method: "TRACE"},
		action.ErrDescriptor: {At: "https://h/", Claim: action.Claim{ReadOnly: yes(), Admin: yes()}}} {
		if _, err := NewBook([]Entry{e}, nil); !errors.Is(err, want) {
			t.Errorf("%+v: %v", e, err)
		}
	}
}

// A carrier stands where a connection would be made, and what it says means what a connection's end does.
type carrier struct {
	nobody bool
	lost   bool
	went   []string
}

func (c *carrier) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.nobody {
		return nil, errors.New("nobody")
	}
	httptrace.ContextClientTrace(r.Context()).GotConn(httptrace.GotConnInfo{})
	c.went = append(c.went, r.Host+" "+r.Header.Get("User-Agent"))
	if c.lost {
		return nil, io.ErrUnexpectedEOF
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`1`))}, nil
}

func (c *carrier) Reaches(context.Context, string) error {
	if c.nobody {
		return errors.New("nobody")
	}
	return nil
}

func TestACarrierTakesTheRequests(t *testing.T) {
	for want, c := range map[string]*carrier{"done": {}, "unreachable": {nobody: true}, "unknown": {lost: true}} {
		opts := &Options{Carrier: c}
		_, err := call(t, []Entry{{At: "http://deploy.example/"}}, opts, "http://deploy.example/x", `{}`)
		if got := meansOf(err); got != want || (len(c.went) == 1) == c.nobody {
			t.Errorf("%s, want %s: %v, carried %v", got, want, err, c.went)
		}
		b, err := NewBook([]Entry{{At: "http://deploy.example/"}}, opts)
		if err != nil {
			t.Fatal(err)
		}
		tool, err := b.Address("http://deploy.example/x")
		if err != nil {
			t.Fatal(err)
		}
		if err := tool.Reaches(t.Context()); (err != nil) != c.nobody {
			t.Errorf("%s is reached: %v", want, err)
		}
	}
}
