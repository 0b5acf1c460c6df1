package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var admin = policy.Operator("did:mesh:admin")

// A clock is the machine's, and what a test has put it forward by.
type clock struct{ ahead atomic.Int64 }

func (c *clock) Now() time.Time                         { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) After(d time.Duration) <-chan time.Time { return time.After(d) }

func open(t *testing.T, dir string) *hypervisor.Hypervisor { return openAt(t, dir, &clock{}) }

func openAt(t *testing.T, dir string, c *clock) *hypervisor.Hypervisor {
	t.Helper()
	hv, err := hypervisor.Open(t.Context(), &hypervisor.Options{Dir: dir, Clock: c})
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

// from returns a request made on this machine with a secret, or without one where it is empty.
func from(secret string) *http.Request {
	r := httptest.NewRequest("POST", "/mcp", nil)
	r.RemoteAddr = "127.0.0.1:40000"
	if secret != "" {
		r.Header.Set("Authorization", "Bearer "+secret)
	}
	return r
}

func issue(t *testing.T, d *Door, tok system.Token, life time.Duration) (string, string) {
	t.Helper()
	s, tok, err := d.Issue(t.Context(), admin, tok, life)
	if err != nil {
		t.Fatal(err)
	}
	return s.Reveal(), tok.ID
}

func TestASecretIsNeverPrinted(t *testing.T) {
	s := NewSecret()
	if len(s.Reveal()) != 47 || !strings.HasPrefix(s.Reveal(), "hvt_") {
		t.Fatalf("a secret has %d characters", len(s.Reveal()))
	}
	type holder struct{ hidden Secret }
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", s, "in", holder{s})
	b, err := json.Marshal(map[string]any{"a": s, "b": &s})
	if err != nil {
		t.Fatal(err)
	}
	said := fmt.Sprintf("%v %s %+v %#v %q %x %d %v %+v %#v", s, s, s, s, s, s, s, holder{s}, []Secret{s}, holder{s}) + string(b) + log.String()
	hexed := fmt.Sprintf("%x", s.Reveal())
	if strings.Contains(said, s.Reveal()[4:]) || strings.Contains(said, hexed) {
		t.Errorf("printed: %s", said)
	}
}

func TestABearerIsReadStrictly(t *testing.T) {
	good := NewSecret().Reveal()
	for _, c := range []struct {
		name   string
		header []string
		shown  bool
		ok     bool
	}{
		{"none", nil, false, true},
		{"a token", []string{"Bearer " + good}, true, true},
		{"a scheme in another case", []string{"bearer " + good}, true, true}, // RFC 9110 §11.1
		{"two headers", []string{"Bearer " + good, "Bearer " + good}, true, false},
		{"an empty header", []string{""}, true, false},
		{"another scheme", []string{"Basic " + good}, true, false},
		{"no scheme", []string{good}, true, false},
		{"two spaces", []string{"Bearer  " + good}, true, false},
		{"more behind it", []string{"Bearer " + good + " x"}, true, false},
		{"a comma", []string{"Bearer " + good + ", Bearer " + good}, true, false},
		{"too short", []string{"Bearer " + good[:46]}, true, false},
		{"too long", []string{"Bearer " + good + "A"}, true, false},
		{"another prefix", []string{"Bearer hvx_" + good[4:]}, true, false},
		{"padding", []string{"Bearer " + good[:46] + "="}, true, false},
		{"a line end", []string{"Bearer " + good[:20] + "\n" + good[20:]}, true, false},
	} {
		r := from("")
		r.Header["Authorization"] = c.header
		s, shown, err := bearer(r)
		if shown != c.shown || (err == nil) != c.ok || err != nil && !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("%s: shown %v, error %v", c.name, shown, err)
		}
		if err != nil && strings.Contains(err.Error(), good[4:20]) {
			t.Errorf("%s: the error tells the token: %v", c.name, err)
		}
		if err == nil && shown && s.Reveal() != good {
			t.Errorf("%s: another secret", c.name)
		}
	}
}

func TestATokenComesAsItsSubjectUntilItEnds(t *testing.T) {
	dir := t.TempDir()
	var now clock
	hv := openAt(t, dir, &now)
	d := NewDoor(hv)
	secret, id := issue(t, d, system.Token{Subject: "did:mesh:kim", Role: policy.ApproverRole}, time.Hour)
	brief, _ := issue(t, d, system.Token{Subject: "did:mesh:kim", Role: policy.ApproverRole}, time.Minute)
	if _, err := d.Identify(from(brief)); err != nil {
		t.Error(err)
	}
	now.ahead.Store(int64(time.Minute))
	who, err := d.Identify(from(secret))
	if want := (policy.Caller{DID: "did:mesh:kim", Role: policy.ApproverRole, Via: "http"}); err != nil || who.Caller != want {
		t.Errorf("%+v, %v", who, err)
	}
	for name, s := range map[string]string{"run out": brief, "nobody's": NewSecret().Reveal(), "none": ""} {
		if _, err := d.Identify(from(s)); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("a token %s: %v", name, err)
		}
	}
	if _, _, err := d.Seat(from(secret)); !errors.Is(err, ErrForbidden) {
		t.Errorf("an approver sat down among the agents: %v", err)
	}
	if err := hv.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	hv = openAt(t, dir, &now)
	d = NewDoor(hv)
	if _, err := d.Identify(from(secret)); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if dec, err := hv.RevokeToken(t.Context(), admin, id); err != nil || !dec.Allowed {
		t.Fatal(dec, err)
	}
	if _, err := d.Identify(from(secret)); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("revoked: %v", err)
	}
	log, err := os.ReadFile(filepath.Join(dir, "log.db"))
	if err != nil || bytes.Contains(log, []byte(secret[4:])) {
		t.Errorf("the secret is in the log, or it cannot be read: %v", err)
	}
}

func TestAnAgentSitsWhereItsTokenSays(t *testing.T) {
	hv := open(t, "")
	d := NewDoor(hv)
	one, err := hv.CreateSession(t.Context(), admin, &session.Config{MaxParticipants: 1})
	if err != nil {
		t.Fatal(err)
	}
	dev, err := hv.CreateSession(t.Context(), admin, &session.Config{Name: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	ann, _ := issue(t, d, system.Token{Subject: "did:mesh:ann", Role: policy.AgentRole, Session: one.ID()}, 0)
	bob, _ := issue(t, d, system.Token{Subject: "did:mesh:bob", Role: policy.AgentRole, Alias: "dev"}, 0)
	late, _ := issue(t, d, system.Token{Subject: "did:mesh:late", Role: policy.AgentRole, Session: one.ID()}, 0)
	gone, _ := issue(t, d, system.Token{Subject: "did:mesh:ann", Role: policy.AgentRole, Session: "ses-none"}, 0)
	who, s, err := d.Seat(from(ann))
	if err != nil || s.ID() != one.ID() || who != policy.Agent("did:mesh:ann").Through("mcp") {
		t.Errorf("ann: %+v, %v", who, err)
	}
	for name, secret := range map[string]string{"the session is full": late, "there is no such session": gone} {
		if _, _, err := d.Seat(from(secret)); !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, s, err = d.Seat(from(bob)); err != nil || s.ID() != dev.ID() {
		t.Fatalf("bob: %v", err)
	}
	if _, err := dev.Terminate(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	_, next, err := d.Seat(from(bob))
	if err != nil || next.ID() == dev.ID() || hv.Aliases()["dev"] != next.ID() {
		t.Errorf("a name whose session has ended opened no successor: %v", err)
	}
}

func TestNobodyComesWithoutATokenButTheAnonymousAgentOfThisMachine(t *testing.T) {
	hv := open(t, "")
	d := NewDoor(hv)
	if _, _, err := d.Seat(from("")); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("with none configured: %v", err)
	}
	d.SetAnonymous(&Anonymous{Agent: "did:mesh:local", Session: session.Config{MaxParticipants: 3}})
	who, s, err := d.Seat(from(""))
	if err != nil || who.DID != "did:mesh:local" || who.Role != policy.AgentRole {
		t.Fatalf("%+v, %v", who, err)
	}
	if state, err := s.State(t.Context()); err != nil || state.Lifecycle != session.Active || state.Config.MaxParticipants != 3 {
		t.Errorf("its session: %+v, %v", state, err)
	}
	if _, again, err := d.Seat(from("")); err != nil || again.ID() != s.ID() {
		t.Errorf("a second request sits elsewhere: %v", err)
	}
	if _, err := s.Terminate(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	if _, next, err := d.Seat(from("")); err != nil || next.ID() == s.ID() {
		t.Errorf("after its end: %v", err)
	}
	for name, change := range map[string]func(*http.Request){
		"from another machine": func(r *http.Request) { r.RemoteAddr = "192.0.2.7:1" },
		"through a proxy":      func(r *http.Request) { r.Header.Set("X-Forwarded-For", "192.0.2.7") },
		"with a bad token":     func(r *http.Request) { r.Header.Set("Authorization", "Bearer hvt_x") },
		"with a lost token":    func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+NewSecret().Reveal()) },
	} {
		r := from("")
		change(r)
		if _, _, err := d.Seat(r); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := d.Identify(from("")); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("/v1 without a token: %v", err)
	}
}

func TestTheOperatorsTokenIsKeptInAFileOfItsUsersOwn(t *testing.T) {
	dir := t.TempDir()
	hv := open(t, dir)
	d := NewDoor(hv)
	path, written, err := d.OperatorToken(t.Context(), dir)
	if err != nil || !written {
		t.Fatal(written, err)
	}
	read := func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	first := read()
	if who, err := d.Identify(from(first)); err != nil || who.Caller.Role != policy.OperatorRole {
		t.Errorf("%+v, %v", who, err)
	}
	if runtime.GOOS != "windows" {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, written, err := d.OperatorToken(t.Context(), dir); err != nil || written || read() != first {
		t.Errorf("a second start wrote another: %v %v", written, err)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for name, text := range map[string]string{"spoilt": "nonsense", "another's": NewSecret().Reveal()} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, written, err := d.OperatorToken(t.Context(), dir); err != nil || !written {
			t.Errorf("%s: %v %v", name, written, err)
		}
	}
	near, _ := issue(t, d, system.Token{Subject: "did:mesh:operator", Role: policy.OperatorRole}, renewBefore)
	if err := os.WriteFile(path, []byte(near), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, written, err := d.OperatorToken(t.Context(), dir); err != nil || !written {
		t.Errorf("one near its end is kept: %v %v", written, err)
	}
	if _, err := d.Identify(from(near)); err != nil {
		t.Errorf("the old one ended with its file: %v", err)
	}
}

func TestARequestThatIsNotMeantForAListenerIsRefused(t *testing.T) {
	local := NewListener(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7700}, "127.0.0.1:7700", []string{"Hyper.example", "tunnel:9000"})
	wide := NewListener(&net.TCPAddr{IP: net.IPv4zero, Port: 7700}, "0.0.0.0:7700", []string{"hyper.example"})
	socket := NewSocketListener()
	for _, c := range []struct {
		l            *Listener
		host, origin string
		ok           bool
	}{
		{local, "127.0.0.1:7700", "", true},
		{local, "localhost:7700", "", true},
		{local, "LOCALHOST:7700", "", true},
		{local, "[::1]:7700", "", true},
		{local, "127.8.9.1:7700", "", true},
		{local, "hyper.example", "", true},
		{local, "hyper.example:7700", "", true},
		{local, "tunnel:9000", "", true},
		{local, "tunnel:9001", "", false},
		{local, "", "", false},
		{local, "127.0.0.1", "", false}, // which is port 80
		{local, "127.0.0.1:7701", "", false},
		{local, "localhost:", "", false},
		{local, "localhost.:7700", "", false},
		{local, "evil.example:7700", "", false}, // DNS rebinding
		{local, "localhost.evil.example:7700", "", false},
		{local, "127.0.0.1.evil.example:7700", "", false},
		{local, "evil.example", "", false},
		{local, "192.0.2.1:7700", "", false},
		{local, "0.0.0.0:7700", "", false},
		{local, "[::]:7700", "", false},
		{local, "[::1%25lo]:7700", "", false},
		{local, "2130706433:7700", "", false},
		{local, "127.1:7700", "", false},
		{local, "localhost:7700:7700", "", false},
		{local, "127.0.0.1:7700", "http://127.0.0.1:7700", true},
		{local, "localhost:7700", "http://localhost:7700", true},
		{local, "hyper.example", "https://hyper.example", true},
		{local, "hyper.example", "http://hyper.example", true},
		{local, "127.0.0.1:7700", "http://localhost:7700", false}, // another origin, by the letter
		{local, "127.0.0.1:7700", "https://127.0.0.1:7700", false},
		{local, "127.0.0.1:7700", "http://127.0.0.1", false},
		{local, "127.0.0.1:7700", "http://127.0.0.1:7701", false},
		{local, "127.0.0.1:7700", "http://evil.example", false},
		{local, "127.0.0.1:7700", "http://evil.example:7700", false},
		{local, "127.0.0.1:7700", "http://127.0.0.1:7700.evil.example", false},
		{local, "127.0.0.1:7700", "http://127.0.0.1:7700@evil.example", false},
		{local, "127.0.0.1:7700", "http://a@127.0.0.1:7700", false},
		{local, "127.0.0.1:7700", "http://127.0.0.1:7700/", false},
		{local, "127.0.0.1:7700", "null", false},
		{local, "127.0.0.1:7700", "file://", false},
		{local, "127.0.0.1:7700", "chrome-extension://127.0.0.1:7700", false},
		{local, "127.0.0.1:7700", " ", false},
		{socket, SocketHost, "", true},
		{socket, "localhost", "", true},
		{socket, "localhost:9000", "", true}, // forwarded to a port
		{socket, "127.0.0.1:9000", "", true},
		{socket, "evil.example:9000", "", false}, // and then rebound
		{socket, "", "", false},
		{socket, "localhost:9000", "http://evil.example", false},
		{socket, "localhost:9000", "http://localhost:9001", false},
		{wide, "192.0.2.1:7700", "", true},
		{wide, "192.0.2.1:80", "", true}, // a forwarded port
		{wide, "hyper.example", "https://hyper.example", true},
		{wide, "evil.example:7700", "", false},
		{wide, "192.0.2.1:7700", "http://evil.example", false},
	} {
		r := httptest.NewRequest("POST", "/mcp", nil)
		r.Host = c.host
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		if err := c.l.Check(r); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrForbidden) {
			t.Errorf("host %q origin %q: %v", c.host, c.origin, err)
		}
	}
	for _, c := range []struct {
		method, site, mode string
		ok                 bool
	}{
		{"GET", "same-origin", "cors", true}, {"GET", "none", "navigate", true}, {"GET", "cross-site", "navigate", true},
		{"GET", "cross-site", "no-cors", false}, {"POST", "cross-site", "navigate", false}, {"POST", "same-site", "cors", false},
	} {
		r := httptest.NewRequest(c.method, "/mcp", nil)
		r.Host = "127.0.0.1:7700"
		r.Header.Set("Sec-Fetch-Site", c.site)
		r.Header.Set("Sec-Fetch-Mode", c.mode)
		if err := local.Check(r); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
	r := httptest.NewRequest("POST", "/mcp", nil)
	r.Host = "127.0.0.1:7700"
	r.Header["Origin"] = []string{"http://127.0.0.1:7700", "http://evil.example"}
	if local.Check(r) == nil {
		t.Error("two origins pass")
	}
}
