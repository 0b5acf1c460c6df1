package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/internal/auth"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	admin = policy.Operator("did:mesh:admin")
	ann   = policy.Agent("did:mesh:ann")
)

// byToken is an Identify for tests: the token is the role.
func byToken(r *http.Request) (auth.Identity, error) {
	switch strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") {
	case "operator":
		return auth.Identity{Caller: admin}, nil
	case "auditor":
		return auth.Identity{Caller: policy.Auditor("did:mesh:aud")}, nil
	case "agent":
		return auth.Identity{Caller: ann}, nil
	}
	return auth.Identity{}, fmt.Errorf("%w: send a token", auth.ErrUnauthenticated)
}

// open returns a hypervisor in memory that ends with the test.
func open(t *testing.T) *hypervisor.Hypervisor {
	t.Helper()
	hv, err := hypervisor.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := hv.Close(context.Background()); err != nil && !errors.Is(err, hypervisor.ErrClosed) {
			t.Error(err)
		}
	})
	return hv
}

// live returns an active session of ann's, ring 2, who can do one thing that cannot be taken back and one that changes nothing.
func live(t *testing.T, hv *hypervisor.Hypervisor) *hypervisor.Session {
	t.Helper()
	s, err := hv.CreateSession(t.Context(), admin, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Join(t.Context(), admin, session.Join{Agent: ann.DID, Sigma: ring.MustSigma("0.8")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Activate(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	echo := func(_ context.Context, args json.RawMessage) (json.RawMessage, error) { return args, nil }
	s.Register(action.Descriptor{ID: "delete"}, echo)
	s.Register(action.Descriptor{ID: "read", ReadOnly: true}, echo)
	return s
}

func act(t *testing.T, s *hypervisor.Session, name, args string) hypervisor.Outcome {
	t.Helper()
	out, err := s.Act(t.Context(), ann, session.Act{Action: name, Args: json.RawMessage(args)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// ask makes a request with a role's token and returns the answer.
func ask(h http.Handler, role, method, target, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+role)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func errorOf(t *testing.T, w *httptest.ResponseRecorder) api.Error {
	t.Helper()
	var body api.ErrorBody
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return body.Error
}

func TestEachRefusalHasItsStatusAndBody(t *testing.T) {
	hv := open(t)
	h := New(hv, byToken, nil)
	one, two := live(t, hv), live(t, hv)
	apr := act(t, one, "delete", `{"a":1}`).Approval
	act(t, two, "delete", `{"a":1}`)
	denied := act(t, one, "delete", `{"a":2}`).Approval
	if d, err := one.Deny(t.Context(), admin, session.Deny{Approval: denied.ID, Digest: denied.Digest}); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	read := act(t, two, "read", `{}`)
	digest := fmt.Sprintf(`{"digest":%q}`, apr.Digest)
	grant := "/v1/approvals/" + apr.ID + "/grant?session=" + one.ID()
	for _, c := range []struct {
		name, role, method, target, body string
		status                           int
		code                             string
	}{
		{"nobody", "", "GET", "/v1/sessions", "", 401, "unauthenticated"},
		{"an agent reads", "agent", "GET", "/v1/sessions", "", 403, "forbidden"},
		{"an auditor grants", "auditor", "POST", grant, digest, 403, "forbidden"},
		{"an auditor ends a session", "auditor", "POST", "/v1/sessions/" + one.ID() + "/terminate", "", 403, "forbidden"},
		{"no such session", "operator", "GET", "/v1/sessions/ses-none", "", 404, "not_found"},
		{"not a session's id", "operator", "GET", "/v1/sessions/%2e%2e%2fx", "", 404, "not_found"},
		{"no such session's log", "operator", "GET", "/v1/sessions/ses-none/log", "", 404, "not_found"},
		{"no such action", "operator", "GET", "/v1/sessions/" + one.ID() + "/actions/act-99", "", 404, "not_found"},
		{"no such action anywhere", "operator", "GET", "/v1/actions/act-99", "", 404, "not_found"},
		{"no such approval", "operator", "POST", "/v1/approvals/apr-99/grant", digest, 404, "not_found"},
		{"no such route", "operator", "GET", "/v2/sessions", "", 404, "not_found"},
		{"another method", "operator", "DELETE", "/v1/sessions", "", 405, "malformed"},
		{"an id of two sessions", "operator", "POST", "/v1/approvals/" + apr.ID + "/grant", digest, 409, "ambiguous"},
		{"a denied approval", "operator", "POST", "/v1/approvals/" + denied.ID + "/grant?session=" + one.ID(), fmt.Sprintf(`{"digest":%q}`, denied.Digest), 409, "approval_denied"},
		{"a large body", "operator", "POST", grant, `{"digest":"` + strings.Repeat("a", api.MaxBodyBytes) + `"}`, 413, "too_large"},
		{"another digest", "operator", "POST", grant, `{"digest":"00"}`, 422, "invalid_arguments"},
		{"no digest", "operator", "POST", grant, `{}`, 422, "invalid_arguments"},
		{"an approval", "operator", "GET", "/v1/approvals/" + apr.ID + "?session=" + one.ID(), "", 200, ""},
		{"an action by its id alone", "auditor", "GET", "/v1/actions/" + read.ID, "", 200, ""},
		{"a grant", "operator", "POST", grant, digest, 200, ""},
		{"a grant again", "operator", "POST", grant, digest, 200, ""},
		{"health", "", "GET", "/healthz", "", 200, ""},
		{"readiness", "", "GET", "/readyz", "", 200, ""},
	} {
		w := ask(h, c.role, c.method, c.target, c.body)
		if w.Code != c.status {
			t.Errorf("%s: status %d, want %d: %s", c.name, w.Code, c.status, w.Body)
			continue
		}
		if c.status < 400 {
			continue
		}
		if e := errorOf(t, w); e.Code != c.code || e.Message == "" {
			t.Errorf("%s: error %+v, want code %s and a message", c.name, e, c.code)
		}
	}
	if err := hv.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/readyz", "/v1/sessions", "/v1/sessions/" + one.ID() + "/log"} {
		if w := ask(h, "operator", "GET", target, ""); w.Code != 503 || errorOf(t, w).Code != "store_unavailable" {
			t.Errorf("%s of a closed hypervisor: %d %s", target, w.Code, w.Body)
		}
	}
}

func TestAnAmbiguousIDListsWhatItMayMean(t *testing.T) {
	hv := open(t)
	one, two := live(t, hv), live(t, hv)
	apr := act(t, one, "delete", `{}`).Approval
	act(t, two, "delete", `{}`)
	e := errorOf(t, ask(New(hv, byToken, nil), "operator", "GET", "/v1/approvals/"+apr.ID, ""))
	want := map[string]bool{one.ID() + "/" + apr.ID: true, two.ID() + "/" + apr.ID: true}
	if len(e.Details.Candidates) != 2 || !want[e.Details.Candidates[0]] || !want[e.Details.Candidates[1]] {
		t.Errorf("candidates %v, want those of %v", e.Details.Candidates, want)
	}
}

// What no command of today can bring about, the table of statuses answers all the same.
func TestAnswer(t *testing.T) {
	slow := policy.Refuse(policy.RateLimited, "wait")
	slow.RetryAfterMS, slow.Seq = 1200, 7
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{&hypervisor.Refused{Decision: slow}, 429, "rate_limited"},
		{&hypervisor.Refused{Decision: policy.Refuse("stale_write", "x")}, 412, "stale_write"},
		{&hypervisor.Refused{Decision: policy.Refuse(policy.SessionNotActive, "x")}, 409, "session_not_active"},
		{&hypervisor.Refused{Decision: policy.Refuse(policy.RingInsufficient, "x")}, 403, "ring_insufficient"},
		{fmt.Errorf("creating: %w", session.ErrConfig), 422, "invalid_arguments"},
		{fmt.Errorf("acting: %w", hypervisor.ErrOverloaded), 503, "overloaded"},
		{fmt.Errorf("acting: %w", hypervisor.ErrStoreUnavailable), 503, "store_unavailable"},
		{errors.New("secret path /var/x"), 500, "internal"},
	} {
		status, body := answer(c.err)
		if status != c.status || body.Code != c.code {
			t.Errorf("answer(%v) = %d %s, want %d %s", c.err, status, body.Code, c.status, c.code)
		}
		if status == 500 && strings.Contains(body.Message, "secret") {
			t.Error("an internal error tells its message")
		}
	}
	w := httptest.NewRecorder()
	New(nil, byToken, nil).reply(w, httptest.NewRequest("GET", "/", nil), nil, &hypervisor.Refused{Decision: slow})
	if got := w.Header().Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After %q, want 2: 1.2 s rounded up", got)
	}
	if e := errorOf(t, w); e.Seq != 7 || e.Details.Decision == nil || e.Details.Decision.RetryAfterMS != 1200 {
		t.Errorf("error %+v, want the record's seq and the decision", e)
	}
}

func TestRequestsAreDecodedStrictly(t *testing.T) {
	hv := open(t)
	h := New(hv, byToken, nil)
	s := live(t, hv)
	apr := act(t, s, "delete", `{}`).Approval
	grant := "/v1/approvals/" + apr.ID + "/grant"
	for _, c := range []struct{ name, method, target, body string }{
		{"no body", "POST", grant, ""},
		{"not JSON", "POST", grant, `digest`},
		{"an array", "POST", grant, `[]`},
		{"null", "POST", grant, ` null `},
		{"an unknown field", "POST", grant, `{"digest":"` + apr.Digest + `","by":"me"}`},
		{"a name twice", "POST", grant, `{"digest":"00","digest":"` + apr.Digest + `"}`},
		{"a name in another case", "POST", grant, `{"Digest":"` + apr.Digest + `"}`},
		{"trailing bytes", "POST", grant, `{"digest":"` + apr.Digest + `"} {}`},
		{"a comment", "POST", grant, `{"digest":"` + apr.Digest + `"} // yes`},
		{"invalid UTF-8", "POST", grant, "{\"digest\":\"\xff\"}"},
		{"a number for a text", "POST", grant, `{"digest":12}`},
		{"deep nesting", "POST", grant, strings.Repeat(`[`, 20_000)},
		{"an unknown parameter", "POST", grant + "?force=true", `{"digest":"` + apr.Digest + `"}`},
		{"a parameter twice", "POST", grant + "?session=a&session=" + s.ID(), `{"digest":"` + apr.Digest + `"}`},
		{"a body where none belongs", "POST", "/v1/sessions/" + s.ID() + "/terminate", `{"reason":"x"}`},
		{"a page of nothing", "GET", "/v1/sessions?limit=0", ""},
		{"a page too large", "GET", "/v1/sessions?limit=201", ""},
		{"a cursor of another list", "GET", "/v1/sessions/" + s.ID() + "/actions?cursor=ses-1", ""},
		{"a sequence number below one", "GET", "/v1/sessions/" + s.ID() + "/log?from=-1", ""},
		{"a flag that is none", "GET", "/v1/sessions/" + s.ID() + "/log?follow=maybe", ""},
		{"a query that is none", "GET", "/v1/sessions?limit=%zz", ""},
	} {
		if w := ask(h, "operator", c.method, c.target, c.body); w.Code != 400 || errorOf(t, w).Code != api.CodeMalformed {
			t.Errorf("%s: %d %s, want 400 malformed", c.name, w.Code, w.Body)
		} else if strings.Contains(w.Body.String(), " Go ") || strings.Contains(w.Body.String(), "api.") {
			t.Errorf("%s: %s speaks of Go's types", c.name, w.Body)
		}
	}
	if views, err := s.Approvals(t.Context()); err != nil || views[0].Status != session.Open {
		t.Errorf("after requests that were refused the approval is %v, %v", views, err)
	}
}

func TestListsComeInPages(t *testing.T) {
	hv := open(t)
	h := New(hv, byToken, nil)
	want := map[string]bool{}
	var last *hypervisor.Session
	for range 5 {
		last = live(t, hv)
		want[last.ID()] = true
	}
	cursor, pages := "", 0
	for {
		var page api.Page[api.Session]
		w := ask(h, "operator", "GET", "/v1/sessions?limit=2&cursor="+cursor, "")
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || len(page.Items) > 2 {
			t.Fatalf("%s: %v", w.Body, err)
		}
		for _, s := range page.Items {
			delete(want, s.ID)
		}
		pages++
		if cursor = page.Cursor; cursor == "" {
			break
		}
	}
	if len(want) != 0 || pages != 3 {
		t.Errorf("%d pages lack %v", pages, want)
	}
	for i := range 3 {
		act(t, last, "read", fmt.Sprintf(`{"n":%d}`, i))
	}
	var args []string
	for cursor = ""; ; {
		var page api.Page[api.Action]
		w := ask(h, "operator", "GET", "/v1/sessions/"+last.ID()+"/actions?limit=2&cursor="+cursor, "")
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Fatalf("%s: %v", w.Body, err)
		}
		for _, a := range page.Items {
			args = append(args, string(a.Args))
		}
		if cursor = page.Cursor; cursor == "" {
			break
		}
	}
	if got := strings.Join(args, " "); got != `{"n":0} {"n":1} {"n":2}` {
		t.Errorf("actions in pages: %s", got)
	}
}

func TestAStreamThatFailsIsCutOff(t *testing.T) {
	a := New(nil, byToken, nil)
	broken := handleLines(a, func(context.Context, policy.Caller, request[none]) iter.Seq2[json.RawMessage, error] {
		return func(yield func(json.RawMessage, error) bool) {
			_ = yield(json.RawMessage(`{}`), nil) && yield(nil, nil) && yield(nil, errors.New("disk gone"))
		}
	})
	server := httptest.NewServer(broken)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer operator")
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if string(b) != "{}\n" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %q and %v, want the first line and an unexpected end", b, cmp.Or(err, io.EOF))
	}
}
